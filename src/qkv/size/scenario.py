"""What a recommendation is asked for: sizes, constraints and what comes first, as data with defaults for known uses."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from ..errors import SpecError
from .format import to_format
from .hardware import Hardware, hardware
from .units import show_bytes, show_count, to_bytes, to_count


class Use(StrEnum):
    """What the model is for."""

    TRAINING = "training"
    SERVING = "serving"
    MEMORY = "memory"
    DOCUMENTS = "documents"
    GENERATION = "generation"
    ENCODER_DECODER = "encoder-decoder"
    RETRIEVAL = "retrieval"
    LINEAR = "linear"
    FREE = "free"


ABOUT = {
    Use.TRAINING: "training from scratch",
    Use.SERVING: "fast serving of long contexts",
    Use.MEMORY: "an extreme limit of memory",
    Use.DOCUMENTS: "reading documents beyond 32k tokens",
    Use.GENERATION: "autoregressive generation",
    Use.ENCODER_DECODER: "from one sequence to another",
    Use.RETRIEVAL: "finding facts in a long context",
    Use.LINEAR: "time linear in the length",
    Use.FREE: "the constraints alone",
}


class First(StrEnum):
    """What is given up last."""

    QUALITY = "quality"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question: ``memory_bytes`` is what the cache may take, None where it is not limited; ``source`` the length
    of an encoder's input, 0 without one.
    """

    use: Use
    width: int
    heads: int
    layers: int
    context: int
    batch: int
    memory_bytes: int | None
    causal: bool
    first: First
    dtype: str
    machine: Hardware
    source: int

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    def __str__(self) -> str:
        limit = "" if self.memory_bytes is None else f", cache at most {show_bytes(self.memory_bytes)}"
        source = f", source {show_count(self.source)}" if self.source else ""
        return (
            f"{ABOUT[self.use]}: {self.layers} layers, width {self.width}, {self.heads} heads, context "
            f"{show_count(self.context)}{source}, batch {self.batch}, {'causal' if self.causal else 'not causal'}"
            f"{limit}, {self.first} first, {self.dtype}, {self.machine.name}"
        )


_DEFAULTS: dict[Use, dict[str, Any]] = {
    Use.TRAINING: {"context": 4096, "batch": 8},
    Use.SERVING: {"context": 131072, "batch": 8},
    Use.MEMORY: {"context": 131072, "memory": 1 << 30, "first": First.MEMORY},
    Use.DOCUMENTS: {"context": 65536, "causal": False},
    Use.GENERATION: {"context": 32768},
    Use.ENCODER_DECODER: {"context": 1024, "source": 1024},
    Use.RETRIEVAL: {"context": 131072},
    Use.LINEAR: {"context": 1 << 20},
    Use.FREE: {"context": 8192},
}
"""What each use means where the caller leaves it open."""


def make_scenario(
    use: Use | str = "free",
    *,
    width: int | str = 4096,
    heads: int | str = 32,
    layers: int | str = 32,
    context: int | str | None = None,
    batch: int | str | None = None,
    memory: int | str | None = None,
    causal: bool | None = None,
    first: First | str | None = None,
    dtype: str = "bf16",
    machine: Hardware | str = "h100",
    source: int | str | None = None,
) -> Scenario:
    """A scenario, checked; what is left open has the default of its use. Raises ``SpecError`` for what makes no sense.

    >>> make_scenario("serving").context
    131072
    """
    kind = _word(Use, use, "use")
    given = _DEFAULTS[kind]
    number = to_count(given["context"] if context is None else context, "context")
    limit = given.get("memory") if memory is None else to_bytes(memory)
    sizes = [to_count(value, name) for name, value in (("width", width), ("heads", heads), ("layers", layers))]
    if sizes[0] % sizes[1]:
        raise SpecError(f"width {sizes[0]} is no multiple of {sizes[1]} heads.\n  Give a width that the heads divide.")
    is_causal = given.get("causal", True) if causal is None else causal
    length = to_count(given.get("source", 0) if source is None else source, "source", least=0)
    if kind is Use.ENCODER_DECODER and not length:
        raise SpecError("source=0: an encoder-decoder reads a source.\n  Give its length in tokens.")
    if length and not is_causal:
        raise SpecError(
            f"source={length} for a stack that is not causal: what reads a source writes token by token.\n"
            "  Leave source out, or give causal=True (--causal)."
        )
    element = to_format(dtype)
    if not element.is_plain:
        raise SpecError(
            f"dtype={element.name}: weights and activations are f32, f16 or bf16.\n  The cache's follows by rule."
        )
    return Scenario(
        kind,
        sizes[0],
        sizes[1],
        sizes[2],
        number,
        to_count(given.get("batch", 1) if batch is None else batch, "batch"),
        limit,
        is_causal,
        _word(First, given.get("first", First.QUALITY) if first is None else first, "first"),
        element.name,
        hardware(machine),
        length,
    )


Word = TypeVar("Word", bound=StrEnum)


def _word(kind: type[Word], value: object, what: str) -> Word:
    try:
        return kind(str(value).strip().lower().replace("_", "-"))
    except ValueError:
        known = [str(item) for item in kind]
        near = difflib.get_close_matches(str(value)[:40], known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise SpecError(f'{what}="{str(value)[:40]}" is not known.\n  {hint}Known: {", ".join(known)}.') from None
