"""The gradient of a recurrence: another recurrence, from the last step to the first.

What step t passes back is what its result is asked for and what the steps that read it pass back through themselves;
with ``u`` counted from the end, that is a recurrence of the notation. All steps' other operands then get their parts at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .graph import Node, walk

if TYPE_CHECKING:
    from .adjoint import Sweep


def scanned(sweep: Sweep, node: Node, d: Node) -> None:
    """Gives the first values and the operands of a recurrence their parts."""
    from .adjoint import Sweep

    make = sweep.make
    _, time, first = node.data
    bases, body = node.args[:-1], node.args[-1]
    back = Back(sweep, node, make.expanded(d, node.coords, node))
    passed = back.passed()
    # every step's operands at once, what was made before them taken from the finished recurrence
    here, begun = make.index(time), make.point("ge", make.index(time), make.number(first))
    before = {s: make.gather(node, time, make.sub(here, make.number(s)), begun) for s in back.shifts}
    steps = back.step({}, before)
    given = {id(steps): sweep.fitted(make.choose(begun, passed), node.coords, steps)}
    outer = {id(a) for n in walk(body) if id(n) in back.inner for a in n.args if id(a) not in back.inner} or {id(body)}
    done = Sweep(make, given, [steps], outer & sweep.needs, frozenset(map(id, before.values())))
    for each in walk(body):
        if id(each) in outer and id(each) in done.totals:
            sweep.give(each, done.totals[id(each)], each.coords)
    for n, base in enumerate(bases):
        sweep.give(base, make.gather(passed, time, make.number(n)), back.others)


class Back:
    """One recurrence on its way back; ``d`` is what its results are asked for."""

    def __init__(self, sweep: Sweep, node: Node, d: Node) -> None:
        self.sweep = sweep
        self.make = sweep.make
        self.node = node
        self.d = d
        self.name, self.time, self.first = node.data
        self.body = node.args[-1]
        self.others = tuple(c for c in node.coords if c != self.time)
        self.inner = set[int]()
        self.shifts = list[int]()
        for each in walk(self.body):
            mine = each.op == "self" and each.data[0] == self.name
            if mine or any(id(a) in self.inner for a in each.args):
                self.inner.add(id(each))
                self.sayable(each)
            if mine and each.data[1] not in self.shifts:
                self.shifts.append(each.data[1])

    def sayable(self, each: Node) -> None:
        """Raises where the step backwards would need a name inside a recurrence, and none can be given."""
        from .adjoint import NoGradientError

        if each.op in ("scan", "rename", "split", "merge", "gather", "concat"):
            kind = "another recurrence" if each.op == "scan" else f"a {each.op}"
            raise NoGradientError(f"{kind} of what a recurrence made before has no step backwards", self.node)
        if each.op in ("reduce", "softmax") and self.time in each.data[1]:
            raise NoGradientError("a recurrence that reduces its own steps has no step backwards", self.node)

    def passed(self) -> Node:
        """What each step passes back, over the recurrence's own coordinates."""
        make, time = self.make, self.time
        if not self.shifts:
            return self.d
        u = make.fresh(time)
        make.ranges[u] = time
        deep = max(self.shifts)
        last = make.sub(make.size(time), make.number(1))
        bases: list[Node] = []
        for n in range(deep):
            there = make.point("ge", last, make.number(n)) if n else None
            asked = make.gather(self.d, time, make.sub(last, make.number(n)) if n else last, there)
            for s in self.shifts:
                part = self.through(make.number(n), s, bases[n - s]) if s <= n else None
                asked = asked if part is None else make.add(asked, part)
            bases.append(asked)
        made = make.gather(self.d, time, make.sub(last, make.index(u)))
        for s in self.shifts:
            mine = make.node("self", (f"{self.name}.d", s), (), self.others, self.node.dtype)
            part = self.through(make.index(u), s, mine)
            made = made if part is None else make.add(made, part)
        scan = make.node("scan", (f"{self.name}.d", u, deep), (*bases, made), (u, *self.others), self.node.dtype)
        return make.gather(scan, u, make.sub(last, make.index(time)))

    def through(self, u: Node, shift: int, cotangent: Node) -> Node | None:
        """What step ``T - 1 - u + shift`` passes back to the one ``shift`` before it, its own part being known."""
        from .adjoint import Sweep

        make, time = self.make, self.time
        ahead = make.number(shift - 1)
        there = make.sub(make.size(time), u if shift == 1 else make.sub(u, ahead))
        real = make.point("ge", there, make.number(self.first))
        running = real if u.op == "number" else make.both(make.point("ge", u, make.number(shift)), real)
        at: dict[int, Node] = {}
        for each in walk(self.body):
            if id(each) not in self.inner and time in each.coords:
                at[id(each)] = there if each.op == "index" else make.gather(each, time, there, running)
        before = {s: make.gather(self.node, time, make.sub(there, make.number(s)), running) for s in self.shifts}
        step = self.step(at, before)
        given = {id(step): self.sweep.fitted(cotangent, self.others, step)}
        stops = frozenset(id(b) for s, b in before.items() if s != shift)
        found = Sweep(make, given, [step], {id(before[shift])}, stops).totals.get(id(before[shift]))
        return None if found is None else make.choose(real, found) if self.first > 1 else found

    def step(self, outer: Mapping[int, Node], before: Mapping[int, Node]) -> Node:
        """The body with ``before`` for what was made so many steps ago, and other operands as ``outer`` says."""
        done: dict[int, Node] = {}
        for node in walk(self.body):
            if id(node) not in self.inner:
                done[id(node)] = outer.get(id(node), node)
            elif node.op == "self":
                done[id(node)] = before[node.data[1]]
            else:
                args = tuple(done[id(a)] for a in node.args)
                done[id(node)] = self.make.node(node.op, node.data, args, _coords(node, args), node.dtype)
        return done[id(self.body)]


def _coords(node: Node, args: tuple[Node, ...]) -> tuple[str, ...]:
    """The coordinates of a node whose operands have others than before."""
    have = tuple(dict.fromkeys(c for a in args for c in a.coords))
    if node.op in ("reduce", "only"):
        gone = node.data[1] if node.op == "reduce" else node.data
        return tuple(c for c in have if c not in gone)
    return have
