"""The one direction between rooms: every import under src/qkv is read, and none may point back.

The map below is the whole rule. An import counts wherever it stands: at the top, in a function, under
``TYPE_CHECKING``, or as the text given to ``import_module``. Tests at the end plant faults and see them found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "qkv"

# What each room may import, beside itself, errors and limits. A room that is not listed here is a fault.
FACE = "the public face"
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "core": {"_core"},
    "coords": set(),
    "terms": {"coords"},
    "spec": {"coords", "terms"},
    "words": {"coords", "terms"},
    "face": {"coords", "terms", "spec", "words", "ein", "mechanisms", "size", "plan", "run", "cache", "core"},
    "ein": {"coords", "terms", "spec"},
    "mechanisms": {"coords", "terms", "spec"},
    "size": {"coords", "terms", "spec", "mechanisms", "core"},
    "plan": {"coords", "terms", "spec", "size"},
    "cache": {"coords", "terms", "spec", "core"},
    "run": {"coords", "terms", "spec", "plan", "cache", "core"},
    "inspect": {"coords", "terms", "spec", "plan", "run", "cache", "mechanisms", "size"},
    "testing": {FACE, "coords", "terms", "spec", "run"},
    "nn": {FACE},
    "transformers": {FACE},
    "explore": {FACE},
    "cli": {FACE},
}
EVERYBODY_MAY = {"errors", "limits"}
# Modules that users import by name. Those who use only the face may import them whole, never what is inside them.
FACE_MODULES = {"cache", "ein", "mechanisms", "size", "testing", "inspect", "nn", "transformers", "explore"}
NO_TORCH_AT_IMPORT = {"errors", "limits", "core", "coords", "terms", "spec", "ein", "mechanisms", "size"}


@dataclass(frozen=True)
class Import:
    """One imported module, as a dotted name, and how it is reached."""

    module: str
    line: int
    runs_at_import: bool
    by_attribute: bool = False


def imports(path: Path, package: str) -> Iterator[Import]:
    """Yield every module that ``path`` names; ``package`` is the dotted package that contains the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found = list(_walk(tree, package, runs_at_import=True))
    # `qkv.run.x` reaches into a room only where `qkv` is the package: a packed tensor may have that name too.
    bound = any(
        isinstance(node, ast.Import) and any(_root(a.name) == "qkv" for a in node.names) for node in ast.walk(tree)
    )
    yield from (item for item in found if bound or not item.by_attribute)


def _walk(node: ast.AST, package: str, *, runs_at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, runs_at_import)
    elif isinstance(node, ast.ImportFrom):
        # `from qkv import x` and `from . import x` may name a module or a thing in one: the longest name is kept.
        origin = _origin(node, package)
        for alias in node.names:
            yield Import(f"{origin}.{alias.name}", node.lineno, runs_at_import)
    elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
        for argument in node.args[:1]:
            text = argument.value if isinstance(argument, ast.Constant) else None
            yield Import(str(text) if isinstance(text, str) else "<computed>", node.lineno, runs_at_import)
    elif isinstance(node, ast.Attribute) and (dotted := _dotted(node)).startswith("qkv."):
        if dotted.split(".")[1] in ROOMS:
            yield Import(dotted, node.lineno, runs_at_import, by_attribute=True)
        return

    if isinstance(node, ast.If) and _dotted(node.test).split(".")[-1] == "TYPE_CHECKING":
        for child in node.body:
            yield from _walk(child, package, runs_at_import=False)
        for child in node.orelse:
            yield from _walk(child, package, runs_at_import=runs_at_import)
        return
    inside = runs_at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, runs_at_import=inside)


def _root(module: str) -> str:
    return module.split(".")[0]


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join(base + ([node.module] if node.module else []))


def _called(node: ast.Call) -> str:
    return _dotted(node.func).split(".")[-1]


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def faults(source: Path) -> list[str]:
    """Return one line for each import under ``source`` that breaks the rule, in the order of the files."""
    found: list[str] = []
    for path in sorted(source.rglob("*.py")):
        inside = path.relative_to(source)
        room = inside.parts[0].removesuffix(".py")
        if room == "__init__":
            continue  # the public face: aliases of everything
        if room == "__main__":
            room = "cli"
        if room not in ROOMS:
            found.append(f"{inside}: room {room!r} is not on the map in tests/test_rooms.py")
            continue
        package = ".".join(("qkv", *inside.parts[:-1]))
        for item in imports(path, package):
            reason = _arrow(item, room) or _torch(item, room)
            if reason:
                found.append(f"{inside}:{item.line}: {reason}")
    return found


def _arrow(item: Import, room: str) -> str:
    if item.module == "<computed>":
        return "a module name that is computed cannot be checked"
    root, _, rest = item.module.partition(".")
    if root != "qkv":
        return ""
    first, _, deeper = rest.partition(".")
    may = ROOMS[room] | EVERYBODY_MAY if room not in EVERYBODY_MAY else ROOMS[room]
    if room == "limits":
        may = {"errors"}
    if first == "_core":
        if "_core" not in may:
            return f"{room} imports qkv._core; qkv.core is its only door"
        return "qkv._core is imported before somebody asks for it" if item.runs_at_import else ""
    if first == room or first in may:
        return ""
    if FACE in may:
        # On the face every name is free that is not a room of the inside.
        if first not in ROOMS:
            return ""
        if first in FACE_MODULES and (not deeper or "." not in deeper):
            return ""
        return f"{room} uses only the public face, and reaches into qkv.{first}"
    if first in ROOMS:
        return f"{room} -> {first} points back"
    return f"{room} imports the public face qkv, which stands to the right of every room"


