"""Sizes: what the tensors of a call say, what a function's contract makes of it, and where the two disagree.

Knows names and whole numbers; where they come from is the caller's matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .. import limits
from .graph import Constraint, Coords, plain


class ConflictError(Exception):
    """Sizes that disagree: the constraint, or the coordinate with where each size was seen."""

    def __init__(self, name: str, seen: Mapping[str, int], constraint: Constraint | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.seen = dict(seen)
        self.constraint = constraint


class Sizes:
    """The sizes of one call, each with where it was first seen."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.where: dict[str, str] = {}

    def put(self, name: str, size: int, where: str, constraint: Constraint | None = None) -> bool:
        """Notes a size; True when it is new. Raises ``ConflictError`` when it is another one."""
        before = self.known.get(name)
        if before is None:
            self.known[name] = size
            self.where[name] = where
            return True
        if before != size:
            raise ConflictError(name, {self.where[name]: before, where: size}, constraint)
        return False

    def tensor(self, label: str, axes: Iterable[Coords], shape: Iterable[int]) -> None:
        """Notes what a tensor's axes say; merged axes are left to ``solve``."""
        for axis, size in zip(axes, shape, strict=True):
            if len(axis) == 1:
                self.put(axis[0], size, label)

    def solve(self, constraints: Iterable[Constraint], merged: Iterable[tuple[str, Coords, int]]) -> None:
        """Everything that follows. ``merged`` are axes of several coordinates: the tensor, the parts, the size."""
        listed = list(constraints)
        groups = list(merged)
        for _ in range(limits.EIN_ROUNDS):
            new = False
            for label, parts, size in groups:
                new |= self.parted(label, parts, size, None)
            for each in listed:
                new |= self.follow(each)
            if not new:
                return

    def parted(self, label: str, parts: Coords, size: int, constraint: Constraint | None) -> bool:
        """The one part of a product that is not known."""
        unknown = [p for p in parts if p not in self.known]
        rest = math.prod(self.known[p] for p in parts if p in self.known)
        if not unknown:
            if rest != size:
                raise ConflictError(parts[0], {label: size, " * ".join(map(plain, parts)): rest}, constraint)
            return False
        if len(unknown) > 1:
            return False
        if rest == 0 or size % rest:
            raise ConflictError(
                unknown[0], {label: size, " * ".join(plain(p) for p in parts if p in self.known): rest}, constraint
            )
        return self.put(unknown[0], size // rest, label, constraint)

    def follow(self, each: Constraint) -> bool:
        """What one line of a contract gives, or where it is broken."""
        names, known = each.names, self.known
        where = str(each)
        match each.kind:
            case "one" | "free":
                return self.put(names[0], 1, where, each)
            case "fixed":
                return self.put(names[0], each.number, where, each)
            case "equal":
                for a, b in (names, names[::-1]):
                    if a in known:
                        return self.put(b, known[a], plain(a) if plain(a) != plain(b) else where, each)
            case "sum":
                parts = names[1:]
                if all(p in known for p in parts):
                    return self.put(names[0], sum(known[p] for p in parts), where, each)
                unknown = [p for p in parts if p not in known]
                if names[0] in known and len(set(unknown)) == 1 and len(unknown) == 1:
                    left = known[names[0]] - sum(known[p] for p in parts if p in known)
                    if left < 0:
                        raise ConflictError(
                            names[0], {where: known[names[0]] - left, self.where[names[0]]: known[names[0]]}, each
                        )
                    return self.put(unknown[0], left, where, each)
            case _:
                if names[0] in known:
                    return self.parted(where, names[1:], known[names[0]], each)
                if all(p in known for p in names[1:]):
                    return self.put(names[0], math.prod(known[p] for p in names[1:]), where, each)
        return False
