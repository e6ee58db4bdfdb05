"""Strategy ``linear``: linear weights in time and memory that grow with the number of keys, not of pairs.

Without a mask one state serves all rows; under ``causal`` the keys go through in chunks, products within a chunk and a
state from those before (Katharopoulos et al. 2020; Yang et al. 2023 for the chunked form; Sun et al. 2023 for decay).
``linear_step`` is the recurrent form, one position at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import DeviceError, DtypeError, ShapeError, SizeMismatch, SpecError
from ..plan import Capability, Cost, Request
from ..plan.cost import price, tensor_bytes
from ..spec import Lowered, Spec
from ..terms.weights import Linear
from .bind import Recurrence, bind, frame
from .layout import packed
from .masks import is_plain_causal, key_only
from .result import Computed
from .scores import by_row, kept

if TYPE_CHECKING:
    from torch import Tensor

    from .bind import Bound

CHUNK = 128
"""Positions in a chunk: the products within one cost as much as the state's update at feature sizes near 64."""


def _mask(request: Request) -> str | None:
    lowered, keep = request.lowered, request.lowered.keep
    if keep is None or key_only(keep, lowered):
        if lowered.decay is not None:
            return "decay without causal depends on |i - j|, which no single state holds"
        return None
    if _sequence(lowered) is None:
        return f"keep={request.spec.keep!r} is neither causal nor a mask of keys alone"
    if request.relation != "equal":
        return "causal in chunks needs as many keys as queries, at the same positions"
    return None


def _sequence(lowered: Lowered) -> int | None:
    """Which of the query-only coordinates is the sequence that a causal mask compares with the only key; else None."""
    if len(lowered.key) != 1:
        return None
    found = [n for n, q in enumerate(lowered.query_order) if is_plain_causal(lowered.keep, q, lowered.key[0])]
    return found[0] if found else None


class LinearStrategy:
    """States instead of scores."""

    name = "linear"
    capability = Capability(
        weights=frozenset({"Linear"}),
        dropout=False,
        leaks_dropped=True,
        reads=frozenset({"recurrent"}),
        also=(_mask,),
    )

    def cost(self, request: Request) -> Cost:
        """A state of feature size x value size, updated by every key and read by every row."""
        state = request.feature_size * request.value_size
        flops = 2 * state * request.num_shared * (request.num_rows + request.num_keys)
        chunks = request.num_keys / CHUNK if request.lowered.keep is not None else 1
        return price(
            flops, tensor_bytes(request), 4 * state * request.num_shared, efficiency=0.5, calls=10 + 8 * chunks
        )

    def run(self, bound: Bound) -> Computed:
        """The output; there are no row statistics."""
        weights, lowered, dtype = bound.spec.weights, bound.lowered, bound.working_dtype
        if not isinstance(weights, Linear):
            raise SpecError(f"{weights!r} are not linear weights.\n  Leave the strategy to the planner.")
        q, k, v = (packed(x.to(dtype)) for x in (bound.q, bound.k, bound.v))
        shared, rows, keys = len(lowered.shared), len(lowered.query_order), len(lowered.key)
        keep = lowered.keep
        if bound.recurrence is not None and (keep is None or k.shape[shared] == 0):
            return Computed(_read(bound, bound.recurrence, q, k, v, normalize=weights.normalize))
        if keep is None or key_only(keep, lowered):
            k, v = _flat(k, shared, keys), _flat(v, shared, keys)
            if keep is not None:
                k, v = _dropped(bound, k, v)
            output = _bidirectional(_flat(q, shared, rows), k, v, normalize=weights.normalize)
            return Computed(output.reshape(*q.shape[:-1], v.shape[-1]))
        sequence = shared + (_sequence(lowered) or 0)
        decay = _decay(bound, sequence)
        q = q.movedim(sequence, -2)  # [shared..., groups..., query, feature]
        for _ in range(rows - 1):
            k, v = k.unsqueeze(shared), v.unsqueeze(shared)
        output, *sums = _causal(q, k, v, decay, bound.recurrence, normalize=weights.normalize)
        if bound.recurrence is not None:
            bound.recurrence.memory, bound.recurrence.total = sums
        return Computed(output.movedim(-2, sequence))


