"""The library's masks: causal, window, prefix, first, dilated, documents, padding, blocks and trees.

Each function says in one sentence which keys it keeps; positions are compared, never corners of a matrix. Combine them
with ``&``, ``|``, ``~``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from .. import limits
from ..errors import LimitError, ShapeError, SpecError
from .expr import Captured, Constant, Index, Lookup, Node, Position, Size, apply
from .keep import DISTANCE, KEY, QUERY, Keep, Relative, compare
from .numbers import whole
from .scope import Claim, Scope, captured, unnamed

if TYPE_CHECKING:
    from torch import Tensor

    from ..coords import Named


def causal(*, query: str | None = None, key: str | None = None) -> Keep:
    """Keeps the keys whose position is at most the query's.

    ``query`` and ``key`` name the sequences where the pattern leaves several candidates. With different numbers of
    queries and keys the call must say where the queries stand (``positions=`` or ``align=``), or it raises
    ``PositionError``.

    >>> import qkv
    >>> print(qkv.causal().picture(3))
    causal(): 3 queries (i, down) by 3 keys (j, across), 66.67 % kept
    ┌──────┐
    │██· · │
    │████· │
    │██████│
    └──────┘
    ██ kept   · not
    """
    # the plain one is always the same object, so that a call made anew with it is known again at once
    return _CAUSAL if query is key is None else Relative("causal()", compare("ge", DISTANCE, 0), query, key)


_CAUSAL = Relative("causal()", compare("ge", DISTANCE, 0), None, None)


def window(left: int, right: int | None = None, *, query: str | None = None, key: str | None = None) -> Keep:
    """``window(w)`` keeps ``w`` keys, the query's own and those before it; ``window(left, right)`` counts neighbours on
    each side, and keeps the own one too.

    Raises ``SpecError`` for ``window(0)`` and negative counts.

    >>> import qkv
    >>> qkv.window(2).count(5), qkv.window(1, 1).count(5)
    (9, 13)
    """
    if right is None:
        width = whole("window(w)", "w", left, least=1)
        node = apply("and", compare("ge", DISTANCE, 0), compare("lt", DISTANCE, width))
        return Relative(f"window({width})", node, query, key)
    before = whole("window(left, right)", "left", left, least=0)
    after = whole("window(left, right)", "right", right, least=0)
    node = apply("and", compare("le", DISTANCE, before), compare("ge", DISTANCE, -after))
    return Relative(f"window({before}, {after})", node, query, key)


def prefix(length: int, *, query: str | None = None, key: str | None = None) -> Keep:
    """Keeps, for the queries among the first ``length`` positions, the keys among them: ``causal() | prefix(n)`` is a
    prefix language model.

    >>> import qkv
    >>> qkv.prefix(3).count(8), (qkv.causal() | qkv.prefix(3)).count(8)
    (9, 39)
    """
    n = whole("prefix(length)", "length", length, least=0)
    return Relative(f"prefix({n})", apply("and", compare("lt", QUERY, n), compare("lt", KEY, n)), query, key)


def first(count: int, *, key: str | None = None) -> Keep:
    """Keeps the first ``count`` keys for every query: ``causal() & (window(w) | first(4))`` keeps attention sinks
    (StreamingLLM, Xiao et al. 2023).

    >>> import qkv
    >>> (qkv.causal() & (qkv.window(2) | qkv.first(1))).count(5)
    12
    """
    n = whole("first(count)", "count", count, least=0)
    return Relative(f"first({n})", compare("lt", KEY, n), None, key)


def dilated(step: int, *, query: str | None = None, key: str | None = None) -> Keep:
    """Keeps the keys at a multiple of ``step`` from the query (Sparse Transformer, Child et al. 2019).

    >>> import qkv
    >>> (qkv.causal() & qkv.dilated(2)).count(5)
    9
    """
    n = whole("dilated(step)", "step", step, least=1)
    return Relative(f"dilated({n})", compare("eq", apply("mod", DISTANCE, Constant(n)), 0), query, key)


@dataclass(frozen=True, slots=True)
class Padding(Keep):
    """Keeps the keys that a mask tensor says are there."""

    table: Captured
    pattern: str

    def lower(self, scope: Scope) -> Node:
        """The lookup at this call's indices."""
        return scope.read("padding", self.table, self.pattern)

    def __repr__(self) -> str:
        return f'padding({self.table!r}, "{self.pattern}")'


