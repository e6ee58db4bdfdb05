"""What is done to the scaled dot product: the ``score`` part of a spec.

A term takes the graph of the score so far and gives the graph after it; several terms apply in the order given. This
module knows additive biases, soft-capping, ALiBi, T5's buckets, Shaw's relative keys and values, and a user's function
of the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..coords import Named
from ..errors import InternalError, ShapeError, SpecError
from .expr import (
    Captured,
    Constant,
    Index,
    Kind,
    Lookup,
    Node,
    Position,
    Score,
    apply,
    bare,
    coordinates_read,
    substitute,
)
from .numbers import by_head, positive, whole
from .scope import Scope, captured, unnamed
from .trace import SCORE, trace_named
from .worded import Worded

if TYPE_CHECKING:
    from torch import Tensor


class ScoreTerm(Worded):
    """One change of the score; terms apply in the order in which a spec lists them."""

    def lower(self, scope: Scope, score: Node) -> Node:
        """The graph of the score after this term, from the one before it."""
        raise InternalError(f"{type(self).__name__} does not say how it changes a score; please report this")


@dataclass(frozen=True, slots=True)
class CustomScore(ScoreTerm):
    """A change given by a function of the score and of coordinates."""

    names: tuple[str, ...]
    node: Node

    def lower(self, scope: Scope, score: Node) -> Node:
        """The recorded graph with the score so far put in."""
        scope.check("score function", [*(n for n in self.names if n != SCORE), *sorted(coordinates_read(self.node))])
        return substitute(self.node, {Score(): score})

    def __repr__(self) -> str:
        return f"score({bare(self.node)})"


def score(function: Callable[..., Any]) -> ScoreTerm:
    """A change of the score from a function whose first parameter is ``score`` and whose others are coordinates.

    Coordinates stand for positions. Gradients flow to the score and to captured float tensors. Raises ``TraceError``
    for what cannot be recorded.

    >>> import qkv
    >>> qkv.score(lambda score, i, j: score - 0.5 * abs(i - j))
    score(score - (0.5 * abs(i - j)))
    """
    names, node = trace_named(function, Kind.FLOAT)
    return CustomScore(names, node)


@dataclass(frozen=True, slots=True)
class SoftCap(ScoreTerm):
    """Scores squeezed smoothly into (-cap, cap)."""

    cap: float

    def lower(self, scope: Scope, score: Node) -> Node:
        """``cap * tanh(score / cap)``."""
        return apply("mul", Constant(self.cap), apply("tanh", apply("div", score, Constant(self.cap))))

    def __repr__(self) -> str:
        return f"softcap({self.cap:g})"


def softcap(cap: float) -> ScoreTerm:
    """``cap * tanh(score / cap)``: scores stay between -cap and cap. Raises ``SpecError`` unless ``cap`` is positive
    and finite.

    Source: Gemma 2 (Gemma Team 2024), section 2, with cap 50 for attention.

    >>> import qkv
    >>> qkv.Spec(score=qkv.softcap(50.0))
    Spec("b h i d, b h j d, b h j e -> b h i e", score=softcap(50))
    """
    return SoftCap(positive("softcap", "cap", cap))


@dataclass(frozen=True, slots=True)
class Alibi(ScoreTerm):
    """A penalty that grows with distance, at a slope of its own for each head."""

    slopes: Captured | float | None
    head: str | None
    query: str | None
    key: str | None

    def lower(self, scope: Scope, score: Node) -> Node:
        """``score - slope * |i - j|``."""
        distance = apply(
            "abs",
            apply("sub", Position(scope.query("alibi()", self.query)), Position(scope.key_of("alibi()", self.key))),
        )
        return apply("sub", score, apply("mul", self.slope(scope), distance))

    def slope(self, scope: Scope) -> Node:
        """The head's slope: looked up, one number for all, or the paper's by formula."""
        if isinstance(self.slopes, int | float):
            return Constant(float(self.slopes))
        heads = scope.heads("alibi()", self.head)
        if self.slopes is not None:
            return scope.read("alibi", self.slopes, f"({' '.join(heads)})" if heads[1:] else " ".join(heads))
        head, count = scope.flat(heads), scope.count(heads)
        log2 = apply("div", apply("log", apply("float", count)), Constant(math.log(2.0)))
        power = apply("pow", Constant(2.0), apply("floor", apply("add", log2, Constant(1e-6))))
        number = apply("float", head)
        early = apply("div", apply("mul", Constant(-8.0), apply("add", number, Constant(1.0))), power)
        beyond = apply("add", apply("mul", Constant(2.0), apply("sub", number, power)), Constant(1.0))
        late = apply("div", apply("mul", Constant(-4.0), beyond), power)
        return apply("pow", Constant(2.0), apply("select", apply("lt", number, power), early, late))

    def __repr__(self) -> str:
        return "alibi()" if self.slopes is None else f"alibi({self.slopes!r})"


def alibi(
    slopes: Tensor | Named | float | None = None,
    *,
    head: str | None = None,
    query: str | None = None,
    key: str | None = None,
) -> ScoreTerm:
    """``score - slope[head] * |i - j|``, distances between positions; under ``causal`` this is the paper's form.

    ``slopes``: a float tensor with one slope for each query head (gradients flow), one number for all, or None for the
    paper's: for n heads, n a power of two, ``2 ** (-8 (head + 1) / n)``; otherwise those of the next lower power of two
    p, followed by every other slope of 2 p heads. ``head`` names the head axis as in a pattern. Source: Press et al.
    2022, Train Short, Test Long, section 3 and the published code for other head counts.

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 4, 5, 8)
    >>> out = qkv.attention(q, k, v, keep=qkv.causal(), score=qkv.alibi())
    >>> given = qkv.alibi(torch.tensor(qkv.alibi_slopes(4)))
    >>> torch.allclose(out, qkv.attention(q, k, v, keep=qkv.causal(), score=given), atol=1e-6)
    True
    """
    if slopes is None:
        return Alibi(None, head, query, key)
    made, heads = by_head("alibi", "slopes", slopes, head)
    return Alibi(made, heads, query, key)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """The paper's slopes for ``num_heads`` heads, as ``alibi()`` uses them.

    Raises ``SpecError`` for less than one head.

    >>> alibi_slopes(2)
    (0.0625, 0.00390625)
    """
    power = 1 << (whole("alibi_slopes", "num_heads", num_heads, least=1).bit_length() - 1)
    early = [2.0 ** (-8.0 * (n + 1) / power) for n in range(power)]
    return (*early, *(2.0 ** (-4.0 * (2 * n + 1) / power) for n in range(num_heads - power)))


@dataclass(frozen=True, slots=True)
class Bias(ScoreTerm):
    """A tensor added to the scores."""

    table: Captured
    pattern: str

    def lower(self, scope: Scope, score: Node) -> Node:
        """``score + bias[...]`` at this call's indices."""
        return apply("add", score, scope.read("bias", self.table, self.pattern))

    def __repr__(self) -> str:
        return f'bias({self.table!r}, "{self.pattern}")'


