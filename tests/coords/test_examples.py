"""Every example in a docstring of this room is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import qkv.coords
from qkv.coords.named import Named
from qkv.coords.pattern import parse, parse_tensor

MODULES = sorted(module.name for module in pkgutil.iter_modules(qkv.coords.__path__))
GIVEN = {"torch": torch, "Named": Named, "parse": parse, "parse_tensor": parse_tensor}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"qkv.coords.{name}")
    result = doctest.testmod(module, extraglobs=GIVEN)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    count = sum(
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(f"qkv.coords.{name}"), extraglobs=GIVEN)
    )
    assert count >= 10
