"""Calling what a text defines from Python: ``mod.attention(Q, K, V)``.

Plain tensors have the places of the declared types; Named ones are matched by name, whatever their layout. What a
signature (shapes, element types) settles is remembered; a repeated call goes straight to its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..coords import Named
from ..terms.worded import Worded
from .attending import Recognised
from .contract import ConflictError, Sizes
from .elems import FLOATS, FROM_TORCH, fits
from .graph import Constraint, Coords, Definition, Node, Slot, plain
from .inline import Flat, write_out
from .recognise import recognise
from .report import Diagnostic, Source, Span, raised

if TYPE_CHECKING:
    from .check import Checked
    from .evaluate import Machine, OutsideError

REMEMBERED = 128
"""How many signatures a function remembers; the oldest is forgotten first."""


class Module:
    """The functions of a text, as attributes; ``mod.name(...)`` calls one."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self._functions = {name: Callable_(checked.definitions[name], checked.source) for name in checked.own}

    def __getattr__(self, name: str) -> Callable_:
        functions: dict[str, Callable_] = self.__dict__.get("_functions", {})
        if name in functions:
            return functions[name]
        raise AttributeError(f"the text defines no {name!r}; it has {', '.join(functions) or 'nothing'}")

    def __dir__(self) -> list[str]:
        return [*self._functions]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __getitem__(self, name: str) -> Callable_:
        return self._functions[name]

    @property
    def warnings(self) -> tuple[dict[str, Any], ...]:
        """What the checker warned of, as data."""
        return tuple(self._checked.source.data(d) for d in self._checked.report.all if d.severity == "warning")

    def __repr__(self) -> str:
        return f"<qkv.ein module {self._checked.source.name}: {', '.join(self._functions)}>"


class Ready:
    """A function made ready for one signature."""

    def __init__(
        self, machine: Machine, recognised: Recognised, flat: Flat, sizes: Mapping[str, int], dtypes: list[Any]
    ) -> None:
        self.machine = machine
        self.recognised = recognised
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


