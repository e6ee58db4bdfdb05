"""What a term may refer to: the coordinates of one pattern, sorted by role.

A term asks its scope for the query sequence, the key coordinate or the heads, and gets a name, or an error that says
which argument settles the question. The scope also notes every claim that a captured tensor has a coordinate's size, to
be checked when sizes are known.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..coords import Named
from ..coords.pattern import TensorPattern, parse_tensor
from ..errors import CoordinateError, DtypeError, PositionError, ShapeError, SpecError
from .expr import Captured, Constant, Index, Lookup, Node, Size, apply

if TYPE_CHECKING:
    from torch import Tensor

HEAD_NAMES = ("h", "head", "heads")
"""Names that are taken for the head coordinate when no parentheses and no argument say which it is."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A captured tensor whose axes have the sizes of coordinates: ``axes`` holds the coordinates of each axis, major to
    minor.
    """

    term: str
    table: Captured
    axes: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Scope:
    """The coordinates of one pattern by role, as terms see them; rests are expanded."""

    text: str
    shared: tuple[str, ...]
    query_only: tuple[str, ...]
    key: tuple[str, ...]
    query_candidates: tuple[str, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    rests: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    claims: list[Claim] = field(default_factory=list[Claim])

    @property
    def scores(self) -> tuple[str, ...]:
        """The coordinates of a score: shared, query-only and key."""
        return (*self.shared, *self.query_only, *self.key)

    @property
    def rows(self) -> tuple[str, ...]:
        """The query-only coordinates in the order in which strategies lay rows out: sequences before head groups."""
        return (*self.query_candidates, *(n for n in self.query_only if n not in self.query_candidates))

    def check(self, term: str, names: Sequence[str]) -> None:
        """Raises ``CoordinateError`` for a name that no score has."""
        for name in names:
            if name not in self.scores:
                close = difflib.get_close_matches(name, self.scores, n=2)
                hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
                shown = dict.fromkeys(f"..{n.rsplit('.', 1)[0]}" if "." in n else n for n in self.scores)
                if name in self.rests:
                    hint = f' "{name}" is a rest here: write "..{name}".'
                raise CoordinateError(
                    f'{term} names the coordinate "{name}", which the scores do not have.\n'
                    f"    scores have: {' '.join(shown)}\n    pattern: {self.text}\n"
                    f"  A term may use shared, query-only and key coordinates.{hint}"
                )

    def query(self, term: str, asked: str | None) -> str:
        """The coordinate of the query sequence for ``term``: the one asked for, or the only candidate."""
        if asked is not None:
            self.check(term, [asked])
            if asked not in self.query_only:
                raise PositionError(
                    f'{term}: "{asked}" is not a coordinate of the queries alone.\n'
                    f"    queries alone have: {' '.join(self.query_only) or 'none'}\n"
                    f"    pattern: {self.text}\n  Name a coordinate that Q and the output have and K and V lack."
                )
            return asked
        return self._only(term, "query", self.query_candidates, "Q and the output have, and K and V lack")

    def key_of(self, term: str, asked: str | None) -> str:
        """The key coordinate for ``term``: the one asked for, or the only one."""
        if asked is not None:
            self.check(term, [asked])
            if asked not in self.key:
                raise PositionError(
                    f'{term}: "{asked}" is not a key coordinate.\n    key coordinates: {" ".join(self.key)}\n'
                    f"    pattern: {self.text}\n"
                    "  Name a coordinate that K and V have and Q lacks."
                )
            return asked
        return self._only(term, "key", self.key, "K and V have, and Q lacks")

    def _only(self, term: str, role: str, candidates: tuple[str, ...], where: str) -> str:
        if len(candidates) == 1:
            return candidates[0]
        name = term.split("(")[0]
        if not candidates:
            raise PositionError(
                f"{term} needs a {role} sequence, and the pattern has none.\n    pattern: {self.text}\n"
                f"  Add a coordinate that {where}."
            )
        raise PositionError(
            f"{term}: which {role} coordinate is the sequence? {' and '.join(repr(c) for c in candidates)} both "
            "could be.\n"
            f"    pattern: {self.text}\n"
            f'  Say which: {name}({role}="{candidates[-1]}"). A head group may also stand in parentheses with '
            "its head: (h g)."
        )

    def heads(self, term: str, asked: str | None) -> tuple[str, ...]:
        """The coordinates that count the query heads, major to minor: ``("h", "g")`` for a merged ``(h g)``.

        ``asked`` names them as in a pattern: ``"h"`` or ``"(h g)"``. Without it: the one head axis in parentheses with
        a group, or the coordinate called h, head or heads.
        """
        if asked is not None:
            names = tuple(name for axis in parse_tensor(asked).axes for name in axis.names)
            self.check(term, names)
            return names
        if len(self.groups) == 1:
            ((shared, group),) = self.groups.items()
            return (shared, *group)
        named = [n for n in (*self.shared, *self.query_only) if n in HEAD_NAMES]
        if len(named) == 1:
            return (named[0],)
        raise SpecError(
            f"{term}: which coordinate counts the heads? None in parentheses with a group, none called h, head or "
            "heads.\n"
            f'    pattern: {self.text}\n  Say which: {term.split("(")[0]}(head="...").'
        )

    def flat(self, names: Sequence[str]) -> Node:
        """The index into an axis that merges ``names``, major to minor."""
        node: Node = Index(names[0])
        for name in names[1:]:
            node = apply("add", apply("mul", node, Size(name)), Index(name))
        return node

    def count(self, names: Sequence[str]) -> Node:
        """How many elements an axis has that merges ``names``."""
        node: Node = Size(names[0])
        for name in names[1:]:
            node = apply("mul", node, Size(name))
        return node

    def read(self, term: str, table: Captured, pattern: str) -> Lookup:
        """The element of ``table`` at this call's indices, the table's axes being ``pattern``; notes the claim on its
        sizes.
        """
        axes = self.axes(term, pattern)
        rank = len(table.tensor.shape)
        if rank != len(axes):
            raise ShapeError(
                f'{term}: the tensor has {rank} axes, shape {tuple(table.tensor.shape)}, and the pattern "{pattern}" '
                f"names {len(axes)}.\n"
                "  Give the pattern of its axes in order, or reshape it."
            )
        self.claims.append(Claim(term, table, axes))
        return Lookup(table, tuple(self.flat(names) if names else Constant(0) for names in axes))

    def axes(self, term: str, pattern: str) -> tuple[tuple[str, ...], ...]:
        """The coordinates of each axis of a captured tensor's pattern, rests expanded as in the call's pattern."""
        parsed: TensorPattern = parse_tensor(pattern)
        found: list[tuple[str, ...]] = []
        for axis in parsed.axes:
            if axis.rest:
                name = axis.names[0].removeprefix("..")
                if name not in self.rests:
                    raise CoordinateError(
                        f'{term}: the rest "..{name}" is not in the call\'s pattern.\n    pattern: {self.text}\n'
                        "  Use one of its rests, or name the axes."
                    )
                found.extend((c,) for c in self.rests[name])
            else:
                self.check(term, axis.names)
                found.append(axis.names)
        return tuple(found)


def unnamed(value: Tensor | Named, pattern: str | None, default: str) -> tuple[Tensor, str]:
    """A tensor and the pattern of its axes: a Named tensor's own names, the pattern given, or the default one."""
    if isinstance(value, Named):
        if pattern is not None:
            value = value.order(pattern)
        return value.tensor, " ".join(value.names)
    return value, default if pattern is None else pattern


def captured(term: str, value: Tensor, *, boolean: bool = False, integer: bool = False, label: str = "") -> Captured:
    """A captured tensor, its element type checked: bool, whole numbers, or (by default) floats."""
    if not hasattr(value, "requires_grad"):
        raise DtypeError(f"{term} needs a torch tensor, not {type(value).__name__}.\n  Write torch.as_tensor(values).")
    made = Captured(value, label)
    wanted, found = ("bool" if boolean else "int" if integer else "float"), made.kind.name.lower()
    if wanted != found:
        advice = (
            "True means kept; write mask.bool(), or mask > -1 for a mask of 0 and -inf."
            if boolean
            else f"Convert it: tensor.{'long' if integer else 'float'}()."
        )
        raise DtypeError(f"{term} needs a tensor of {wanted} values; this one is {value.dtype}.\n  {advice}")
    return made