def bias(tensor: Tensor | Named, pattern: str | None = None) -> ScoreTerm:
    """``score + tensor``: a float tensor with the axes of ``pattern`` (any score coordinates, merged ones in
    parentheses), or a Named one; its gradient flows.

    The axes are this call's. An entry of -inf drops the key, as a mask would. Raises ``DtypeError`` for what is not a
    float tensor, ``SpecError`` without a pattern, ``SizeMismatch`` at the call.

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 2, 4, 8)
    >>> table = torch.zeros(2, 4, 4, requires_grad=True)
    >>> qkv.attention(q, k, v, score=qkv.bias(table, "h i j")).sum().backward()
    >>> table.grad.shape
    torch.Size([2, 4, 4])
    """
    if not isinstance(tensor, Named):
        captured("bias", tensor)
    if pattern is None and not isinstance(tensor, Named):
        raise SpecError(
            f"bias: nothing says what the axes of a tensor of shape {tuple(tensor.shape)} are.\n"
            '  Name them: qkv.bias(tensor, "h i j"), or give a qkv.Named tensor.'
        )
    table, axes = unnamed(tensor, pattern, "")
    return Bias(captured("bias", table, label="bias"), axes)


@dataclass(frozen=True, slots=True)
class RelativeBias(ScoreTerm):
    """A learned number for each bucket of distances (and each head), added to the scores."""

    table: Captured
    buckets: Captured | None
    bidirectional: bool
    head: str | None
    query: str | None
    key: str | None

    def lower(self, scope: Scope, score: Node) -> Node:
        """``score + table[bucket(j - i), head]``."""
        relative = apply(
            "sub", Position(scope.key_of("relative_bias", self.key)), Position(scope.query("relative_bias", self.query))
        )
        indices: tuple[Node, ...] = (self.bucket(relative),)
        if len(self.table.tensor.shape) == 2:
            heads = scope.heads("relative_bias", self.head)
            indices = (*indices, scope.flat(heads))
            from .scope import Claim

            scope.claims.append(Claim("relative_bias", self.table, ((), heads)))
        return apply("add", score, Lookup(self.table, indices))

    def bucket(self, relative: Node) -> Node:
        """The bucket of a distance, as a graph of whole numbers."""
        count = self.table.tensor.shape[0]
        if self.buckets is None:
            reach = (count - 1) // 2
            clipped = apply("min", apply("max", relative, Constant(-reach)), Constant(reach))
            return apply("add", clipped, Constant(reach))
        last = Constant(self.buckets.tensor.shape[0] - 1)
        back = Lookup(self.buckets, (apply("min", apply("max", apply("neg", relative), Constant(0)), last),))
        if not self.bidirectional:
            return back
        distance = Lookup(self.buckets, (apply("min", apply("abs", relative), last),))
        return apply(
            "add", distance, apply("select", apply("gt", relative, Constant(0)), Constant(count // 2), Constant(0))
        )

    def __repr__(self) -> str:
        return f"relative_bias({self.table!r}, buckets={'clip' if self.buckets is None else 't5'})"


def relative_bias(
    table: Tensor | Named,
    *,
    buckets: str = "t5",
    max_distance: int = 128,
    bidirectional: bool = True,
    head: str | None = None,
    query: str | None = None,
    key: str | None = None,
) -> ScoreTerm:
    """``score + table[bucket(j - i), head]``, a learned bias by distance; its gradient flows.

    ``table`` has the axes (bucket, head), or (bucket,) for all heads alike. ``buckets="t5"``: half of them exact, the
    others logarithmic up to ``max_distance``; ``bidirectional`` spends half on keys after the query (encoders).
    ``buckets="clip"``: 2k+1 rows for the distances -k..k, clipped. Raises ``SpecError`` for a table without rows
    enough. Source: Raffel et al. 2020, T5, section 2.1, and its published bucket function.

    >>> import qkv, torch
    >>> qkv.relative_bias(torch.zeros(32, 8), bidirectional=False)
    relative_bias(table<32x8>, buckets=t5)
    """
    if isinstance(table, Named):
        head = table.names[1] if head is None and len(table.names) == 2 else head
        table = table.tensor
    made = captured("relative_bias", table, label="table")
    if len(table.shape) not in (1, 2) or table.shape[0] < 1:
        raise ShapeError(
            f"relative_bias: a table of shape {tuple(table.shape)} does not have the axes (bucket, head) or "
            "(bucket,).\n  T5's has the shape [32, num_heads]."
        )
    count = int(table.shape[0])
    if buckets == "clip":
        if count % 2 == 0:
            raise SpecError(
                f"relative_bias: {count} rows cannot be the distances -k..k.\n"
                "  Give 2k+1 rows: k before, the own one, k after."
            )
        return RelativeBias(made, None, bidirectional, head, query, key)
    if buckets != "t5":
        raise SpecError(f'relative_bias: buckets="{buckets}" is not known.\n  Known: "t5", "clip".')
    one_side = count // 2 if bidirectional else count
    if one_side < 2 or max_distance <= one_side // 2:
        raise SpecError(
            f"relative_bias: {count} buckets and max_distance={max_distance} leave no logarithmic ones.\n"
            "  T5 has 32 buckets and max_distance=128."
        )
    return RelativeBias(
        made, Captured(t5_buckets(one_side, max_distance), "bucket", movable=True), bidirectional, head, query, key
    )


def t5_buckets(count: int, max_distance: int) -> Tensor:
    """The bucket of each distance 0..max_distance on one side, in float32 as published: boundaries must round as in the
    checkpoints' training.
    """
    import torch

    exact = count // 2
    distance = torch.arange(max_distance + 1)
    scaled = torch.log(distance.float().clamp(min=1) / exact) / math.log(max_distance / exact) * (count - exact)
    large = (exact + scaled.to(torch.int64)).clamp(max=count - 1)
    return torch.where(distance < exact, distance, large)


class Projection(Captured):
    """A captured table that queries are multiplied with first: read at the query's place and a row."""

    __slots__ = ()

    def extents(self, rank: int) -> tuple[int | None, ...]:
        """The table's rows for the last index; the others are the query's own coordinates."""
        return (*(None for _ in range(rank - 1)), self.tensor.shape[0])


@dataclass(frozen=True, slots=True)
class Shaw(ScoreTerm):
    """Learned vectors for clipped distances, added to keys and, if given, to values."""

    keys: Projection
    values: Captured | None
    query: str | None
    key: str | None

    def lower(self, scope: Scope, score: Node) -> Node:
        """``score + scale * q . key_table[clip(j - i)]``."""
        outer = tuple(Index(n) for n in (*scope.shared, *scope.rows))
        return apply("add", score, Lookup(self.keys, (*outer, self.row(scope))))

    def row(self, scope: Scope) -> Node:
        """The row of the tables for a query and a key."""
        relative = apply("sub", Position(scope.key_of("shaw", self.key)), Position(scope.query("shaw", self.query)))
        reach = (self.keys.tensor.shape[0] - 1) // 2
        return apply("add", apply("min", apply("max", relative, Constant(-reach)), Constant(reach)), Constant(reach))

    def __repr__(self) -> str:
        return f"shaw({self.keys!r})" if self.values is None else f"shaw({self.keys!r}, {self.values!r})"


def shaw(
    key_table: Tensor | Named,
    value_table: Tensor | Named | None = None,
    *,
    query: str | None = None,
    key: str | None = None,
) -> ScoreTerm:
    """Relative positions as vectors: ``scale * q . (k + key_table[clip(j - i)])``, and ``v + value_table[clip(j - i)]``
    where a value table is given.

    ``key_table`` has 2k+1 rows (distances -k..k) of the feature size, ``value_table`` as many of the value feature
    size; gradients flow. Raises ``SpecError`` for an even number of rows or tables that disagree. Source: Shaw et al.
    2018, Self-Attention with Relative Position Representations, equations 3 and 4.

    >>> import qkv, torch
    >>> q = k = v = torch.randn(1, 2, 6, 8)
    >>> qkv.attention(q, k, v, score=qkv.shaw(torch.randn(5, 8), torch.randn(5, 8))).shape
    torch.Size([1, 2, 6, 8])
    """
    key_table = key_table.tensor if isinstance(key_table, Named) else key_table
    value_table = value_table.tensor if isinstance(value_table, Named) else value_table
    captured("shaw", key_table)
    rows = [int(t.shape[0]) if len(t.shape) == 2 else -1 for t in (key_table, value_table) if t is not None]
    if min(rows) < 1 or rows[0] % 2 == 0 or len(set(rows)) > 1:
        shapes = " and ".join(str(tuple(t.shape)) for t in (key_table, value_table) if t is not None)
        raise SpecError(
            f"shaw: tables of shape {shapes} do not have 2k+1 rows each.\n"
            "  Give [2k+1, feature size] for keys and [2k+1, value feature size] for values."
        )
    return Shaw(
        Projection(key_table, "key_table"),
        None if value_table is None else captured("shaw", value_table, label="value_table"),
        query,
        key,
    )
