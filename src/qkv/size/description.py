"""A model as a list of layers, and how it is read from a configuration.

Knows what to read first and what to say of it afterwards. Refuses to guess: what neither the config nor its class
settles raises ``ModelError`` that names the key to add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from .. import limits
from ..errors import LimitError, ModelError
from .blocks import build, hidden_size
from .families import (
    FAMILIES,
    NESTED,
    NOT_UNDERSTOOD,
    ONLY_OF_KNOWN,
    ONLY_OF_KNOWN_PREFIXES,
    TYPES_OF_NESTED,
    UNKNOWN,
    Family,
)
from .files import Source, read_config
from .kinds import layer_kinds
from .layer import Kind, Layer
from .reader import Config, Reader

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


@dataclass(frozen=True, slots=True)
class Model:
    """A model's layers, and where each fact came from.

    ``used`` are the keys of the config that were read, with their values; ``notes`` say what the config left to its
    class. ``max_context`` is the number of positions that the config names, 0 where it names none.
    """

    name: str
    family: str
    layers: tuple[Layer, ...]
    hidden_size: int
    max_context: int = 0
    used: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""

    @staticmethod
    def from_config(source: Source, *, name: str | None = None) -> Model:
        """The model that ``source`` describes: the path of a config.json, its directory or a .gguf file, a dict, or a
        config of transformers.

        Raises ``ModelError`` with the key to add for what is missing, odd, or not settled; ``LimitError`` for files and
        numbers beyond ``qkv.limits``. Reads only that one file; no code of a model is run.

        >>> llama = Model.from_config({
        ...     "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        ...     "num_key_value_heads": 8})
        >>> llama.kinds, llama.layers[0].key_size
        ({'full': 32}, 128)
        """
        config, where = read_config(source)
        return _read(config, where, name)

    @property
    def kinds(self) -> dict[str, int]:
        """How many layers there are of each kind."""
        return {str(kind): count for kind, count in Counter(layer.kind for layer in self.layers).items()}

    @property
    def rules(self) -> Family:
        """The rule of its class."""
        return FAMILIES.get(self.family, UNKNOWN)


def _read(config: Config, where: str, name: str | None) -> Model:
    family_name = _text(config, "model_type")
    inner, place = _language_model(config, where)
    if inner is not config:
        family_name = _text(inner, "model_type") or TYPES_OF_NESTED.get(family_name, family_name)
    family = FAMILIES.get(family_name, UNKNOWN)
    reader = Reader(inner, place, family.defaults, f"the config class of {family_name}")
    reader.used["model_type"] = family_name or None
    for key in NOT_UNDERSTOOD:
        if inner.get(key) not in (None, False, [], {}):
            raise ModelError(
                f"{place} has {key}, which changes what layers keep in a way that is not modelled.\n"
                "  Its size is not settled here."
            )
    if not family.known:
        _only_of_known(inner, place, family_name)
        reader.note(f"model_type {family_name or '(none)'} is not known: only what the config says itself is read")
    width = hidden_size(reader)
    layers = _encoder_decoder(reader, family, width) if family.encoder_decoder else _decoder(reader, family, width)
    context = reader.whole("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", least=0) or 0
    title = name or _text(config, "_name_or_path") or family_name or "model"
    used = tuple(reader.used.items())
    return Model(title, family_name, tuple(layers), width, context, used, tuple(reader.notes))


def _only_of_known(config: Config, where: str, family_name: str) -> None:
    """Refuses a class without a rule whose config has a key that only its class explains."""
    for key, value in config.items():
        if value in (None, False, [], {}, 0):
            continue
        if key in ONLY_OF_KNOWN or key.startswith(ONLY_OF_KNOWN_PREFIXES):
            raise ModelError(
                f"{where} has {key[:40]}, and no rule says what {family_name or 'a model without model_type'} does with"
                " it.\n  Its size is not settled here."
            )


def _text(config: Config, key: str) -> str:
    value = config.get(key)
    return value[:200] if isinstance(value, str) else ""


def _language_model(config: Config, where: str) -> tuple[Config, str]:
    """The configuration of the language model, where one of several senses keeps it inside."""
    if any(key in config for key in _LAYERS):
        return config, where
    for key in NESTED:
        value = config.get(key)
        if isinstance(value, Mapping) and value:
            return _language_model(cast("Config", value), f"{key} of {where}")
    return config, where


def _count(reader: Reader, *names: str) -> int:
    kinds = reader.items("layers_block_type") if reader.whole(*names, least=0) is None else None
    number = reader.need(*names, what="its number of layers", least=0) if kinds is None else len(kinds)
    if number > limits.MODEL_LAYERS:
        raise LimitError(f"{reader.where} has {number:,} layers, and at most {limits.MODEL_LAYERS:,} are read.")
    return number


def _decoder(reader: Reader, family: Family, width: int) -> list[Layer]:
    num_layers = _count(reader, *_LAYERS) * family.attentions
    layers = build(reader, family, layer_kinds(reader, family, num_layers), width)
    crossed = reader.items("cross_attention_layers")  # Llama 3.2 Vision: these layers read the image instead
    if crossed:
        numbers = {reader.checked("cross_attention_layers", item, 0) for item in crossed}
        layers = [replace(layer, kind=Kind.CROSS) if layer.number in numbers else layer for layer in layers]
    return layers


def _encoder_decoder(reader: Reader, family: Family, width: int) -> list[Layer]:
    """Encoder layers keep nothing; a decoder layer keeps its own keys and values, and those of the source."""
    num_decoder = _count(reader, "num_decoder_layers", "decoder_layers", *_LAYERS)
    num_encoder = _count(reader, "encoder_layers", *_LAYERS)
    fixed = (reader.whole("max_source_positions") or 0) if reader.config.get("model_type") == "whisper" else 0
    template = build(reader, family, [(Kind.FULL, 0)] * max(num_decoder, num_encoder), width)
    encoder = [replace(template[n], kind=Kind.NONE, number=n) for n in range(num_encoder)]
    decoder: list[Layer] = []
    for n in range(num_decoder):
        place = num_encoder + n
        decoder.append(replace(template[n], number=place))
        decoder.append(replace(template[n], kind=Kind.CROSS, number=place, source_tokens=fixed))
    return encoder + decoder
