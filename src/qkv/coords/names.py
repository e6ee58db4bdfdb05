"""Names of one tensor's axes as callers write them: ``"b h i"``, ``("b", "h", "i")``, ``"..b"``.

Knows how a list of names is read and checked against the names that a tensor carries. It does not know tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from qkv import limits
from qkv.coords.pattern import parse_tensor
from qkv.coords.text import did_you_mean, point, quoted, sized
from qkv.errors import CoordinateError, LimitError, PatternError, ShapeError

# A typed name, or one that a rest was expanded to.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[0-9]+)?")


def constant_in_compile(function: Callable[..., object]) -> None:
    """Mark a function of names alone, so that torch.compile takes its result as it is and does not look into it."""
    # What torch.compiler.assume_constant_result does, which could not be called here without loading torch.
    function.__dict__["_dynamo_marked_constant"] = True


def names_for_rank(text: str, rank: int) -> tuple[str, ...]:
    """The names in ``text`` for a tensor of ``rank`` axes; a rest takes what the others leave, as ``b.0 b.1``."""
    return _names_for_rank(text, rank)


def checked(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, when each is a name and none stands twice."""
    return _checked(names)


constant_in_compile(names_for_rank)
constant_in_compile(checked)


@lru_cache(maxsize=4096)
def _names_for_rank(text: str, rank: int) -> tuple[str, ...]:
    pattern = parse_tensor(text)
    for axis in pattern.axes:
        if len(axis.names) != 1:
            advice = (
                f"Give the axis one name, and part it with its sizes: "
                f'qkv.Named(x, "{"_".join(axis.names)}").split("{"_".join(axis.names)}", "{" ".join(axis.names)}", ...)'
                if axis.names
                else "Squeeze the axis, or give it a name: a size of 1 is a size like any other."
            )
            headline = f'"{axis}" is not the name of one axis.'
            raise PatternError(f"{headline}\n{point(text, axis.start, axis.end)}\n  {advice}")
    number = len(pattern.axes) - len(pattern.rests)
    if rank < number or (rank > number and not pattern.rests):
        raise ShapeError(
            f"the tensor has {rank} ax{'is' if rank == 1 else 'es'}, and "
            f"{'at least ' if pattern.rests else ''}{number} {'is' if number == 1 else 'are'} named.\n"
            f"    names: {text}\n  Name every axis, or write ..b for any number of leading ones."
        )
    return pattern.expand(dict.fromkeys(pattern.rests, rank - number)).coordinates


@lru_cache(maxsize=4096)
def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > limits.AXES_PER_TENSOR:
        raise LimitError(
            f"{len(names)} axes are named, and at most {limits.AXES_PER_TENSOR} are carried.\n  Merge axes before."
        )
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
            raise PatternError(
                f"{name!r:.80} is not a name.\n"
                f'  Names begin with a letter or _, and have letters, digits and _; or write one text: "b h i d"'
            )
        if len(name) > limits.NAME_CHARACTERS:
            raise LimitError(
                f"a coordinate's name has {len(name)} characters, and at most {limits.NAME_CHARACTERS} are read.\n"
                f"    {name[:60]}...\n  Give it a shorter name."
            )
        if names.count(name) > 1:
            raise CoordinateError(
                f'"{name}" names two axes of one tensor.\n    names: {" ".join(names)}\n'
                f"  Each axis has its own name, even where two lengths agree."
            )
    return names


def unknown(name: str, sizes: Mapping[str, int], asked_by: str) -> CoordinateError:
    """The error for a name that the tensor does not carry."""
    near = did_you_mean(name, tuple(sizes))
    carried = f"It carries {quoted(sizes)}." if sizes else "It carries no coordinates."
    return CoordinateError(
        f'{asked_by} names "{name}", which the tensor does not carry.\n    tensor: {sized(sizes)}\n  {near or carried}'
    )


def _words(given: Iterable[object], asked_by: str) -> list[str]:
    words: list[str] = []
    for item in given:
        if not isinstance(item, str):
            raise CoordinateError(
                f"{asked_by} is given {item!r:.80}, and a coordinate is a name.\n"
                f'  Axes are named, never counted: write the name, such as "j"'
            )
        words += item.split()
    return words


def pick(given: Iterable[str], sizes: Mapping[str, int], asked_by: str) -> tuple[str, ...]:
    """The carried names that a caller lists; ``"i j"`` is two names, and ``"..b"`` all that the rest ``b`` became."""
    picked: list[str] = []
    for word in _words(given, asked_by):
        if word.startswith("..") and len(word) > 2:
            picked += [name for name in sizes if re.fullmatch(rf"{re.escape(word[2:])}\.[0-9]+", name)]
        elif word in sizes:
            picked.append(word)
        else:
            raise unknown(word, sizes, asked_by)
    for name in picked:
        if picked.count(name) > 1:
            raise CoordinateError(
                f'{asked_by} names "{name}" twice.\n    tensor: {sized(sizes)}\n  Name each coordinate once.'
            )
    return tuple(picked)
