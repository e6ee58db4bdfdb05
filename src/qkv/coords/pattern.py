"""Patterns in einops spelling, read into data: ``"b (h g) i d, b h j d, b h j e -> b (h g) i e"``.

Knows the spelling: names, merged axes in parentheses (major to minor), rests ``..b`` that stand for zero or more
coordinates, and ``1`` for an axis of size one. It does not know what a coordinate is for (``roles``) or how large it
is (``sizes``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from qkv import limits
from qkv.coords.axes import Axis as Axis
from qkv.coords.axes import Pattern as Pattern
from qkv.coords.axes import TensorPattern as TensorPattern
from qkv.coords.text import point
from qkv.errors import LimitError, PatternError

EXAMPLE = "b h i d, b h j d, b h j e -> b h i e"
_TENSORS = ("Q", "K", "V", "output")
_SPOKEN = {"Q": "Q", "K": "K", "V": "V", "output": "the output"}
_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\n]+)|(?P<arrow>->)|(?P<comma>,)|(?P<open>\()|(?P<close>\))|(?P<dots>\.+)"
    r"|(?P<word>[A-Za-z0-9_]+)|(?P<other>.)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _error(headline: str, text: str, start: int, end: int, advice: str) -> PatternError:
    return PatternError(f"{headline}\n{point(text, start, end)}\n  {advice}")


def _tokens(text: object) -> list[_Token]:
    if not isinstance(text, str):
        raise PatternError(
            f"a pattern is a text, and this is {text!r:.80} of type {type(text).__name__}.\n"
            f'  Write it as a string: "{EXAMPLE}"'
        )
    if len(text) > limits.PATTERN_CHARACTERS:
        raise LimitError(
            f"the pattern has {len(text)} characters, and at most {limits.PATTERN_CHARACTERS} are read.\n"
            f'    {text[:60]!r}...\n  A pattern names axes: "{EXAMPLE}". Was another text given in its place?'
        )
    found = (_Token(str(m.lastgroup), m.group(), m.start(), m.end()) for m in _TOKEN.finditer(text))
    return [token for token in found if token.kind != "blank"]


def _check_word(text: str, token: _Token) -> None:
    if token.text[0].isdigit():
        raise _error(
            f'"{token.text:.40}" is not a name.',
            text,
            token.start,
            token.end,
            "Names begin with a letter or _; the only number is 1, an axis of size one. A size is given beside the "
            'pattern: sizes={"h": 8}',
        )
    if len(token.text) > limits.NAME_CHARACTERS:
        raise LimitError(
            f"a coordinate's name has {len(token.text)} characters, and at most {limits.NAME_CHARACTERS} are read.\n"
            f"{point(text, token.start, token.end)}\n  Give it a shorter name."
        )


class _Reader:
    """Reads the tokens of one tensor, from left to right, into axes."""

    def __init__(self, text: str, tokens: list[_Token], tensor: str) -> None:
        self.text = text
        self.tokens: Iterator[_Token] = iter(tokens)
        self.tensor = tensor
        self.seen: set[str] = set()
        self.axes: list[Axis] = []

    def read(self) -> tuple[Axis, ...]:
        for token in self.tokens:
            axis = self.axis(token)
            self.axes.append(axis)
            if len(self.axes) > limits.AXES_PER_TENSOR:
                raise LimitError(
                    f"{self.tensor} has more than {limits.AXES_PER_TENSOR} axes, and torch's kernels stop near that.\n"
                    f"{point(self.text, axis.start, axis.end)}\n  Merge axes before the call."
                )
        return tuple(self.axes)

    def axis(self, token: _Token) -> Axis:
        if token.kind == "word":
            if token.text == "1":
                return Axis((), start=token.start, end=token.end)
            return Axis((self.name(token),), start=token.start, end=token.end)
        if token.kind == "open":
            return self.parentheses(token)
        if token.kind == "dots":
            return self.rest(token)
        if token.kind == "close":
            raise self.wrong('")" closes nothing.', token, 'Put "(" where the merged axis begins, or take ")" out.')
        raise self.unexpected(token)

    def name(self, token: _Token) -> str:
        _check_word(self.text, token)
        if token.text in self.seen:
            raise self.wrong(
                f'"{token.text}" stands twice in {self.tensor}.',
                token,
                "Each axis of a tensor has its own name, even where two lengths agree.",
            )
        self.seen.add(token.text)
        if len(self.seen) > limits.AXES_PER_TENSOR:
            raise LimitError(
                f"{self.tensor} has more than {limits.AXES_PER_TENSOR} coordinates.\n"
                f"{point(self.text, token.start, token.end)}\n  Merge axes before the call."
            )
        return token.text

    def rest(self, token: _Token) -> Axis:
        following = next(self.tokens, None)
        named = following is not None and following.kind == "word" and following.start == token.end
        if following is None or not named or len(token.text) != 2 or following.text[0].isdigit():
            end = following.end if following is not None and named else token.end
            name = following.text if following is not None and named and not following.text[0].isdigit() else "b"
            raise _error(
                f'"{self.text[token.start : end]:.40}" is not a rest with a name.',
                self.text,
                token.start,
                end,
                f"A rest is two dots and a name, and stands for zero or more coordinates: ..{name:.64}",
            )
        if any(axis.rest for axis in self.axes):
            raise _error(
                f"{self.tensor} has two rests, so nothing says which axes belong to which.",
                self.text,
                token.start,
                following.end,
                "One tensor has at most one rest; name the other axes one by one.",
            )
        return Axis((self.name(following),), rest=True, start=token.start, end=following.end)

    def parentheses(self, opening: _Token) -> Axis:
        names: list[str] = []
        for token in self.tokens:
            if token.kind == "close":
                if not names:
                    raise _error(
                        "these parentheses are empty.",
                        self.text,
                        opening.start,
                        token.end,
                        "An axis of size one is written 1; a merged axis names its coordinates, major first: (h g)",
                    )
                return Axis(tuple(names), start=opening.start, end=token.end)
            if token.kind == "open":
                raise self.wrong(
                    "parentheses inside parentheses.", token, "A merged axis is one list, major to minor: (a b c)"
                )
            if token.kind == "dots":
                raise self.wrong(
                    "a rest cannot be part of a merged axis.", token, "Name the coordinates that are merged: (a b h)"
                )
            if token.kind != "word":
                raise self.unexpected(token)
            if token.text == "1":
                raise self.wrong(
                    '"1" inside parentheses changes nothing.', token, "Leave it out, or write it as an axis of its own."
                )
            names.append(self.name(token))
        raise self.wrong('"(" is never closed.', opening, 'Put ")" where the merged axis ends: (h g)')

    def unexpected(self, token: _Token) -> PatternError:
        if token.kind in ("comma", "arrow"):
            return self.wrong(
                f'"{token.text}" inside the pattern of one tensor.',
                token,
                'One tensor is named here: its axes with spaces between them, such as "b h i d"',
            )
        return self.wrong(
            f"{token.text!r} cannot stand in a pattern.",
            token,
            f"A pattern has names of letters, digits and _, and ( ) .. , -> between them: {EXAMPLE}",
        )

    def wrong(self, headline: str, token: _Token, advice: str) -> PatternError:
        return _error(headline, self.text, token.start, token.end, advice)


@lru_cache(maxsize=4096)
def _parse_tensor(text: str) -> TensorPattern:
    return TensorPattern(text, _Reader(text, _tokens(text), "the tensor").read())


def parse_tensor(text: str, allow_rest: bool = True) -> TensorPattern:
    """The axes of one tensor, from text such as ``"..b head seq_q d"``.

    Coordinates: any names; ``(h g)`` is one merged axis, major first; ``1`` an axis of size one. The empty text is a
    tensor without axes. ``allow_rest=False`` refuses rests. Raises PatternError, or LimitError for hostile sizes.

    >>> parse_tensor("b (h g) i").coordinates
    ('b', 'h', 'g', 'i')
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
        _tokens(text)
    pattern = _parse_tensor(text)
    if not allow_rest:
        for axis in pattern.axes:
            if axis.rest:
                raise _error(
                    f'"{axis}" stands for an unknown number of coordinates, and here each one must be named.',
                    text,
                    axis.start,
                    axis.end,
                    "Name the axes one by one.",
                )
    return pattern