def _torch(item: Import, room: str) -> str:
    if room in NO_TORCH_AT_IMPORT and item.runs_at_import and _root(item.module) == "torch":
        return f"{room} imports torch at module level"
    return ""


def test_no_arrow_points_back() -> None:
    assert sum(1 for _ in SOURCE.rglob("*.py")) > 3, f"no source under {SOURCE}"
    found = faults(SOURCE)
    assert not found, "\n" + "\n".join(found)


def test_the_map_itself_has_no_circle() -> None:
    order: list[str] = []
    left = {room: may - {FACE, "_core"} for room, may in ROOMS.items()}
    while left:
        free = [room for room, may in left.items() if may <= set(order)]
        assert free, f"these rooms import each other: {sorted(left)}"
        order += free
        left = {room: may for room, may in left.items() if room not in free}
    spine = ["coords", "terms", "spec", "plan", "run", "inspect"]
    assert [room for room in order if room in spine] == spine


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("coords/x.py", "from qkv.terms import expr", "coords -> terms points back"),
        ("coords/x.py", "from qkv.terms.expr import Expr", "coords -> terms points back"),
        ("coords/x.py", "import qkv.run.chunked", "coords -> run points back"),
        ("coords/x.py", "import qkv", "coords imports the public face"),
        ("coords/x.py", "from qkv import attention", "coords imports the public face"),
        ("coords/x.py", "from ..spec import Spec", "coords -> spec points back"),
        ("coords/x.py", "from .. import spec", "coords -> spec points back"),
        ("spec.py", "from .plan import choose", "spec -> plan points back"),
        ("spec.py", "def f():\n    from qkv.run import reference", "spec -> run points back"),
        ("spec.py", "if TYPE_CHECKING:\n    from qkv.run import result", "spec -> run points back"),
        ("spec.py", "from importlib import import_module\nimport_module('qkv.run')", "spec -> run points back"),
        ("spec.py", "import importlib\ndef f(x):\n    importlib.import_module(x)", "is computed"),
        ("plan/x.py", "from qkv.run.chunked import CAPABILITY", "plan -> run points back"),
        ("cache/x.py", "from qkv.run import chunked", "cache -> run points back"),
        ("size/x.py", "from qkv.plan import cost", "size -> plan points back"),
        ("ein/x.py", "from qkv.plan import choose", "ein -> plan points back"),
        ("mechanisms/x.py", "from qkv.run import chunked", "mechanisms -> run points back"),
        ("errors.py", "from qkv import limits", "errors -> limits points back"),
        ("run/x.py", "from qkv import _core", "core is its only door"),
        ("core.py", "from qkv import _core", "before somebody asks"),
        ("cli/x.py", "from qkv.run.reference import run", "reaches into qkv.run"),
        ("cli/x.py", "from qkv import spec", "reaches into qkv.spec"),
        ("cli/x.py", "import qkv\nqkv.run.chunked.attend()", "reaches into qkv.run"),
        ("nn/x.py", "from qkv.coords.pattern import parse", "reaches into qkv.coords"),
        ("transformers/x.py", "from qkv.testing.oracle import exact", "reaches into qkv.testing"),
        ("explore/x.py", "import qkv.plan", "reaches into qkv.plan"),
        ("testing/x.py", "from qkv.plan import choose", "reaches into qkv.plan"),
        ("attic/x.py", "", "is not on the map"),
        ("attic.py", "", "is not on the map"),
        ("coords/x.py", "import torch", "coords imports torch at module level"),
        ("terms/x.py", "from torch import Tensor", "terms imports torch at module level"),
        ("spec.py", "class A:\n    import torch.nn", "spec imports torch at module level"),
        ("size/x.py", "try:\n    import torch\nexcept ImportError:\n    pass", "size imports torch at module level"),
        ("ein/x.py", "if not TYPE_CHECKING:\n    import torch", "ein imports torch at module level"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, file: str, text: str, message: str) -> None:
    found = faults(_tree(tmp_path, file, text))
    assert len(found) == 1, found
    assert message in found[0]
    assert found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("coords/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
        ("coords/x.py", "def f():\n    import torch"),
        ("coords/x.py", "from . import y\nfrom .y import z\nfrom qkv.errors import caret\nfrom qkv import limits"),
        ("run/x.py", "import torch\nfrom qkv.plan import add\nfrom ..spec import Spec\nfrom qkv.cache import dense"),
        ("run/x.py", "def f(qkv):\n    return qkv.size(0), qkv.inspect()"),
        ("core.py", "def f():\n    from qkv import _core\n    return _core"),
        ("cli/x.py", "import qkv\nfrom qkv import Spec, errors\nqkv.attention\nimport qkv.transformers\nimport rich"),
        ("cli/x.py", "from qkv.transformers import use\nfrom .table import show\nfrom qkv.cli.style import heat"),
        ("testing/x.py", "import qkv\nfrom qkv.run.reference import exact\nfrom qkv.coords.pattern import parse"),
        ("__init__.py", "from qkv.spec import Spec as Spec\nfrom qkv.cli import main"),
        ("__main__.py", "from qkv.cli import main"),
    ],
)
def test_what_the_rule_allows_passes(tmp_path: Path, file: str, text: str) -> None:
    assert faults(_tree(tmp_path, file, text)) == []


def _tree(root: Path, file: str, text: str) -> Path:
    path = root / "qkv" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return root / "qkv"
