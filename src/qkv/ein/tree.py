"""The tree of a text: what the parser makes, with the place of every part.

Plain immutable data. Nothing here knows whether the text makes sense.
"""

from __future__ import annotations

from typing import NamedTuple

from .report import Span


class AxisName(NamedTuple):
    """One coordinate in a list of axes: ``q``."""

    name: str
    span: Span


class AxisRest(NamedTuple):
    """A rest: ``..b``; ``name`` is with its dots."""

    name: str
    span: Span


class AxisGroup(NamedTuple):
    """A merged axis: ``(head, d)``, major to minor. ``ordered`` is False where nothing says which is major."""

    names: tuple[str, ...]
    spans: tuple[Span, ...]
    span: Span
    ordered: bool = True


class AxisAs(NamedTuple):
    """A renaming, a split or a merge: ``tok as q``, ``model as (head, d)``, ``(head, d) as model``."""

    old: AxisName | AxisGroup
    new: AxisName | AxisGroup
    span: Span


class AxisValue(NamedTuple):
    """An index that is computed: ``X[t - 1]``, ``X[0]``."""

    value: Expr
    span: Span


class AxisRange(NamedTuple):
    """A coordinate with its first index and one past its last: ``t in 1..T``."""

    name: str
    name_span: Span
    first: Expr
    last: Expr
    span: Span


Axis = AxisName | AxisRest | AxisGroup | AxisAs | AxisValue | AxisRange
"""What may stand between the brackets of a tensor; types and targets allow fewer of them."""


class Type(NamedTuple):
    """``[f32; ..b, q, c]``, or a scalar when ``axes`` is None."""

    elem: str
    elem_span: Span
    axes: tuple[Axis, ...] | None
    span: Span


class Number(NamedTuple):
    """A number, ``true``, ``false`` or ``inf``, as it is written."""

    text: str
    span: Span


class Name(NamedTuple):
    """A name on its own: a coordinate's index or size, a scalar, or a whole tensor."""

    name: str
    span: Span


class Access(NamedTuple):
    """``X[..b, q, c]``."""

    name: str
    name_span: Span
    axes: tuple[Axis, ...]
    span: Span


class Unary(NamedTuple):
    """``-x`` or ``!x``."""

    operator: str
    operand: Expr
    span: Span


class Binary(NamedTuple):
    """``left operator right``."""

    operator: str
    left: Expr
    right: Expr
    span: Span


class If(NamedTuple):
    """``if condition { chosen } else { other }``."""

    condition: Expr
    chosen: Expr
    other: Expr
    span: Span


class Cast(NamedTuple):
    """``x as f32``."""

    operand: Expr
    elem: str
    elem_span: Span
    span: Span


class SizeOf(NamedTuple):
    """``size[c]``."""

    coordinate: AxisName
    span: Span


class Reduce(NamedTuple):
    """``sum[k](x where condition)``; also softmax and its kin, cumsum, ``only``. ``given``: ``as given`` is written."""

    operator: str
    operator_span: Span
    coordinates: tuple[AxisName | AxisRest, ...]
    body: Expr
    condition: Expr | None
    given: bool
    span: Span


class Concat(NamedTuple):
    """``concat[k](A[..], B[..])``."""

    coordinate: AxisName
    operands: tuple[Expr, ...]
    span: Span


class Bound(NamedTuple):
    """One coordinate given to a call: ``q``, ``q = tok``, ``tok as q`` for the result."""

    formal: AxisName | None
    actual: AxisName
    renamed: AxisName | None
    span: Span


class Call(NamedTuple):
    """``f[q, k](A, B)``; ``coordinates`` is None when the brackets are left out."""

    name: str
    name_span: Span
    coordinates: tuple[Bound, ...] | None
    arguments: tuple[Expr, ...]
    span: Span


Expr = Number | Name | Access | Unary | Binary | If | Cast | SizeOf | Reduce | Concat | Call


class Attribute(NamedTuple):
    """``#[strategy(flash)]``."""

    name: str
    argument: str
    span: Span
    argument_span: Span


class Target(NamedTuple):
    """What a ``let`` names: ``s[..b, q, k]``, or a scalar when ``axes`` is None."""

    name: str
    name_span: Span
    axes: tuple[Axis, ...] | None
    span: Span


class Let(NamedTuple):
    """``let s[..] = value;``, with several targets for a call with several results."""

    targets: tuple[Target, ...]
    value: Expr
    attributes: tuple[Attribute, ...]
    span: Span


class Input(NamedTuple):
    """``let X: [f32; ..b, q, c];`` outside functions: a tensor that is given from outside."""

    name: str
    name_span: Span
    type: Type
    span: Span


class Formal(NamedTuple):
    """A coordinate of a function, and its size where it is fixed: ``c = 64``."""

    name: str
    span: Span
    size: int | None


class Parameter(NamedTuple):
    """``X: [f32; ..b, q, c]``."""

    name: str
    span: Span
    type: Type


class Differ(NamedTuple):
    """``q # k``: two coordinates that must not be one."""

    first: AxisName
    second: AxisName
    span: Span


class Function(NamedTuple):
    """A definition."""

    name: str
    name_span: Span
    coordinates: tuple[Formal, ...]
    parameters: tuple[Parameter, ...]
    results: tuple[Type, ...]
    differ: tuple[Differ, ...]
    lets: tuple[Let, ...]
    values: tuple[Expr, ...]
    attributes: tuple[Attribute, ...]
    span: Span
    body_span: Span


class Use(NamedTuple):
    """``use std::attention;``."""

    path: tuple[str, ...]
    span: Span


Item = Function | Let | Input | Use


class Tree(NamedTuple):
    """A whole text."""

    items: tuple[Item, ...]