def _split(text: str, tokens: list[_Token]) -> list[list[_Token]]:
    """The tokens of Q, K, V and the output; PatternError when there are not three inputs and one output."""
    arrows = [token for token in tokens if token.kind == "arrow"]
    if not arrows:
        raise _error(
            'the pattern has no "->".', text, len(text), len(text), f"Write the output's axes after an arrow: {EXAMPLE}"
        )
    if len(arrows) > 1:
        raise _error(
            'the pattern has more than one "->".',
            text,
            arrows[1].start,
            arrows[1].end,
            f"Three tensors, one arrow, one output: {EXAMPLE}",
        )
    groups: list[list[_Token]] = [[]]
    edges: list[_Token] = []
    for token in tokens:
        if token.kind in ("comma", "arrow"):
            groups.append([])
            edges.append(token)
        else:
            groups[-1].append(token)
    num_inputs = edges.index(arrows[0]) + 1
    advice = f"Attention reads Q, K and V and gives one output: {EXAMPLE}"
    if num_inputs != 3:
        place = edges[2] if num_inputs > 3 else arrows[0]
        many = f"{num_inputs} tensor{'s' if num_inputs > 1 else ''}"
        raise _error(
            f'the pattern has {many} before "->", and attention reads three.', text, place.start, place.end, advice
        )
    if len(groups) != 4:
        raise _error('the pattern has more than one output after "->".', text, edges[3].start, edges[3].end, advice)
    for name, group, edge in zip(_TENSORS, groups, [*edges, None], strict=True):
        if not group:
            place = edge.start if edge is not None else len(text)
            raise _error(f"{_SPOKEN[name]} has no axes.", text, place, place + 1, advice)
    return groups


