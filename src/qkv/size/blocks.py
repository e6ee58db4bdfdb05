"""The sizes of each layer: heads, latents, indexers, states, from the keys of a configuration.

Knows how the sizes of one layer follow from its model's keys. Refuses to know which kind a layer is (``kinds``) and
what a byte is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from ..errors import ModelError
from .families import Family, Heads, Recurrent
from .kinds import Shape
from .layer import Kind, Layer
from .reader import Reader

_HEADS = (
    "num_attention_heads",
    "n_head",
    "num_heads",
    "n_heads",
    "num_query_heads",
    "decoder_attention_heads",
    "attention_heads",
)
_KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_query_groups",
    "num_key_value_heads_per_layer", "n_kv_heads",
)  # fmt: skip
_HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "dim")


def hidden_size(reader: Reader) -> int:
    """The width of the model."""
    return reader.need(*_HIDDEN, what="its width")


def build(reader: Reader, family: Family, shapes: list[Shape], width: int) -> list[Layer]:
    """A layer for each of ``shapes``, with its sizes. Raises ``ModelError`` for what the config does not settle."""
    attend = any(kind not in (Kind.STATE, Kind.NONE) for kind, _ in shapes) or family.encoder
    template = _attention(reader, family, len(shapes), width) if attend else [Layer(Kind.NONE)] * len(shapes)
    state = _state(reader, family, width) if any(kind is Kind.STATE for kind, _ in shapes) else Layer(Kind.STATE)
    made: list[Layer] = []
    for number, ((kind, span), like) in enumerate(zip(shapes, template, strict=True)):
        if kind is Kind.STATE:
            made.append(replace(state, number=number))
        elif kind is Kind.NONE and not family.encoder:
            made.append(Layer(Kind.NONE, number))
        elif kind is not Kind.NONE and (like.num_heads == 0 or (like.num_kv_heads == 0 and not like.latent_size)):
            made.append(Layer(Kind.NONE, number))  # a layer whose heads were pruned away
        elif like.latent_size and kind is Kind.FULL:
            made.append(replace(like, kind=Kind.LATENT, number=number))
        else:
            made.append(replace(like, kind=kind, number=number, span=span))
    return _indexers(reader, _shared(reader, made))


def _attention(reader: Reader, family: Family, num_layers: int, width: int) -> list[Layer]:
    """The heads of each layer, as full layers; a latent where the config has one."""
    source = _nested_heads(reader)
    heads = source.per_layer(num_layers, *_HEADS)
    if heads is None:
        raise reader.missing("its number of heads", "num_attention_heads")
    latent = _latent(reader, max(heads))
    if latent is not None:
        return [replace(latent, num_heads=n, num_kv_heads=n) for n in heads]
    kv_heads = _kv_heads(source, family, heads)
    key = reader.whole("head_dim", "d_kv", "kv_channels", "attention_head_dim", "head_size")
    if key is None:
        most = max(heads)
        if most == 0 or width % most:
            raise ModelError(
                f"{reader.where} does not settle the size of a head: hidden_size {width} is no multiple of "
                f"{most} heads.\n  Add head_dim; nothing is guessed."
            )
        key = width // most
    value = reader.whole("v_head_dim", "value_head_dim") or key
    for many, few in zip(heads, kv_heads, strict=True):
        if few and many % few:
            raise ModelError(
                f"{reader.where} has {many} query heads on {few} key-value heads, which is no whole group.\n"
                "  Correct num_key_value_heads."
            )
    return [
        Layer(
            Kind.FULL,
            num_heads=many,
            num_kv_heads=few,
            key_size=key,
            value_size=value,
            gate_size=value if family.gated else 0,
        )
        for many, few in zip(heads, kv_heads, strict=True)
    ]


def _nested_heads(reader: Reader) -> Reader:
    """DBRX and MPT keep what is about attention in ``attn_config``."""
    found = reader.config.get("attn_config")
    if not isinstance(found, dict) or "kv_n_heads" not in found:
        return reader
    inner = cast("dict[str, Any]", found)
    reader.used["attn_config.kv_n_heads"] = inner["kv_n_heads"]
    joined = {**reader.config, "num_key_value_heads": inner["kv_n_heads"]}
    return Reader(joined, reader.where, reader.defaults, reader.default_source, reader.used, reader.notes)


def _kv_heads(reader: Reader, family: Family, heads: list[int]) -> list[int]:
    """Key-value heads of each layer, by what the config says, then by the family's rule."""
    if family.heads is Heads.FALCON and "num_key_value_heads" not in reader.config:
        grouped, single = reader.flag("new_decoder_architecture"), reader.flag("multi_query")
        if not grouped and single is not False:
            if single is None:
                reader.note("multi_query is not in the config: true, the default of FalconConfig")
            return [1] * len(heads)
        if not grouped:
            return heads  # FalconAttention reads num_kv_heads only with new_decoder_architecture, or is multi-head
    found = reader.per_layer(len(heads), *_KV_HEADS)
    if found is not None and (reader.config.get("multi_query_attention") is not False):
        return found
    if found is not None:
        return heads  # ChatGLM: multi_query_group_num counts only with multi_query_attention
    single = reader.flag("multi_query")
    if single or (family.heads is Heads.BIGCODE and single is None):
        return [1] * len(heads)
    if family.heads is Heads.REQUIRED and single is None:
        raise reader.missing("its number of key-value heads", *_KV_HEADS[:3])
    reader.note("no number of key-value heads is in the config: as many as query heads, as its class has it")
    return heads