def padding(mask: Tensor | Named, pattern: str | None = None) -> Keep:
    """Keeps what ``mask`` says: a bool tensor with the axes of ``pattern`` (default ``"b j"``), or a Named one; True
    where the key is kept.

    The axes are this call's: any of shared, query-only and key coordinates, merged ones in parentheses. A full mask is
    ``padding(mask, "b h i j")``. Raises ``DtypeError`` for a mask that is not bool, ``SizeMismatch`` at the call.

    >>> import qkv, torch
    >>> mask = torch.tensor([[False, True, True], [True, True, True]])  # the first sequence is padded on the left
    >>> qkv.padding(mask).count(3, at={"b": 0})
    6
    """
    tensor, axes = unnamed(mask, pattern, "b j")
    return Padding(captured("padding", tensor, boolean=True, label="mask"), axes)


@dataclass(frozen=True, slots=True)
class Documents(Keep):
    """Keeps the keys of the query's own document."""

    table: Captured
    pattern: str
    query: str | None
    key: str | None

    def lower(self, scope: Scope) -> Node:
        """The comparison of the ids at the two positions."""
        query, key = scope.query("documents", self.query), scope.key_of("documents", self.key)
        axes = scope.axes("documents", self.pattern)
        if len(self.table.tensor.shape) != len(axes) or (key,) not in axes:
            raise ShapeError(
                f'documents: ids of shape {tuple(self.table.tensor.shape)} do not have the axes "{self.pattern}" '
                f'with the key "{key}" among them.\n'
                f'  Ids are indexed by position: documents(ids, "b {key}") for ids of shape [batch, positions].'
            )

        # along the key ids are indexed by position, and may be more than this call's keys
        scope.claims.append(Claim("documents", self.table, tuple(() if names == (key,) else names for names in axes)))

        def at(sequence: str) -> Node:
            nodes = [Position(sequence) if names == (key,) else scope.flat(names) for names in axes]
            return Lookup(self.table, tuple(nodes))

        return apply("eq", at(query), at(key))

    def __repr__(self) -> str:
        return f'documents({self.table!r}, "{self.pattern}")'


def documents(
    ids: Tensor | Named, pattern: str | None = None, *, query: str | None = None, key: str | None = None
) -> Keep:
    """Keeps the keys whose document is the query's: ``ids`` are whole numbers, read at the key's and at the query's
    position.

    ``pattern`` names the axes of ``ids``, with the key coordinate standing for the position. Several sequences packed
    into one row stay apart: ``causal() & documents(ids)``. Raises ``DtypeError`` for ids that are not whole numbers.

    >>> import qkv, torch
    >>> qkv.documents(torch.tensor([0, 0, 0, 1, 1]), "j").count(5)
    13
    """
    tensor, axes = unnamed(ids, pattern, "b j")
    return Documents(captured("documents", tensor, integer=True, label="ids"), axes, query, key)


@dataclass(frozen=True, slots=True)
class Blocks(Keep):
    """Keeps whole blocks of pairs."""

    table: Captured
    size: int
    pattern: str
    query: str | None
    key: str | None

    def lower(self, scope: Scope) -> Node:
        """The lookup at the two block numbers."""
        query, key = scope.query("blocks", self.query), scope.key_of("blocks", self.key)
        axes = scope.axes("blocks", self.pattern)
        if len(self.table.tensor.shape) != len(axes) or (query,) not in axes or (key,) not in axes:
            raise ShapeError(
                f'blocks: a table of shape {tuple(self.table.tensor.shape)} does not have the axes "{self.pattern}" '
                f'with "{query}" and "{key}" among them.\n'
                f'  Its axes are block numbers: blocks(table, {self.size}, "h {query} {key}") for a table of shape '
                "[heads, query blocks, key blocks]."
            )
        numbers = ((query,), (key,))
        scope.claims.append(Claim("blocks", self.table, tuple(() if names in numbers else names for names in axes)))
        nodes = [
            apply("floordiv", Position(n[0]), Constant(self.size)) if n in numbers else scope.flat(n) for n in axes
        ]
        return Lookup(self.table, tuple(nodes))

    def __repr__(self) -> str:
        return f'blocks({self.table!r}, {self.size}, "{self.pattern}")'


