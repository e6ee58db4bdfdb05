"""Symbols: what a function of coordinates gets as arguments while it is recorded.

A symbol behaves like a number or a tensor as far as arithmetic goes, and records a node for each operation. It
refuses what cannot be recorded (``if i > j``, ``math.tanh(score)``, a list indexed by a coordinate) with the line to
write instead. Torch's pointwise functions accept symbols, and so do tensors on either side of an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from ..errors import TraceError
from .expr import Captured, Constant, Index, Kind, Lookup, Node, Size, apply, describe, look_up
from .fold import INT64

Operand = Any  # Symbol | bool | int | float | a 0-d tensor


class Symbol:
    """A value that depends on coordinates; every operator records a node."""

    __slots__ = ("node",)
    __array_ufunc__ = None  # numpy scalars then leave ``np.float32(2) * symbol`` to us

    def __init__(self, node: Node) -> None:
        self.node = node

    def __repr__(self) -> str:
        return f"Symbol({describe(self.node)})"

    def __add__(self, other: Operand) -> Symbol:
        return record("add", self, other)

    def __radd__(self, other: Operand) -> Symbol:
        return record("add", other, self)

    def __sub__(self, other: Operand) -> Symbol:
        return record("sub", self, other)

    def __rsub__(self, other: Operand) -> Symbol:
        return record("sub", other, self)

    def __mul__(self, other: Operand) -> Symbol:
        return record("mul", self, other)

    def __rmul__(self, other: Operand) -> Symbol:
        return record("mul", other, self)

    def __truediv__(self, other: Operand) -> Symbol:
        return record("div", self, other)

    def __rtruediv__(self, other: Operand) -> Symbol:
        return record("div", other, self)

    def __floordiv__(self, other: Operand) -> Symbol:
        return record("floordiv", self, other)

    def __rfloordiv__(self, other: Operand) -> Symbol:
        return record("floordiv", other, self)

    def __mod__(self, other: Operand) -> Symbol:
        return record("mod", self, other)

    def __rmod__(self, other: Operand) -> Symbol:
        return record("mod", other, self)

    def __pow__(self, other: Operand) -> Symbol:
        return record("pow", self, other)

    def __rpow__(self, other: Operand) -> Symbol:
        return record("pow", other, self)

    def __lt__(self, other: Operand) -> Symbol:
        return record("lt", self, other)

    def __le__(self, other: Operand) -> Symbol:
        return record("le", self, other)

    def __gt__(self, other: Operand) -> Symbol:
        return record("gt", self, other)

    def __ge__(self, other: Operand) -> Symbol:
        return record("ge", self, other)

    def __eq__(self, other: Operand) -> Symbol:  # type: ignore[override]
        return record("eq", self, other)

    def __ne__(self, other: Operand) -> Symbol:  # type: ignore[override]
        return record("ne", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Operand) -> Symbol:
        return logical("and", self, other)

    def __rand__(self, other: Operand) -> Symbol:
        return logical("and", other, self)

    def __or__(self, other: Operand) -> Symbol:
        return logical("or", self, other)

    def __ror__(self, other: Operand) -> Symbol:
        return logical("or", other, self)

    def __xor__(self, other: Operand) -> Symbol:
        return logical("xor", self, other)

    def __rxor__(self, other: Operand) -> Symbol:
        return logical("xor", other, self)

    def __invert__(self) -> Symbol:
        return logical("not", self)

    def __neg__(self) -> Symbol:
        return record("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return record("abs", self)

    def exp(self) -> Symbol:
        """The natural exponential."""
        return record("exp", self)

    def log(self) -> Symbol:
        """The natural logarithm."""
        return record("log", self)

    def sqrt(self) -> Symbol:
        """The square root."""
        return record("sqrt", self)

    def tanh(self) -> Symbol:
        """The hyperbolic tangent."""
        return record("tanh", self)

    def sigmoid(self) -> Symbol:
        """The logistic function."""
        return record("sigmoid", self)

    def abs(self) -> Symbol:
        """The absolute value."""
        return record("abs", self)

    def floor(self) -> Symbol:
        """The largest integer that is not above."""
        return record("floor", self)

    def float(self) -> Symbol:
        """The same value as a float."""
        return record("float", self)

    def to(self, *_target: object, **_kind: object) -> Symbol:
        """The same value: a symbol has no device, and its kind follows from how it is used."""
        return self

    @property
    def device(self) -> None:
        """None, which torch takes for the default device; mask functions hand it to ``to``."""
        return None

    def clamp(self, min: Operand = None, max: Operand = None) -> Symbol:
        """The value, not below ``min`` and not above ``max``; either may be left out."""
        result = self if min is None else record("max", self, min)
        return result if max is None else record("min", result, max)

    clip = clamp

    def new_ones(self, size: Sequence[int] = (), **_kind: object) -> Symbol:
        """The constant True, so that mask functions written for index tensors work; only ``new_ones(())``."""
        if tuple(size):
            self._refuse(f"new_ones({tuple(size)})", "Only new_ones(()) is known: a coordinate is one number here.")
        return Symbol(Constant(True))

    def new_zeros(self, size: Sequence[int] = (), **_kind: object) -> Symbol:
        """The constant False, as ``new_ones`` is True."""
        if tuple(size):
            self._refuse(f"new_zeros({tuple(size)})", "Only new_zeros(()) is known: a coordinate is one number here.")
        return Symbol(Constant(False))

    def _refuse(self, what: str, advice: str) -> NoReturn:
        raise TraceError(
            f"{what} asks for a value, but a function of coordinates is recorded once, for all coordinates.\n"
            f"    value: {describe(self.node)}\n  {advice}"
        )

    def __bool__(self) -> bool:
        return self._refuse(
            "`if`, `and`, `or`, `not` or a chained comparison",
            "Write qkv.where(condition, a, b), (a) & (b), (a) | (b), ~a, torch.minimum(a, b); "
            "and (0 <= i - j) & (i - j < 8) for 0 <= i - j < 8.",
        )

    def __float__(self) -> float:
        return self._refuse(
            "float() or a function of `math`", "Write torch.tanh(score), torch.exp(score), ... instead."
        )

    def __int__(self) -> int:
        return self._refuse("int()", "Write torch.floor(x), or x // 1, instead.")

    def __index__(self) -> int:
        return self._refuse(
            "an index into a list, or range()",
            "Index a torch tensor: table = torch.tensor(values); table[i - j].",
        )

    def __iter__(self) -> NoReturn:
        self._refuse("iteration", "A coordinate is one number here, not a tensor.")

    def __len__(self) -> int:
        return self._refuse("len()", "A coordinate is one number here; its number of elements is qkv.size_of(name).")

    def __getitem__(self, _: object) -> NoReturn:
        self._refuse("indexing a coordinate or a score", "Index a captured tensor by coordinates: table[h, i - j].")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from .functions import torch_call

        return torch_call(func, args, kwargs or {})


def node_of(value: Operand) -> Node:
    """The node for an operand: a symbol's own, a constant, or a lookup in a 0-d tensor."""
    if isinstance(value, Symbol):
        return value.node
    if isinstance(value, bool | int | float):
        if isinstance(value, int) and value not in INT64:
            raise TraceError(f"{value} does not fit into 64 bits.\n  Whole numbers lie between -2**63 and 2**63 - 1.")
        return Constant(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if len(value.shape) == 0:
            return Lookup(Captured(value), ()) if hasattr(value, "requires_grad") else Constant(value.item())
        raise TraceError(
            f"a tensor of shape {tuple(value.shape)} stands in a function of coordinates without an index.\n"
            "  Index it by coordinates, one for each axis: slope[h], table[h, i - j]."
        )
    raise TraceError(
        f"{value!r} ({type(value).__name__}) cannot take part in a function of coordinates.\n"
        "  Use numbers, coordinates, and tensors indexed by them."
    )


def record(operation: str, *operands: Operand) -> Symbol:
    """The symbol for ``operation`` on the operands. A division of whole numbers by the constant 0 is refused."""
    nodes = [node_of(operand) for operand in operands]
    if operation in ("floordiv", "mod") and nodes[1] == Constant(0) and nodes[0].kind is not Kind.FLOAT:
        raise TraceError(
            f"`{describe(nodes[0])}` is divided by 0.\n  A whole number has no quotient and no remainder by 0."
        )
    return Symbol(apply(operation, *nodes))


def logical(operation: str, *operands: Operand) -> Symbol:
    """The symbol for a logical operation; operands that are not truth values are refused."""
    nodes = [node_of(operand) for operand in operands]
    for node in nodes:
        if node.kind is not Kind.BOOL:
            raise TraceError(
                f"`{describe(node)}` is a number, and & | ^ ~ combine truth values.\n"
                "  & and | bind tighter than comparisons: write (i >= j) & (i - j < 8), with parentheses."
            )
    return Symbol(apply(operation, *nodes))


def lookup(table: Any, index: Any) -> Symbol:
    """The symbol for ``table[index]`` where ``index`` holds coordinates; one index for each axis."""
    indices = cast(tuple[Any, ...], index) if isinstance(index, tuple) else (index,)
    if len(indices) != len(table.shape):
        raise TraceError(
            f"a captured tensor of {len(table.shape)} axes, shape {tuple(table.shape)}, is indexed by {len(indices)}.\n"
            "  Give one coordinate (or expression of coordinates) for each axis; slices and None are not recorded."
        )
    nodes = tuple(node_of(i) for i in indices)
    for node in nodes:
        if node.kind is not Kind.INT:
            raise TraceError(
                f"`{describe(node)}` indexes a tensor, and is {node.kind.words}.\n"
                "  An index must be a whole number: torch.floor(x), or // instead of /."
            )
    return Symbol(look_up(Captured(table), nodes))


def index(coordinate: str) -> Symbol:
    """The plain index of ``coordinate`` in a call, from 0, whatever its positions are. For use inside keep and score
    functions.

    >>> import qkv
    >>> qkv.keep(lambda i, j: qkv.index("j") < 4)
    keep(index(j) < 4)
    """
    return Symbol(Index(coordinate))


def size_of(coordinate: str) -> Symbol:
    """How many elements ``coordinate`` has in a call. For use inside keep and score functions.

    >>> import qkv
    >>> qkv.keep(lambda i, j: j < qkv.size_of("j") - 1)
    keep(j < (size_of(j) - 1))
    """
    return Symbol(Size(coordinate))


def where(condition: Operand, chosen: Operand, other: Operand) -> Symbol:
    """``chosen`` where ``condition`` holds, else ``other``; the branch that is not chosen is not read."""
    test = node_of(condition)
    if test.kind is not Kind.BOOL:
        raise TraceError(f"where(): the condition `{describe(test)}` is a number.\n  Compare it: x != 0.")
    return Symbol(apply("select", test, node_of(chosen), node_of(other)))
