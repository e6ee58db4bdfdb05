"""Which kind each layer of a model is: from what its config lists, or by the rule of its family.

Knows the many spellings of one fact, the order of full, windowed, chunked and recurrent layers. Refuses to know sizes
of heads and states (``blocks``).
"""

from __future__ import annotations

from typing import Any, cast

from ..errors import ModelError
from .families import Family, Pattern
from .layer import Kind
from .reader import Reader

Shape = tuple[Kind, int]
"""A kind and its span: the window or the chunk; 0 for the others."""

_FULL: Shape = (Kind.FULL, 0)
_STATE: Shape = (Kind.STATE, 0)
_NONE: Shape = (Kind.NONE, 0)

_WORDS = {
    **dict.fromkeys(
        ("full_attention", "attention", "global", "global_attention", "full", "indexed_attention"), Kind.FULL
    ),
    **dict.fromkeys(("sliding_attention", "local", "local_attention", "sliding_window_attention"), Kind.WINDOW),
    "chunked_attention": Kind.CHUNK,
    **dict.fromkeys(("linear_attention", "mamba", "recurrent", "conv", "mamba2"), Kind.STATE),
    **dict.fromkeys(("mlp", "moe"), Kind.NONE),
}
_LETTERS = {"M": _STATE, "*": _FULL, "-": _NONE, "E": _NONE}
"""Nemotron-H's ``hybrid_override_pattern``: Mamba-2, attention, MLP, experts."""


def layer_kinds(reader: Reader, family: Family, num_layers: int) -> list[Shape]:
    """The kind and span of each of ``num_layers`` layers. Raises ``ModelError`` for what is not settled."""
    if family.every:
        return [_STATE] * num_layers
    if family.encoder:
        return [_NONE] * num_layers
    listed = _listed(reader, num_layers)
    if listed is not None:
        return listed
    if family.recurrent is not None:
        return _hybrid(reader, family, num_layers)
    return _windows(reader, family, num_layers)


def _listed(reader: Reader, num_layers: int) -> list[Shape] | None:
    """What the config says layer by layer, if it does."""
    letters = reader.get("hybrid_override_pattern")
    if letters is not None:
        return _from_letters(reader, letters, num_layers)
    names = reader.items("layer_types", "layers_block_type")
    if names is not None:
        if len(names) != num_layers:
            raise ModelError(
                f"layer_types in {reader.where} lists {len(names)} kinds for {num_layers} layers.\n"
                "  Give one for each layer."
            )
        return [_shape(reader, name) for name in names]
    cycle = reader.items("block_types", "_block_types")
    if cycle:  # RecurrentGemma, whose attention is local: attention_window_size
        width = reader.need("attention_window_size", "sliding_window", what="how wide its attention is")
        shapes = [_shape(reader, cycle[n % len(cycle)]) for n in range(num_layers)]
        return [(Kind.WINDOW, width) if kind is Kind.FULL else (kind, span) for kind, span in shapes]
    flags = reader.items("attn_type_list")
    if flags is not None:  # MiniMax-Text-01: 1 softmax attention, 0 lightning attention
        if len(flags) != num_layers or any(flag not in (0, 1) for flag in flags):
            raise reader.odd("attn_type_list", flags, f"a 0 or 1 for each of {num_layers} layers")
        return [_FULL if flag else _STATE for flag in flags]
    linear = reader.get("linear_attn_config")
    if linear is not None:
        return _kimi(reader, linear[1], num_layers)
    return None


def _shape(reader: Reader, name: object) -> Shape:
    kind = _WORDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise reader.odd("layer_types", name, f"one of {', '.join(_WORDS)}")
    if kind is Kind.WINDOW:
        width = reader.window("sliding_window", "attention_window_size", "window_size")
        if width is None:
            raise reader.missing("how wide its windowed layers are", "sliding_window")
        return kind, width
    if kind is Kind.CHUNK:
        return kind, reader.need("attention_chunk_size", what="how long a chunk is")
    return kind, 0


def _from_letters(reader: Reader, found: tuple[str, Any], num_layers: int) -> list[Shape]:
    name, text = found
    if not isinstance(text, str) or len(text) != num_layers or set(text) - set(_LETTERS):
        raise reader.odd(name, text, f"{num_layers} letters of {' '.join(_LETTERS)}")
    return [_LETTERS[letter] for letter in text]


def _kimi(reader: Reader, value: Any, num_layers: int) -> list[Shape]:
    table = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    full = table.get("full_attn_layers")
    listed = cast("list[Any]", full) if isinstance(full, list) else None
    if listed is None or not all(isinstance(n, int) for n in listed):
        raise reader.odd("linear_attn_config", cast("object", value), "a table with full_attn_layers")
    numbers = set(listed)  # counted from 1
    return [_FULL if n + 1 in numbers else _STATE for n in range(num_layers)]


