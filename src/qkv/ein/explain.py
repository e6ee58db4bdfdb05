"""What a definition is, in words: its contract, its graph, what was fused and what not, its audit.

Reads graphs and prints them; the plan itself is asked through specs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .elems import is_real
from .graph import Coords, Definition, Node, plain, walk
from .inline import Flat, write_out
from .module import Callable_
from .recognise import recognise


def contract(definition: Definition) -> list[str]:
    """The lines of a function's contract about sizes, calls put in."""
    flat = write_out(definition, dict.fromkeys(definition.rests, 1))
    lines = [str(c) for c in flat.constraints]
    lines += [f"{name} = {size}" for name, size in definition.fixed.items()]
    lines += [f"{a} # {b}" for a, b, _ in definition.differ]
    return [line for line in dict.fromkeys(lines) if len(set(line.split(" = "))) > 1 or " = " not in line]


def text_of(node: Node, names: Mapping[int, str]) -> str:
    """One node as a line."""
    args = ", ".join(names.get(id(a), _short(a)) for a in node.args[:3])
    data = "" if node.data is None else _data(node)
    kind = node.data if node.op == "point" else node.op
    return f"{kind}{data}({args})"


def _data(node: Node) -> str:
    match node.op:
        case "reduce" | "softmax":
            return f" {node.data[0]}[{', '.join(map(plain, node.data[1]))}]"
        case "rename":
            return f"[{', '.join(f'{plain(a)} as {plain(b)}' for a, b in node.data)}]"
        case "attention":
            return f"[key {', '.join(map(plain, node.data.key))}; feature {', '.join(map(plain, node.data.features))}]"
        case "split" | "merge" | "concat":
            return f"[{plain(node.data[0])}: {', '.join(map(plain, node.data[1]))}]"
        case "cumsum" | "gather":
            return f"[{plain(node.data)}]"
        case _:
            return ""


def _short(node: Node) -> str:
    return (
        str(node.data)
        if node.op in ("number", "parameter", "index")
        else f"size[{plain(node.data)}]"
        if node.op == "size"
        else "..."
    )


