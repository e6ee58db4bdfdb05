"""A spec bound to tensors: everything checked, everything in canonical layout, nothing computed but projections and
rotations.

Checks that depend on shapes, dtypes and devices alone are made once for each signature and remembered with the plan; a
repeated call costs a few dictionary look-ups. This module refuses to know how sums are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..coords.sizes import Solved, solve
from ..errors import DeviceError, DtypeError, ShapeError, SizeMismatch, SpecError
from ..spec import Lowered, Spec
from ..terms.expr import Captured, Index, Lookup, Opening, walk
from ..terms.interval import Block, stays_inside
from ..terms.scope import Claim
from ..terms.weights import Differential, Linear
from . import finite
from .layout import Layout, Return, flatten_last, packed
from .places import Places, resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..cache import Latent, Stored

FLOATS = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Frame:
    """What a signature (shapes, dtypes, device) settles: sizes, lowered graphs, layouts, the default scale."""

    spec: Spec
    lowered: Lowered
    sizes: Mapping[str, int]
    query: Layout
    key: Layout
    value: Layout
    output: Return
    row: Return
    scale: float
    dtype: torch.dtype
    device: torch.device

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of a score: shared, query-only, key."""
        return (*self.lowered.shared, *self.lowered.query_order, *self.lowered.key)


def _nothing() -> None:
    """What most calls leave to do when they have run."""


@dataclass(slots=True)
class Recurrence:
    """The sums over earlier keys that linear attention reads, which a strategy replaces by those with the new ones."""

    memory: Tensor | None = None
    total: Tensor | None = None


@dataclass(slots=True)
class Bound:
    """One call, ready for a strategy.

    ``q`` is ``[shared..., query-only..., feature]``, ``k`` ``[shared..., key..., feature]``, ``v`` ``[shared...,
    key..., value feature]``; for differential weights q and k have a leading axis of size 2. Features are rotated or
    mapped already. ``tables`` maps captured tensors to those to read, ``given`` openings to those of this call.
    ``inside`` holds the lookups that cannot leave their tables. ``stored``: keys and values as a cache holds them, for
    strategies that read them there; ``k`` and ``v`` then have the shapes alone, on the meta device, so that no strategy
    computes with them by mistake. ``recurrence``: the sums before k and v, which are the new tokens then. ``latent``:
    the cache that keys and values would be rebuilt from, where ``k`` are its rows and ``v`` its latents. ``after`` is
    called when the strategy has run.
    """

    frame: Frame
    q: Tensor
    k: Tensor
    v: Tensor
    places: Places
    tables: dict[Captured, Tensor]
    inside: frozenset[Lookup]
    want: frozenset[str]
    dropout: float
    seed: int
    finite: bool | None = None
    stored: tuple[Stored, Stored] | None = None
    recurrence: Recurrence | None = None
    latent: Latent | None = None
    after: Callable[[], None] = _nothing
    given: Mapping[Captured, Tensor] = field(default_factory=dict[Captured, "Tensor"])

    @property
    def spec(self) -> Spec:
        """The spec that is run."""
        return self.frame.spec

    @property
    def lowered(self) -> Lowered:
        """The spec's graphs."""
        return self.frame.lowered

    def operand(self, which: int) -> Tensor:
        """All keys (0) or values (1) as an ordinary tensor, read from the cache where they are stored in one."""
        if self.stored is None:
            return self.v if which else self.k
        return self.split(which, self.stored[which].whole())

    def split(self, which: int, rows: Tensor) -> Tensor:
        """Rows of a cache with the axis of differential weights in front where keys have it."""
        branches = self.k.dim() - 1 - len(self.lowered.shared) - len(self.lowered.key)
        return rows if which or not branches else parted(rows)

    @property
    def working_dtype(self) -> torch.dtype:
        """float64 for float64 tensors, float32 for all others."""
        import torch

        return torch.float64 if self.frame.dtype == torch.float64 else torch.float32


