"""Parts of specs by a word of their own: how graphs of compilers name objects that they cannot hold.

A compiler takes a word for a constant, and an object of ours for something to look into. This module knows which
object has which word, in this process; it refuses to know compilers.
"""

from __future__ import annotations

import itertools
from typing import Any, Self
from weakref import WeakValueDictionary

from ..errors import InternalError

_numbers = itertools.count()
_objects: WeakValueDictionary[str, Worded] = WeakValueDictionary()


class Worded:
    """Something with a word that no other object of this process has or had."""

    word: str

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An object with its word."""
        made = super().__new__(cls)
        word = f"{cls.__name__} {next(_numbers)}"
        object.__setattr__(made, "word", word)
        _objects[word] = made
        return made


def found(word: str) -> Any:
    """The object whose word this is. Raises ``InternalError`` when it is gone."""
    made = _objects.get(word)
    if made is None:
        raise InternalError(f"{word} is gone, and a graph names it; please report this")
    return made