def _hybrid(reader: Reader, family: Family, num_layers: int) -> list[Shape]:
    """Families that mix attention and states, where no list says which layer is which."""
    period = reader.whole("attn_layer_period", "full_attention_interval")
    if period is None:
        indices = reader.items("attn_layer_indices", "full_attn_idxs")
        if indices is None:
            raise reader.missing("which layers attend", "layer_types")
        attend = {reader.checked("attn_layer_indices", item, 0) for item in indices}
        return [_FULL if n in attend else _STATE for n in range(num_layers)]
    offset = reader.whole("attn_layer_offset", least=0)
    place = period - 1 if offset is None else offset
    return [_FULL if n % period == place % period else _STATE for n in range(num_layers)]


def _windows(reader: Reader, family: Family, num_layers: int) -> list[Shape]:
    """Families of attention alone: which layers are windowed or chunked."""
    pattern = family.pattern
    if pattern is Pattern.NONE:
        return [_FULL] * num_layers
    if pattern is Pattern.TYPES:
        return _gpt_neo(reader, num_layers)
    if pattern is Pattern.CHUNKS:
        return _chunks(reader, num_layers)
    if pattern in (Pattern.FROM_LAYER, Pattern.FLAG_OFF) and not reader.flag("use_sliding_window"):
        return [_FULL] * num_layers
    width = reader.window("sliding_window")
    if width is None:
        return [_FULL] * num_layers
    local: Shape = (Kind.WINDOW, width)
    if pattern is Pattern.ALL:
        return [local] * num_layers
    if pattern is Pattern.ALTERNATE:
        reader.note("layer_types is not in the config: layers 0, 2, 4, ... are windowed, as its class has it")
        return [local if n % 2 == 0 else _FULL for n in range(num_layers)]
    if pattern is Pattern.FROM_LAYER:
        first = reader.need("max_window_layers", what="which layers are windowed", least=0)
        return [local if n >= first else _FULL for n in range(num_layers)]
    found = reader.get("sliding_window_pattern", "_sliding_window_pattern")
    if found is None and family.period:
        reader.note(f"layer_types is not in the config: every {family.period}th layer is full, as its class has it")
        return _periodic(local, family.period, num_layers)
    if found is None:
        raise reader.missing("which of its layers are windowed (sliding_window is set)", "layer_types")
    return _by_pattern(reader, *found, local, num_layers)


def _by_pattern(reader: Reader, name: str, value: object, local: Shape, num_layers: int) -> list[Shape]:
    """A period, a word of L and G that repeats, or a truth value for each layer (GGUF)."""
    if isinstance(value, str) and value and not set(value.upper()) - set("LG"):
        return [local if value[n % len(value)].upper() == "L" else _FULL for n in range(num_layers)]
    if isinstance(value, list):
        flags = cast("list[object]", value)
        if len(flags) != num_layers:
            raise reader.odd(name, flags, f"a truth value for each of {num_layers} layers")
        return [local if flag else _FULL for flag in flags]
    return _periodic(local, reader.checked(name, value, 1), num_layers)


def _periodic(local: Shape, period: int, num_layers: int) -> list[Shape]:
    return [_FULL if (n + 1) % period == 0 else local for n in range(num_layers)]


def _chunks(reader: Reader, num_layers: int) -> list[Shape]:
    """Llama 4: layers with rotary positions are chunked, those without (every fourth) are full."""
    local: Shape = (Kind.CHUNK, reader.need("attention_chunk_size", what="how long a chunk is"))
    rotary = reader.items("no_rope_layers")
    if not rotary:
        step = reader.whole("no_rope_layer_interval") or 4
        return _periodic(local, step, num_layers)
    if len(rotary) != num_layers:
        raise reader.odd("no_rope_layers", rotary, f"a 0 or 1 for each of {num_layers} layers")
    return [local if flag else _FULL for flag in rotary]


def _gpt_neo(reader: Reader, num_layers: int) -> list[Shape]:
    width = reader.need("window_size", what="how wide its local layers are")
    names = reader.items("attention_layers")
    if names is None:
        names = list[Any]()
        for entry in reader.items("attention_types") or []:
            words, repeats = _entry(reader, entry)
            if repeats * len(words) > num_layers:
                raise reader.odd("attention_types", entry, f"a list for {num_layers} layers")
            names += words * repeats
    if len(names) != num_layers or not set(map(str, names)) <= {"global", "local"}:
        raise reader.odd("attention_types", names, f"global or local for each of {num_layers} layers")
    return [(Kind.WINDOW, width) if name == "local" else _FULL for name in names]


def _entry(reader: Reader, entry: Any) -> tuple[list[Any], int]:
    pair = cast("list[Any]", entry) if isinstance(entry, list) else []
    if len(pair) != 2 or not isinstance(pair[0], list):
        raise reader.odd("attention_types", cast("object", entry), "[[names], repeats]")
    return cast("list[Any]", pair[0]), reader.checked("attention_types", pair[1], 0)