def frame(spec: Spec, q: Tensor, k: Tensor, v: Tensor, known: Mapping[str, int] | None) -> Frame:
    """Everything that shapes, dtypes and devices settle, checked. Raises the named error of each mistake."""
    check_tensors(q, k, v)
    solved = solve(spec.parsed, {"q": tuple(q.shape), "k": tuple(k.shape), "v": tuple(v.shape)}, known)
    lowered = spec.lowered(_counts(spec, solved))
    sizes = solved.sizes
    _check_sizes(spec, lowered, sizes)
    check_claims(lowered, sizes)
    for table in lowered.captured:
        if not table.movable and table.tensor.device != q.device:
            raise _elsewhere(table, table.tensor, q.device)
    features = lowered.features
    if lowered.branch is not None:
        features = (lowered.branch, *(f for f in features if f != lowered.branch))
    rows = (*lowered.shared, *lowered.query_order)
    pattern = lowered.pattern
    query_axes = (lowered.branch, *rows, *features[1:]) if lowered.branch else (*rows, *features)
    key_axes = (*lowered.shared, *lowered.key)
    return Frame(
        spec,
        lowered,
        sizes,
        Layout.of(pattern.query, sizes, query_axes),
        Layout.of(
            pattern.key, sizes, (lowered.branch, *key_axes, *features[1:]) if lowered.branch else (*key_axes, *features)
        ),
        Layout.of(pattern.value, sizes, (*key_axes, *lowered.value_features)),
        Return.of(pattern.output, sizes, (*rows, *lowered.value_features)),
        Return.of(pattern.output, sizes, rows, without=frozenset(lowered.value_features)),
        _scale(spec, lowered, sizes),
        q.dtype,
        q.device,
    )


def _elsewhere(table: Captured, tensor: Tensor, device: torch.device) -> DeviceError:
    again = "" if isinstance(table, Opening) else ", then make the term again"
    return DeviceError(
        f"{table.label or 'a captured tensor'} is on {tensor.device}, q on {device}.\n"
        f"  Move it: tensor.to(q.device){again}."
    )


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Float tensors of one dtype on one device; ``DtypeError`` or ``DeviceError`` otherwise."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not hasattr(tensor, "requires_grad"):
            raise DtypeError(
                f"{name} is {type(tensor).__name__}, not a torch tensor.\n  Convert it: torch.as_tensor({name})."
            )
        if tensor.layout is not q.layout or "strided" not in str(tensor.layout):
            raise DtypeError(
                f"{name} is {str(tensor.layout).removeprefix('torch.')}.\n  Make it dense: {name}.to_dense()."
            )
        if str(tensor.dtype).removeprefix("torch.") not in FLOATS:
            raise DtypeError(
                f"{name} is {tensor.dtype}; attention is computed on {', '.join(FLOATS)}.\n"
                f"  Convert it: {name}.float()."
            )
        if tensor.dtype != q.dtype:
            raise DtypeError(f"{name} is {tensor.dtype} and q is {q.dtype}.\n  Give one dtype: {name}.to(q.dtype).")
        if tensor.device.type == "meta":
            raise DeviceError(f"{name} is on the meta device, which holds no values.\n  Give tensors with values.")
        if tensor.device != q.device:
            raise DeviceError(f"{name} is on {tensor.device}, q on {q.device}.\n  Move it: {name}.to(q.device).")


def _counts(spec: Spec, solved: Solved) -> dict[str, int]:
    rests = [name for tensor in spec.parsed.tensors.values() for name in tensor.rests]
    return {rest: sum(1 for c in solved.pattern.coordinates if c.startswith(f"{rest}.")) for rest in rests}


def _check_sizes(spec: Spec, lowered: Lowered, sizes: Mapping[str, int]) -> None:
    for name in lowered.features:
        if sizes[name] == 0:
            raise ShapeError(
                f'feature coordinate "{name}" has size 0, so there is nothing to multiply.\n'
                f"    pattern: {spec.pattern}\n  Was a slice empty?"
            )
    if isinstance(spec.weights, Differential):
        if lowered.branch is not None and sizes[lowered.branch] != 2:
            raise SizeMismatch(
                f'differential: branch "{lowered.branch}" has size {sizes[lowered.branch]}, and there are two maps.\n'
                f'  Give q and k 2 along "{lowered.branch}".',
                coordinate=lowered.branch,
            )
        if lowered.branch is None and (len(lowered.features) != 1 or sizes[lowered.features[0]] % 2):
            shown = " ".join(f"{n}={sizes[n]}" for n in lowered.features)
            raise SizeMismatch(
                f"differential: the feature ({shown}) cannot be split in half.\n"
                "  Give an even feature size, or name a feature coordinate of size 2: branch=...",
                coordinate=lowered.features[0],
            )


def check_claims(lowered: Lowered, sizes: Mapping[str, int]) -> None:
    """``SizeMismatch`` for a captured tensor that has not the call's sizes."""
    for claim in lowered.claims:
        _check_claim(claim, sizes)


