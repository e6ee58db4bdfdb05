"""What a call's signature settles: element types, rests, sizes, and with them the steps that run.

Knows shapes and types of arguments; refuses to look at their values. Mistakes are told with the tensors that disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ..terms.worded import Worded
from .attending import Recognised
from .contract import ConflictError, Sizes
from .elems import FLOATS, FROM_TORCH, fits
from .graph import Constraint, Coords, Definition, Node, plain
from .inline import Flat, write_out
from .recognise import recognise
from .report import Diagnostic, Source, Span, raised
from .steps import OutsideError

if TYPE_CHECKING:
    from .evaluate import Machine


class Ready:
    """A function made ready for one signature."""

    def __init__(self, machine: Machine, flat: Flat, sizes: Mapping[str, int], dtypes: list[Any]) -> None:
        self.machine = machine
        self.flat = flat
        self.sizes = sizes
        self.device = machine.device
        self.inputs: list[tuple[int, tuple[int, ...] | None]] = []
        self.results = [
            self._result(node, axes, dtype)
            for node, axes, dtype in zip(machine.outputs, flat.results, dtypes, strict=True)
        ]

    def _result(
        self, node: Node, axes: tuple[Coords, ...] | None, dtype: Any
    ) -> tuple[list[int] | None, list[int] | None, Any, str]:
        """What is done to a result, so that a call does not find it out: its axes' order, its shape, its type."""
        wanted = tuple(c for a in axes or () for c in a)
        order = None if wanted == node.coords else [node.coords.index(c) for c in wanted]
        shape = _shape(axes or (), self.sizes) if any(len(a) > 1 for a in axes or ()) else None
        return order, shape, dtype, node.dtype

    def run(self, args: tuple[Any, ...]) -> Any:
        """The result of one call with such arguments, or several as a tuple."""
        values: dict[int, Any] = {}
        for (at, shape), arg in zip(self.inputs, args, strict=True):
            values[at] = arg if shape is None else arg.reshape(shape)
        made = self.machine.run(values)
        results: list[Any] = []
        for out, (order, shape, dtype, elem) in zip(made, self.results, strict=True):
            if not hasattr(out, "shape"):
                out = self.machine.tensor(out, elem)
            if order is not None:
                out = out.permute(order)
            if shape is not None:
                out = out.reshape(shape)
            results.append(out if out.dtype == dtype else out.to(dtype))
        return results[0] if len(results) == 1 else tuple(results)


