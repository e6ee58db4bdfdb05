"""The carrier of ``Named``: one tensor, one name for each axis, and what can be asked without computing.

Knows how names and a tensor come together, sizes, printing and conversion to Python numbers. It does not compute:
arithmetic, reductions and layout are each a file of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from qkv.coords.names import checked, names_for_rank, pick, unknown
from qkv.coords.text import quoted, sized
from qkv.errors import CoordinateError, ShapeError

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import Tensor


class Labelled:
    """One tensor and one name for each of its axes; ``Named`` adds every operation."""

    __slots__ = ("names", "tensor")

    tensor: Tensor
    names: tuple[str, ...]

    # numpy must not take a Named apart element by element when an array stands on the left of an operator.
    __array_ufunc__: ClassVar[None] = None

    def __init__(self, tensor: Tensor, names: str | Iterable[str]) -> None:
        try:
            rank = tensor.dim()
        except AttributeError:
            raise _not_a_tensor(tensor) from None
        if isinstance(names, str):
            given = names_for_rank(names, rank)
        else:
            given = checked(tuple(names))
            if len(given) != rank:
                raise ShapeError(
                    f"the tensor has {rank} ax{'is' if rank == 1 else 'es'}, and {len(given)} names are given.\n"
                    f"    names: {' '.join(given)}\n    shape: {tuple(tensor.shape)}\n  Name every axis once."
                )
        self.tensor = tensor
        self.names = given

    def __reduce__(self) -> tuple[type[Self], tuple[Tensor, tuple[str, ...]]]:
        return type(self), (self.tensor, self.names)

    def _with(self, tensor: Tensor, names: tuple[str, ...]) -> Self:
        # Names that come from carried ones were checked when they came in.
        made = object.__new__(type(self))
        made.tensor = tensor
        made.names = names
        return made

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._with(function(self.tensor), self.names)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each coordinate, in the order of the axes."""
        return dict(zip(self.names, self.tensor.shape, strict=True))

    def size(self, name: str) -> int:
        """The size of one coordinate; CoordinateError when the tensor does not carry it."""
        if name not in self.names:
            raise unknown(name, self.sizes, "size")
        return self.tensor.shape[self.names.index(name)]

    @property
    def dtype(self) -> torch.dtype:
        """The element type of the tensor."""
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensor lives."""
        return self.tensor.device

    def pick(self, names: Iterable[str], asked_by: str) -> tuple[str, ...]:
        """The carried names in a caller's list, read as every operation reads them: ``("i j", "..b")``."""
        return pick(names, self.sizes, asked_by)

    def __repr__(self) -> str:
        kind = str(self.tensor.dtype).removeprefix("torch.")
        where = "" if self.tensor.device.type == "cpu" else f", {self.tensor.device}"
        return f"Named({sized(self.sizes)}, {kind}{where})"

    def item(self) -> bool | int | float | complex:
        """The one element as a Python number; ShapeError when there is not exactly one."""
        if self.tensor.numel() != 1:
            raise ShapeError(
                f"{self!r} has {self.tensor.numel()} elements, and one number is asked.\n"
                f"  Reduce it by name first, such as .sum({', '.join(map(repr, self.names))})"
            )
        return self.tensor.item()

    def __float__(self) -> float:
        return float(self._real())

    def __int__(self) -> int:
        return int(self._real())

    def _real(self) -> bool | int | float:
        value = self.item()
        if isinstance(value, complex):
            raise TypeError(f"{self!r} holds a complex number, and a real one is asked.")
        return value

    def __bool__(self) -> bool:
        if self.tensor.numel() != 1:
            raise ShapeError(
                f"{self!r} has {self.tensor.numel()} elements, so it is neither true nor false.\n"
                "  Say which is meant with .all() or .any(); combine conditions with & | ~, and choose with qkv.where."
            )
        return bool(self.tensor)

    def __getitem__(self, _: object) -> NoReturn:
        raise CoordinateError(
            f"axes of {self!r} are named, so they cannot be indexed by place.\n"
            "  Write x.at(i=3) for one element of a coordinate, and x.slice(i=slice(2, 5)) for a part."
        )

    # Without this, the method above would make Python iterate by place.
    __iter__: ClassVar[None] = None

    def __matmul__(self, _: object) -> NoReturn:
        raise CoordinateError(
            f'"@" does not say which coordinate of {self!r} is contracted.\n'
            f'  Name it: a.dot(b, "d"); this tensor carries {quoted(self.names) or "none"}.'
        )

    __rmatmul__ = __matmul__


def _not_a_tensor(given: Any) -> Exception:
    if isinstance(given, Labelled):
        return CoordinateError(
            f"{given!r} has names already.\n"
            f'  Rename with x.rename(old="new"), reorder with x.order("..."), or name x.tensor anew.'
        )
    return ShapeError(
        f"names were given for {type(given).__name__} {given!r:.60}, which is not a tensor.\n"
        "  Give a torch.Tensor: torch.as_tensor(...) makes one."
    )