def blocks(
    table: Tensor | Named, size: int, pattern: str | None = None, *, query: str | None = None, key: str | None = None
) -> Keep:
    """Keeps the pairs whose block is True in ``table``: block ``[i // size, j // size]``, a bool tensor with the axes
    of ``pattern`` (default ``"i j"``).

    Raises ``DtypeError`` for a table that is not bool, ``SpecError`` at the call for a block outside the table.

    >>> import qkv, torch
    >>> qkv.blocks(torch.eye(3, dtype=torch.bool), 2).count(6)
    12
    """
    tensor, axes = unnamed(table, pattern, "i j")
    return Blocks(
        captured("blocks", tensor, boolean=True, label="table"),
        whole("blocks", "size", size, least=1),
        axes,
        query,
        key,
    )


@dataclass(frozen=True, slots=True)
class Tree(Keep):
    """Keeps each draft token's ancestors, itself, and everything before the draft."""

    parents: tuple[int, ...]
    ancestors: Captured
    query: str | None
    key: str | None

    def lower(self, scope: Scope) -> Node:
        """The lookup among the last keys; the keys before them are the context."""
        query, key = scope.query("tree", self.query), scope.key_of("tree", self.key)
        count = Constant(len(self.parents))
        node = apply("sub", Index(key), apply("sub", Size(key), count))
        drafted = apply("add", Index(query), apply("sub", count, Size(query)))
        inside = apply("max", node, Constant(0))
        return apply("select", compare("lt", node, 0), Constant(True), Lookup(self.ancestors, (drafted, inside)))

    @property
    def depths(self) -> tuple[int, ...]:
        """Each node's distance from its root: positions for the draft are the context's length plus these."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    def __repr__(self) -> str:
        return f"tree({list(self.parents)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and (self.parents, self.query, self.key) == (
            other.parents,
            other.query,
            other.key,
        )

    def __hash__(self) -> int:
        return hash((self.parents, self.query, self.key))


def tree(parents: Sequence[int] | Tensor, *, query: str | None = None, key: str | None = None) -> Tree:
    """The mask of a draft tree in speculative decoding: the last ``len(parents)`` keys are the draft, every key before
    is kept.

    ``parents[n]`` is the index of node n's parent in the draft, -1 for a root; parents come before children. The
    queries are the draft's nodes (or its last ones). ``tree(parents).depths`` gives each node's depth, for
    ``positions=``. Raises ``SpecError`` for a parent that does not come before its child. Source: Miao et al. 2023,
    SpecInfer, section 4.2.

    >>> import qkv
    >>> qkv.tree([-1, 0, 0, 1]).depths
    (0, 1, 1, 2)
    """
    import torch

    listed = cast("Sequence[object]", getattr(parents, "tolist", lambda: parents)())
    if len(listed) > limits.TREE_NODES:
        raise LimitError(
            f"tree: {len(listed)} nodes are more than {limits.TREE_NODES}.\n"
            "  A draft is a few dozen tokens; give a larger mask as padding(mask, 'i j')."
        )
    given = tuple(whole("tree", f"parents[{n}]", parent, least=-1) for n, parent in enumerate(listed))
    if not given:
        raise SpecError(
            "tree: there are no nodes.\n  Give a parent for each draft token, -1 for a root: tree([-1, 0, 0])."
        )
    table = torch.zeros(len(given), len(given), dtype=torch.bool)
    for n, parent in enumerate(given):
        if parent >= n or parent < -1:
            raise SpecError(
                f"tree: node {n} has parent {parent}, which does not come before it.\n"
                "  Order the nodes so that parents come first; -1 is a root."
            )
        if parent >= 0:
            table[n] = table[parent]
        table[n, n] = True
    return Tree(given, Captured(table, "ancestors", movable=True), query, key)