def explain(function: Callable_, sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Contract, graph, attention with its plans, and what was left with the reason, as data.

    Plans are made for ``sizes``, 64 for each coordinate that it does not name (2 for each of a rest), on the CPU.
    """
    definition = function.definition
    flat = write_out(definition, dict.fromkeys(definition.rests, 1), "f32")
    found = recognise(flat.outputs)
    names: dict[int, str] = {}
    graph: list[str] = []
    for node in walk(*found.outputs):
        if node.op in ("number", "size", "index", "parameter"):
            continue
        names[id(node)] = f"v{len(names)}"
        graph.append(f"{names[id(node)]}[{', '.join(map(plain, node.coords))}] = {text_of(node, names)}")
    plans, why = _plans(function, sizes or {})
    attentions = [
        {
            "key": [plain(c) for c in node.data.key],
            "query": [plain(c) for c in node.data.rows if c not in node.data.shared],
            "shared": [plain(c) for c in node.data.shared],
            "feature": [plain(c) for c in node.data.features],
            "masks": len(node.data.keep),
            "weights": "linear" if node.data.linear else "softmax",
            "plan": str(plans[n]) if n < len(plans) else why,
        }
        for n, node in enumerate(found.attentions)
    ]
    return {
        "name": definition.name,
        "signature": function.__doc__,
        "contract": contract(definition),
        "graph": graph,
        "attention": attentions,
        "left": [{"what": function.source.text[slice(*n.span)][:80], "reason": reason} for n, reason in found.left],
    }


def _plans(function: Callable_, sizes: Mapping[str, int]) -> tuple[list[Any], str]:
    """The plans for tensors of such sizes; where they do not fit together, the reason."""
    from ..errors import QkvError
    from .sample import arguments

    args, extra = arguments(
        function.definition, {**dict.fromkeys(function.definition.formals, 64), **function.definition.fixed, **sizes}, 0
    )
    try:
        return function.plan(*args, **extra), ""
    except QkvError as error:
        return [], str(error).splitlines()[0]


def audit(function: Callable_) -> dict[str, Any]:
    """Which coordinate each softmax normalises, which tells queries from keys, which groups heads, what each gradient
    is summed over, and which coordinate each concat joins.

    >>> import qkv
    >>> qkv.ein.audit(qkv.ein.std("attention").multi_query)["softmax"]
    [['k']]
    """
    definition = function.definition
    flat = write_out(definition, dict.fromkeys(definition.rests, 1))
    nodes = list(walk(*flat.outputs))
    found = recognise(flat.outputs)
    return {
        "name": definition.name,
        "softmax": [[plain(c) for c in n.data[1]] for n in nodes if n.op == "softmax"],
        "attention": [
            {
                "key": [plain(c) for c in n.data.key],
                "query": [plain(c) for c in n.data.rows if c not in n.data.shared and c in n.args[0].coords],
                "feature": [plain(c) for c in n.data.features],
                "shared": [plain(c) for c in n.data.shared],
                "groups": [plain(c) for c in n.data.rows if c not in n.data.shared and not _ordered(n, c)],
            }
            for n in found.attentions
        ],
        "gradients": _summed(definition, flat, nodes),
        "concat": [
            {"into": plain(n.data[0]), "from": [plain(c) for c in n.data[1]]} for n in nodes if n.op == "concat"
        ],
    }


def _summed(definition: Definition, flat: Flat, nodes: list[Node]) -> dict[str, list[str]]:
    """What the gradient of each real parameter is summed over: the coordinates that it lacks of everything that is made
    of it, down to the results. ``nodes`` stand behind their operands.
    """
    reached = {p.name: set[str]() for p in definition.parameters if is_real(p.elem)}
    made_of: dict[int, frozenset[tuple[str, Coords]]] = {}  # parameters, with what their coordinates are called there
    for node in nodes:
        below = frozenset[tuple[str, Coords]]().union(*(made_of[id(a)] for a in node.args))
        if node.op == "parameter" and node.data in reached:
            below = frozenset({(node.data, node.coords)})
        elif node.op == "rename" and node.args[0].op == "parameter":
            below = frozenset((name, node.coords) for name, _ in below)
        made_of[id(node)] = below if is_real(node.dtype) else frozenset()
        for name, own in made_of[id(node)]:
            reached[name].update(plain(c) for c in node.coords if c not in own)
    return {name: sorted(found) for name, found in reached.items()}


def _ordered(node: Node, name: str) -> bool:
    """Whether a query coordinate is a sequence: a mask or a bias compares it with the key, or it stands alone."""
    alone = [c for c in node.data.rows if c not in node.data.shared]
    if len(alone) == 1:
        return True
    compared = {n.data for part in (node.data.score, *node.data.keep) for n in walk(part) if n.op == "index"}
    return name in compared if compared else name == alone[-1]


def stub(checked_module: Any, name: str) -> str:
    """The types of a module as a ``.pyi`` file."""
    lines = [
        f'"""What {name} defines. Written by `qkv ein stub`."""',
        "",
        "from typing import Any",
        "",
        "from torch import Tensor",
        "",
    ]
    for function in (checked_module[n] for n in checked_module):
        definition = function.definition
        params = [f"{p.name}: {_python(p.elem, p.axes is None)}" for p in definition.parameters]
        results = ["Tensor"] * len(definition.results)
        result = results[0] if len(results) == 1 else f"tuple[{', '.join(results)}]"
        lines += [
            "",
            f"def {definition.name}({', '.join([*params, '**coordinates: Any'])}) -> {result}:",
            f'    """{function.__doc__}"""',
            "",
        ]
    return "\n".join(lines)


def _python(elem: str, scalar: bool) -> str:
    if not scalar:
        return "Tensor"
    return "bool" if elem == "bool" else "int | Tensor" if elem in ("i32", "i64") else "float | Tensor"
