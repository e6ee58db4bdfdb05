"""Reading the header of a GGUF file with every length checked, before a library is given the file.

Knows the file format of ggml (header, metadata, tensor table, data) as far as to say what model is inside and whether
the file is whole. It refuses to read weights. Source: ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ModelError

# A header is read before anything else is known of the file; these stop one that is made to cost time or memory.
MOST_ENTRIES: Final = 65_536  # real files hold a few dozen metadata entries
MOST_TENSORS: Final = 1_000_000  # the largest models have some thousands
MOST_ITEMS: Final = 16_000_000  # the longest arrays are vocabularies and merges, under a million
MOST_AXES: Final = 8  # ggml has 4
MOST_TEXT: Final = 16_000_000  # bytes of one string; chat templates have some thousands

_SCALARS: Final = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself: architecture, name, how many tensors and weights, and the size it should have in
    bytes.
    """

    version: int
    architecture: str
    name: str
    num_tensors: int
    num_weights: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of the GGUF file at ``path``.

    Raises ``ModelError`` for a file that is not GGUF, of another version, cut off, or with lengths that cannot be true.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return _Reader(file, path, size).header()
        except struct.error:
            raise _cut_off(path, f"it ends inside its header, after {size:,} bytes") from None


def _cut_off(path: Path, how: str) -> ModelError:
    return ModelError(f"the model file is cut off: {how}.\n    {path}\n  Download or copy it again.")


class _Reader:
    """One pass over a file; every read is checked against what is left of it."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size

    def header(self) -> Header:
        magic = self.file.read(4)
        if magic != b"GGUF":
            raise ModelError(
                f"this is not a GGUF file: it begins with {magic!r}, and GGUF files begin with b'GGUF'.\n"
                f"    {self.path}\n"
                "  Give a .gguf file or a directory with config.json."
            )
        version = self.number("<I")
        if version not in (2, 3):
            raise ModelError(
                f"this GGUF file is of version {version}, and versions 2 and 3 are read.\n"
                f"    {self.path}\n"
                "  Convert it with a current llama.cpp."
            )
        num_tensors = self.count("<Q", MOST_TENSORS, "tensors")
        facts = self.metadata(self.count("<Q", MOST_ENTRIES, "metadata entries"))
        architecture = facts.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError(
                "this GGUF file does not name its architecture (general.architecture).\n"
                f"    {self.path}\n"
                "  Convert the model again."
            )
        alignment = facts.get("general.alignment", 32)
        weights, data_bytes = self.tensors(num_tensors)
        aligned = alignment if isinstance(alignment, int) and 0 < alignment <= 65_536 else 32
        end = -(-self.file.tell() // aligned) * aligned + data_bytes
        if end > self.size:
            raise _cut_off(self.path, f"its tensors need {end:,} bytes, and the file has {self.size:,}")
        return Header(version, architecture, str(facts.get("general.name", "")), num_tensors, weights, self.size)

    def number(self, code: str) -> int:
        return struct.unpack(code, self.file.read(struct.calcsize(code)))[0]

    def count(self, code: str, most: int, what: str) -> int:
        value = self.number(code)
        if value > most or value > self.size:
            raise ModelError(
                f"the GGUF file claims {value:,} {what}, more than there can be.\n"
                f"    {self.path}\n"
                "  The file is damaged; download or copy it again."
            )
        return value

    def text(self) -> str:
        length = self.count("<Q", MOST_TEXT, "bytes in one text")
        data = self.file.read(length)
        if len(data) < length:
            raise struct.error
        return data.decode("utf-8", errors="replace")

    def metadata(self, num_entries: int) -> dict[str, str | int]:
        """Texts and numbers among the metadata; arrays are passed over."""
        facts: dict[str, str | int] = {}
        for _ in range(num_entries):
            key = self.text()
            kind = self.number("<I")
            if kind == _TEXT:
                facts[key] = self.text()
            elif kind == _ARRAY:
                self.skip_array()
            else:
                facts[key] = self.number(self.scalar(kind))
        return facts

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ModelError(
                f"the GGUF file holds a value of unknown type {kind}.\n"
                f"    {self.path}\n"
                "  The file is damaged; download or copy it again."
            )
        return _SCALARS[kind]

    def skip_array(self) -> None:
        kind, count = self.number("<I"), self.count("<Q", MOST_ITEMS, "items in one array")
        if kind == _TEXT:
            for _ in range(count):
                self.skip(self.count("<Q", MOST_TEXT, "bytes in one text"))
        else:
            self.skip(count * struct.calcsize(self.scalar(kind)))

    def skip(self, num_bytes: int) -> None:
        if self.file.tell() + num_bytes > self.size:
            raise struct.error
        self.file.seek(num_bytes, 1)

    def tensors(self, num_tensors: int) -> tuple[int, int]:
        """How many weights the tensor table lists, and where the last one ends in the data."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        weights = end = 0
        for _ in range(num_tensors):
            name = self.text()
            shape = [self.number("<Q") for _ in range(self.count("<I", MOST_AXES, "axes of one tensor"))]
            kind, offset = self.number("<I"), self.number("<Q")
            elements = 1
            for n in shape:
                elements *= n
            try:
                block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            except (ValueError, KeyError):
                raise ModelError(
                    f"tensor {name!r} of the GGUF file has the unknown type {kind}.\n"
                    f"    {self.path}\n"
                    "  Upgrade gguf, or convert the model to Q8_0, F16 or F32."
                ) from None
            weights += elements
            end = max(end, offset + -(-elements // block) * block_bytes)
        return weights, end
