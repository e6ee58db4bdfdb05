"""``qkv size``: bytes of a model's cache by kind of layer, under named policies, with the formula and the keys used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .report import reported, unwritable
from .terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from qkv.size import CacheSize, Model

MODEL_HELP = "A config.json, its directory, a .gguf file, or the name of a public model."


@reported
def size(
    model: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP, show_default=False)] = None,
    context: Annotated[str, typer.Option(help="Tokens of each sequence: 4096, 128k.")] = "8k",
    batch: Annotated[str, typer.Option(help="Sequences.")] = "1",
    dtype: Annotated[str, typer.Option(help="f32, f16, bf16, fp8, int8, int4, q8_0, q4_0.")] = "bf16",
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Who allocates; may be given several times. [default: math]", show_default=False),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option("--tp", help="Devices that split the heads.")] = 1,
    source: Annotated[str, typer.Option(help="Tokens that cross-attention reads.")] = "0",
    state_dtype: Annotated[str, typer.Option(help="How recurrent states are stored.")] = "f32",
    why: Annotated[bool, typer.Option("--why", help="Show the formulas and the config keys that were used.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw bytes against context as .png or .svg.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the public models that are known by name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the bytes of caches, by kind of layer and in all.

    A figure always stands beside the policy that it holds under: math (the least that must be stored), transformers,
    transformers-static, paged, llama.cpp, qkv.
    """
    import qkv

    if show_list:
        known = [{"name": name, "source": said} for name, said in qkv.size.sources().items()]
        lines = "\n".join(f"{one['name']:22} {one['source']}" for one in known)
        typer.echo(json.dumps(known, indent=1) if as_json else lines)
        return
    if not model:
        raise qkv.ModelError(
            "no model is given.\n  Give a config.json, a .gguf file or a name: qkv size --list shows them."
        )
    policies = list(dict.fromkeys(policy or ["math"]))
    found: list[tuple[Model, list[CacheSize]]] = []
    for name in model:
        one = qkv.size.model(name)
        sizes = [
            qkv.size.cache_size(
                one, context, batch=batch, dtype=dtype, policy=rule, tensor_parallel=tensor_parallel, source=source,
                state_dtype=state_dtype,
            )
            for rule in policies
        ]  # fmt: skip
        found.append((one, sizes))
    if plot is not None:
        _draw(found, policies, plot, context, dtype, source)
    if as_json:
        typer.echo(json.dumps([as_data(one, sizes, why) for one, sizes in found], indent=1, default=str))
        return
    screen = console()
    for number, (one, sizes) in enumerate(found):
        if number:
            screen.print()
        show(one, sizes, screen, why)
    if plot is not None:
        screen.print(f"curves: {plot}", style="dim")


def _draw(
    found: list[tuple[Model, list[CacheSize]]], policies: list[str], plot: Path, context: str, dtype: str, source: str
) -> None:
    import qkv

    batch = found[0][1][0].batch
    lines = qkv.size.curves(
        [one for one, _ in found], context, policies=policies, dtype=dtype, batch=batch, source=source
    )
    title = f"Cache bytes against context: {dtype}, batch {batch}, policy {', '.join(policies)}"
    try:
        qkv.size.write_curves(lines, plot, title=title)
    except OSError as error:
        raise unwritable(plot, error) from None


def as_data(one: Model, sizes: list[CacheSize], why: bool) -> dict[str, Any]:
    """Everything that was computed, as plain data; with ``why`` also the keys and notes."""
    data: dict[str, Any] = {
        "model": one.name,
        "family": one.family,
        "layers": one.kinds,
        "source": one.source,
        "sizes": [
            {
                "policy": found.policy,
                "dtype": found.dtype,
                "state_dtype": found.state_dtype,
                "context": found.context,
                "batch": found.batch,
                "tensor_parallel": found.tensor_parallel,
                "bytes": found.bytes,
                "all_bytes": found.all_bytes,
                "next_token_bytes": found.token_bytes,
                "groups": [
                    {
                        "kind": str(group.kind),
                        "layers": group.num_layers,
                        "tokens": group.slots,
                        "token_bytes": group.slot_bytes,
                        "state_bytes": group.state_bytes,
                        "bytes": group.bytes,
                        "formula": group.formula,
                    }
                    for group in found.groups
                ],
            }
            for found in sizes
        ],
    }
    if why:
        data["used"] = dict(one.used)
        data["notes"] = list(one.notes)
    return data


def show(one: Model, sizes: list[CacheSize], screen: Console, why: bool) -> None:
    """A table for each policy; with ``why`` the formulas, the rules of the policy and the keys of the config."""
    import qkv

    first = sizes[0]
    kinds = ", ".join(f"{count} {kind}" for kind, count in one.kinds.items())
    screen.print(f"{one.name}: {kinds} layers", style="bold")
    devices = f", {first.tensor_parallel} devices, bytes on each" if first.tensor_parallel > 1 else ""
    states = f", states {first.state_dtype}" if "state" in one.kinds else ""
    length = qkv.size.show_count(first.context)
    screen.print(f"context {length} tokens, batch {first.batch}, {first.dtype}{states}{devices}", style="dim")
    screen.print(f"{'policy':22}{'kind':8}{'layers':>7}{'tokens':>12}{'B/token':>10}{'bytes':>22}", style="dim")
    for found in sizes:
        for group in found.groups:
            a_token = group.slot_bytes or group.state_bytes
            unit = " (state)" if group.state_bytes else ""
            slots = f"{group.slots:,}" if group.slot_bytes else "-"
            screen.print(
                f"{found.policy:22}{group.kind:8}{group.num_layers:>7}{slots:>12}{a_token:>10,}"
                f"{group.bytes:>20,} B{unit}"
            )
        total = f"{qkv.size.show_bytes(found.bytes)}"
        screen.print(f"{found.policy:22}{'in all':8}{'':29}{found.bytes:>20,} B = {total}", style="bold")
    if why:
        _explain(one, sizes, screen)


def _explain(one: Model, sizes: list[CacheSize], screen: Console) -> None:
    import qkv

    for found in sizes:
        rule = qkv.size.policies[found.policy]
        screen.print(f"\npolicy {rule.name}: {rule.about}")
        for line in rule.rules:
            screen.print(f"  {line}")
        screen.print(f"  source: {rule.source}", style="dim")
        for group in found.groups:
            screen.print(f"  {group.bytes:,} B = {group.formula}")
    screen.print(f"\n{qkv.size.formats[sizes[0].dtype].name}: {qkv.size.formats[sizes[0].dtype].about}")
    screen.print("\nkeys used" + (f" ({one.source})" if one.source else ""))
    for key, value in one.used:
        said = json.dumps(value, default=str)
        screen.print(f"  {key} = {said if len(said) <= 80 else said[:77] + '...'}")
    for note in one.notes:
        screen.print(f"  {note}")
