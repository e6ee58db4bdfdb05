"""Element types and how they meet: what arithmetic on two of them gives, and what fits where.

``int`` and ``real`` are the types of indices and of numbers as they are written; they take on the type of what they
meet. ``float`` stands for one floating-point type, the same wherever it stands in one call.
"""

from __future__ import annotations

FLOATS = frozenset({"f16", "bf16", "f32", "f64", "float"})
INTS = frozenset({"int", "i32", "i64"})
NUMBERS = FLOATS | INTS | {"real"}

TORCH = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "i32": "int32",
    "i64": "int64",
    "bool": "bool",
}
"""The name of each element type in torch."""

FROM_TORCH = {name: elem for elem, name in TORCH.items()}


def meet(first: str, second: str) -> str | None:
    """The type of arithmetic on two types; None where it is a mistake."""
    if first == second:
        return first
    if "bool" in (first, second):
        return None
    low, high = sorted((first, second), key=_rank)
    if low in INTS:
        return high if high not in INTS else "i64" if low == "i32" else high
    return high if low == "real" else None


def _rank(elem: str) -> int:
    order = ("int", "i32", "i64", "real")
    return order.index(elem) if elem in order else len(order)


def fits(elem: str, wanted: str) -> bool:
    """Whether a value of type ``elem`` may stand where ``wanted`` is declared."""
    if elem == wanted:
        return True
    if elem == "int":
        return wanted in NUMBERS
    return elem == "real" and wanted in FLOATS


def is_real(elem: str) -> bool:
    """Whether values are real numbers."""
    return elem in FLOATS or elem == "real"