def _latent(reader: Reader, num_heads: int) -> Layer | None:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), with the indexer of DeepSeek-V3.2."""
    size = reader.whole("kv_lora_rank")
    if size is None:
        return None
    rotary = reader.need("qk_rope_head_dim", what="the rotary part of its latent attention", least=0)
    content = reader.need("qk_nope_head_dim", what="the rest of its query heads", least=0)
    value = reader.need("v_head_dim", what="the size of its value heads")
    heads = reader.whole("index_n_heads", least=0) or 0
    index = reader.need("index_head_dim", what="the size of its indexer's keys") if heads else 0
    topk = reader.need("index_topk", what="how many keys its indexer chooses") if heads else 0
    return Layer(
        Kind.LATENT, num_heads=num_heads, num_kv_heads=num_heads, key_size=rotary + content, value_size=value,
        latent_size=size, rotary_size=rotary, content_size=content,
        query_latent_size=reader.whole("q_lora_rank") or 0, index_size=index, index_heads=heads, index_topk=topk,
    )  # fmt: skip


def _shared(reader: Reader, layers: list[Layer]) -> list[Layer]:
    """Layers that read another's keys and values: the last ``num_kv_shared_layers``, or all but each n-th."""
    last = reader.whole("num_kv_shared_layers", least=0) or 0
    factor = (reader.whole("cla_share_factor") or 1) if reader.flag("use_cla") else 1
    if last >= len(layers):
        raise reader.odd("num_kv_shared_layers", last, f"less than {len(layers)} layers")
    made: list[Layer] = []
    for number, layer in enumerate(layers):
        shares = number
        if last and number >= len(layers) - last:
            own = [n for n in range(len(layers) - last) if layers[n].kind is layer.kind]
            if not own:
                raise reader.odd("num_kv_shared_layers", last, f"an earlier layer of kind {layer.kind} to share with")
            shares = own[-1]
        elif factor > 1:
            shares = number - number % factor
        if shares != number and layer.has_tokens:
            layer = replace(layer, kind=Kind.SHARED, shares=shares)
        made.append(layer)
    return made


