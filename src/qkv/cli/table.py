"""``qkv table``: the fifteen mechanisms on five tokens, each published row checked, weights as heat maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .report import MISSED, reported, unwritable
from .terminal import console, has_colours, mark, side_by_side

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from qkv.mechanisms import Row

BOTH = ["reference", "chunked"]
WIDTH = 59
"""Columns of one mechanism: two stand side by side in a terminal of 120."""

Computed = Mapping[str, Sequence["Row"]]


@reported
def table(
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="How to compute; may be given several times. [default: reference, chunked]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the heat maps as a picture.")] = None,
) -> None:
    """Show fifteen attention mechanisms on one five-token example.

    Weights and outputs of every token; the row of "cat" was published and is checked to four decimals. The exit
    status is 1 when one is missed.
    """
    import qkv

    computed: dict[str, Sequence[Row]] = {}
    for name in dict.fromkeys(strategy or BOTH):
        with qkv.strategy(name):
            computed[name] = qkv.mechanisms.fifteen()
    if png is not None:
        try:
            qkv.mechanisms.draw(next(iter(computed.values())), png)
        except OSError as error:
            raise unwritable(png, error) from None
    if as_json:
        typer.echo(json.dumps(as_data(computed), indent=1, ensure_ascii=False))
    else:
        screen = console()
        show(computed, screen)
        if png is not None:
            screen.print(f"heat maps: {png}", style="dim")
    if not all(row.met for rows in computed.values() for row in rows):
        raise typer.Exit(MISSED)


def as_data(computed: Computed) -> dict[str, Any]:
    """Everything that was computed, as plain data."""
    from qkv.mechanisms import PUBLISHED, get

    first = next(iter(computed.values()))
    return {
        "tokens": list(first[0].tokens),
        "published_token": PUBLISHED,
        "met": {name: sum(row.met for row in rows) for name, rows in computed.items()},
        "mechanisms": [
            {
                "name": row.name,
                "title": row.title,
                "formula": get(row.name).layers[-1].formula,
                "source": get(row.name).layers[-1].source,
                "cache_per_token": get(row.name).layers[-1].cache,
                "published": list(row.published),
                "computed": {
                    name: {
                        "met": rows[number].met,
                        "output": rows[number].output.tolist(),
                        "weights": rows[number].maps.tolist(),
                    }
                    for name, rows in computed.items()
                },
            }
            for number, row in enumerate(first)
        ],
    }


def show(computed: Computed, screen: Console) -> None:
    """Each mechanism with its weights and outputs, two side by side where there is room; then the published rows."""
    names = list(computed)
    rows = computed[names[0]]
    colour = has_colours(screen)
    blocks = [block(number, [computed[name][number] for name in names], colour) for number in range(len(rows))]
    across = 2 if screen.width >= 2 * WIDTH + 2 else 1
    for start in range(0, len(blocks), across):
        for line in side_by_side(blocks[start : start + across], WIDTH):
            screen.print(line)
        screen.print()
    for line in summary(computed):
        screen.print(line)


def block(number: int, computed: Sequence[Row], colour: bool) -> list[Text]:
    """One mechanism: its name, formula, weights, outputs, and whether each strategy meets the published row."""
    from rich.text import Text

    from qkv.mechanisms import PUBLISHED, get, written

    row = computed[0]
    title = Text().append(f"{number + 1:2} ", "dim").append(row.title, "bold")
    formula = Text(get(row.name).layers[-1].formula, "dim italic")
    lines = [title, *(Text("   ").append_text(line) for line in _wrapped(formula, WIDTH - 3))]
    for head in range(len(row.maps)):
        heading, *heat = (Text.from_ansi(line) for line in row.heat(head, colour=colour))
        heading.stylize("dim")
        several = f"head {head + 1}" if len(row.maps) > 1 else ""
        said = " and ".join(filter(None, (several, "output" if head == 0 else "")))
        lines.append(heading.append(f"  {said}", "dim"))
        for token, line, values in zip(row.tokens, heat, row.output.tolist(), strict=True):
            here = token == PUBLISHED
            if head == 0:
                line.append("  " + " ".join(written(values)), "bold" if here else "")
            if head == 0 and here:
                line.append(" ").append_text(mark(all(one.met for one in computed)))
            lines.append(line)
    return lines


def _wrapped(text: Text, width: int) -> list[Text]:
    """The text broken at spaces."""
    from rich.text import Text

    lines = [Text("", text.style)]
    for word in text.plain.split(" "):
        if lines[-1].plain and lines[-1].cell_len + 1 + len(word) > width:
            lines.append(Text("", text.style))
        lines[-1].append(f" {word}" if lines[-1].plain else word)
    return lines


def summary(computed: Computed) -> list[Text]:
    """The published rows: what was computed, a tick for each strategy, and what was published where it is missed."""
    from rich.text import Text

    from qkv.mechanisms import PUBLISHED, written

    names = list(computed)
    rows = computed[names[0]]
    wide = max(len(row.title) for row in rows) + 3
    heading = Text().append(f'The published row "{PUBLISHED}"'.ljust(wide + 29), "bold")
    lines = [heading.append("  ".join(names), "dim")]
    for number, row in enumerate(rows):
        line = Text().append(f"{number + 1:2} ", "dim").append(row.title.ljust(wide - 3)).append("  ")
        shown = row if row.met else next(r for r in (computed[n][number] for n in names))
        values = shown.output[shown.tokens.index(PUBLISHED)].tolist()
        line.append(" ".join(written(values))).append(" ")
        for name in names:
            before = len(name) // 2
            line.append(" " * before).append_text(mark(computed[name][number].met)).append(
                " " * (len(name) + 1 - before)
            )
        line.rstrip()
        lines.append(line)
        if not all(computed[name][number].met for name in names):
            lines.append(Text(f"{'published'.rjust(wide)}  {' '.join(written(row.published))}", "red"))
    for name in names:
        met = sum(row.met for row in computed[name])
        said = f" {met} of {len(rows)} published rows met to four decimals by strategy {name}"
        lines.append(mark(met == len(rows)).append(said))
    return lines
