"""``qkv fit``: the largest context or batch whose cache fits a memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from .report import reported
from .size import MODEL_HELP
from .terminal import console


@reported
def fit(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)],
    memory: Annotated[str, typer.Argument(help="Bytes of one device: 24GiB, 80GB.", show_default=False)],
    context: Annotated[str | None, typer.Option(help="Find the largest batch at this many tokens.")] = None,
    batch: Annotated[str | None, typer.Option(help="Find the largest context of this many sequences.")] = None,
    reserve: Annotated[str, typer.Option(help="Kept for weights and the rest.")] = "0",
    dtype: Annotated[str, typer.Option(help="f32, f16, bf16, fp8, int8, int4, q8_0, q4_0.")] = "bf16",
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Who allocates; may be given several times. [default: math]", show_default=False),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option("--tp", help="Devices that split the heads.")] = 1,
    source: Annotated[str, typer.Option(help="Tokens that cross-attention reads.")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the largest context or batch whose cache fits a memory."""
    import qkv

    one = qkv.size.model(model)
    found = [
        qkv.size.fit(
            one, memory, context=context, batch=batch, reserve=reserve, dtype=dtype, policy=rule,
            tensor_parallel=tensor_parallel, source=source,
        )
        for rule in dict.fromkeys(policy or ["math"])
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], indent=1))
        return
    screen = console()
    show = qkv.size.show_bytes
    room = found[0].memory_bytes - found[0].reserve_bytes
    screen.print(f"{one.name}: {show(room)} for the cache, {found[0].dtype}", style="bold")
    for item in found:
        fixed = f"batch {item.batch}" if item.searched == "context" else f"context {item.context:,} tokens"
        unit = "tokens" if item.searched == "context" else "sequences"
        if item.value is None:
            screen.print(f"{item.policy:22}{fixed}: any {item.searched} fits; its cache is {item.bytes:,} B")
            continue
        if not item.value:
            one_of = unit.removesuffix("s")
            screen.print(f"{item.policy:22}{fixed}: not even one {one_of} fits, which takes {item.next_bytes:,} B")
            continue
        screen.print(
            f"{item.policy:22}{fixed}: {item.searched} {item.value:,} {unit} takes {item.bytes:,} B; one more takes "
            f"{item.next_bytes:,} B"
        )
        if item.exceeds_model:
            screen.print(f"{'':22}the config names {item.max_context:,} positions, fewer than that", style="dim")
