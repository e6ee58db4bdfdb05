"""What a block leaves of a graph, and whether the rest depends on the difference of two positions only.

Both questions are about graphs alone; this module refuses to know what is counted or drawn with the answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from .expr import Apply, Constant, Kind, Lookup, Node, Position, apply, walk


def put_in(node: Node, decided: Mapping[int, Constant]) -> Node:
    """The graph with the nodes of these identities exchanged for constants."""
    made: dict[int, Node] = {}
    for current in walk(node):
        if id(current) in decided:
            made[id(current)] = decided[id(current)]
        elif isinstance(current, Apply):
            made[id(current)] = apply(current.operation, *(made[id(c)] for c in current.operands))
        elif isinstance(current, Lookup):
            made[id(current)] = Lookup(current.table, tuple(made[id(c)] for c in current.indices))
        else:
            made[id(current)] = current
    return made[id(node)]


def shift(node: Node) -> int | None:
    """By how much the value grows when both positions grow by one; None when that is not the same everywhere."""
    done: dict[int, int | None] = {}
    for current in walk(node):
        if isinstance(current, Position):
            done[id(current)] = 1
        elif isinstance(current, Lookup):
            done[id(current)] = 0 if all(done[id(i)] == 0 for i in current.indices) else None
        elif isinstance(current, Apply):
            done[id(current)] = _shift_of(current, [done[id(o)] for o in current.operands])
        else:
            done[id(current)] = 0
    return done[id(node)]


def _shift_of(node: Apply, shifts: list[int | None]) -> int | None:
    if any(shift is None for shift in shifts):
        return None
    grown = [shift for shift in shifts if shift is not None]
    if not any(grown):
        return 0
    whole = all(operand.kind is not Kind.FLOAT for operand in node.operands)  # sums of floats are rounded
    match node.operation:
        case "add" if whole:
            return grown[0] + grown[1]
        case "sub" if whole:
            return grown[0] - grown[1]
        case "neg" if whole:
            return -grown[0]
        case "mul" if whole:
            for number, shift in ((node.operands[0], grown[1]), (node.operands[1], grown[0])):
                if isinstance(number, Constant):
                    return int(number.value) * shift
            return None
        case "lt" | "le" | "eq" | "ne" | "gt" | "ge" if whole and grown[0] == grown[1]:
            return 0
        case "min" | "max" if whole and grown[0] == grown[1]:
            return grown[0]
        case "select" if whole and grown[0] == 0 and grown[1] == grown[2]:
            return grown[1]
        case _:
            return None
