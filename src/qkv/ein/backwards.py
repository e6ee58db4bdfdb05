"""The gradient of a recurrence: another recurrence, from the last step to the first.

What step t passes back is what its result is asked for and what step t + 1 passes back through it; with ``u`` counted
from the end, that is a recurrence of the notation. All steps' other operands then get their parts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .graph import Node, walk
from .making import Maker

if TYPE_CHECKING:
    from .adjoint import Sweep


def scanned(sweep: Sweep, node: Node, d: Node) -> None:
    """Gives the first values and the operands of a recurrence their parts."""
    from .adjoint import NoGradientError, Sweep

    make = sweep.make
    name, time, first = node.data
    bases, body = node.args[:-1], node.args[-1]
    d = make.expanded(d, node.coords, node)
    inner = depending(node)
    if inner:
        _refuse(node, [n for n in walk(body) if id(n) in inner])
    shifts = {n.data[1] for n in walk(body) if n.op == "self" and n.data[0] == name}
    if shifts - {1}:
        raise NoGradientError(f"a recurrence that reads {max(shifts)} steps back is not swept backwards", node)
    here = make.index(time)
    passed = d
    if shifts:
        passed = _passed_back(sweep, node, d, inner)
    # every step's operands at once, what was made before them taken from the finished recurrence
    before = make.gather(node, time, make.sub(here, make.number(1)), make.point("ge", here, make.number(1)))
    steps = substituted(make, body, inner, {}, before)
    later = make.choose(make.point("ge", here, make.number(first)), passed)
    outer = {id(a) for n in walk(body) if id(n) in inner for a in n.args if id(a) not in inner} or {id(body)}
    given = {id(steps): sweep.fitted(later, node.coords, steps)}
    done = Sweep(make, given, [steps], outer & sweep.needs, frozenset({id(before)}))
    for each in walk(body):
        if id(each) in outer and id(each) in done.totals:
            sweep.give(each, done.totals[id(each)], each.coords)
    others = tuple(c for c in node.coords if c != time)
    for n, base in enumerate(bases):
        sweep.give(base, make.gather(passed, time, make.number(n)), others)


def depending(node: Node) -> set[int]:
    """The nodes of a recurrence's body that depend on what it made before."""
    found: set[int] = set()
    for each in walk(node.args[-1]):
        mine = each.op == "self" and each.data[0] == node.data[0]
        if mine or any(id(a) in found for a in each.args):
            found.add(id(each))
    return found


def _refuse(node: Node, inner: list[Node]) -> None:
    from .adjoint import NoGradientError

    for each in inner:
        if each.op in ("scan", "rename", "split", "merge", "gather", "concat"):
            raise NoGradientError(
                f"a recurrence with {'another' if each.op == 'scan' else each.op} over what it made before is not "
                "swept backwards",
                node,
            )
        if each.op in ("reduce", "softmax", "cumsum") and node.data[1] in each.data[1]:
            raise NoGradientError("a recurrence that reduces its own steps is not swept backwards", node)


def _passed_back(sweep: Sweep, node: Node, d: Node, inner: set[int]) -> Node:
    """What each step passes back, over the recurrence's own coordinates."""
    from .adjoint import Sweep

    make = sweep.make
    name, time, first = node.data
    body = node.args[-1]
    last = make.sub(make.size(time), make.number(1))
    u = make.fresh(time)
    make.ranges[u] = time
    back = make.index(u)
    others = tuple(c for c in node.coords if c != time)
    there = make.sub(make.size(time), back)  # the step that was passed back last: one after the present one
    running = make.point("ge", back, make.number(1))
    before = make.gather(node, time, make.sub(make.sub(make.size(time), back), make.number(1)))
    at: dict[int, Node] = {}
    for each in walk(body):
        if id(each) not in inner and time in each.coords:
            at[id(each)] = there if each.op == "index" else make.gather(each, time, there, running)
    step = substituted(make, body, inner, at, before)
    mine = make.node("self", (f"{name}.d", 1), (), others, node.dtype)
    swept = Sweep(make, {id(step): sweep.fitted(mine, others, step)}, [step], {id(before)})
    through = swept.totals.get(id(before))
    asked = make.gather(d, time, make.sub(last, back))
    if through is not None and first > 1:
        through = make.choose(make.point("ge", there, make.number(first)), through)
    body_back = asked if through is None else make.add(asked, through)
    base = make.gather(d, time, last)
    passed = make.node("scan", (f"{name}.d", u, 1), (base, body_back), (u, *others), node.dtype)
    return make.gather(passed, u, make.sub(last, make.index(time)))


def substituted(make: Maker, body: Node, inner: set[int], outer: Mapping[int, Node], before: Node) -> Node:
    """A recurrence's body with ``before`` for what it made before, and other operands as ``outer`` says."""
    done: dict[int, Node] = {}
    for node in walk(body):
        if id(node) not in inner:
            done[id(node)] = outer.get(id(node), node)
        elif node.op == "self":
            done[id(node)] = before
        else:
            args = tuple(done[id(a)] for a in node.args)
            coords = _coords(node, args)
            done[id(node)] = make.node(node.op, node.data, args, coords, node.dtype)
    return done[id(body)]


def _coords(node: Node, args: tuple[Node, ...]) -> tuple[str, ...]:
    """The coordinates of a node whose operands have others than before."""
    have = tuple(dict.fromkeys(c for a in args for c in a.coords))
    if node.op in ("reduce", "only"):
        gone = node.data[1] if node.op == "reduce" else node.data
        return tuple(c for c in have if c not in gone)
    return have
