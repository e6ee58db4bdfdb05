"""From a path, a mapping or a transformers config to one mapping of keys, with every read bounded.

Knows files and their limits. Refuses to know what a key means. Nothing is downloaded and no code of a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

from .. import limits
from ..errors import LimitError, ModelError
from .gguf import read_metadata
from .reader import Config

Source = str | PathLike[str] | Mapping[str, Any] | Any


def read_config(source: Source) -> tuple[Config, str]:
    """The keys of ``source`` and how messages call it: a path (config.json, its directory, .gguf), a mapping, or an
    object with ``to_dict`` such as a config of transformers.

    Raises ``ModelError`` for what cannot be read, ``LimitError`` for a file that is larger than a config is.
    """
    if isinstance(source, Mapping):
        return cast("Config", source), "the config"
    to_dict: Any = getattr(source, "to_dict", None)
    if callable(to_dict):
        made: Any = to_dict()
        if not isinstance(made, Mapping):
            raise ModelError(f"to_dict() of {type(source).__name__} returned {type(made).__name__}, not a mapping.")
        return cast("Config", made), type(source).__name__
    if not isinstance(source, str | PathLike):
        raise ModelError(
            f"a model cannot be read from {type(source).__name__}.\n"
            "  Give a path, a dict of config.json, or a config of transformers."
        )
    return _from_path(Path(cast("str | PathLike[str]", source)).expanduser())


def _from_path(path: Path) -> tuple[Config, str]:
    if "\0" in str(path):
        raise ModelError("this path holds a zero byte.\n  Give the path of a config.json or a .gguf file.")
    if path.is_dir():
        inner = path / "config.json"
        if not inner.is_file():
            raise ModelError(f"this directory has no config.json.\n    {path}\n  Give the directory of a model.")
        path = inner
    if not path.is_file():
        raise ModelError(
            f"there is no config at this path.\n    {path}\n  Give a config.json, its directory or a .gguf file."
        )
    try:
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return read_metadata(path), path.name
        size = path.stat().st_size
        if size > limits.CONFIG_BYTES:
            raise LimitError(
                f"the config has {size:,} bytes, and at most {limits.CONFIG_BYTES:,} are read.\n    {path}\n"
                "  Is it the config.json of a model?"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ModelError(f"the config cannot be read: {reason}.\n    {path}\n  Copy it again.") from None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"the config is not JSON.\n    {path}\n  Copy it again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"the config is JSON, but no table of keys.\n    {path}\n  Give the config.json of a model.")
    return cast("Config", found), path.name
