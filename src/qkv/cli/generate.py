"""``qkv generate``: a language model writing with its attention computed by qkv, beside transformers' own if asked.

The text goes to stdout as it comes; progress and speeds go to stderr, so that a pipe gets the text alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from .report import MISSED, reported
from .terminal import console, is_terminal, mark

if TYPE_CHECKING:
    from rich.text import Text

    from qkv.transformers import Generation, Loaded

OTHER = "sdpa"
"""What qkv is compared with: the attention that transformers takes when nothing else is asked for."""

Runs = Mapping[str, "Generation"]


@reported
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the model is to answer or to continue.")],
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR_OR_GGUF", help="A model on this machine. [default: SmolLM2-135M-Instruct]"),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the same prompt through transformers' own sdpa, and compare.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Write at most so many tokens.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print text, tokens and speeds as JSON.")] = False,
) -> None:
    """Write text with a language model whose attention qkv computes.

    The most likely token at each step, so that the same prompt gives the same text. With --compare the exit status is 1
    when the tokens differ.
    """
    loaded = load(model)
    from qkv.transformers import generate as write

    if compare:  # so that neither way pays for what only the first call of a process costs
        with working("warming up"):
            for attn in (None, OTHER):
                write(loaded.model, loaded.tokenizer, prompt, 2, attn=attn)
    runs = {"qkv": write(loaded.model, loaded.tokenizer, prompt, max_new_tokens, on_text=None if as_json else stream)}
    if not as_json:
        typer.echo()
    if compare:
        with working(f"the same with {OTHER}"):
            runs[OTHER] = write(loaded.model, loaded.tokenizer, prompt, max_new_tokens, attn=OTHER)
    if as_json:
        typer.echo(json.dumps(as_data(loaded, prompt, runs), indent=1, ensure_ascii=False))
    else:
        for line in speeds(loaded, runs):
            console(stderr=not compare).print(line)
    if compare and runs["qkv"].tokens != runs[OTHER].tokens:
        raise typer.Exit(MISSED)


class Show(Protocol):
    """Says what is being done, and how much of it is done where that is known."""

    def __call__(self, what: str, share: float | None = None) -> None: ...


@contextmanager
def working(what: str) -> Generator[Show]:
    """A line on stderr that says what is being done and for how long, gone afterwards; nothing where nobody looks."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not is_terminal(stderr=True)) as progress:
        task = progress.add_task(what, total=None)

        def show(what: str, share: float | None = None) -> None:
            progress.update(task, description=what, total=None if share is None else 1.0, completed=share or 0.0)

        yield show


def load(path: Path | None) -> Loaded:
    """The model, its attention computed by qkv, once that was found to agree with the model's own."""
    with working("loading transformers") as show:
        import qkv.transformers

        loaded = qkv.transformers.load_model(path, on_phase=show)
        show("comparing with eager attention")
        qkv.transformers.use(loaded.model)
    return loaded


def stream(text: str) -> None:
    """A piece of text to stdout at once."""
    sys.stdout.write(harmless(text))
    sys.stdout.flush()


def harmless(text: str) -> str:
    """The text without characters that steer a terminal: a model may write any."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def agreed(runs: Runs) -> int:
    """How many tokens from the first are the same."""
    pairs = list(zip(runs["qkv"].tokens, runs[OTHER].tokens, strict=False))
    return next((n for n, (mine, other) in enumerate(pairs) if mine != other), len(pairs))


def as_data(loaded: Loaded, prompt: str, runs: Runs) -> dict[str, Any]:
    """Everything that was written and measured, as plain data."""
    data: dict[str, Any] = {
        "model": {"name": loaded.name, "path": str(loaded.path), "num_weights": loaded.num_weights},
        "prompt": prompt,
        "num_prompt_tokens": runs["qkv"].num_prompt_tokens,
        "runs": {
            name: {
                "text": run.text,
                "tokens": list(run.tokens),
                "ended": run.ended,
                "first_token_s": run.first_token_s,
                "rest_s": run.rest_s,
                "tokens_per_s": run.tokens_per_s,
            }
            for name, run in runs.items()
        },
    }
    if OTHER in runs:
        data["agree"] = runs["qkv"].tokens == runs[OTHER].tokens
        data["num_agreed_tokens"] = agreed(runs)
    return data


def speeds(loaded: Loaded, runs: Runs) -> list[Text]:
    """A line for each way of computing attention, and whether their tokens agree."""
    from rich.text import Text

    size = f"{loaded.num_weights / 1e6:.0f} million weights"
    name = loaded.path.stem if loaded.path.is_file() else loaded.name  # a GGUF file's inner name says less
    lines = [Text(f"\n{name}, {size}, {runs['qkv'].num_prompt_tokens} tokens of prompt", "dim")]
    lines.append(Text(f"{'attention':10}{'tokens':>8}{'first token':>14}{'tokens per second':>20}", "dim"))
    for name, run in runs.items():
        rate = f"{run.tokens_per_s:.1f}" if run.tokens_per_s else "-"
        lines.append(Text(f"{name:10}{len(run.tokens):>8}{run.first_token_s:>12.2f} s{rate:>20}"))
    if OTHER in runs:
        same, longest = agreed(runs), max(len(run.tokens) for run in runs.values())
        met = runs["qkv"].tokens == runs[OTHER].tokens
        said = f" all {longest} tokens agree" if met else f" the tokens differ after {same} of {longest}"
        lines.append(mark(met).append(said))
    return lines