def _check_claim(claim: Claim, sizes: Mapping[str, int]) -> None:
    shape = tuple(claim.table.tensor.shape)
    for axis, names in enumerate(claim.axes):
        expected = math.prod(sizes[name] for name in names)
        if names and shape[axis] != expected:
            name = " ".join(names)
            spelled = f"({name})" if len(names) > 1 else name
            column = max(len(claim.term), len("call")) + 2
            raise SizeMismatch(
                f'coordinate "{spelled}" has two sizes.\n'
                f"    {'call:':{column}}{spelled}={expected}\n"
                f"    {claim.term + ':':{column}}{spelled}={shape[axis]}   (axis {axis} of a tensor of shape {shape})\n"
                "  A captured tensor has this call's sizes along the coordinates it names; size 1 does not stand for "
                "others: leave the coordinate out instead.",
                coordinate=name,
                seen={"call": expected, claim.term: shape[axis]},
            )


def _scale(spec: Spec, lowered: Lowered, sizes: Mapping[str, int]) -> float:
    if spec.scale is not None:
        return spec.scale
    if isinstance(spec.weights, Linear):
        return 1.0
    size = math.prod(sizes[name] for name in lowered.features if name != lowered.branch)
    if isinstance(spec.weights, Differential) and lowered.branch is None:
        size //= 2
    return 1.0 / math.sqrt(size)


def bind(
    made: Frame,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    positions: Mapping[str, Any] | None,
    align: str | None,
    want: frozenset[str],
    dropout: float,
    seed: int,
    exact: bool = False,
    given: Mapping[Captured, Tensor] | None = None,
) -> Bound:
    """The call in canonical layout, rotated and projected. ``made`` must be the frame of these tensors' signature.

    Rotations, feature maps and projections are computed, and kept, in float32 (float64 for float64 tensors and where
    ``exact`` asks for it): rounded to 16 bits they would move a score by more than the rest of the computation does.
    """
    lowered, sizes = made.lowered, made.sizes
    precision = precision_of(made, exact)
    places = Places(made.axes, sizes, resolve(lowered, sizes, positions, align, made.device), made.device)
    queries = mapped(made, turned(made, made.query.canonical(q), places, 0, precision), exact)
    keys = mapped(made, turned(made, made.key.canonical(k), places, 1, precision), exact)
    values = flatten_last(made.value.canonical(v), len(lowered.value_features))
    return assembled(made, (queries, keys, values), places, want, dropout, seed, exact, given)


def assembled(
    made: Frame,
    operands: tuple[Tensor, Tensor, Tensor],
    places: Places,
    want: frozenset[str],
    dropout: float,
    seed: int,
    exact: bool,
    given: Mapping[Captured, Tensor] | None = None,
) -> Bound:
    """The bound call of operands in canonical layout, which are turned and mapped already."""
    lowered, sizes = made.lowered, made.sizes
    queries, keys, values = operands
    given = given or {}
    tables = _tables(made, queries, precision_of(made, exact), given, safe=exact)
    return Bound(
        made,
        queries,
        keys,
        values,
        places,
        tables,
        _inside(lowered, places, sizes),
        want,
        dropout,
        seed,
        given=given,
    )


def precision_of(made: Frame, exact: bool) -> torch.dtype:
    """What rotations, maps and projections are computed in."""
    import torch

    return torch.float64 if exact or made.dtype == torch.float64 else torch.float32


