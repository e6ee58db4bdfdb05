"""``T["..b head seq_q d"]``: a tensor's coordinates, written as its type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from qkv.coords.pattern import parse_tensor

if TYPE_CHECKING:
    from typing import Protocol

    from torch import Tensor

    # Type checkers must take any Tensor where T[...] is asked, and see a Tensor inside: a protocol that also inherits
    # from Tensor is both, and its own __class_getitem__ keeps the text from being read as a type.
    class T(Tensor, Protocol):  # pyright: ignore[reportGeneralTypeIssues]
        """A tensor type with names."""

        def __class_getitem__(cls, coordinates: str) -> type[Tensor]: ...
        def is_floating_point(self) -> bool: ...

else:

    class T:
        """A tensor type with names: ``T["..b head seq_q d"]`` is ``Annotated[torch.Tensor, TensorPattern]``.

        Coordinates: as in ``parse_tensor``; merged axes and rests are allowed. Type checkers see a Tensor; nothing is
        checked at run time by the annotation alone. Raises PatternError when the text cannot be read.

        >>> T["b (h g) i d"].__metadata__[0].merged
        (('h', 'g'),)
        """

        __slots__ = ()

        def __class_getitem__(cls, coordinates: str) -> Any:
            from torch import Tensor

            return Annotated[Tensor, parse_tensor(coordinates)]
