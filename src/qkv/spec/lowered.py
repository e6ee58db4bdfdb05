"""A spec with its names resolved: what every strategy reads instead of terms.

Lowering turns the four parts into graphs over the coordinates of one pattern whose rests are written out. It knows
names and graphs; sizes and tensors come later, when a call is bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..coords.pattern import Pattern
from ..coords.roles import Roles, roles
from ..errors import SpecError
from ..terms.expr import Captured, Constant, Node, Position, Score, apply, captured_in, children, positions_read, walk
from ..terms.scope import HEAD_NAMES, Claim, Scope
from ..terms.score import Projection, Shaw
from ..terms.weights import Differential, Linear, Softmax, head_value

if TYPE_CHECKING:
    from .spec import Spec


@dataclass(frozen=True, slots=True)
class Lowered:
    """The graphs and coordinates of a spec for one number of coordinates in each rest.

    ``keep`` is None when every key is kept, ``score`` is None when the scaled product is used as it is (a graph over
    ``Score()`` otherwise), ``sink``, ``lam`` and ``decay`` are by head. ``row_table`` is a table of vectors added to
    values and the row to read. ``query_order`` holds the query-only coordinates, sequences before head groups.
    ``relations`` are the pairs of a query and a key coordinate whose positions some part relates, ``compared`` those
    that a graph compares: all but the rotation's. ``programs`` is where a reader keeps what it made of the graphs.
    """

    pattern: Pattern
    roles: Roles
    shared: tuple[str, ...]
    query_order: tuple[str, ...]
    key: tuple[str, ...]
    features: tuple[str, ...]
    value_features: tuple[str, ...]
    branch: str | None
    keep: Node | None
    score: Node | None
    sink: Node | None
    lam: Node | None
    decay: Node | None
    row_table: tuple[Captured, Node] | None
    projections: tuple[Projection, ...]
    claims: tuple[Claim, ...]
    captured: tuple[Captured, ...]
    relations: frozenset[tuple[str, str]]
    compared: frozenset[tuple[str, str]]
    rotated: tuple[str, str] | None
    programs: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False, repr=False)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every graph of the spec."""
        row = None if self.row_table is None else self.row_table[1]
        return tuple(n for n in (self.keep, self.score, self.sink, self.lam, row) if n is not None)


def lower(spec: Spec, pattern: Pattern) -> Lowered:
    """The graphs of ``spec`` over ``pattern``, whose rests are written out. Raises what the terms raise."""
    found = roles(pattern)
    scope = make_scope(spec, pattern, found)
    keep = None if spec.keep is None else spec.keep.lower(scope)
    if isinstance(keep, Constant) and keep.value is True:
        keep = None
    node: Node = Score()
    row_table = None
    projections: list[Projection] = []
    for term in spec.score:
        node = term.lower(scope, node)
        if isinstance(term, Shaw):
            projections.append(term.keys)
            if term.values is not None:
                row_table = (term.values, term.row(scope))
    weights = spec.weights
    sink = weights.sink_node(scope) if isinstance(weights, Softmax) else None
    lam = head_value("differential", weights.lam, scope, weights.head) if isinstance(weights, Differential) else None
    decay = None
    if isinstance(weights, Linear) and weights.decay is not None:
        decay = head_value("linear", weights.decay, scope, weights.head)
        node = _decayed(node, decay, keep, scope)
    rotated = None
    if spec.position is not None:
        rotated = (scope.query("rope()", spec.position.query), scope.key_of("rope()", spec.position.key))
    graphs = [n for n in (keep, node, sink, lam, None if row_table is None else row_table[1]) if n is not None]
    relations = _relations(graphs, scope)
    values = [] if row_table is None else [row_table[0]]
    return Lowered(
        pattern=pattern,
        roles=found,
        shared=found.shared,
        query_order=scope.rows,
        key=found.key,
        features=found.feature,
        value_features=found.value_feature,
        branch=_branch(weights, found, pattern.text),
        keep=keep,
        score=None if isinstance(node, Score) else node,
        sink=sink,
        lam=lam,
        decay=decay,
        row_table=row_table,
        projections=tuple(projections),
        claims=tuple(dict.fromkeys(scope.claims)),
        captured=tuple(dict.fromkeys([*(c for graph in graphs for c in captured_in(graph)), *values])),
        relations=relations if rotated is None else relations | {rotated},
        compared=relations,
        rotated=rotated,
    )


def make_scope(spec: Spec, pattern: Pattern, found: Roles) -> Scope:
    """What the spec's terms may refer to; a rest's coordinates are known by the rest's name."""
    rests: dict[str, list[str]] = {name: [] for tensor in spec.parsed.tensors.values() for name in tensor.rests}
    for name in pattern.coordinates:
        base = name.rsplit(".", 1)[0]
        if "." in name and base in rests and name not in rests[base]:
            rests[base].append(name)
    return Scope(
        text=spec.pattern,
        shared=found.shared,
        query_only=found.query_only,
        key=found.key,
        query_candidates=found.query_candidates,
        groups=found.groups,
        rests={name: tuple(found) for name, found in rests.items()},
    )


def _decayed(score: Node, decay: Node, keep: Node | None, scope: Scope) -> Node:
    """The linear weight times ``decay ** |i - j|``, between the sequences that the mask compares or the only ones."""
    compared = [q for q in scope.query_only if keep is not None and q in positions_read(keep)]
    query = scope.query("keep", compared[0] if len(compared) == 1 else None)
    distance = apply("abs", apply("sub", Position(query), Position(scope.key_of("keep", None))))
    return apply("mul", score, apply("pow", decay, apply("float", distance)))


def _relations(graphs: Iterable[Node], scope: Scope) -> frozenset[tuple[str, str]]:
    """The pairs of a query sequence and a key coordinate whose positions meet in a graph: in ``abs(y - m) <= 1`` and
    ``abs(x - n) <= 1`` those are (y, m) and (x, n), and no others. Head coordinates are no sequences.
    """
    named = [q for q in scope.query_candidates if q not in HEAD_NAMES] or scope.query_candidates
    pairs: set[tuple[str, str]] = set()
    for graph in graphs:
        alone: dict[int, frozenset[str]] = {}  # the positions below each node that have met no other
        for node in walk(graph):
            if isinstance(node, Position):
                alone[id(node)] = frozenset((node.coordinate,))
                continue
            below = frozenset[str]().union(*(alone[id(child)] for child in children(node)))
            met = {(q, k) for q in named if q in below for k in scope.key if k in below}
            pairs |= met
            alone[id(node)] = frozenset() if met else below
    return frozenset(pairs)


def _branch(weights: object, found: Roles, text: str) -> str | None:
    """The feature coordinate that tells the two maps of differential weights apart, if one was named."""
    if not isinstance(weights, Differential) or weights.branch is None:
        return None
    if weights.branch not in found.feature or len(found.feature) < 2:
        raise SpecError(
            f'differential: branch="{weights.branch}" is not one of several feature coordinates.\n'
            f"    features: {' '.join(found.feature)}\n    pattern: {text}\n"
            "  Write a feature coordinate of size 2 into Q and K (b h i (c d), b h j (c d), ...), or leave branch "
            "out to split the feature in half."
        )
    return weights.branch