def parted(x: Tensor) -> Tensor:
    """The features in two halves, one for each map of differential weights, as a leading axis."""
    import torch

    return torch.unflatten(x, -1, (2, x.shape[-1] // 2)).movedim(-2, 0)


def turned(made: Frame, x: Tensor, places: Places, side: int, precision: torch.dtype) -> Tensor:
    """Queries (side 0) or keys (side 1) with the branch in front, rotated, features flattened."""
    lowered = made.lowered
    halves = isinstance(made.spec.weights, Differential) and lowered.branch is None
    if made.spec.position is not None or isinstance(made.spec.weights, Linear):
        x = x.to(precision)
    if halves:
        x = parted(x)
    count = len(lowered.features) - (1 if lowered.branch else 0)
    rope = made.spec.position
    if rope is not None and lowered.rotated is not None:
        axes = (*lowered.shared, *(lowered.query_order if side == 0 else lowered.key))
        standing = places.rotation(lowered.rotated[side], axes)
        for _ in range(count - 1):
            standing = standing.unsqueeze(-1)
        x = rope.rotate(x, standing, length=places.largest(lowered.rotated[1]))
    return flatten_last(x, count)


def mapped(made: Frame, x: Tensor, safe: bool) -> Tensor:
    """Turned queries or keys after the feature map of linear weights; as they are for all others."""
    return _mapped(made.spec.weights, x, safe) if isinstance(made.spec.weights, Linear) else x


def _mapped(weights: Linear, x: Tensor, safe: bool) -> Tensor:
    """The feature map of each row. A row that is not finite is mapped apart, so that no gradient passes through it:
    the map's slope there may be NaN, which times 0 is NaN.
    """
    import torch

    # torch's exponentials have other last bits where elements are not neighbours
    x = x.clone(memory_format=torch.contiguous_format) if safe else packed(x)
    if not safe and finite.is_finite(x):
        return _checked_map(weights, x)
    sound = torch.isfinite(x).all(-1, keepdim=True)
    return torch.where(sound, _checked_map(weights, torch.where(sound, x, 1.0)), weights.map(x.detach()).detach())


def _checked_map(weights: Linear, x: Tensor) -> Tensor:
    mapped = weights.map(x)
    if mapped.shape[:-1] != x.shape[:-1]:
        raise ShapeError(
            f"linear: the feature map makes {tuple(mapped.shape)} of {tuple(x.shape)}.\n"
            "  It maps the last axis, and leaves all others as they are."
        )
    return mapped


def _tables(
    made: Frame, queries: Tensor, precision: torch.dtype, given: Mapping[Captured, Tensor], *, safe: bool
) -> dict[Captured, Tensor]:
    """The tensors that lookups read: captured ones, on the call's device, and queries multiplied with a table.

    A query that holds NaN must not reach the table's gradient, so its products are made apart: always where ``safe``
    asks for it (values cannot be asked for under a transform), else where one was seen.
    """
    tables = {c: c.tensor.to(made.device) if c.movable else c.tensor for c in made.lowered.captured}
    for opening, tensor in given.items():
        if tensor.device != made.device:
            raise _elsewhere(opening, tensor, made.device)
        tables[opening] = tensor
    for projection in made.lowered.projections:
        table = projection.tensor
        if table.shape[1] != queries.shape[-1]:
            raise SizeMismatch(
                f"shaw: key_table has vectors of size {table.shape[1]}, and the feature has size "
                f"{queries.shape[-1]}.\n  Give a table of shape [{table.shape[0]}, {queries.shape[-1]}].",
                coordinate=made.lowered.features[-1],
            )
        scaled, vectors = made.scale * queries.to(precision), table.to(precision)
        apart = safe or finite.is_transformed(scaled) or not finite.is_finite(scaled, vectors)
        tables[projection] = finite.scores(scaled, vectors) if apart else scaled @ vectors.transpose(0, 1)
    if made.lowered.row_table is not None:
        rows = made.lowered.row_table[0]
        size = math.prod(made.sizes[n] for n in made.lowered.value_features)
        if rows.tensor.shape[1] != size:
            raise SizeMismatch(
                f"shaw: value_table has vectors of size {rows.tensor.shape[1]}, and the value feature has size "
                f"{size}.\n  Give a table of shape [{rows.tensor.shape[0]}, {size}].",
                coordinate=made.lowered.value_features[-1],
            )
    return tables


def _inside(lowered: Lowered, places: Places, sizes: Mapping[str, int]) -> frozenset[Lookup]:
    """The lookups that stay in their tables over the whole call."""
    if not lowered.captured or any(sizes[n] == 0 for n in places.names):
        return frozenset()
    lookups = [n for node in lowered.nodes for n in walk(node) if isinstance(n, Lookup)]
    if all(_direct(lookup, sizes) for lookup in lookups):
        return frozenset(lookups)
    indices, positions = places.bounds({})
    # What a caller's table holds is not looked at for this: learning it would cost more than the checks that it saves.
    block = Block(indices, positions, sizes, {table: None for table in lowered.captured if not table.movable})
    return frozenset[Lookup]().union(*(stays_inside(node, block) for node in lowered.nodes))


def _direct(lookup: Lookup, sizes: Mapping[str, int]) -> bool:
    """Whether a table is read at plain indices that it has all of, as a bias is: nothing has to be bounded for that."""
    extents = lookup.table.extents(len(lookup.indices))
    pairs = zip(lookup.indices, extents, strict=True)
    return all(isinstance(at, Index) and (size is None or sizes[at.coordinate] <= size) for at, size in pairs)


def check_dropout(dropout: float) -> None:
    """``SpecError`` unless ``dropout`` is a probability below 1."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(
            f"dropout={dropout!r} must be a probability in [0, 1).\n  It is the share of weights that are dropped."
        )
