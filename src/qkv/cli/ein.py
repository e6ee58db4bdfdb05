"""``qkv ein``: check, run, format and explain texts in Einlang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .report import MISSED, reported, unwritable

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(
    help="Check, run, format and explain definitions in Einlang.", no_args_is_help=True, rich_markup_mode=None
)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Texts in Einlang.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A text in Einlang.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Name = Annotated[str | None, typer.Option("--fn", metavar="NAME", help="One function. [default: all]")]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=N", help="The size of a coordinate; may be given several times."),
]


def _say(data: Any) -> None:
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


def _sizes(given: list[str] | None) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for each in given or ():
        name, _, number = each.partition("=")
        if not number.isdigit() or len(number) > 9:
            raise typer.BadParameter(f"{each!r} is no size; write q=128")
        found[name] = int(number)
    return found


def _functions(path: Path, name: str | None) -> list[Any]:
    import qkv

    module = qkv.ein.load(path)
    if name is not None and name not in list(module):
        raise qkv.EinError(f"{path} defines no {name}. It defines {', '.join(module) or 'nothing'}.")
    return [module[n] for n in module if name in (None, n)]


@app.command()
@reported
def check(files: Files, as_json: AsJson = False) -> None:
    """Say what is wrong in texts. The exit status is 1 when there are errors."""
    import qkv

    found: list[dict[str, Any]] = []
    for path in files:
        text = qkv.ein.read_file(path)
        found += qkv.ein.check(text, str(path))
        if not as_json and (shown := qkv.ein.report(text, str(path))):
            typer.echo(shown)
    errors = sum(d["severity"] == "error" for d in found)
    if as_json:
        _say(found)
    else:
        typer.echo(f"{len(files)} file{'s' * (len(files) != 1)}: {errors} errors, {len(found) - errors} warnings")
    if errors:
        raise typer.Exit(MISSED)


@app.command()
@reported
def fmt(
    files: Files,
    test: Annotated[bool, typer.Option("--check", help="Change nothing; say which files would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring texts into their one spelling. With --check the exit status is 1 when one is not in it."""
    import qkv

    changed: list[str] = []
    for path in files:
        before = qkv.ein.read_file(path)
        after = qkv.ein.fmt(before, str(path))
        if after == before:
            continue
        changed.append(str(path))
        if not test:
            try:
                path.write_text(after, encoding="utf-8")
            except OSError as error:
                raise unwritable(path, error) from None
    if as_json:
        _say({"changed": changed})
    else:
        for name in changed:
            typer.echo(f"{'would change' if test else 'formatted'} {name}")
    if test and changed:
        raise typer.Exit(MISSED)


@app.command()
@reported
def run(
    file: File,
    name: Name = None,
    size: Sizes = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run functions on random tensors and show the results' shapes, and how attention was run."""
    import qkv

    results = [qkv.ein.trial(f, _sizes(size), seed=seed) for f in _functions(file, name)]
    if as_json:
        _say(results)
        return
    for each in results:
        typer.echo(
            f"{each['name']}: {', '.join(each['results'])}"
            + (f"  by {', '.join(each['strategies'])}" if each["strategies"] else "")
        )


@app.command()
@reported
def explain(file: File, name: Name = None, size: Sizes = None, as_json: AsJson = False) -> None:
    """Show each function's contract and graph, what was fused, the plan, and what was not fused and why."""
    import qkv

    found = [qkv.ein.explain(f, _sizes(size)) for f in _functions(file, name)]
    if as_json:
        _say(found)
        return
    for each in found:
        typer.echo(each["signature"])
        for title in ("contract", "graph"):
            for line in each[title]:
                typer.echo(f"  {title:9} {line}")
        for one in each["attention"]:
            typer.echo(
                f"  fused     {one['weights']}: query {' '.join(one['query'])}; key {' '.join(one['key'])}; "
                f"feature {' '.join(one['feature'])}; shared {' '.join(one['shared'])}; {one['masks']} masks"
            )
            for line in one["plan"].splitlines():
                typer.echo(f"            {line}")
        for one in each["left"]:
            typer.echo(f"  not fused {one['what']}\n            {one['reason']}")


@app.command()
@reported
def stub(file: File, as_json: AsJson = False) -> None:
    """Write the types of a text's functions into a .pyi file beside it."""
    import qkv

    text = qkv.ein.stub(qkv.ein.load(file), file.name)
    path = file.with_suffix(".pyi")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
    if as_json:
        _say({"file": str(path), "text": text})
    else:
        typer.echo(str(path))


@app.command()
@reported
def audit(file: File, name: Name = None, as_json: AsJson = False) -> None:
    """Say which coordinate each softmax normalises, which is the query, what gradients are summed over."""
    import qkv

    found = [qkv.ein.audit(f) for f in _functions(file, name)]
    if as_json:
        _say(found)
        return
    for each in found:
        typer.echo(each["name"])
        for names in each["softmax"]:
            typer.echo(f"  softmax   over {', '.join(names)}")
        for one in each["attention"]:
            typer.echo(
                f"  attention query {' '.join(one['query'])}; key {' '.join(one['key'])}; feature "
                f"{' '.join(one['feature'])}; groups {' '.join(one['groups']) or 'none'}"
            )
        for tensor, names in each["gradients"].items():
            typer.echo(f"  gradient  of {tensor} is summed over {', '.join(names) or 'nothing'}")
        for one in each["concat"]:
            typer.echo(f"  concat    joins {', '.join(one['from'])} into {one['into']}")


@app.command()
@reported
def grad(file: File, name: Name = None, as_json: AsJson = False) -> None:
    """Write the gradients of each function as a function in Einlang. The exit status is 1 when one has none."""
    import qkv

    found: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    for each in _functions(file, name):
        try:
            found[each.definition.name] = qkv.ein.gradients(each)
        except qkv.EinError as error:
            refused[each.definition.name] = str(error)
    if as_json:
        _say({"gradients": found, "refused": refused})
    else:
        comments = ["\n".join(f"// {line}" for line in reason.splitlines()) for reason in refused.values()]
        typer.echo("\n\n".join([*("\n".join(lines) for lines in found.values()), *comments]))
    if refused:
        raise typer.Exit(MISSED)
