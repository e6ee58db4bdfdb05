"""The words of a text in Einlang: what stands where, and which comments stand between.

One pass, linear in the text's length. Knows spelling alone; what a word means is the parser's matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .. import limits
from .report import Report, Span

KEYWORDS = frozenset({"fn", "let", "use", "if", "else", "as", "where", "true", "false", "inf", "in"})

_WORD = re.compile(
    r"[ \t\r\n]*(?:([A-Za-z_][A-Za-z0-9_]*)"
    r"|(\.\.|\*\*|->|==|!=|<=|>=|&&|\|\||::|[-+*%<>=!(){}\[\],;:#]|/(?!/))"
    r"|([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
    r"|(//[^\n]*)|([^ \t\r\n]))"
)
_NAME, _SIGN, _NUMBER, _COMMENT = 1, 2, 3, 4


@dataclass(slots=True)
class Tokens:
    """The words of a text, in three lists of one length, with an end mark; ``comments`` are (start, text) pairs.

    ``kinds`` holds ``"name"``, ``"number"``, ``"end"``, or the keyword or sign itself.
    """

    kinds: list[str] = field(default_factory=list[str])
    texts: list[str] = field(default_factory=list[str])
    starts: list[int] = field(default_factory=list[int])
    comments: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    def add(self, kind: str, text: str, start: int) -> None:
        """One more word."""
        self.kinds.append(kind)
        self.texts.append(text)
        self.starts.append(start)

    def span(self, at: int) -> Span:
        """Where the word number ``at`` stands: its first character and one past its last."""
        return self.starts[at], self.starts[at] + len(self.texts[at])


def read(text: str, report: Report) -> Tokens:
    """The words of ``text``. Characters that begin no word are reported as ``syntax`` and left out."""
    tokens = Tokens()
    if len(text) > limits.EIN_CHARACTERS:
        report.error(
            "limit",
            f"the text has {len(text)} characters, and at most {limits.EIN_CHARACTERS} are read.",
            (0, 0),
            fix="split the file; each part is read on its own",
        )
        tokens.add("end", "", 0)
        return tokens
    kinds, texts, starts = tokens.kinds, tokens.texts, tokens.starts
    # blanks are skipped in front of a word; behind the last one the pattern would try each of them anew
    for match in _WORD.finditer(text, 0, len(text.rstrip(" \t\r\n"))):
        group = match.lastindex or 0
        word, start = match[group], match.start(group)
        if group == _NAME:
            kind = word if word in KEYWORDS else "name"
            if len(word) > limits.NAME_CHARACTERS:
                report.error(
                    "limit",
                    f"a name has {len(word)} characters, and at most {limits.NAME_CHARACTERS} are read.",
                    (start, match.end()),
                    fix="give it a shorter name",
                )
        elif group == _SIGN:
            kind = word
        elif group == _NUMBER:
            kind = "number"
        elif group == _COMMENT:
            tokens.comments.append((start, word.rstrip()))
            continue
        else:
            report.error(
                "syntax",
                f"{word!r} begins no word of the notation.",
                (start, match.end()),
                fix=_INSTEAD.get(word, "take it out"),
            )
            continue
        kinds.append(kind)
        texts.append(word)
        starts.append(start)
    tokens.add("end", "", len(text))
    return tokens


_INSTEAD = {
    "&": "write && for and",
    "|": "write || for or",
    "^": "write ** for a power",
    "@": "write sum[c](A[..] * B[..])",
}
