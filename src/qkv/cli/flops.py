"""``qkv flops``: operations, bytes and the least time of a model's attention layers, part by part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .report import reported
from .size import MODEL_HELP
from .terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from qkv.size import ModelWork, Roof


@reported
def flops(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)],
    context: Annotated[str, typer.Option(help="Tokens of each sequence: 4096, 128k.")] = "8k",
    queries: Annotated[str | None, typer.Option(help="New tokens; all of the context without it.")] = None,
    batch: Annotated[str, typer.Option(help="Sequences.")] = "1",
    convention: Annotated[str, typer.Option(help="Which pairs count: exact, half, full.")] = "exact",
    latent: Annotated[str | None, typer.Option(help="expanded or absorbed. [default: by the new tokens]")] = None,
    dtype: Annotated[str, typer.Option(help="Format of keys and values.")] = "bf16",
    source: Annotated[str, typer.Option(help="Tokens that cross-attention reads.")] = "0",
    machine: Annotated[
        list[str] | None, typer.Option("--on", metavar="MACHINE", help="Also the least time there; this: measure here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the FLOPs and bytes of a model's attention.

    A multiply and an add are two operations. MLPs, experts, embeddings and the head are not attention and not counted.
    """
    import qkv

    one = qkv.size.model(model)
    found = qkv.size.flops(
        one, context, queries=queries, batch=batch, convention=convention, latent=latent, dtype=dtype, source=source
    )
    roofs = [qkv.size.roof(found, place, dtype) for place in machine or []]
    if as_json:
        typer.echo(json.dumps(as_data(found, roofs), indent=1))
        return
    show(found, roofs, console())


def as_data(found: ModelWork, roofs: list[Roof]) -> dict[str, Any]:
    """Everything that was computed, as plain data."""
    return {
        "model": found.model,
        "context": found.keys,
        "queries": found.queries,
        "batch": found.batch,
        "convention": str(found.convention),
        "latent": str(found.latent),
        "dtype": found.dtype,
        "flops": found.flops,
        "backward_flops": found.backward_flops,
        "bytes": found.bytes,
        "intensity": found.flops / found.bytes if found.bytes else 0.0,
        "parts": found.parts,
        "kinds": _kinds(found),
        "left_out": list(found.left_out),
        "roofs": [
            {
                "machine": roof.hardware,
                "compute_s": roof.compute_s,
                "memory_s": roof.memory_s,
                "seconds": roof.seconds,
                "bound": roof.bound,
            }
            for roof in roofs
        ],
    }


def _kinds(found: ModelWork) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for work in found.layers:
        row = table.setdefault(str(work.kind), {"layers": 0, "flops": 0, "bytes": 0})
        row["layers"] += 1
        row["flops"] += work.flops
        row["bytes"] += work.bytes
    return table


def show(found: ModelWork, roofs: list[Roof], screen: Console) -> None:
    """Parts with the formula of a layer, kinds, totals, times."""
    import qkv

    size = qkv.size
    length, new = size.show_count(found.keys), size.show_count(found.queries)
    tokens = "token" if found.queries == 1 else "tokens"
    screen.print(f"{found.model}: {new} new {tokens} of a context of {length}, batch {found.batch}", style="bold")
    latent = f", latents {found.latent}" if any(work.kind == "latent" for work in found.layers) else ""
    screen.print(f"pairs counted: {found.convention}{latent}, {found.dtype}", style="dim")
    screen.print(f"{'part':26}{'FLOP':>24}   in the first layer that has it", style="dim")
    for name, number in found.parts.items():
        formula = next(part.formula for work in found.layers for part in work.parts if part.name == name)
        screen.print(f"{name:26}{number:>24,}   {formula}")
    screen.print(f"{'forward':26}{found.flops:>24,}   = {size.show_flops(found.flops)}", style="bold")
    backward = found.backward_flops
    screen.print(f"{'backward, scores again':26}{backward:>24,}   = {size.show_flops(backward)}")
    screen.print(f"{'kind':8}{'layers':>8}{'FLOP':>26}{'bytes moved':>24}", style="dim")
    for kind, row in _kinds(found).items():
        screen.print(f"{kind:8}{row['layers']:>8}{row['flops']:>26,}{row['bytes']:>22,} B")
    if found.bytes:
        screen.print(f"intensity: {found.flops / found.bytes:.4g} FLOP/B")
    for text in found.left_out:
        screen.print(f"not counted: {text}")
    for roof in roofs:
        times = f"compute {size.show_seconds(roof.compute_s)}, memory {size.show_seconds(roof.memory_s)}"
        screen.print(f"{roof.hardware}: at least {size.show_seconds(roof.seconds)} ({times}): {roof.bound} binds")
