"""Which keys a query may see: the ``keep`` part of a spec, as terms that combine with ``&``, ``|`` and ``~``.

Every term lowers to a graph of truth values over positions: True means kept. The library's terms and a user's
function are the same kind of thing. This module knows masks; it refuses to know scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InternalError, SpecError
from .expr import Constant, Kind, Node, Position, apply, bare, coordinates_read
from .scope import Scope
from .trace import trace_named
from .worded import Worded

if TYPE_CHECKING:
    from os import PathLike


class Keep(Worded):
    """A mask as data; combine with ``&``, ``|``, ``~``, look at it with ``picture`` and count it with ``density``.

    >>> import qkv
    >>> qkv.causal() & ~qkv.window(2)
    causal() & ~window(2)
    """

    def lower(self, scope: Scope) -> Node:
        """The graph of truth values over the coordinates of ``scope``."""
        raise InternalError(f"{type(self).__name__} does not say which keys it keeps; please report this")

    def __and__(self, other: Keep) -> Keep:
        return Both(self, _keep(other))

    def __or__(self, other: Keep) -> Keep:
        return Either(self, _keep(other))

    def __invert__(self) -> Keep:
        return Without(self)

    def __bool__(self) -> NoReturn:
        raise SpecError(
            f"`and`, `or`, `not` cannot combine masks: {self!r}.\n"
            "  Write causal() & window(128), causal() | first(4), ~documents(ids)."
        )

    def count(
        self,
        num_queries: int,
        num_keys: int | None = None,
        *,
        query: str = "i",
        key: str = "j",
        offset: int = 0,
        at: Mapping[str, int] | None = None,
    ) -> int:
        """How many pairs of a query and a key are kept, exactly, without an array of all pairs.

        ``query`` and ``key`` name the coordinates that are counted, where the mask calls them otherwise than i and j;
        ``offset`` is the position of the first query; ``at`` gives the index of every other coordinate that the mask
        depends on, such as ``{"h": 3}``. Empty sizes count 0. Raises ``CoordinateError`` for a coordinate of the mask
        that none of them names.

        >>> import qkv
        >>> qkv.causal().count(4)
        10
        """
        from .count import check_tables, count

        keys = num_queries if num_keys is None else num_keys
        node = self.standalone(query, key, at)
        check_tables(node, {query: num_queries + offset, key: keys})
        return count(
            node,
            query=query,
            key=key,
            num_queries=num_queries,
            num_keys=keys,
            offset=offset,
            at=at,
        )

    def density(
        self,
        num_queries: int,
        num_keys: int | None = None,
        *,
        query: str = "i",
        key: str = "j",
        offset: int = 0,
        at: Mapping[str, int] | None = None,
    ) -> float:
        """The share of pairs that are kept, between 0 and 1; 0 for empty sizes. Arguments as of ``count``.

        >>> import qkv
        >>> qkv.causal().density(4)
        0.625
        """
        keys = num_queries if num_keys is None else num_keys
        return self.count(num_queries, keys, query=query, key=key, offset=offset, at=at) / max(1, num_queries * keys)

    def picture(
        self,
        num_queries: int,
        num_keys: int | None = None,
        *,
        path: str | PathLike[str] | None = None,
        query: str = "i",
        key: str = "j",
        offset: int = 0,
        at: Mapping[str, int] | None = None,
    ) -> str:
        """The mask as text, rows being queries; with ``path`` also written as a PNG. Arguments as of ``count``."""
        from .count import check_tables
        from .picture import picture

        keys = num_queries if num_keys is None else num_keys
        node = self.standalone(query, key, at)
        check_tables(node, {query: num_queries + offset, key: keys})
        return picture(
            node,
            query=query,
            key=key,
            num_queries=num_queries,
            num_keys=keys,
            offset=offset,
            at=at,
            path=path,
            title=repr(self),
        )

    def standalone(self, query: str, key: str, at: Mapping[str, int] | None) -> Node:
        """The graph of the term on its own, with one query and one key sequence and the coordinates of ``at``."""
        others = tuple(n for n in ("b", "h", "g", *(at or {})) if n not in (query, key))
        text = f'none, but queries "{query}" by keys "{key}"; name others as in picture(n, query="seq_q", key="seq_k")'
        return self.lower(Scope(text, tuple(dict.fromkeys(others)), (query,), (key,), (query,), {"h": ("g",)}))


def _keep(value: object) -> Keep:
    if not isinstance(value, Keep):
        raise SpecError(
            f"a mask can be combined with another mask, not with {type(value).__name__}.\n"
            "  Wrap a function: qkv.keep(lambda i, j: ...); a tensor: qkv.padding(mask, 'b j')."
        )
    return value


@dataclass(frozen=True, slots=True)
class Both(Keep):
    """Kept by the one and by the other."""

    first: Keep
    second: Keep

    def lower(self, scope: Scope) -> Node:
        """The conjunction."""
        return apply("and", self.first.lower(scope), self.second.lower(scope))

    def __repr__(self) -> str:
        return " & ".join(f"({p!r})" if isinstance(p, Either) else repr(p) for p in (self.first, self.second))


@dataclass(frozen=True, slots=True)
class Either(Keep):
    """Kept by the one or by the other."""

    first: Keep
    second: Keep

    def lower(self, scope: Scope) -> Node:
        """The disjunction."""
        return apply("or", self.first.lower(scope), self.second.lower(scope))

    def __repr__(self) -> str:
        return f"{self.first!r} | {self.second!r}"


@dataclass(frozen=True, slots=True)
class Without(Keep):
    """Kept where the other is not."""

    term: Keep

    def lower(self, scope: Scope) -> Node:
        """The negation."""
        return apply("not", self.term.lower(scope))

    def __repr__(self) -> str:
        return f"~({self.term!r})" if isinstance(self.term, Both | Either) else f"~{self.term!r}"


@dataclass(frozen=True, slots=True)
class Relative(Keep):
    """A mask given by one graph over the positions of the query (``"query"``) and of the key (``"key"``)."""

    name: str
    node: Node
    query_name: str | None
    key_name: str | None

    def lower(self, scope: Scope) -> Node:
        """The graph with the scope's query and key put in."""
        from .expr import substitute

        replacements: dict[Node, Node] = {}
        if "query" in coordinates_read(self.node):
            replacements[Position("query")] = Position(scope.query(self.name, self.query_name))
        if "key" in coordinates_read(self.node):
            replacements[Position("key")] = Position(scope.key_of(self.name, self.key_name))
        return substitute(self.node, replacements)

    def __repr__(self) -> str:
        asked = [
            f'{role}="{name}"'
            for role, name in (("query", self.query_name), ("key", self.key_name))
            if name is not None
        ]
        if not asked:
            return self.name
        return f"{self.name[:-1]}{'' if self.name.endswith('()') else ', '}{', '.join(asked)})"


