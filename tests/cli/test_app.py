"""The command itself: help, version, information, how errors end, and what is loaded before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import qkv
from qkv.cli import app, main
from qkv.cli.report import one_line, reported


def test_help_lists_the_commands() -> None:
    found = CliRunner().invoke(app, ["--help"])
    assert found.exit_code == 0
    for line in (
        "table      Show fifteen attention mechanisms on one five-token example.",
        "generate   Write text with a language model whose attention qkv computes.",
        "info       Show versions, strategies and processor features.",
        "size       Show the bytes of caches, by kind of layer and in all.",
        "fit        Show the largest context or batch whose cache fits a memory.",
        "recommend  Recommend mechanisms for a use and constraints.",
        "flops      Show the FLOPs and bytes of a model's attention.",
    ):
        assert line in found.stdout


def test_no_arguments_is_help() -> None:
    found = CliRunner().invoke(app, [])
    assert found.exit_code == 2
    assert "Usage: qkv [OPTIONS] COMMAND" in found.output


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("table", ["--strategy", "--json", "--png FILE", "[default: reference, chunked]"]),
        ("generate", ["PROMPT", "--model", "--compare", "--max-new-tokens", "--json"]),
        ("info", ["--json"]),
    ],
)
def test_each_command_explains_its_options(command: str, options: list[str]) -> None:
    found = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"})
    assert found.exit_code == 0
    for option in options:
        assert option in " ".join(found.stdout.split())


def test_an_unknown_command_and_option_are_exit_status_2() -> None:
    assert CliRunner().invoke(app, ["tabel"]).exit_code == 2
    assert CliRunner().invoke(app, ["table", "--wide"]).exit_code == 2


def test_version() -> None:
    found = CliRunner().invoke(app, ["--version"])
    assert found.exit_code == 0
    assert found.stdout.startswith("qkv ")


def test_info() -> None:
    data = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    assert data["strategies"] == list(qkv.strategies())
    assert data["torch"]
    assert data["target"] == qkv.cpu_target()
    shown = CliRunner().invoke(app, ["info"]).stdout
    assert f"strategies   {', '.join(qkv.strategies())}" in shown


def test_the_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "qkv", "--help"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("Usage: qkv ")
    assert callable(main)


def failing(error: Exception) -> typer.Typer:
    """A command that raises."""
    made = typer.Typer()

    @made.command()
    @reported
    def fail() -> None:
        raise error

    return made


def test_a_mistake_is_one_line_and_exit_status_2() -> None:
    found = CliRunner().invoke(failing(qkv.ModelError("there is no model.\n    /a b\n  Give a file.")), [])
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr == "qkv: there is no model. /a b Give a file.\n"


def test_what_is_not_the_callers_mistake_keeps_its_traceback() -> None:
    for error in (qkv.InternalError("broken"), ZeroDivisionError("broken")):
        assert CliRunner().invoke(failing(error), []).exception is error


def test_one_line_of_an_error() -> None:
    assert one_line(qkv.SpecError("a.\n    b\n\n  c.")) == "a. b c."


HEAVY = {"torch", "transformers", "numpy", "PIL", "rich"}


def loaded_by_the_commands(command: str) -> set[str]:
    """Which heavy packages a fresh interpreter loads for a command, beyond those that ``import qkv`` loads itself."""
    script = (
        "import sys, qkv\nbefore = set(sys.modules)\nfrom qkv.cli import app\n"
        f"try:\n    app({command.split()!r})\nexcept SystemExit:\n    pass\n"
        f"print(*({HEAVY!r} & (set(sys.modules) - before)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(found.stderr.split())


@pytest.mark.parametrize("command", ["--help", "--version", "table --help", "generate --help"])
def test_help_loads_nothing_heavy(command: str) -> None:
    assert loaded_by_the_commands(command) == set()


def test_the_check_can_fail() -> None:
    assert "rich" in loaded_by_the_commands("table --strategy reference")