class Callable_(Worded):
    """One function of a text, callable with tensors."""

    def __init__(self, definition: Definition, source: Source, bound: Mapping[str, str] | None = None) -> None:
        self.definition = definition
        self.source = source
        self.bound = dict(bound or {})
        self.__name__ = definition.name
        self.__doc__ = (
            f"{definition.name}({', '.join(f'{p.name}: {p}' for p in definition.parameters)}) -> "
            f"{', '.join(map(str, definition.results))}"
        )
        self._ready: dict[Any, Ready] = {}
        self._names = tuple(p.name for p in definition.parameters)
        self._same = _must_differ(definition)

    def __repr__(self) -> str:
        return f"<ein {self.__doc__}>"

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in self._names])

    def __getitem__(self, names: str | tuple[str, ...]) -> Callable_:
        """The function with its coordinates under the names of Named arguments: ``f["i", "j", "d"](q, k, v)``."""
        given = (names,) if isinstance(names, str) else names
        formals = [f for f in self.definition.formals if f in self.definition.settled]
        if len(given) != len(formals):
            self._fail(
                "arity",
                f"{self.definition.name} has {len(formals)} coordinates, and {len(given)} are given.",
                fix=f"{self.definition.name}[{', '.join(formals)}]",
            )
        made = Callable_(self.definition, self.source, dict(zip(formals, given, strict=True)))
        made._ready = self._ready
        return made

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

    def __call__(self, *args: Any, **options: Any) -> Any:
        import torch

        if options or len(args) != len(self._names):
            args, options = self._arguments(args, options)
        for arg in args:
            if isinstance(arg, Named):
                return self._named(args, options)
        for one, other in self._same:
            if args[one] is args[other]:
                self._one_tensor(one, other)
        if torch.compiler.is_compiling():
            from .traced import ready_for

            return self._run(ready_for(self.word, args, tuple(options.items())), args)
        key: tuple[Any, ...] = tuple([(a.shape, a.dtype) if hasattr(a, "shape") else (type(a), a) for a in args])
        if options:
            key = (*key, tuple(options.items()))
        try:
            ready = self._ready.get(key)
        except TypeError:
            ready = self.ready(args, options)  # it says which argument is no tensor
        if ready is None or (args and hasattr(args[0], "device") and args[0].device != ready.device):
            ready = self.ready(args, options)
            if len(self._ready) >= REMEMBERED:
                self._ready.pop(next(iter(self._ready)))
            self._ready[key] = ready
        return self._run(ready, args)

    def _run(self, ready: Ready, args: tuple[Any, ...]) -> Any:
        try:
            return ready.run(args)
        except Exception as error:
            from .evaluate import OutsideError

            if isinstance(error, OutsideError):
                self._outside(error)
            raise

    def _outside(self, error: OutsideError) -> NoReturn:
        node = error.node
        self._fail(
            "out-of-range",
            f"an index of {plain(node.data)} is {error.first}, outside 0..{error.size}.",
            silent="a negative index counts from the end.",
            fix="if the index stays inside { the access } else { 0 }",
            span=node.span if node.span[1] <= len(self.source.text) else None,
        )

    def _arguments(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by place and name in the declared order, and what is left: coordinates."""
        left = dict(options)
        found = list(args)
        for name in self._names[len(args) :]:
            if name not in left:
                self._fail(
                    "arity",
                    f"{self.definition.name} takes {len(self._names)} arguments, and {name} is not given.",
                    sides=(str(self.__doc__),),
                    fix=f"{self.definition.name}({', '.join(self._names)})",
                )
            found.append(left.pop(name))
        if len(found) > len(self._names):
            self._fail(
                "arity",
                f"{self.definition.name} takes {len(self._names)} arguments, and {len(found)} are given.",
                sides=(str(self.__doc__),),
                fix=f"{self.definition.name}({', '.join(self._names)})",
            )
        known = set(self.definition.formals)
        for name, value in left.items():
            if name not in known or not isinstance(value, str | int) or isinstance(value, bool):
                self._fail(
                    "unknown-coordinate",
                    f'{self.definition.name} has no argument or coordinate "{name}".',
                    sides=(str(self.__doc__),),
                    fix=f"one of {' '.join((*self._names, *self.definition.formals))}",
                )
        return tuple(found), left

    def _one_tensor(self, one: int, other: int) -> NoReturn:
        first, second = self.definition.parameters[one], self.definition.parameters[other]
        pair = next(
            (a, b) for a, b, _ in self.definition.differ if {a, b} & set(first.coords) and {a, b} & set(second.coords)
        )
        self._fail(
            "same-tensor",
            f"one tensor is given for {first.name} and {second.name}, and {self.definition.name} says "
            f"{pair[0]} # {pair[1]}.",
            sides=(f"{first.name}: {first}", f"{second.name}: {second}"),
            silent="one tensor fits twice, and attends to itself.",
            fix=f"the tensor that has {pair[1]}",
        )

    def _named(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A call with Named tensors: each is laid out as its parameter declares."""
        renamed = {
            **{f: f for f in self.definition.formals},
            **self.bound,
            **{k: v for k, v in options.items() if isinstance(v, str)},
        }
        rests: dict[str, Coords] = {}
        plain_args: list[Any] = []
        for slot, arg in zip(self.definition.parameters, args, strict=True):
            if not isinstance(arg, Named):
                if slot.axes:
                    self._fail(
                        "call-mismatch",
                        f"{slot.name} is given without names, and others are Named.",
                        sides=(f"{slot.name}: {slot}",),
                        fix=f'qkv.Named({slot.name}, "{" ".join(c for c in slot.coords)}")',
                    )
                plain_args.append(arg)
                continue
            wanted = {renamed[c] for c in slot.coords if not c.startswith("..")}
            extra = tuple(n for n in arg.names if n not in wanted)
            rest = () if slot.rest is None else rests.setdefault(slot.rest, extra)
            if not wanted <= set(arg.names) or set(rest) != set(extra):
                self._no_names(slot, arg, renamed, args)
            order = [n for c in slot.coords for n in (rest if c.startswith("..") else (renamed[c],))]
            tensor = arg.order(*order).tensor if order else arg.tensor
            if any(len(a) > 1 for a in slot.axes or ()):
                options = {**options, **{c: arg.size(renamed[c]) for a in slot.axes or () if len(a) > 1 for c in a}}
                shape: list[int] = []
                for a in slot.axes or ():
                    shape += (
                        [arg.size(n) for n in rest]
                        if a[0].startswith("..")
                        else [_product(arg.size(renamed[c]) for c in a)]
                    )
                tensor = tensor.reshape(shape)
            plain_args.append(tensor)
        made = self(*plain_args, **{k: v for k, v in options.items() if isinstance(v, int)})
        several: tuple[Any, ...] = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made,)
        found: list[Any] = []
        for slot, tensor in zip(self.definition.results, several, strict=True):
            names = [n for c in slot.coords for n in (rests.get(c, ()) if c.startswith("..") else (renamed[c],))]
            if any(len(a) > 1 for a in slot.axes or ()):
                names = [
                    n
                    for a in slot.axes or ()
                    for n in (rests.get(a[0], ()) if a[0].startswith("..") else ("_".join(renamed[c] for c in a),))
                ]
            found.append(Named(tensor, names))
        return tuple(found) if isinstance(made, tuple) else found[0]

    def _no_names(self, slot: Slot, arg: Named, renamed: Mapping[str, str], args: tuple[Any, ...]) -> NoReturn:
        wanted = [renamed.get(c, c) for c in slot.coords]
        lacking = [n for n in wanted if n not in arg.names and not n.startswith("..")]
        twice = sum(1 for a in args if a is arg) > 1
        extra = [n for n in arg.names if n not in wanted]
        fix = (
            f'{slot.name}.rename({extra[-1]}="{lacking[0]}")'
            if lacking and extra
            else f"a tensor with {' '.join(wanted)}"
        )
        self._fail(
            "same-tensor" if twice and lacking else "call-mismatch",
            f"{slot.name} of {self.definition.name} "
            f"{'lacks ' + ', '.join(lacking) if lacking else 'has coordinates too many'}"
            + (", and is given twice." if twice and lacking else "."),
            sides=(f"wanted: {' '.join(wanted)}", f"given:  {' '.join(f'{n}={s}' for n, s in arg.sizes.items())}"),
            silent="arguments are matched by place; with equal sizes every shape fits.",
            fix=fix,
        )

    # what a signature settles

    def ready(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Ready:
        """The function for arguments of these shapes and types. Raises ``EinError`` for those that do not fit."""
        from .evaluate import OutsideError

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
        ready = Ready(machine, recognised, flat, sizes, results)
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

    # what is seen of it

    def plan(self, *args: Any, **options: Any) -> list[Any]:
        """The plan of each attention that was recognised, for such a call; nothing is computed but what it needs."""
        if options or len(args) != len(self._names):
            args, options = self._arguments(args, options)
        ready = self.ready(args, options)
        return [_plan_of(node, lowering, ready, args) for node, lowering in ready.machine.attentions]


def _plan_of(node: Any, lowering: Any, ready: Ready, args: tuple[Any, ...]) -> Any:
    import torch

    tensors = [a for a in args if hasattr(a, "dtype") and a.dtype.is_floating_point]
    dtype = ready.machine.dtype(node.dtype)
    grad = any(t.requires_grad for t in tensors)

    def empty(part: Any) -> Any:
        return torch.zeros(
            [ready.sizes[c] for c in part.coords], dtype=dtype, device=ready.machine.device, requires_grad=grad
        )

    spec = ready.machine.spec_of(lowering)
    q, k, v = (empty(a) for a in node.args[:3])
    if not node.data.values:
        v = v.unsqueeze(-1)
    rows = {ready.sizes[c] for c in (*node.data.key, *(r for r in node.data.rows if r not in node.data.shared))}
    return spec.plan(q, k, v, **({"align": "start"} if len(rows) > 1 else {}))


def _parameter(recognised: Recognised, name: str, flat: Flat) -> Any:
    from .graph import walk

    return next((n for n in walk(*recognised.outputs) if n.op == "parameter" and n.data == name), flat.parameters[name])


def _must_differ(definition: Definition) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, second, _ in definition.differ:
        for n, one in enumerate(definition.parameters):
            for m, other in enumerate(definition.parameters):
                if n < m and (
                    (first in one.coords and second in other.coords) or (second in one.coords and first in other.coords)
                ):
                    found.append((n, m))
    return tuple(found)


def _inside(constraint: Constraint, source: Source) -> Span | None:
    return constraint.span if constraint.span[1] <= len(source.text) else None


def _label(axis: Coords) -> str:
    return "(" + " ".join(map(plain, axis)) + ")" if len(axis) > 1 else "".join(axis)


def _product(sizes: Iterator[int]) -> int:
    made = 1
    for size in sizes:
        made *= size
    return made


def _shape(axes: tuple[Coords, ...], sizes: Mapping[str, int]) -> list[int]:
    return [_product(iter([sizes[c] for c in axis])) for axis in axes]


def _torch_name(elem: str) -> str:
    from .elems import TORCH

    return TORCH.get(elem, "float32")