def _indexers(reader: Reader, layers: list[Layer]) -> list[Layer]:
    """GLM sparse attention: a ``shared`` layer takes the choice of the last one that has an indexer."""
    if not any(layer.index_heads for layer in layers):
        return layers
    modes = reader.items("indexer_types")
    pattern = reader.get("index_topk_pattern")
    if modes is None and pattern is not None:
        letters: list[object] = (
            list(cast("str | list[object]", pattern[1])) if isinstance(pattern[1], str | list) else []
        )
        modes = ["shared" if letter in ("S", "shared") else "full" for letter in letters]
    if modes is None:
        period, first = reader.whole("index_topk_freq") or 1, reader.whole("index_skip_topk_offset", least=0)
        skip = 2 if first is None else first
        modes = ["full" if max(n - skip + 1, 0) % period == 0 else "shared" for n in range(len(layers))]
    if len(modes) != len(layers) or not set(map(str, modes)) <= {"full", "shared"}:
        raise reader.odd("indexer_types", modes, f"full or shared for each of {len(layers)} layers")
    return [
        replace(layer, index_size=0, index_heads=0) if mode == "shared" else layer
        for layer, mode in zip(layers, modes, strict=True)
    ]


def _state(reader: Reader, family: Family, width: int) -> Layer:
    """The recurrent layer of the family; its formulas stand beside the class in transformers that has them."""
    if family.recurrent is None:
        raise ModelError(
            f"{reader.where} has layers with a state, and no rule says what the state of "
            f"{reader.used.get('model_type') or 'a model without model_type'} is.\n  Its size is not settled here."
        )
    return _STATES[family.recurrent](reader, width)


def _mamba(reader: Reader, width: int) -> Layer:
    """Gu and Dao 2023, Mamba (arXiv 2312.00752): inner x state numbers, and a convolution over the inner width."""
    inner = reader.whole("intermediate_size") if "mamba_expand" not in reader.config else None
    if inner is None:
        inner = width * reader.need("mamba_expand", "expand", what="its inner width")
    size = reader.need("mamba_d_state", "state_size", what="the size of its state")
    taps = reader.need("mamba_d_conv", "conv_kernel", what="its convolution")
    rank = _time_rank(reader, width)
    maps = (
        ("input", width, 2 * inner), ("state maps", inner, rank + 2 * size), ("time step", rank, inner),
        ("output", inner, width),
    )  # fmt: skip
    return Layer(
        Kind.STATE, state_size=inner * size, conv_channels=inner, conv_kernel=taps, state_heads=inner, maps=maps
    )


