"""Formats of stored numbers: bits of a value, and the scales that stand beside the values.

Knows how many bytes a row of values takes. Refuses to know what the row holds. Sources: ggml's ``block_q8_0`` and
``block_q4_0`` (ggml-common.h: 32 values and one half-precision scale); vLLM's ``INT8_PER_TOKEN_HEAD``
(kv_cache_interface.py: one float32 scale for each token and head).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..errors import SpecError


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored: ``bits`` of a value, and ``scale_bytes`` for each ``block`` values (0: for each row)."""

    name: str
    bits: int
    block: int = 0
    scale_bytes: int = 0

    def row_bytes(self, values: int) -> int:
        """Bytes of a row of ``values`` numbers; a row that ends inside a block takes the whole block.

        >>> formats["q8_0"].row_bytes(128), formats["bf16"].row_bytes(128), formats["int4"].row_bytes(128)
        (136, 256, 68)
        """
        if values == 0:
            return 0
        if self.block:
            return -(-values // self.block) * (self.block * self.bits // 8 + self.scale_bytes)
        return -(-values * self.bits // 8) + self.scale_bytes

    @property
    def is_plain(self) -> bool:
        """Whether a value can be read without a scale beside it."""
        return self.bits >= 16

    @property
    def about(self) -> str:
        """Bits and scales in words."""
        text = f"{self.bits} bits a value"
        if self.name == "fp8":
            return f"{text}; one scale for each layer's keys and one for its values, kept with the weights"
        if not self.scale_bytes:
            return text
        where = f"each {self.block} values" if self.block else "each token and head"
        return f"{text} and {self.scale_bytes} bytes of scale for {where}"


formats: dict[str, Format] = {
    made.name: made
    for made in (
        Format("f32", 32),
        Format("f16", 16),
        Format("bf16", 16),
        Format("fp8", 8),
        Format("int8", 8, scale_bytes=4),
        Format("int4", 4, scale_bytes=4),
        Format("q8_0", 8, block=32, scale_bytes=2),
        Format("q4_0", 4, block=32, scale_bytes=2),
    )
}
"""Every format by its name."""

_ALIASES = {
    "float32": "f32", "fp32": "f32", "float16": "f16", "fp16": "f16", "half": "f16", "bfloat16": "bf16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip


def to_format(value: str | Format) -> Format:
    """The format called ``value``; torch's and llama.cpp's names are known too.

    Raises ``SpecError`` for a name that no format has.
    """
    if isinstance(value, Format):
        return value
    name = str(value).strip().lower().removeprefix("torch.")
    name = _ALIASES.get(name, name)
    if name in formats:
        return formats[name]
    near = difflib.get_close_matches(name, formats, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise SpecError(f'dtype "{str(value)[:40]}" is not known.\n  {hint}Known: {", ".join(formats)}.')
