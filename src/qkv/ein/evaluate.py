"""Running a graph in torch, sizes being known: every node once, operands first, with autograd.

Tensors are laid out in the order of their nodes' coordinates. A row that keeps nothing is 0, as everywhere in qkv; an
index outside its axis is an error unless a condition excludes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from .. import limits
from ..errors import InternalError, LimitError
from ..spec import Spec, door
from ..terms.expr import Opening
from .attending import Attention, computed
from .graph import Node, plain, walk
from .lower import Lowering, number
from .steps import Step, Values
from .sums import Sums

if TYPE_CHECKING:
    from torch import Tensor

_CONSTANT = frozenset({"number", "size", "point"})


class Machine(Sums):
    """A graph made ready for one signature: a list of steps."""

    def __init__(self, outputs: list[Node], size: Callable[[str], int], dtype: str, device: Any) -> None:
        import torch

        self.torch = torch
        self.size = size
        self.device = device
        self.real = torch.float64 if dtype == "f64" else torch.float32
        self.outputs = outputs
        self.made = [id(o) for o in outputs]
        self.scanning = False
        self.attentions: list[tuple[Node, Lowering]] = []
        self.openings: dict[int, Opening] = {}
        self.inner: set[int] = set()
        nodes = list(walk(*outputs))
        for node in nodes:
            if node.op == "scan":
                self.inner |= {
                    id(n)
                    for n in walk(node.args[-1])
                    if any(m.op == "self" and m.data[0] == node.data[0] for m in walk(n))
                }
        needed = self.needed(nodes)
        self.steps: list[tuple[int, Step]] = [
            (id(n), self.step(n)) for n in nodes if id(n) in needed and id(n) not in self.inner and n.op != "parameter"
        ]

    def needed(self, nodes: list[Node]) -> set[int]:
        """The nodes whose values something reads: a product inside a contraction is never made."""
        wanted = {id(o) for o in self.outputs}
        for node in reversed(nodes):
            if id(node) in wanted:
                wanted |= {id(a) for a in self.reads(node)}
        return wanted

    def reads(self, node: Node) -> tuple[Node, ...]:
        """The operands that the step of a node reads."""
        parts = self.contracted(node)
        return tuple(parts) if parts is not None else node.args

    def run(self, values: Values) -> list[Any]:
        """The results; ``values`` holds the parameters by the ids of their nodes."""
        for at, step in self.steps:
            values[at] = step(values)
        return [values[at] for at in self.made]

    def step(self, node: Node) -> Step:
        """What makes the value of a node."""
        if node.op in _CONSTANT and computed(node) and not node.coords:
            value = number(node, self.size)
            return lambda values: value
        made = getattr(self, f"_{node.op}", None)
        if made is None:
            raise InternalError(f"nothing runs {node.op}; please report this")
        return cast("Step", made(node))

    def _attention(self, node: Node) -> Step:
        lowering = Lowering(node, self.size)
        self.attentions.append((node, lowering))
        data: Attention = node.data
        q, k, v = (id(a) for a in node.args[:3])
        spec = self.spec_of(lowering)
        order = [next(a for a in lowering.captures if self.openings[id(a)] is o) for o in spec.openings]
        extras = [(id(a), a.dtype) for a in order]
        options: dict[str, Any] = {"align": "start"} if len(lowering.sequences) > 1 else {}
        order, at, parts = lowering.made
        lone = not data.values
        asked = data.asked

        def call(values: Values) -> Any:
            value = values[v].unsqueeze(-1) if lone else values[v]
            if not extras:
                return door().output(spec, values[q], values[k], value, options)
            given = tuple([self.tensor(values[at], elem) for at, elem in extras])
            return door().filled(spec, values[q], values[k], value, options, given)

        def run(values: Values) -> Any:
            if asked is None:
                out = call(values)
            else:
                with door().forced(asked):
                    out = call(values)
            if lone:
                out = out.squeeze(-1)
            return out if order is None else out.unflatten(at, parts).permute(order)

        return run

    def spec_of(self, lowering: Lowering) -> Spec:
        """The spec of an attention, with an opening for each tensor that its masks and scores read."""
        for node in lowering.captures:
            if id(node) not in self.openings:
                # one element stands for all: the shape is known, and what fills it comes with each call
                one = self.torch.empty((), dtype=self.dtype(node.dtype), device=self.device)
                shape = [self.size(c) for c in node.coords]
                self.openings[id(node)] = Opening(one.expand(shape), plain(node.name) or "tensor")
        return lowering.spec(self.openings)

    def _scan(self, node: Node) -> Step:
        key, time, first = node.data
        body, bases = node.args[-1], node.args[:-1]
        total = self.size(time)
        if total > limits.EIN_STEPS:
            raise LimitError(
                f"a recurrence of {total} steps is longer than {limits.EIN_STEPS}.\n  Write it in chunks, or as a sum."
            )
        others = tuple(c for c in node.coords if c != time)
        inner = [n for n in walk(body) if id(n) in self.inner]
        outer = {id(a): a for n in inner for a in n.args if id(a) not in self.inner}
        sliced = {i: a for i, a in outer.items() if time in a.coords}
        steps: list[tuple[Node, Step | None]] = []
        cut = {id(n): n for n in inner}
        replaced: dict[int, Node] = {}
        for n in (*sliced.values(), *inner):
            coords = tuple(c for c in n.coords if c != time)
            replaced[id(n)] = Node(n.op, n.data, tuple(replaced.get(id(a), a) for a in n.args), coords, n.dtype, n.span)
        self.scanning = True
        for n in inner:
            made = replaced[id(n)]
            steps.append((made, None if n.op == "self" else self.step(made)))
        self.scanning = False
        sizes = [self.size(c) for c in others]
        last = replaced.get(id(body))
        wanted = self.dtype(node.dtype)
        views = [self.aligned(b, others) for b in bases]
        del cut

        def run(values: Values) -> Any:
            made: list[Tensor] = [
                view(self.tensor(values[id(b)], node.dtype)).to(wanted).expand(sizes)
                for b, view in zip(bases, views, strict=True)
            ]
            if last is None:
                out = self.aligned(body, node.coords)(self.tensor(values[id(body)], body.dtype)).expand(
                    [self.size(c) for c in node.coords]
                )
                return self.torch.cat(
                    [
                        self.torch.stack(made, node.coords.index(time)),
                        out.narrow(node.coords.index(time), first, total - first),
                    ],
                    node.coords.index(time),
                )
            for t in range(first, total):
                here = dict(values)
                for i, a in sliced.items():
                    here[id(replaced[i])] = self.tensor(values[i], a.dtype).select(a.coords.index(time), t)
                for each, step in steps:
                    here[id(each)] = made[t - each.data[1]] if step is None else step(here)
                made.append(
                    self.aligned(last, others)(self.tensor(here[id(last)], body.dtype)).to(wanted).expand(sizes)
                )
            return self.torch.stack(made[:total], node.coords.index(time))

        del key
        return run
