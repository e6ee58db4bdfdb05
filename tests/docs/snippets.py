"""Reads the fenced blocks of a Markdown file and runs them, in order, as a reader would.

``python`` blocks share one namespace per file; ``pycon`` blocks are doctests in it; in ``console`` and ``sh`` blocks
the lines ``$ qkv ...`` are run and the lines below them must be what is printed, ``...`` standing for anything. Refuses
to skip in silence: a fence spelled in a way that would not run, or a command that is not known, is an error.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src"
RUN = {"python", "pycon", "console", "sh"}
# Languages that only show something.
SHOW = {"", "text", "ein", "einlang", "toml", "json", "make", "mermaid", "cpp", "html", "diff", "bibtex"}
# Commands that a reader types and no test runs: they install, or run these very tests.
NOT_RUN = {"make", "pip", "git", "cd", "source", "python3", ".venv/bin/pip"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<language>[^`]*)$")


class SnippetError(AssertionError):
    """A block of a document does not do what the document says."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the file on which the text begins."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text; an open fence or a language that nobody knows is an error."""
    found: list[Block] = []
    fence: re.Match[str] | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is None:
            fence = FENCE.match(line)
            body = []
        elif line.strip().startswith(fence["marks"]) and not line.strip().strip(fence["marks"][0]):
            language = fence["language"].strip()
            if language not in RUN | SHOW:
                raise SnippetError(f"line {number - len(body) - 1}: nothing is known of ```{language}; see {__name__}")
            found.append(Block(language, "\n".join(body) + "\n", number - len(body)))
            fence = None
        else:
            body.append(line.removeprefix(fence["indent"]))
    if fence is not None:
        raise SnippetError(f"the block of {len(body)} lines at the end is never closed")
    return found


def run(path: Path, folder: Path) -> int:
    """Run every block of the file at ``path`` with ``folder`` as the current directory; return how many ran."""
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        count = 0
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == "python":
                # Empty lines in front: a traceback then shows the line of the document.
                exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
            elif block.language == "pycon":
                _run_doctest(block, path, names)
            elif block.language in RUN:
                _run_console(block, path, folder)
            count += block.language in RUN
        return count
    finally:
        os.chdir(before)


def _run_doctest(block: Block, path: Path, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, {}, path.name, str(path), block.line - 1)
    if not test.examples:
        raise SnippetError(f"{path.name}:{block.line}: no line of this pycon block begins with >>>")
    test.globs = names
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    if report:
        raise SnippetError("".join(report))


def _run_console(block: Block, path: Path, folder: Path) -> None:
    status = 0
    for line, command, expected in _commands(block, path):
        place = f"{path.name}:{line}: $ {command}"
        if command == "echo $?":
            if expected.strip() != str(status):
                raise SnippetError(f"{place}\nexit status {status}, the document says {expected.strip()}")
            status = 0
            continue
        if status:
            raise SnippetError(f"{place}\nthe command before ended with exit status {status}; show it with: $ echo $?")
        words = shlex.split(command, comments=True)
        if words[0] != "qkv":
            if words[0] not in NOT_RUN:
                raise SnippetError(f"{place}\nneither run nor known as a command that is not run; see {__name__}")
            continue
        status, printed = qkv_command(words[1:], folder)
        if expected.strip() and not matches(expected, printed):
            raise SnippetError(f"{place}\nprinted:\n{printed}\nthe document says:\n{expected}")
    if status:
        raise SnippetError(f"{path.name}:{block.line}: the last command ended with exit status {status}")


def _commands(block: Block, path: Path) -> list[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if line.startswith("$ "):
            found.append((number, line[2:].strip(), ""))
        elif found and found[-1][1].endswith("\\"):
            start, command, _ = found[-1]
            found[-1] = (start, f"{command[:-1].strip()} {line.strip()}", "")
        elif found:
            start, command, output = found[-1]
            found[-1] = (start, command, f"{output}{line}\n")
        elif line.strip():
            raise SnippetError(f"{path.name}:{number}: output before the first command; begin commands with '$ '")
    return found


def qkv_command(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the ``qkv`` command in a process of its own; return its exit status and everything it printed."""
    door = "import sys; from qkv.cli import main; sys.argv[0] = 'qkv'; sys.exit(main())"
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable, "-c", door, *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        check=False, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout


def matches(expected: str, printed: str) -> bool:
    """Say whether ``printed`` is what is ``expected``: spaces at line ends aside, ``...`` for anything."""

    def trimmed(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())

    pattern = ".*".join(re.escape(part) for part in trimmed(expected).split("..."))
    return re.fullmatch(pattern, trimmed(printed), re.DOTALL) is not None
