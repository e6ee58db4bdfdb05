"""Allocator policies: how many token slots a cache sets aside for a layer, and how many bytes a slot has.

A figure of bytes means nothing without the one who allocates, so that each policy is named and says its formula. Knows
rounding, slack and replication. Refuses to know models (``description``) and to add up (``cache``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import SpecError
from .format import Format, formats
from .layer import Kind, Layer

_ALL = frozenset(formats)
_PLAIN = frozenset({"f32", "f16", "bf16"})
Rows = tuple[tuple[int, int], ...]
"""Rows of numbers that one token has: (how many, numbers in each)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sized: one sequence of ``tokens``, of which there are ``batch``, on ``tensor_parallel`` devices."""

    tokens: int
    batch: int
    dtype: Format
    state_dtype: Format
    tensor_parallel: int = 1
    source: int = 0
    windowed: bool = True
    """Whether llama.cpp keeps a short cache for the windowed layers of this family."""


def rows(layer: Layer, tensor_parallel: int = 1) -> Rows:
    """What a token of ``layer`` has on one device: key-value heads are split and replicate below the degree, a latent
    has no heads to split.
    """
    if layer.kind is Kind.LATENT:
        stored: Rows = ((1, layer.latent_size + layer.rotary_size),)
        return (*stored, (1, layer.index_size)) if layer.index_size else stored
    heads = -(-layer.num_kv_heads // tensor_parallel)
    return ((heads, layer.key_size), (heads, layer.value_size)) if layer.has_tokens else ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to allocate: its name, formula and source, the slots of a layer, the rows of a slot.

    ``slots(layer, ask)`` is for one sequence. ``merged_heads`` stores the heads of a token as one row.
    ``state_taps`` is how many inputs of a convolution are kept less than its taps.
    """

    name: str
    about: str
    source: str
    slots: Callable[[Layer, Ask], int]
    rules: tuple[str, ...] = ()
    dtypes: frozenset[str] = _ALL
    merged_heads: bool = False
    dropped_taps: int = 1
    splits_heads: bool = True
    states_in_f32: bool = False
    """Whether states and the inputs of convolutions are in f32, whatever the cache is stored as."""
    refuses: tuple[tuple[Kind, str], ...] = field(default=())

    def slot_bytes(self, layer: Layer, ask: Ask) -> int:
        """Bytes of one token of one sequence on one device."""
        found = rows(layer, ask.tensor_parallel)
        if self.merged_heads:
            return sum(ask.dtype.row_bytes(number * size) for number, size in found)
        return sum(number * ask.dtype.row_bytes(size) for number, size in found)

    def state_bytes(self, layer: Layer, ask: Ask) -> int:
        """Bytes of a sequence's state on one device; the state's heads are split as those of keys and values are.

        The recurrent state is stored as ``state_dtype``; the convolution's inputs as the cache, or in bf16 beside a
        quantized one.
        """
        if layer.kind is not Kind.STATE:
            return 0
        heads = max(1, layer.state_heads)
        mine = -(-heads // ask.tensor_parallel)
        conv = ask.dtype if ask.dtype.is_plain else formats["bf16"]
        conv = formats["f32"] if self.states_in_f32 else conv
        taps = max(0, layer.conv_kernel - self.dropped_taps)
        recurrent = -(-layer.state_size * mine // heads)
        inputs = -(-layer.conv_channels * taps * mine // heads)
        return ask.state_dtype.row_bytes(recurrent) + conv.row_bytes(inputs)

    def check(self, layers: tuple[Layer, ...], ask: Ask) -> None:
        """Raises ``SpecError`` for a format, a split or a layer that this allocator does not have."""
        if ask.dtype.name not in self.dtypes:
            raise SpecError(
                f'policy "{self.name}" does not store {ask.dtype.name}.\n  It stores: {", ".join(sorted(self.dtypes))}.'
            )
        if ask.tensor_parallel > 1 and not self.splits_heads:
            raise SpecError(
                f'policy "{self.name}" does not split heads over devices: it gives whole layers to each.\n'
                "  Leave tensor_parallel at 1, and divide by layers."
            )
        kinds = {layer.kind for layer in layers}
        if self.states_in_f32 and Kind.STATE in kinds and ask.state_dtype.name != "f32":
            raise SpecError(
                f'policy "{self.name}" stores states in f32, not in {ask.state_dtype.name}.\n'
                "  Leave state_dtype at f32."
            )
        for kind, reason in self.refuses:
            if kind in kinds:
                raise SpecError(f'policy "{self.name}" is not known for {kind} layers: {reason}.\n  Take "math".')


def _ceil(tokens: int, block: int) -> int:
    return -(-tokens // block) * block


def _least(layer: Layer, ask: Ask) -> int:
    return layer.held(ask.tokens, ask.source)


_MATH = Policy(
    "math",
    "the least that must be stored",
    "the definition of each kind of layer",
    _least,
    ("full and latent: tokens", "window and chunk: min(tokens, span)", "cross: source", "shared, none: 0"),
)

_DYNAMIC = Policy(
    "transformers",
    "DynamicCache(config=...) of transformers 5, after a decoded token",
    "transformers 5.23, cache_utils.py: DynamicLayer, DynamicSlidingWindowLayer",
    _least,
    (
        "full and latent: tokens",
        "window and chunk: min(tokens, span); a prompt is held whole until the first decoded token",
        "cross: source",
    ),
    _PLAIN,
    dropped_taps=0,
)

_STATIC = Policy(
    "transformers-static",
    "StaticCache(config, max_cache_len) of transformers 5",
    "transformers 5.23, cache_utils.py: StaticLayer, StaticSlidingWindowLayer",
    _least,
    ("full and latent: max_cache_len, here tokens", "window and chunk: min(max_cache_len, span)", "cross: source"),
    _PLAIN,
    dropped_taps=0,
)


def paged(block_size: int = 16, chunk: int = 2048) -> Policy:
    """The blocks that vLLM sets aside for a sequence, with ``chunk`` tokens of a prompt in one step.

    Source: vLLM, ``vllm/v1/kv_cache_interface.py``. Followed are ``max_memory_usage_bytes`` of ``FullAttentionSpec``,
    ``MLAAttentionSpec``, ``SlidingWindowSpec``, ``ChunkedLocalAttentionSpec`` and ``CrossAttentionSpec``, each rounded
    up to blocks, one page for ``MambaSpec``, and float32 scales for each token and head with int8. Not followed: pages
    that are padded so that layers of several kinds share a pool, and the 656 bytes a token of ``fp8_ds_mla``.

    >>> paged().slots(Layer(Kind.WINDOW, span=4096), Ask(32768, 1, formats["bf16"], formats["f32"]))
    6160
    """
    if block_size < 1 or chunk < 1:
        raise SpecError(f"paged(block_size={block_size}, chunk={chunk}): both are at least 1.")

    def slots(layer: Layer, ask: Ask) -> int:
        if layer.kind is Kind.WINDOW:
            # one block more: the window may begin inside a block
            return _ceil(min(layer.span - 1 + chunk, ask.tokens), block_size) + block_size if ask.tokens else 0
        if layer.kind is Kind.CHUNK:
            return _ceil(min(layer.span + chunk, ask.tokens), block_size)
        return _ceil(_least(layer, ask), block_size)

    shape = "" if (block_size, chunk) == (16, 2048) else f"({block_size}, {chunk})"
    return Policy(
        f"paged{shape}",
        f"blocks of {block_size} tokens, {chunk} tokens of a prompt in one step (vLLM)",
        "vLLM, v1/kv_cache_interface.py: max_memory_usage_bytes of each spec",
        slots,
        (
            f"full, latent and cross: tokens rounded up to {block_size}",
            f"window: min(span - 1 + {chunk}, tokens) rounded up to {block_size}, and a block more",
            f"chunk: min(span + {chunk}, tokens) rounded up to {block_size}",
        ),
        frozenset({"f32", "f16", "bf16", "fp8", "int8"}),
    )


def llama_cpp(ubatch: int = 512, pad: int = 256) -> Policy:
    """The cells that llama.cpp sets aside for a sequence, with ``ubatch`` tokens in one step.

    Source: llama.cpp, ``src/``. Followed are the context of a sequence in steps of 256 (``llama-context.cpp``,
    ``n_ctx_seq`` without ``kv_unified``), windows of ``min(cells, n_swa + n_ubatch)`` in steps of 256
    (``llama-kv-cache-iswa.cpp``, ``size_swa`` without ``swa_full``), latents without values (``llama-kv-cache.cpp``,
    ``has_v``), and states in f32 (``llama-memory-recurrent.cpp``; ``llama-model.cpp`` sets their types). Not followed:
    one pool for all sequences (``kv_unified``), and snapshots of states for taking tokens back.

    >>> llama_cpp().slots(Layer(Kind.WINDOW, span=1024), Ask(32768, 1, formats["f16"], formats["f32"]))
    1536
    """
    if ubatch < 1 or pad < 1:
        raise SpecError(f"llama_cpp(ubatch={ubatch}, pad={pad}): both are at least 1.")

    def slots(layer: Layer, ask: Ask) -> int:
        cells = _ceil(ask.tokens, pad)
        if layer.kind in (Kind.WINDOW, Kind.CHUNK) and ask.windowed:
            return _ceil(min(cells, layer.span + ubatch), pad)
        return cells if layer.kind in (Kind.WINDOW, Kind.CHUNK) else _ceil(_least(layer, ask), pad)

    shape = "" if (ubatch, pad) == (512, 256) else f"({ubatch}, {pad})"
    return Policy(
        f"llama.cpp{shape}",
        f"cells in steps of {pad}, {ubatch} tokens in one step, each sequence with its own cells",
        "llama.cpp, src: llama-context.cpp (n_ctx_seq), llama-kv-cache-iswa.cpp (size_swa), llama-kv-cache.cpp (has_v)",
        slots,
        (
            f"full and latent: tokens rounded up to {pad}",
            f"window and chunk: min(that, span + {ubatch}) rounded up to {pad}, in families for which it keeps a short "
            "cache (Gemma 2 and 3, gpt-oss, Cohere 2, Llama 4, EXAONE 4, OLMo 3); as full in the others",
            "rows of all heads together",
            "states and the inputs of their convolutions in f32",
        ),
        frozenset({"f32", "f16", "bf16", "q8_0", "q4_0"}),
        merged_heads=True,
        splits_heads=False,
        states_in_f32=True,
        refuses=((Kind.CROSS, "its graphs make the source's keys and values at each step"),),
    )


_QKV = Policy(
    "qkv",
    "qkv's own caches, allocated for the context: dense, ring for windows, latent, recurrent",
    "the kinds of qkv's caches, each allocated once for the whole context",
    _least,
    (
        "full: dense, tokens",
        "window and chunk: ring, min(tokens, span)",
        "latent: tokens",
        "cross: source",
        "int8 and int4: codes and scales; the newest tokens as they came (128 slots in full layers) are not counted",
    ),
    frozenset({"f32", "f16", "bf16", "int8", "int4"}),
)

policies: dict[str, Policy] = {made.name: made for made in (_MATH, _DYNAMIC, _STATIC, paged(), llama_cpp(), _QKV)}
"""Every policy by its name."""

_ALIASES = {"transformers-dynamic": "transformers", "vllm": "paged", "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp"}


def to_policy(value: str | Policy) -> Policy:
    """The policy called ``value``. Raises ``SpecError`` for a name that none has."""
    if isinstance(value, Policy):
        return value
    name = str(value).strip().lower().replace("_", "-")
    name = _ALIASES.get(name, name)
    if name in policies:
        return policies[name]
    near = difflib.get_close_matches(name, policies, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise SpecError(f'policy "{str(value)[:40]}" is not known.\n  {hint}Known: {", ".join(policies)}.')