@dataclass(frozen=True, slots=True)
class CustomKeep(Keep):
    """A mask given by a function of coordinates."""

    names: tuple[str, ...]
    node: Node

    def lower(self, scope: Scope) -> Node:
        """The recorded graph, once its coordinates are known to the scope."""
        scope.check("keep function", [*self.names, *sorted(coordinates_read(self.node))])
        return self.node

    def __repr__(self) -> str:
        return f"keep({bare(self.node)})"


def keep(function: Callable[..., Any]) -> Keep:
    """A mask from a function whose parameters' names are coordinates; they stand for positions. True keeps the key.

    The function is recorded once: use arithmetic, comparisons, ``& | ~``, torch's pointwise functions, ``qkv.where``,
    and tensors indexed by coordinates (``doc[b, i] == doc[b, j]``). Raises ``TraceError`` for anything else.

    >>> import qkv
    >>> qkv.keep(lambda i, j: (j <= i) & ((i - j) % 2 == 0)).count(4)
    6
    """
    names, node = trace_named(function, Kind.BOOL)
    return CustomKeep(names, node)


QUERY, KEY = Position("query"), Position("key")
DISTANCE = apply("sub", QUERY, KEY)


def compare(operation: str, left: Node, right: Node | int) -> Node:
    """A comparison node; numbers become constants."""
    return apply(operation, left, Constant(right) if isinstance(right, int) else right)
