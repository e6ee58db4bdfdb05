"""``@qkv.fn``: the same graph from Python. A function in Named arithmetic is traced once, written as Einlang, and then
checked, recognised and run as any text is.

Each operation becomes a ``let``, so that a mistake is shown with the line it was written out to. Knows how Named
arithmetic is spelled; what it means is the checker's matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from ..coords.named import Deferred
from ..coords.pattern import parse_tensor
from ..errors import TraceError
from .door import source
from .graph import union
from .module import Callable_

_SIGNS = {
    "__add__": "+", "__sub__": "-", "__mul__": "*", "__truediv__": "/", "__mod__": "%", "__pow__": "**", "__lt__": "<",
    "__le__": "<=", "__gt__": ">", "__ge__": ">=", "__eq__": "==", "__ne__": "!=", "__and__": "&&", "__or__": "||",
}  # fmt: skip
_REFLECTED = {"__radd__": "+", "__rsub__": "-", "__rmul__": "*", "__rtruediv__": "/", "__rmod__": "%", "__rpow__": "**"}
_FUNCTIONS = ("exp", "log", "sqrt", "tanh", "sin", "cos", "abs", "floor", "relu", "sigmoid", "erf")
_REDUCTIONS = ("sum", "prod", "max", "min", "mean", "any", "all", "logsumexp", "argmax", "argmin")
_KEEPING = ("softmax", "log_softmax", "cumsum")


class Tape:
    """The statements recorded so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: list[str] = []

    def let(self, text: str, names: Sequence[str]) -> Traced:
        """One more statement; the value that it names."""
        name = f"v{len(self.lines) + 1}"
        brackets = f"[{', '.join(names)}]" if names else ""
        self.lines.append(f"    let {name}{brackets} = {text};")
        return Traced(self, name, tuple(names))


