"""``T[...]``: at run time an annotated Tensor, to the type checker a Tensor."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

from qkv.coords.pattern import parse_tensor
from qkv.coords.typed import T
from qkv.errors import PatternError


def test_an_annotated_tensor():
    kind = T["..b (h g) seq_q d"]
    assert typing.get_origin(kind) is typing.Annotated
    assert typing.get_args(kind) == (torch.Tensor, parse_tensor("..b (h g) seq_q d"))
    assert T["b h"] == T["b  h"]


def test_hints_are_read_as_contracts():
    def attend(q: T["b i d"], k: torch.Tensor) -> T["b i"]: ...  # noqa: F722

    hints = typing.get_type_hints(attend, {"T": T, "torch": torch}, include_extras=True)
    assert hints["q"].__metadata__[0].coordinates == ("b", "i", "d")
    assert typing.get_type_hints(attend, {"T": T, "torch": torch})["q"] is torch.Tensor


def test_a_wrong_text(message):
    with pytest.raises(PatternError):
        T["b (h"]


PROGRAM = """
import torch
from qkv.coords.typed import T

def attend(q: T["..b head seq_q d"], k: T["(h g) 1 d"]) -> T["b i"]:
    scores: torch.Tensor = q @ k
    return torch.exp(scores).sum(-1)

plain: torch.Tensor = attend(torch.zeros(2), torch.zeros(2))
attend("text", torch.zeros(2))
attend(torch.zeros(2), torch.zeros(2)).no_such_method()
"""


def test_type_checkers_see_a_tensor(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM)
    root = Path(__file__).parents[2]
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{root / "src"}"], "include": ["program.py"]}}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if " - error" in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert "program.py:10" in errors[0] and "Literal['text']" in errors[0]
    assert "program.py:11" in errors[1] and "no_such_method" in errors[1]
