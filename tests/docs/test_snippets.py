"""Every snippet of README.md and docs/ runs and prints what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import snippets

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_document_runs(path: Path, tmp_path: Path) -> None:
    snippets.run(path, tmp_path)


def test_readme_has_snippets() -> None:
    assert any(
        block.language == "python" for block in snippets.blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    )


def _document(folder: Path, *lines: str) -> Path:
    path = folder / "planted.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_blocks_share_names_and_a_folder(tmp_path: Path) -> None:
    path = _document(
        tmp_path,
        "```python", "from pathlib import Path", "Path('made').write_text('x')", "n = 3", "```",
        "1. in a list", "   ```python", "   assert n == 3", "   ```",
        "```pycon", ">>> n + 1", "4", ">>> print('a b c')", "a ... c", "```",
        "```text", "never run", "```",
    )  # fmt: skip
    assert snippets.run(path, tmp_path) == 3
    assert (tmp_path / "made").read_text() == "x"


def test_a_failing_block_fails_on_its_own_line(tmp_path: Path) -> None:
    path = _document(tmp_path, "words", "", "```python", "x = 1", "assert x == 2", "```")
    with pytest.raises(AssertionError) as caught:
        snippets.run(path, tmp_path)
    frames = [frame for frame in caught.traceback if frame.path.name == "planted.md"]
    assert [frame.lineno + 1 for frame in frames] == [5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["```pycon", ">>> 1 + 1", "3", "```"], "Expected"),
        (["```pycon", "1 + 1", "```"], "begins with >>>"),
        (["```py", "x = 1", "```"], "nothing is known of ```py"),
        (["```bash", "qkv table", "```"], "nothing is known of ```bash"),
        (["```python", "x = 1"], "never closed"),
        (["```console", "$ qvk table", "```"], "neither run nor known"),
        (["```console", "qkv table", "```"], "output before the first command"),
    ],
)
def test_nothing_is_skipped_in_silence(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(snippets.SnippetError, match=message):
        snippets.run(_document(tmp_path, *lines), tmp_path)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a command in the place of ``qkv`` that prints its arguments and ends with 2 when the last one is ``fail``."""

    def command(arguments: list[str], folder: Path) -> tuple[int, str]:
        return (2 if arguments[-1] == "fail" else 0), f"first {folder.is_dir()}\n{' '.join(arguments)}  \n"

    monkeypatch.setattr(snippets, "qkv_command", command)


@pytest.mark.usefixtures("echo")
def test_commands_are_compared_with_what_they_print(tmp_path: Path) -> None:
    path = _document(
        tmp_path,
        "```console", "$ pip install qkv", "$ qkv say 'a b'", "first True", "say a b", "",
        "$ qkv x \\", "    y  # why", "...x y", "```",
        "```sh", "$ qkv table", "$ qkv fail", "...", "$ echo $?", "2", "```",
    )  # fmt: skip
    assert snippets.run(path, tmp_path) == 2


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["$ qkv say it", "first True", "say that"], "the document says"),
        (["$ qkv say it", "say it"], "the document says"),
        (["$ qkv fail"], "ended with exit status 2"),
        (["$ qkv fail", "$ qkv say it"], "ended with exit status 2"),
        (["$ qkv fail", "$ echo $?", "1"], "exit status 2, the document says 1"),
        (["$ qkv say it", "$ echo $?", "1"], "exit status 0, the document says 1"),
    ],
)
def test_a_command_that_does_something_else_is_found(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(snippets.SnippetError, match=message):
        snippets.run(_document(tmp_path, "```console", *lines, "```"), tmp_path)


def test_the_command_is_the_one_of_this_tree(tmp_path: Path) -> None:
    status, printed = snippets.qkv_command(["--help"], tmp_path)
    assert status == 0, printed
    assert "table" in printed
