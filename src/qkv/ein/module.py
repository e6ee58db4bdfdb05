"""Calling what a text defines from Python: ``mod.attention(Q, K, V)``.

Plain tensors have the places of the declared types; Named ones are matched by name, whatever their layout. What a
signature (shapes, element types) settles is remembered; a repeated call goes straight to its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..coords import Named
from ..spec import door
from .graph import Coords, Definition, Slot
from .preparing import Preparing, Ready, product
from .report import Source
from .steps import OutsideError

if TYPE_CHECKING:
    from .check import Checked

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


class Callable_(Preparing):
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
        except OutsideError as error:
            self._outside(error)

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
                        else [product(arg.size(renamed[c]) for c in a)]
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
    options = {"align": "start"} if len(lowering.sequences) > 1 else {}
    with nullcontext() if node.data.asked is None else door().forced(node.data.asked):
        return spec.plan(q, k, v, **options)


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