def _check_rests(pattern: Pattern) -> None:
    rests = set(pattern.rests)
    for tensor in pattern.tensors.values():
        for axis in tensor.axes:
            both = rests.intersection(axis.names)
            if both and not axis.rest:
                name = next(iter(both))
                raise _error(
                    f'"{name}" is one coordinate here, and "..{name}" is a rest elsewhere in the pattern.',
                    pattern.text,
                    axis.start,
                    axis.end,
                    f"Write ..{name} in every tensor that carries the rest, and give the coordinate another name.",
                )


@lru_cache(maxsize=4096)
def _parse(text: str) -> Pattern:
    groups = _split(text, _tokens(text))
    tensors: list[TensorPattern] = []
    for name, group in zip(_TENSORS, groups, strict=True):
        axes = _Reader(text, group, _SPOKEN[name]).read()
        tensors.append(TensorPattern(text[group[0].start : group[-1].end], axes))
    pattern = Pattern(text, *tensors)
    _check_rests(pattern)
    return pattern


def parse(text: str) -> Pattern:
    """The four tensors of one call, from text such as ``"b h i d, b h j d, b h j e -> b h i e"``.

    Coordinates: any names, see ``parse_tensor``; nothing is said of their roles, which ``roles`` derives. Results are
    cached, so equal texts give the same object. Raises PatternError with carets under the place, or LimitError for a
    text, a name or a number of axes beyond ``qkv.limits``.

    >>> parse("b (h g) i d, b h j d, b h j e -> b (h g) i e").query.merged
    (('h', 'g'),)
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all type checked
        _tokens(text)
    return _parse(text)
