"""Every example in a docstring of src/qkv runs. Each finds ``qkv`` and ``torch`` already imported, and a fixed seed."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import qkv

SOURCE = Path(__file__).parents[2] / "src"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def module_names(source: Path) -> list[str]:
    """Return the dotted name of every module under ``source``."""
    paths = (path.relative_to(source).with_suffix("") for path in source.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def run_examples(module: ModuleType, names: dict[str, object]) -> tuple[int, str]:
    """Run every example of ``module``; return how many there are, and the report on those that fail."""
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        torch.manual_seed(0)
        runner.run(test, out=report.append)
    return runner.tries, "".join(report)


@pytest.mark.parametrize("name", module_names(SOURCE))
def test_the_examples_of_the_module_run(name: str) -> None:
    _, report = run_examples(importlib.import_module(name), {"qkv": qkv, "torch": torch})
    assert not report, f"\n{report}"


def test_modules_are_found() -> None:
    assert {"qkv", "qkv.errors", "qkv.core"} <= set(module_names(SOURCE))


def test_a_failing_example_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_examples.py").write_text('def f():\n    """Say.\n\n    >>> base + 1\n    3\n    """\n')
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("planted_examples")
    monkeypatch.delitem(sys.modules, "planted_examples")
    assert run_examples(module, {"base": 2}) == (1, "")
    tries, report = run_examples(module, {"base": 3})
    assert tries == 1
    assert "Expected:\n    3\nGot:\n    4" in report
