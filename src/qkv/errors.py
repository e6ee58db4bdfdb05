"""Every exception that qkv raises on purpose, and the two lines that point at a place in a text.

::

    QkvError
    ├── PatternError      (ValueError)   a pattern cannot be read, or a coordinate fits no role
    ├── CoordinateError   (ValueError)   a coordinate is named that nothing carries, or carried twice
    ├── SizeMismatch      (ValueError)   one coordinate has two sizes, or a size cannot be solved
    ├── ShapeError        (ValueError)   a tensor's number of axes does not fit its pattern
    ├── DtypeError        (TypeError)    a tensor's element type is not the one that is needed
    ├── DeviceError       (ValueError)   tensors of one call live on different devices
    ├── SpecError         (ValueError)   parts that make no sense, alone or together
    ├── PositionError     (ValueError)   nothing says where the queries stand among the keys
    ├── TraceError        (TypeError)    a function of coordinates does something that cannot be recorded
    ├── CacheError        (ValueError)   a cache is full, has dropped what is asked for, or its file is damaged
    ├── Refused           (RuntimeError) a strategy that was asked for cannot run this call
    ├── TargetError       (ValueError)   QKV_CPU_TARGET names an instruction set that cannot be used here
    ├── EinError          (ValueError)   a text in Einlang, or a call of what it defines, has mistakes
    ├── ModelError        (RuntimeError) a model file or a model cannot be used
    ├── LimitError        (ValueError)   an input is larger than a limit of ``qkv.limits``
    └── InternalError     (RuntimeError) a fault of qkv's own; please report it

Each message says what was given, what was expected, where, and what to do. Every class but the last
names a mistake of the caller's; the built-in class behind it lets general handlers work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class QkvError(Exception):
    """Base of all errors that qkv raises on purpose."""


class PatternError(QkvError, ValueError):
    """A pattern cannot be read, or a coordinate in it fits no role.

    ``qkv.Spec("b h i d, b h i d, b h i d -> b h i d")``: nothing tells queries from keys.
    """


class CoordinateError(QkvError, ValueError):
    """A coordinate is named that the tensor or the pattern does not carry, or it is carried twice.

    ``qkv.Named(x, "b i d").sum("j")``
    """


class SizeMismatch(QkvError, ValueError):
    """One coordinate has two sizes, or its size cannot be solved.

    ``coordinate`` is the name; ``seen`` maps each tensor's name to the size found there.
    """

    def __init__(self, message: str, *, coordinate: str | None = None, seen: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.coordinate = coordinate
        self.seen = dict(seen or {})


class ShapeError(QkvError, ValueError):
    """A tensor's number of axes, or an axis that must not be empty, does not fit its pattern.

    ``qkv.attention(torch.zeros(4, 8), k, v)``: two axes for the pattern ``b h i d``.
    """


class DtypeError(QkvError, TypeError):
    """A tensor's element type is not the one that is needed: integer queries, a float mask as ``padding``."""


class DeviceError(QkvError, ValueError):
    """Tensors of one call live on different devices: a mask on the CPU for queries on a GPU."""


class SpecError(QkvError, ValueError):
    """Parts that make no sense, alone or together: a NaN scale, a soft cap under linear weights."""


class PositionError(QkvError, ValueError):
    """Nothing says where the queries stand among the keys: ``causal`` on 3 queries and 8 keys."""


class TraceError(QkvError, TypeError):
    """A function of coordinates does something that cannot be recorded: ``if i > j`` or ``math.tanh(score)``."""


class CacheError(QkvError, ValueError):
    """A cache cannot do what is asked: it is full, it has dropped those tokens, its file is damaged.

    ``qkv.cache.Recurrent().truncate(3)``: a state is a sum, out of which no token can be taken.
    """


class Refused(QkvError, RuntimeError):
    """A strategy that was asked for cannot run this call; ``reasons`` lists why.

    Raised by a forced strategy (``with qkv.strategy("sdpa")``), which never falls back to another.
    """

    def __init__(self, message: str, *, strategy: str = "", reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.strategy = strategy
        self.reasons = tuple(reasons)


class TargetError(QkvError, ValueError):
    """An instruction set was asked for that this build does not know or this machine cannot run.

    ``QKV_CPU_TARGET=avx512`` on a processor without AVX-512.
    """


class EinError(QkvError, ValueError):
    """A text in Einlang, or a call of a function that one defines, has mistakes.

    ``diagnostics`` holds each of them as data: code, message, file, line, column, both sides, and what to write.
    ``qkv.ein.source("fn f(")``
    """

    def __init__(self, message: str, *, diagnostics: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.diagnostics = tuple(dict(each) for each in diagnostics)

    @property
    def codes(self) -> tuple[str, ...]:
        """The code of each mistake, in the order of the text."""
        return tuple(str(each["code"]) for each in self.diagnostics)


class ModelError(QkvError, RuntimeError):
    """A model file or a loaded model cannot be used: missing, truncated, or of an architecture that does not route."""


class LimitError(QkvError, ValueError):
    """An input is larger than a limit of ``qkv.limits``: a pattern of 10,000 characters."""


class InternalError(QkvError, RuntimeError):
    """A fault of qkv's own. The message asks for a report; nothing in the input is to blame."""


for _kind in (
    QkvError,
    PatternError,
    CoordinateError,
    SizeMismatch,
    ShapeError,
    DtypeError,
    DeviceError,
    SpecError,
    PositionError,
    TraceError,
    CacheError,
    Refused,
    TargetError,
    EinError,
    ModelError,
    LimitError,
    InternalError,
):
    _kind.__module__ = "qkv"  # where people find them, and what a traceback shows: qkv.SizeMismatch


def caret(text: str, start: int, end: int, indent: int = 4) -> str:
    """Two lines: ``text``, and below it carets under the characters from ``start`` to ``end``.

    ``end`` is exclusive; an empty span still shows one caret, so that a missing character can be pointed at.
    """
    pad = " " * indent
    width = max(1, end - start)
    return f"{pad}{text}\n{pad}{' ' * start}{'^' * width}"
