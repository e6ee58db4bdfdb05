"""The options of a call: which there are, of which kind each is, and what of them a plan depends on.

It knows names and types; it refuses to know tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SpecError
from ..spec import WANTS, Spec
from ..terms.weights import Linear, Sigmoid

OPTIONS = frozenset({"want", "positions", "align", "dropout", "seed", "sizes"})

_OPTION_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "want": ((str, Iterable), "a name, or several: want=('lse', 'entropy')"),
    "positions": (Mapping, 'places by coordinate: positions={"i": 5}'),
    "sizes": (Mapping, 'sizes by coordinate: sizes={"g": 4}'),
    "seed": (int, "a whole number"),
    "dropout": ((int, float), "a probability in [0, 1)"),
    "align": (str, '"start" or "end"'),
}


def check_options(options: Mapping[str, Any]) -> None:
    """``SpecError`` for an option that is not known or of another kind than it must be."""
    unknown = options.keys() - OPTIONS
    if unknown:
        raise SpecError(
            f"unknown option {', '.join(sorted(unknown))}.\n"
            f"  Known: {', '.join(sorted(OPTIONS))}. Parts (keep, score, ...) belong to the spec."
        )
    for name, value in options.items():
        kind, instead = _OPTION_KINDS[name]
        if not isinstance(value, kind) and (value is not None or name == "want"):
            raise SpecError(f"{name}={value!r:.80} ({type(value).__name__}) is not understood.\n  Give {instead}.")
        inside = value if name in ("positions", "sizes") and value is not None else ()
        if not all(isinstance(each, str) for each in inside):
            raise SpecError(f"{name}={value!r:.80} holds something that is no name.\n  Give {instead}.")


def wanted(spec: Spec, want: Any) -> frozenset[str]:
    """What ``want=`` asks for, checked against the spec."""
    names: tuple[Any, ...] = (want,) if isinstance(want, str) else tuple(want or ())
    if not all(isinstance(name, str) for name in names):
        raise SpecError(f"want={names!r:.80} holds something that is no name.\n  Give {_OPTION_KINDS['want'][1]}.")
    found = frozenset[str](names)
    if found - set(WANTS):
        raise SpecError(f"want={sorted(found - set(WANTS))} is not known.\n  Known: {', '.join(WANTS)}.")
    lacking = sorted(found & {"lse", "entropy"}) if isinstance(spec.weights, Sigmoid | Linear) else []
    if lacking:
        raise SpecError(
            f"want={lacking}: {spec.weights!r} weights have none.\n"
            "  Only a softmax divides a row by a sum of exponentials; max_logit, argmax and weights can be wanted."
        )
    return found


def position_kinds(positions: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...] | None:
    """What of ``positions`` a plan depends on: which coordinates, and whether each is a number or a tensor."""
    if not positions:
        return None
    return tuple((name, type(value).__name__) for name, value in sorted(positions.items()))