class Traced(Deferred):
    """A value that a traced function will have: its text, and the coordinates it carries."""

    __slots__ = ("tape", "text")

    def __init__(self, tape: Tape, text: str, names: tuple[str, ...]) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.tape = tape
        self.text = text
        self.names = names
        for name in names:
            if name not in tape.names:
                tape.names.append(name)

    def made(self, text: str, *others: object, names: Sequence[str] | None = None) -> Traced:
        """A statement of this and other values."""
        own = union(self.names, *(o.names for o in others if isinstance(o, Traced))) if names is None else names
        return self.tape.let(text, own)

    def size(self, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The size of a coordinate, as a number of the traced function."""
        return Traced(self.tape, f"size[{name}]", ())

    def index(self, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The index along a coordinate."""
        return Traced(self.tape, name, (name,))

    def rename(self, names: Any = None, /, **more: str) -> Any:
        """The same value under other coordinates."""
        by: dict[str, str] = {**(names or {}), **more}
        axes = ", ".join(f"{n} as {by[n]}" if n in by else n for n in self.names)
        base = self if self.text.isidentifier() else self.made(self.text)
        return self.made(f"{base.text}[{axes}]", names=[by.get(n, n) for n in self.names])

    def only(self, name: str) -> Any:
        """Without a coordinate of size 1."""
        return self.made(f"only[{name}]({self.text})", names=[n for n in self.names if n != name])

    def order(self, *names: str) -> Any:
        """The same value: order is layout, and a traced value has none."""
        return self

    def dot(self, other: Any, *names: str) -> Any:
        """The contraction with another value."""
        return _reduce(self * other, "sum", names, None)

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        """``if condition { then } else { otherwise }``."""
        parts = [_text(x) for x in (condition, then, otherwise)]
        return self.made(f"if {parts[0]} {{ {parts[1]} }} else {{ {parts[2]} }}", condition, then, otherwise)

    def joined(self, operands: Sequence[Any], axis: str) -> Any:
        """``concat[axis](...)``."""
        common = set(self.names).intersection(*(set(o.names) for o in operands))
        names = [n if n in common else axis for n in operands[0].names]
        return self.made(f"concat[{axis}]({', '.join(_text(o) for o in operands)})", names=names)

    def minimum(self, other: Any) -> Any:
        """The smaller of two."""
        return self.made(f"min({self.text}, {_text(other)})", other)

    def maximum(self, other: Any) -> Any:
        """The larger of two."""
        return self.made(f"max({self.text}, {_text(other)})", other)

    def _refuse(self, what: str) -> NoReturn:
        raise TraceError(
            f"{what} asks for a value, but a function under qkv.fn is traced once, for all tensors.\n"
            f"    value: {self.text} with {' '.join(self.names) or 'no coordinates'}\n"
            "  Use Named arithmetic: qkv.where for a choice, x.size('d') ** 0.5 for a square root."
        )

    def __neg__(self) -> Any:
        return self.made(f"-{self.text}")

    def __invert__(self) -> Any:
        return self.made(f"!{self.text}")

    def __abs__(self) -> Any:
        return self.made(f"abs({self.text})")

    def __bool__(self) -> bool:  # noqa: PLE0304 - it never returns
        self._refuse("`if`, `and`, `or` or `not`")

    def __float__(self) -> float:
        self._refuse("float() or a function of `math`")

    def __int__(self) -> int:
        self._refuse("int()")

    def __repr__(self) -> str:
        return f"Traced({self.text}: {' '.join(self.names)})"

    __hash__ = None  # type: ignore[assignment]


def _text(value: object) -> str:
    if isinstance(value, Traced):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        text = repr(value)
        return f"({text})" if text.startswith("-") else text
    raise TraceError(
        f"{type(value).__name__} takes part in a function under qkv.fn, and only its parameters and numbers do.\n"
        "  Make the tensor a parameter."
    )


def _operator(sign: str, *, reflected: bool) -> Callable[[Traced, Any], Any]:
    def apply(self: Traced, other: Any) -> Any:
        left, right = (_text(other), self.text) if reflected else (self.text, _text(other))
        if not self.names and not getattr(other, "names", ()):
            return Traced(self.tape, f"({left} {sign} {right})", ())
        names = union(getattr(other, "names", ()), self.names) if reflected else None
        return self.made(f"{left} {sign} {right}", other, names=names)

    return apply


def _function(name: str) -> Callable[[Traced], Any]:
    return lambda self: self.made(f"{name}({self.text})")


def _reduce(x: Traced, name: str, names: tuple[str, ...], where: Any) -> Any:
    listed = [n for each in names for n in each.split()] or list(x.names)
    condition = "" if where is None else f" where {_text(where)}"
    have = union(x.names, where.names) if isinstance(where, Traced) else x.names
    kept = have if name in _KEEPING else tuple(n for n in have if n not in listed)
    return x.made(f"{name}[{', '.join(listed)}]({x.text}{condition})", names=kept)


def _reduction(name: str) -> Callable[..., Any]:
    def apply(self: Traced, *names: str, where: Any = None) -> Any:
        return _reduce(self, name, names, where)

    return apply


for _name, _sign in _SIGNS.items():
    setattr(Traced, _name, _operator(_sign, reflected=False))
for _name, _sign in _REFLECTED.items():
    setattr(Traced, _name, _operator(_sign, reflected=True))
for _name in _FUNCTIONS:
    setattr(Traced, _name, _function(_name))
for _name in (*_REDUCTIONS, *_KEEPING):
    setattr(Traced, _name, _reduction(_name))


def written(function: Callable[..., Any]) -> str:
    """The Einlang that a function in Named arithmetic is written out to."""
    signature = inspect.signature(function)
    tape = Tape()
    head: list[str] = []
    arguments: list[Traced] = []
    for parameter in signature.parameters.values():
        names = _annotation(function, parameter.name, parameter.annotation)
        head.append(_typed(parameter.name, names))
        arguments.append(Traced(tape, parameter.name, names or ()))
    made = function(*arguments)
    results = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made,)
    for each in results:
        if not isinstance(each, Traced):
            raise TraceError(
                f"{function.__name__} returns {type(each).__name__}.\n  A function under qkv.fn returns "
                "what it computes from its parameters."
            )
    said = signature.return_annotation
    types = [_result(said, each) for each in results]
    values = [f"{each.text}" for each in results]
    formals = [n for n in tape.names if not n.startswith("..")]
    result = types[0] if len(types) == 1 else f"({', '.join(types)})"
    value = values[0] if len(values) == 1 else f"({', '.join(values)})"
    lines = [
        f"fn {function.__name__}[{', '.join(formals)}](",
        *(f"    {each}," for each in head),
        f") -> {result} {{",
        *tape.lines,
        f"    {value}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _typed(name: str, names: Sequence[str] | None) -> str:
    return f"{name}: float" if names is None else f"{name}: [float; {', '.join(names)}]"


def _result(said: object, made: Traced) -> str:
    names = made.names if not isinstance(said, str) or said in ("", "Any") else _names(said)
    return f"[float; {', '.join(names)}]" if names else "float"


def _names(text: str) -> tuple[str, ...]:
    text = text.strip("'\"")
    return tuple(
        f"..{axis.names[0].removeprefix('..')}" if axis.rest else axis.names[0] for axis in parse_tensor(text).axes
    )


def _annotation(function: Callable[..., Any], name: str, annotation: Any) -> tuple[str, ...] | None:
    if hasattr(annotation, "__metadata__"):
        annotation = str(annotation.__metadata__[0].text)
    if isinstance(annotation, str):
        annotation = annotation.strip("'\"")
        if annotation == "float":
            return None
        return _names(annotation)
    if annotation is float:
        return None
    raise TraceError(
        f'{name} of {function.__name__} has no coordinates.\n  Annotate it: {name}: "..b head seq_q d", or float for a number.'  # noqa: E501
    )


def fn(function: Callable[..., Any]) -> Callable_:
    """The function, traced once, checked and fused as a text in Einlang is; called with plain or Named tensors.

    Parameters are annotated with their coordinates (``Q: "..b head seq_q d"``) or ``float``; the body is Named
    arithmetic: ``qkv.sum("d", Q * K)``, ``qkv.softmax("seq_k", s)``, ``qkv.where``, ``Q.size("d")``,
    ``Q.index("seq_q")``.
    Raises ``EinError`` for mistakes, with the line that the body was written out to, and ``TraceError`` for what cannot
    be traced.

    >>> import qkv, torch
    >>> @qkv.fn
    ... def attend(Q: "..b q d", K: "..b k d", V: "..b k e") -> "..b q e":
    ...     s = qkv.sum("d", Q * K) / Q.size("d") ** 0.5
    ...     return qkv.sum("k", qkv.softmax("k", s) * V)
    >>> attend(torch.randn(2, 5, 4), torch.randn(2, 6, 4), torch.randn(2, 6, 3)).shape
    torch.Size([2, 5, 3])
    """
    text = written(function)
    module = source(text, f"<{function.__name__}>")
    made = module[function.__name__]
    made.__doc__ = function.__doc__ or made.__doc__
    return made
