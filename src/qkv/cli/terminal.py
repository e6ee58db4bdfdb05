"""The terminal: whether it has colours, and text that is laid out in columns.

rich decides about colours (NO_COLOR, a pipe, a terminal without them); this module only asks it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

TICK, CROSS = "✓", "✗"
PLAIN_TICK, PLAIN_CROSS = "ok", "MISSED"


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that prints texts as they are."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def has_colours(screen: Console) -> bool:
    """Whether colours would be seen."""
    return screen.color_system is not None and not screen.no_color


def is_terminal(*, stderr: bool = False) -> bool:
    """Whether somebody is looking."""
    return (sys.stderr if stderr else sys.stdout).isatty()


def mark(met: bool) -> Text:
    """A tick, or a cross; words where the output's encoding has neither."""
    from rich.text import Text

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        (TICK + CROSS).encode(encoding)
    except UnicodeEncodeError:
        tick, cross = PLAIN_TICK, PLAIN_CROSS
    else:
        tick, cross = TICK, CROSS
    return Text(tick, "bold green") if met else Text(cross, "bold red")


def side_by_side(blocks: Sequence[Sequence[Text]], width: int, gap: int = 2) -> list[Text]:
    """Blocks of lines next to one another, each padded to ``width`` columns but for the last."""
    from rich.text import Text

    lines: list[Text] = []
    for number in range(max((len(block) for block in blocks), default=0)):
        line = Text()
        for place, block in enumerate(blocks):
            part = block[number].copy() if number < len(block) else Text()
            if place < len(blocks) - 1:
                part.append(" " * (width + gap - part.cell_len))
            line.append_text(part)
        line.rstrip()
        lines.append(line)
    return lines