def _time_rank(reader: Reader, width: int) -> int:
    """The rank of Mamba's time steps: a number, or ``auto``, a sixteenth of the width."""
    found = reader.get("mamba_dt_rank", "time_step_rank")
    if found is not None and found[1] != "auto":
        return reader.checked(found[0], found[1], 1)
    if found is None:
        reader.note("time_step_rank is not in the config: auto, the default of its class")
    return -(-width // 16)


def _mamba2(reader: Reader, width: int) -> Layer:
    """Dao and Gu 2024, Mamba-2 (arXiv 2405.21060): heads x features x state; x, B and C are convolved."""
    heads = reader.need("mamba_n_heads", "mamba_num_heads", "num_heads", what="the number of its state's heads")
    inner_of_file = reader.config.get("intermediate_size") if reader.config.get("model_type") == "mamba2" else None
    size = reader.whole("mamba_d_head", "mamba_head_dim", "head_dim")
    if size is None and isinstance(inner_of_file, int) and inner_of_file % heads == 0:
        size = inner_of_file // heads
    if size is None:
        raise reader.missing("the features of its state's heads", "mamba_d_head", "head_dim")
    state = reader.need("mamba_d_state", "ssm_state_size", "state_size", what="the size of its state")
    groups = reader.need("mamba_n_groups", "n_groups", what="the groups of B and C")
    taps = reader.need("mamba_d_conv", "conv_kernel", what="its convolution")
    inner, convolved = heads * size, heads * size + 2 * groups * state
    maps = (
        ("input", width, inner + convolved + heads),
        ("output", inner, width),
    )  # gate, what is convolved, time steps
    return Layer(
        Kind.STATE, state_size=inner * state, conv_channels=convolved, conv_kernel=taps, state_heads=heads, maps=maps
    )


def _delta(reader: Reader, width: int) -> Layer:
    """Qwen3-Next's gated delta rule (Yang et al. 2024, arXiv 2412.06464): a matrix for each value head."""
    keys = reader.need("linear_num_key_heads", what="the key heads of its states")
    values = reader.need("linear_num_value_heads", what="the value heads of its states")
    key = reader.need("linear_key_head_dim", what="the key features of its states")
    value = reader.need("linear_value_head_dim", what="the value features of its states")
    taps = reader.need("linear_conv_kernel_dim", what="its convolution")
    convolved, inner = 2 * keys * key + values * value, values * value
    maps = (
        ("query, key and value", width, convolved), ("gate", width, inner), ("decay and step", width, 2 * values),
        ("output", inner, width),
    )  # fmt: skip
    return Layer(
        Kind.STATE, state_size=values * key * value, conv_channels=convolved, conv_kernel=taps, state_heads=values,
        maps=maps,
    )  # fmt: skip


def _kimi(reader: Reader, width: int) -> Layer:
    """Kimi Linear (arXiv 2510.26692): a matrix for each head; queries, keys and values are convolved."""
    table = reader.config.get("linear_attn_config")  # of the published repositories; transformers has keys of its own
    inner = reader
    if isinstance(table, dict):
        inner = Reader(cast("dict[str, Any]", table), f"linear_attn_config of {reader.where}")
    heads = inner.need("linear_num_heads", "num_heads", what="the heads of its states")
    size = inner.need("linear_head_dim", "head_dim", what="the features of its states")
    taps = inner.need("linear_conv_kernel_dim", "short_conv_kernel_size", what="its convolution")
    all_heads = heads * size
    maps = (
        ("query, key and value", width, 3 * all_heads), ("decay down", width, size), ("decay up", size, all_heads),
        ("step", width, heads), ("gate down", width, size), ("gate up", size, all_heads), ("output", all_heads, width),
    )  # fmt: skip
    return Layer(
        Kind.STATE, state_size=all_heads * size, conv_channels=3 * all_heads, conv_kernel=taps, state_heads=heads,
        maps=maps,
    )  # fmt: skip


def _lightning(reader: Reader, width: int) -> Layer:
    """MiniMax-01 (arXiv 2501.08313): linear attention, a matrix for each head."""
    heads = reader.need(*_HEADS, what="its number of heads")
    size = reader.whole("head_dim") or width // heads
    inner = heads * size
    maps = (("query, key and value", width, 3 * inner), ("gate", width, inner), ("output", inner, width))
    return Layer(Kind.STATE, state_size=inner * size, state_heads=heads, maps=maps)


def _rg_lru(reader: Reader, width: int) -> Layer:
    """De et al. 2024, Griffin (arXiv 2402.19427): one number for each channel, after a short convolution."""
    inner = reader.whole("lru_width") or width
    taps = reader.need("conv1d_width", what="its convolution")
    heads = reader.need(*_HEADS, what="the blocks of its gates")
    maps = (
        ("input", width, 2 * inner), ("gates", inner // heads, 2 * inner), ("output", inner, width),
    )  # fmt: skip
    return Layer(Kind.STATE, state_size=inner, conv_channels=inner, conv_kernel=taps, state_heads=inner, maps=maps)


def _conv(reader: Reader, width: int) -> Layer:
    """LFM2: a gated short convolution over the width of the model, and no recurrent state."""
    taps = reader.need("conv_L_cache", what="its convolution")
    maps = (("input", width, 3 * width), ("output", width, width))
    return Layer(Kind.STATE, conv_channels=width, conv_kernel=taps, maps=maps)


def _rwkv(reader: Reader, width: int) -> Layer:
    """Peng et al. 2023, RWKV (arXiv 2305.13048): three numbers a channel, and the two inputs that are shifted."""
    inner = reader.whole("attention_hidden_size") or width
    maps = (("receptance, key and value", width, 3 * inner), ("output", inner, width))
    return Layer(Kind.STATE, state_size=3 * inner + 2 * width, state_heads=1, maps=maps)


_STATES = {
    Recurrent.MAMBA: _mamba,
    Recurrent.MAMBA2: _mamba2,
    Recurrent.DELTA: _delta,
    Recurrent.KIMI_DELTA: _kimi,
    Recurrent.LIGHTNING: _lightning,
    Recurrent.RG_LRU: _rg_lru,
    Recurrent.CONV: _conv,
    Recurrent.RWKV: _rwkv,
}
