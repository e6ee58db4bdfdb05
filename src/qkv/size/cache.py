"""Bytes of a model's cache: by kind of layer and in all, under one named policy, with the formula that gives them.

Knows how to add up. Refuses to give a figure without its policy: ``CacheSize`` carries it, and prints it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SpecError
from .description import Model
from .format import Format, formats, to_format
from .layer import Kind, Layer
from .policy import Ask, Policy, rows, to_policy
from .units import show_bytes, to_count


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that store the same: how many, their slots for one sequence, and the bytes of a slot or a state.

    ``bytes`` are those of the whole group on one device, for the whole batch.
    """

    kind: Kind
    num_layers: int
    slots: int
    slot_bytes: int
    state_bytes: int
    bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The cache of one model under one policy.

    ``bytes`` is on one device; ``all_bytes`` on the ``tensor_parallel`` devices together. ``token_bytes`` is what one
    more token of one sequence takes at this context, on one device, before the policy rounds: windows that are full add
    nothing.
    """

    model: str
    policy: str
    dtype: str
    state_dtype: str
    context: int
    batch: int
    tensor_parallel: int
    source: int
    groups: tuple[Group, ...]
    token_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes on one device."""
        return sum(group.bytes for group in self.groups)

    @property
    def all_bytes(self) -> int:
        """Bytes on all devices."""
        return self.bytes * self.tensor_parallel

    def __str__(self) -> str:
        return f"{show_bytes(self.bytes)} ({self.bytes:,} bytes), policy {self.policy}, {self.dtype}"


def check_source(model: Model, source: int) -> None:
    """Raises ``SpecError`` for a source length that is needed and missing."""
    if not source and any(layer.kind is Kind.CROSS and not layer.source_tokens for layer in model.layers):
        raise SpecError(
            f"{model.name} has cross-attention, and its config does not say how long a source is.\n"
            "  Give source= (--source), the number of tokens of the encoder or the image."
        )


def make_ask(
    model: Model, context: int, batch: int, dtype: str | Format, state_dtype: str | Format, parallel: int, source: int
) -> Ask:
    """What is asked, checked. Raises ``SpecError`` for a source length that is needed and missing."""
    check_source(model, source)
    state = to_format(state_dtype)
    if not state.is_plain:
        raise SpecError(f"state_dtype={state.name}: a state is summed into at every token.\n  Take f32, f16 or bf16.")
    windowed = model.rules.windowed_in_llama_cpp
    return Ask(context, batch, to_format(dtype), state, parallel, source, windowed)


def cache_size(
    model: Model,
    context: int | str,
    *,
    batch: int | str = 1,
    dtype: str | Format = "bf16",
    policy: str | Policy = "math",
    tensor_parallel: int = 1,
    source: int | str = 0,
    state_dtype: str | Format = "f32",
) -> CacheSize:
    """The bytes that ``model`` keeps for ``batch`` sequences of ``context`` tokens each, by kind of layer.

    Sizes may be written "128k". ``source`` is the length of what cross-attention reads. A layer of kind k keeps
    ``slots(k) * (heads * (row(key) + row(value)))`` bytes for each sequence, a latent layer ``slots * row(latent +
    rotary)``, and a state its own size; ``row`` counts the scales of ``dtype``. Raises ``SpecError`` for what the
    policy does not have. Source of a policy: ``policy.source``.

    >>> import qkv
    >>> qkv.size.cache_size(qkv.size.model("llama-3-8b"), 8192).bytes
    1073741824
    """
    chosen = to_policy(policy)
    tokens = to_count(context, "context")
    number, parallel = to_count(batch, "batch"), to_count(tensor_parallel, "tensor_parallel")
    ask = make_ask(model, tokens, number, dtype, state_dtype, parallel, to_count(source, "source", least=0))
    chosen.check(model.layers, ask)
    more = Ask(tokens + 1, 1, ask.dtype, ask.state_dtype, parallel, ask.source, ask.windowed)
    grouped: dict[tuple[Kind, int, int, int, str], list[int]] = {}
    token_bytes = 0
    for layer in model.layers:
        slots = chosen.slots(layer, ask) if layer.has_tokens else 0
        slot = chosen.slot_bytes(layer, ask) if layer.has_tokens else 0
        state = chosen.state_bytes(layer, ask)
        text = _formula(layer, ask, chosen, slots, slot, state)
        grouped.setdefault((layer.kind, slots, slot, state, text), []).append(number * (slots * slot + state))
        token_bytes += (layer.held(more.tokens, ask.source) - layer.held(tokens, ask.source)) * slot
    groups = tuple(
        Group(
            kind,
            len(sizes),
            slots,
            slot,
            state,
            sum(sizes),
            f"{len(sizes)} {'layer' if len(sizes) == 1 else 'layers'} {text}",
        )
        for (kind, slots, slot, state, text), sizes in grouped.items()
    )
    return CacheSize(
        model.name,
        chosen.name,
        ask.dtype.name,
        ask.state_dtype.name,
        tokens,
        number,
        parallel,
        ask.source,
        groups,
        token_bytes,
    )


def _formula(layer: Layer, ask: Ask, policy: Policy, slots: int, slot: int, state: int) -> str:
    """The product that gives the bytes of a layer, with its numbers."""
    batch = f" x batch {ask.batch}" if ask.batch > 1 else ""
    if layer.kind is Kind.STATE:
        return f"x {state:,} bytes of state{batch}"
    if layer.kind is Kind.SHARED:
        return "read another layer's keys and values: 0 bytes"
    if layer.kind is Kind.NONE:
        return "keep nothing: 0 bytes"
    found = rows(layer, ask.tensor_parallel)
    numbers = " + ".join(f"{many} x {size}" if many > 1 else f"{size}" for many, size in found)
    if len(found) == 2 and found[0][0] == found[1][0]:
        many, (key, value) = found[0][0], (found[0][1], found[1][1])
        numbers = f"{many} {'head' if many == 1 else 'heads'} x ({key} + {value})"
    value = f"= {slot:,} bytes" if not ask.dtype.is_plain or policy.merged_heads else f"x {ask.dtype.bits // 8} bytes"
    return f"x {slots:,} tokens x {numbers} {value}{batch}"


def token_bytes(model: Model, *, dtype: str | Format = "bf16") -> int:
    """The bytes that one token of one sequence adds while no window is full, under policy ``math``.

    >>> import qkv
    >>> qkv.size.token_bytes(qkv.size.model("llama-2-70b")), qkv.size.token_bytes(qkv.size.model("deepseek-v3"))
    (327680, 70272)
    """
    ask = Ask(1, 1, to_format(dtype), formats["f32"])
    chosen = to_policy("math")
    return sum(
        chosen.slot_bytes(layer, ask) for layer in model.layers if layer.has_tokens and layer.kind is not Kind.CROSS
    )
