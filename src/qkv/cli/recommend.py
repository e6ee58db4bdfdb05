"""``qkv recommend``: a stack of mechanisms for a use and constraints, with figures, reasons and what was ruled out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .report import reported, unwritable
from .terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from qkv.size import Recommendation

USES = "training, serving, memory, documents, generation, encoder-decoder, retrieval, linear, free"


@reported
def recommend(
    use: Annotated[str, typer.Argument(help=f"What it is for: {USES}.")] = "free",
    width: Annotated[str, typer.Option(help="Width of the model.")] = "4096",
    heads: Annotated[str, typer.Option(help="Query heads.")] = "32",
    layers: Annotated[str, typer.Option(help="Layers.")] = "32",
    context: Annotated[str | None, typer.Option(help="Tokens of each sequence.")] = None,
    batch: Annotated[str | None, typer.Option(help="Sequences.")] = None,
    memory: Annotated[str | None, typer.Option(help="What the cache may take: 24GiB.")] = None,
    causal: Annotated[bool | None, typer.Option("--causal/--both-ways", help="Whether tokens see later ones.")] = None,
    first: Annotated[str | None, typer.Option(help="What is given up last: quality or memory.")] = None,
    dtype: Annotated[str, typer.Option(help="f32, f16 or bf16.")] = "bf16",
    machine: Annotated[str, typer.Option("--on", metavar="MACHINE", help="Where times are predicted.")] = "h100",
    source: Annotated[str | None, typer.Option(help="Tokens of an encoder's input.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the caches as .png or .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Recommend mechanisms for a use and constraints.

    What is left open has the default of the use.
    """
    import qkv

    found = qkv.size.recommend(
        use, width=width, heads=heads, layers=layers, context=context, batch=batch, memory=memory, causal=causal,
        first=first, dtype=dtype, machine=machine, source=source,
    )  # fmt: skip
    if plot is not None:
        try:
            qkv.size.write_curves(qkv.size.stack_curves(found), plot, title="Cache bytes against context, policy math")
        except OSError as error:
            raise unwritable(plot, error) from None
    if as_json:
        typer.echo(json.dumps(as_data(found), indent=1, ensure_ascii=False))
        return
    screen = console()
    show(found, screen)
    if plot is not None:
        screen.print(f"curves: {plot}", style="dim")


def as_data(found: Recommendation) -> dict[str, Any]:
    """Everything that was decided, as plain data."""
    return {
        "scenario": str(found.scenario),
        "recommended": found.chosen.name,
        "mechanisms": list(found.mechanisms),
        "specs": {name: repr(spec) for name, spec in found.specs.items()},
        "reasons": [_reason(item) for item in found.reasons],
        "unmet": [_reason(item) for item in found.unmet],
        "candidates": [
            {
                "name": item.name,
                "cache_bytes": item.cache_bytes,
                "policy": "math",
                "prefill_flops": item.prefill.flops,
                "prefill_s": item.prefill.seconds,
                "token_flops": None if item.decode is None else item.decode.flops,
                "token_s": None if item.decode is None else item.decode.seconds,
                "ruled_out": found.ruled_out.get(item.name),
            }
            for item in found.figures
        ],
    }


def _reason(item: Any) -> dict[str, str]:
    return {"part": item.part, "choice": item.choice, "why": item.why, "source": item.source}


def show(found: Recommendation, screen: Console) -> None:
    """The stack, why, the figures of all candidates, and what was ruled out."""
    import qkv

    size = qkv.size
    screen.print(str(found.scenario), style="dim")
    screen.print(f"recommended: {found.chosen.name}", style="bold")
    for name, spec in found.specs.items():
        screen.print(f"  {name}: {spec!r}")
    for item in found.unmet:
        screen.print(f"not met: {item.part}: {item.why}", style="bold red")
    screen.print()
    for item in found.reasons:
        screen.print(f"{item.part}: {item.choice}", style="bold")
        screen.print(f"  {item.why}")
        screen.print(f"  {item.source}", style="dim")
    machine = found.scenario.machine.name
    screen.print(f"\ncache under policy math; least times of attention on {machine}", style="dim")
    screen.print(f"  {'':44}{'cache':>12}{'prompt':>14}{'time':>10}{'a token':>14}{'time':>10}", style="dim")
    for item in found.figures:
        token = ("-", "-")
        if item.decode is not None:
            token = (size.show_flops(item.decode.flops), size.show_seconds(item.decode.seconds))
        line = (
            f"{item.name:44}{size.show_bytes(item.cache_bytes):>12}{size.show_flops(item.prefill.flops):>14}"
            f"{size.show_seconds(item.prefill.seconds):>10}{token[0]:>14}{token[1]:>10}"
        )
        chosen = item is found.chosen
        screen.print(f"{'>' if chosen else ' '} {line}", style="bold" if chosen else "")
    screen.print("\nruled out", style="dim")
    for name, why in found.ruled_out.items():
        screen.print(f"  {name}: {why}")