class Preparing(Worded):
    """A definition, made ready for signatures."""

    definition: Definition
    source: Source

    def _fail(
        self,
        code: str,
        message: str,
        *,
        sides: tuple[str, ...] = (),
        silent: str = "",
        fix: str = "",
        span: Span | None = None,
    ) -> NoReturn:
        found = Diagnostic(code, message, self.definition.span if span is None else span, "error", sides, silent, fix)
        raise raised(self.source, [found])

    def _outside(self, error: OutsideError) -> NoReturn:
        node = error.node
        self._fail(
            "out-of-range",
            f"an index of {plain(node.data)} is {error.first}, outside 0..{error.size}.",
            silent="a negative index counts from the end.",
            fix="if the index stays inside { the access } else { 0 }",
            span=node.span if node.span[1] <= len(self.source.text) else None,
        )

    def ready(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Ready:
        """The function for arguments of these shapes and types. Raises ``EinError`` for those that do not fit."""
        try:
            return self._prepare(args, options)
        except OutsideError as error:
            self._outside(error)

    def _prepare(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Ready:
        from .evaluate import Machine

        generic = self._types(args)
        counts, shapes = self._counts(args)
        flat = write_out(self.definition, counts, generic)
        sizes = self._sizes(flat, args, shapes, options)
        recognised = recognise(flat.outputs, sizes)
        for node, name in recognised.unmet:
            why = "; ".join(reason for _, reason in recognised.left) or "it holds no attention"
            self._fail(
                "strategy",
                f"#[strategy({name})] is asked for, and nothing here is fused: {why}.",
                fix="take the attribute out, or #[strategy(reference)]",
                span=node.span if node.span[1] <= len(self.source.text) else None,
            )
        tensors = [a for a in args if hasattr(a, "device")]
        device = tensors[0].device if tensors else "cpu"
        elems = [FROM_TORCH.get(str(a.dtype).removeprefix("torch."), "") for a in tensors]

        def size(name: str) -> int:
            if name not in sizes:
                self._fail(
                    "size-conflict",
                    f"nothing says how large {plain(name)} is.",
                    fix=f"{self.definition.name}(..., {plain(name)}=8)",
                )
            return sizes[name]

        for name in {n for node in flat.outputs for n in node.coords}:
            size(name)
        machine = Machine(recognised.outputs, size, "f64" if "f64" in elems else "f32", device)
        results = [machine.dtype(generic if s.elem == "float" and generic else s.elem) for s in self.definition.results]
        ready = Ready(machine, flat, sizes, results)
        for slot in self.definition.parameters:
            axes = flat.axes[slot.name]
            merged = any(len(a) > 1 for a in axes or ())
            shape = tuple(sizes[c] for a in axes or () for c in a) if merged else None
            ready.inputs.append((id(_parameter(recognised, slot.name, flat)), shape))
        return ready

    def _types(self, args: tuple[Any, ...]) -> str | None:
        """Checks element types; what ``float`` stands for."""
        generic: str | None = None
        for slot, arg in zip(self.definition.parameters, args, strict=True):
            if hasattr(arg, "requires_grad"):
                elem = FROM_TORCH.get(str(arg.dtype).removeprefix("torch."), str(arg.dtype))
            elif slot.axes is None and isinstance(arg, bool | int | float):
                elem = "bool" if isinstance(arg, bool) else "int" if isinstance(arg, int) else "real"
            else:
                self._fail(
                    "dtype",
                    f"{slot.name} is {type(arg).__name__}, and {slot} is wanted.",
                    fix=f"torch.as_tensor({slot.name})",
                )
            wanted = slot.elem
            if wanted == "float" and elem in FLOATS:
                wanted = generic = generic or elem
            if not fits(elem, wanted):
                self._fail(
                    "dtype",
                    f"{slot.name} is {elem}, and {wanted} is wanted.",
                    sides=(f"{slot.name}: {slot}",),
                    fix=f"{slot.name}.to(torch.{_torch_name(wanted)})",
                )
        return generic

    def _counts(self, args: tuple[Any, ...]) -> tuple[dict[str, int], list[tuple[int, ...]]]:
        """How many coordinates each rest stands for, and the shapes."""
        counts: dict[str, int] = {}
        shapes: list[tuple[int, ...]] = []
        seen: dict[str, str] = {}
        for slot, arg in zip(self.definition.parameters, args, strict=True):
            shape = tuple(getattr(arg, "shape", ()))
            shapes.append(shape)
            number = 0 if slot.axes is None else len(slot.axes)
            if slot.rest is None:
                if len(shape) != number:
                    self._fail(
                        "rank",
                        f"{slot.name} has {len(shape)} axes, and {number} are declared.",
                        sides=(f"{slot.name}: {slot}", f"given: {list(shape)}"),
                        fix=f"a tensor with the axes {', '.join(slot.coords) or 'of a scalar'}",
                    )
                continue
            count = len(shape) - number + 1
            if count < 0 or counts.setdefault(slot.rest, count) != count:
                known = f"; {slot.rest} is {counts[slot.rest]} axes of {seen[slot.rest]}" if slot.rest in seen else ""
                self._fail(
                    "rank",
                    f"{slot.name} has {len(shape)} axes, which leave {count} for {slot.rest}{known}.",
                    sides=(f"{slot.name}: {slot}", f"given: {list(shape)}"),
                    silent="missing axes are broadcast.",
                    fix=f"a tensor with the axes {', '.join(slot.coords)}",
                )
            seen[slot.rest] = slot.name
        return counts, shapes

    def _sizes(
        self, flat: Flat, args: tuple[Any, ...], shapes: list[tuple[int, ...]], options: Mapping[str, Any]
    ) -> dict[str, int]:
        """Every size, or the error that lists the tensors that disagree."""
        sizes = Sizes()
        merged: list[tuple[str, Coords, int]] = []
        try:
            for name, number in flat.fixed.items():
                sizes.put(name, number, f"{name} = {number}")
            for name, value in options.items():
                if isinstance(value, int):
                    sizes.put(name, value, f"{name}={value}")
            for slot, shape in zip(self.definition.parameters, shapes, strict=True):
                axes = flat.axes[slot.name] or ()
                sizes.tensor(slot.name, axes, shape)
                merged += [(slot.name, a, s) for a, s in zip(axes, shape, strict=True) if len(a) > 1]
            sizes.solve(flat.constraints, merged)
        except ConflictError as error:
            self._conflict(error, flat, shapes)
        return sizes.known

    def _conflict(self, error: ConflictError, flat: Flat, shapes: list[tuple[int, ...]]) -> NoReturn:
        name, constraint = plain(error.name), error.constraint
        listed: list[str] = []
        for slot, shape in zip(self.definition.parameters, shapes, strict=True):
            axes = flat.axes[slot.name] or ()
            if any(error.name in a for a in axes) or slot.name in error.seen:
                listed.append(f"{slot.name}: {' '.join(f'{_label(a)}={s}' for a, s in zip(axes, shape, strict=True))}")
        sides = ("; ".join(listed),) if len(listed) != 2 else tuple(listed)
        if not listed:
            sides = ("; ".join(f"{k}: {v}" for k, v in error.seen.items()),)
        if constraint is not None and constraint.kind == "free":
            size = max(error.seen.values())
            self._fail(
                "free-coordinate",
                f"{name} has size {size}, and nothing in {self.definition.name} reduces or returns it: it "
                "must have size 1.",
                sides=sides,
                silent="a size of 1 is broadcast against any other.",
                fix=f"sum[{name}](...) or mean[{name}](...) in the definition",
                span=_inside(constraint, self.source),
            )
        what = f"; the contract says {constraint}" if constraint is not None else ""
        self._fail(
            "size-conflict",
            f"{name} has two sizes: {' and '.join(f'{v} ({k})' for k, v in error.seen.items())}{what}.",
            sides=sides,
            silent="a size of 1 is broadcast; others fail far from here."
            if 1 in error.seen.values()
            else "it fails later, without a name.",
            fix=f"every tensor that carries {name} has one size along it; nothing is broadcast because its size is 1",
            span=_inside(constraint, self.source) if constraint is not None else None,
        )


def _parameter(recognised: Recognised, name: str, flat: Flat) -> Any:
    from .graph import walk

    return next((n for n in walk(*recognised.outputs) if n.op == "parameter" and n.data == name), flat.parameters[name])


def _inside(constraint: Constraint, source: Source) -> Span | None:
    return constraint.span if constraint.span[1] <= len(source.text) else None


def _label(axis: Coords) -> str:
    return "(" + " ".join(map(plain, axis)) + ")" if len(axis) > 1 else "".join(axis)


def product(sizes: Iterator[int]) -> int:
    """The size of axes merged."""
    made = 1
    for size in sizes:
        made *= size
    return made


def _shape(axes: tuple[Coords, ...], sizes: Mapping[str, int]) -> list[int]:
    return [product(iter([sizes[c] for c in axis])) for axis in axes]


def _torch_name(elem: str) -> str:
    from .elems import TORCH

    return TORCH.get(elem, "float32")