def _read(bound: Bound, recurrence: Recurrence, q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """Every query reads one state: that before, with the new keys in it."""
    shared, rows = len(bound.lowered.shared), len(bound.lowered.query_order)
    memory, total = k.transpose(-1, -2) @ v, k.sum(-2).unsqueeze(-1)
    for _ in range(rows - 1):
        memory, total = memory.unsqueeze(shared), total.unsqueeze(shared)
    if recurrence.memory is not None and recurrence.total is not None:
        memory, total = memory + recurrence.memory, total + recurrence.total
    recurrence.memory, recurrence.total = memory, total
    sequence = shared + (_sequence(bound.lowered) or 0)
    queries = q.movedim(sequence, -2)
    return _divided(queries @ memory, queries @ total, normalize).movedim(-2, sequence)


def _flat(x: Tensor, shared: int, count: int) -> Tensor:
    return x.unsqueeze(-2) if count == 0 else x.flatten(shared, shared + count - 1)


def _dropped(bound: Bound, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with zeros where a mask of keys alone drops them, whatever they held."""
    lowered = bound.lowered
    mask = kept(bound, {})
    if mask is None:
        return k, v
    rows = len(lowered.query_order)
    shared = len(lowered.shared)
    for _ in range(rows):
        mask = mask.squeeze(shared)
    mask = (
        mask.broadcast_to([bound.frame.sizes[n] for n in (*lowered.shared, *lowered.key)]).flatten(shared).unsqueeze(-1)
    )
    return k.masked_fill(~mask, 0.0), v.masked_fill(~mask, 0.0)


def _divided(numerator: Tensor, total: Tensor, normalize: bool) -> Tensor:
    if not normalize:
        return numerator
    return torch.where(total == 0, 0.0, numerator / torch.where(total == 0, 1.0, total))


def _bidirectional(q: Tensor, k: Tensor, v: Tensor, *, normalize: bool) -> Tensor:
    """All keys in one state, read by every row."""
    state = k.transpose(-1, -2) @ v
    total = q @ k.sum(-2).unsqueeze(-1)
    return _divided(q @ state, total, normalize)


def _decay(bound: Bound, sequence: int) -> Tensor | None:
    """The decay by head, over shared and group axes, with the query axis removed and two of size 1 behind; None without
    decay.
    """
    node = bound.lowered.decay
    return None if node is None else by_row(bound, node, bound.working_dtype).squeeze(sequence)[..., None, None]


def _causal(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, before: Recurrence | None, *, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Chunks of ``CHUNK`` positions ``[..., position, feature]``: products inside a chunk, and the state of the chunks
    before; with the sums after the last one.
    """
    # a state that is kept has groups only where they fade at rates of their own
    lead = q.shape[:-2] if before is None or decay is not None else k.shape[:-2]
    state = q.new_zeros(*lead, k.shape[-1], v.shape[-1])
    total = q.new_zeros(*lead, k.shape[-1], 1)
    if before is not None and before.memory is not None and before.total is not None:
        state, total = before.memory, before.total
    outputs: list[Tensor] = []
    for start in range(0, q.shape[-2], CHUNK):
        queries, keys, values = (x[..., start : start + CHUNK, :] for x in (q, k, v))
        length = queries.shape[-2]
        step = torch.arange(length, device=q.device, dtype=q.dtype)
        distance = step[:, None] - step[None, :]
        scores = queries @ keys.transpose(-1, -2)
        if decay is not None:
            scores = scores * torch.where(distance >= 0, decay ** distance.clamp(min=0), 0.0)
        scores = scores.masked_fill(distance < 0, 0.0)
        reach = queries if decay is None else queries * decay ** (step + 1)[:, None]
        sums = scores.sum(-1, keepdim=True) + reach @ total
        outputs.append(_divided(scores @ values + reach @ state, sums, normalize))
        fading = keys if decay is None else keys * decay ** (length - 1 - step)[:, None]
        kept_state, kept_total = (state, total) if decay is None else (state * decay**length, total * decay**length)
        state = kept_state + fading.transpose(-1, -2) @ values
        total = kept_total + fading.sum(-2).unsqueeze(-1)
    return torch.cat(outputs, dim=-2) if outputs else q @ state, state, total


@dataclass(frozen=True, slots=True)
class LinearState:
    """What linear attention remembers: ``memory`` ``[shared..., groups..., feature, value feature]`` and ``total``
    ``[..., feature, 1]``, both sums over the keys so far.
    """

    memory: Tensor
    total: Tensor


def linear_step(
    spec: Spec, q: Tensor, k: Tensor, v: Tensor, state: LinearState | None = None
) -> tuple[Tensor, LinearState]:
    """The recurrent form: the output for the next position, and the state with it added; constant time and memory.

    q, k, v have the axes of the spec's pattern with one query and one key. ``state`` is that of the positions before,
    None at the first. Stepping through a sequence gives what ``causal()`` gives for it at once. Raises ``SpecError``
    for other than linear weights, for positions (rotate q and k before) and for masks other than ``causal()``;
    ``ShapeError`` for more than one position.

    >>> import qkv, torch
    >>> spec = qkv.Spec(keep=qkv.causal(), weights=qkv.linear())
    >>> x = torch.randn(1, 2, 1, 4)
    >>> out, state = qkv.linear_step(spec, x, x, x)
    >>> out, state = qkv.linear_step(spec, x, x, x, state)
    """
    weights = spec.weights
    if not isinstance(weights, Linear):
        raise SpecError(
            f"linear_step: the weights are {weights!r}.\n"
            "  Only linear weights have a state: qkv.Spec(..., weights=qkv.linear())."
        )
    made = frame(spec, q, k, v, None)
    lowered, place = made.lowered, _sequence(made.lowered)
    if spec.position is not None or place is None:
        raise SpecError(
            "linear_step: the spec must have keep=qkv.causal() and no position.\n"
            "  A state sums over all positions before; rotate q and k before the step."
        )
    rows, keys = made.sizes[lowered.query_order[place]], made.sizes[lowered.key[0]]
    if rows != 1 or keys != 1:
        raise ShapeError(
            f"linear_step: {rows} queries and {keys} keys are given.\n"
            "  A step takes one position; run the spec itself for a sequence."
        )
    bound = bind(made, q, k, v, positions=None, align=None, want=frozenset(), dropout=0.0, seed=0)
    shared, dtype = len(lowered.shared), bound.working_dtype
    query = bound.q.to(dtype).movedim(shared + place, -2)
    key, value = bound.k.to(dtype), bound.v.to(dtype)
    for _ in range(len(lowered.query_order) - 1):
        key, value = key.unsqueeze(shared), value.unsqueeze(shared)
    decay = _decay(bound, shared + place)
    memory, total = key.transpose(-1, -2) @ value, key.transpose(-1, -2)
    if decay is not None:  # a state of its own for each head that fades at its own rate
        memory, total = (x.expand(*query.shape[:-2], *x.shape[-2:]) for x in (memory, total))
    if state is not None:
        _check_state(state, memory, total)
        fade = 1.0 if decay is None else decay
        memory, total = state.memory * fade + memory, state.total * fade + total
    output = _divided(query @ memory, query @ total, weights.normalize).movedim(-2, shared + place)
    return made.output.apply(output.to(made.dtype)), LinearState(memory, total)


def _check_state(state: object, memory: Tensor, total: Tensor) -> None:
    """The named error for a state that is not one of this spec at these sizes; nothing is broadcast."""
    if not isinstance(state, LinearState):
        raise SpecError(
            f"linear_step: state is {type(state).__name__}, not a LinearState.\n"
            "  Give what the step before returned, or None at the first."
        )
    for name, have, want in (("memory", state.memory, memory), ("total", state.total, total)):
        if have.shape != want.shape:
            raise SizeMismatch(
                f"linear_step: state.{name} has the shape {tuple(have.shape)}, and this step needs "
                f"{tuple(want.shape)}.\n"
                "  A state belongs to one batch, one number of heads and one feature size."
            )
        if have.dtype != want.dtype:
            raise DtypeError(
                f"linear_step: state.{name} is {have.dtype}, and this step computes in {want.dtype}.\n"
                "  Start again from None with tensors of one dtype."
            )
        if have.device != want.device:
            raise DeviceError(f"linear_step: state.{name} is on {have.device}, q on {want.device}.\n  Move the state.")
