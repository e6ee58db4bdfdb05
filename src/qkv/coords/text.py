"""How coordinates are named in messages: lists, nearest names, and carets under long texts.

Knows only strings. It does not know patterns, tensors or sizes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from qkv import limits
from qkv.errors import caret

# Carets are only useful while text and carets stand on one terminal line each.
_SHOWN_CHARACTERS = 100


def listed(words: Sequence[str], joined_by: str = "and") -> str:
    """``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {joined_by} {words[-1]}"


def quoted(names: Iterable[str], joined_by: str = "and") -> str:
    """``"a", "b" and "c"``."""
    return listed([f'"{name}"' for name in names], joined_by)


def sized(sizes: Mapping[str, int]) -> str:
    """``b=2 h=8``; ``no coordinates`` when there are none."""
    return " ".join(f"{name}={size}" for name, size in sizes.items()) or "no coordinates"


def nearest(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """At most three of the known names, the likeliest misspelling first.

    Very short names are near when they differ in case or one contains the other, which is all a letter can tell.
    """
    if len(known) > limits.NAMES_COMPARED:
        return ()
    folded = name.lower()
    likely = [other for other in known if other.lower() == folded]
    likely += difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    likely += [
        other for other in known if folded and (other.lower().startswith(folded) or folded.startswith(other.lower()))
    ]
    return tuple(dict.fromkeys(likely))[:3]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``Did you mean "seq_k"?``, or the empty text when nothing is near."""
    near = nearest(name, known)
    return f"Did you mean {quoted(near, 'or')}?" if near else ""


def point(text: str, start: int, end: int) -> str:
    """Two lines: the text with every blank as one space and unprintable characters replaced, and carets below.

    A text longer than a terminal line is cut around the place, with ``...`` where it was cut.
    """
    shown = "".join(c if c.isprintable() else "?" for c in re.sub(r"\s", " ", text))
    if len(shown) > _SHOWN_CHARACTERS:
        end = min(end, start + _SHOWN_CHARACTERS // 2)
        first = max(0, start - _SHOWN_CHARACTERS // 2)
        last = min(len(shown), max(first + _SHOWN_CHARACTERS, end))
        before = "..." if first else ""
        after = "..." if last < len(shown) else ""
        shown = f"{before}{shown[first:last]}{after}"
        start, end = start - first + len(before), end - first + len(before)
    return caret(shown, start, end)
