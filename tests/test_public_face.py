"""What the outside relies on: the names of ``qkv.__all__`` and the tree of errors.

``tests/public_face.txt`` lists every public name, one a line, sorted; changing the face means changing that file.
"""

from __future__ import annotations

import builtins
import inspect
import re
from pathlib import Path

import pytest

import qkv
from qkv import errors

GOLDEN = Path(__file__).with_name("public_face.txt")


def difference(names: list[str], golden: list[str]) -> str:
    """Return what to do so that both agree, or an empty text."""
    missing = [f"  {name}: in tests/public_face.txt, not in qkv.__all__" for name in sorted(set(golden) - set(names))]
    added = [f"  {name}: in qkv.__all__, not in tests/public_face.txt" for name in sorted(set(names) - set(golden))]
    twice = [f"  {name}: listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
    order = ["  tests/public_face.txt is not sorted"] if golden != sorted(golden) else []
    return "\n".join(missing + added + twice + order)


def test_all_equals_the_golden_list() -> None:
    found = difference(list(qkv.__all__), GOLDEN.read_text(encoding="utf-8").split())
    assert not found, f"\n{found}"


@pytest.mark.parametrize("name", sorted(set(qkv.__all__)))
def test_every_public_name_exists_and_says_what_it_is(name: str) -> None:
    thing = getattr(qkv, name)
    if inspect.isroutine(thing) or inspect.isclass(thing) or inspect.ismodule(thing):
        own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert own, f"qkv.{name} has no docstring of its own"


def test_the_comparison_can_fail() -> None:
    assert difference(["a", "b"], ["a", "b"]) == ""
    assert "b: in tests/public_face.txt, not in" in difference(["a"], ["a", "b"])
    assert "b: in qkv.__all__, not in" in difference(["a", "b"], ["a"])
    assert "a: listed twice" in difference(["a", "a"], ["a"])
    assert "not sorted" in difference(["a", "b"], ["b", "a"])


LINE = re.compile(r"^ *[├└]── (?P<name>\w+) +\((?P<builtin>\w+)\) +\S")


def drawn(docstring: str) -> dict[str, tuple[type, ...]]:
    """Read the tree in a docstring: the bases of each class, below the one root."""
    lines = [line for line in docstring.splitlines() if "──" in line]
    matches = [LINE.match(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {m["name"]: (errors.QkvError, getattr(builtins, m["builtin"])) for m in matches if m}


def real(module: object) -> dict[str, tuple[type, ...]]:
    """Read the classes themselves, the root left out."""
    classes = [thing for thing in vars(module).values() if inspect.isclass(thing) and issubclass(thing, Exception)]
    return {cls.__name__: cls.__bases__ for cls in classes if cls is not errors.QkvError}


def test_the_error_tree_is_as_drawn() -> None:
    tree = drawn(errors.__doc__ or "")
    assert tree == real(errors)
    assert list(tree) == list(real(errors)), "drawn in another order than written"
    assert len(tree) > 5


def test_every_error_has_a_docstring_and_stands_on_the_face() -> None:
    for name in [*real(errors), "QkvError"]:
        assert getattr(errors, name).__dict__.get("__doc__"), name
        assert getattr(qkv, name) is getattr(errors, name)


def test_the_reader_of_the_tree_can_fail() -> None:
    changed = (errors.__doc__ or "").replace("(TypeError)    a tensor", "(ValueError)   a tensor")
    assert drawn(changed) != real(errors)
    with pytest.raises(AssertionError, match="Forgotten"):
        drawn("QkvError\n├── Forgotten the builtin\n")
