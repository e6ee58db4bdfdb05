"""A transformers cache whose layers keep keys and values in qkv's caches, chosen by the kind of each layer.

It knows what a configuration says of layers; it refuses to know how tokens are stored and read.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

import qkv
from qkv.errors import ModelError, SpecError

from . import hf
from .layers import LatentLayer, Layer
from .tiny import NAME

Kind = Literal["auto", "dense", "ring"]

SLIDING = frozenset({"sliding_attention", "chunked_attention", "reference_sliding_attention"})


class Cache(hf.TransformersCache):
    """A transformers cache that qkv's attention reads where it lies: ``model(..., past_key_values=Cache(model))``.

    ``kind="auto"`` holds all tokens in layers of full attention, the window alone in sliding layers, and latents in
    layers of multi-head latent attention (DeepSeek V2, V3). ``"dense"`` holds all tokens in every layer; ``"ring"`` is
    as ``"auto"`` and asks that there be a sliding layer. ``capacity``: room for so many tokens, allocated once, in
    layers that hold all. ``bits``: 8 or 4 to hold codes; of layers that hold all, the ``recent`` newest tokens as they
    came too (64 where it is not said, 0 for none). Layers of other kinds (linear attention, indexed attention) are
    transformers' own. With an attention that is not qkv's, models get ordinary tensors and the same results.
    Raises ``SpecError`` for settings that are not known, ``ModelError`` for those that the model has no use for.

    >>> import qkv.transformers
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    ...                      num_attention_heads=4, num_key_value_heads=2)
    >>> model = qkv.transformers.use(LlamaForCausalLM(config).eval())
    >>> cache = qkv.transformers.Cache(model)
    >>> with torch.no_grad():
    ...     _ = model(torch.tensor([[3, 4, 5]]), past_key_values=cache)
    ...     _ = model(torch.tensor([[6]]), past_key_values=cache)
    >>> cache.get_seq_length()
    4
    >>> print(cache.explain())
    2 layers of 2: dense, read in place
    """

    def __init__(
        self,
        model: PreTrainedModel,
        kind: Kind = "auto",
        capacity: int | None = None,
        bits: int | None = None,
        recent: int | None = None,
    ) -> None:
        if recent is not None and bits is None:
            raise SpecError(
                f"Cache: recent = {recent!r:.80}, and no bits.\n"
                "  Beside codes the newest tokens are held as they came; give bits=8 or bits=4, or leave recent out."
            )
        newest = {} if recent is None else {"recent": recent}
        if kind not in ("auto", "dense", "ring"):
            raise SpecError(f'Cache: kind = {kind!r:.80}.\n  Known: "auto", "dense", "ring".')
        config: Any = model.config
        decoder = config.get_text_config(decoder=True)
        types, settings = hf.caches.get_layer_types_and_kwargs(decoder)
        if kind == "ring" and not SLIDING & set(types):
            raise ModelError(
                f'Cache: kind = "ring", and no layer of {type(model).__name__} has a sliding window.\n'
                '  Use kind="auto"; a ring would drop keys that the model reads.'
            )
        modules = _latent_modules(model) if kind != "dense" else {}
        if modules and bits is not None:
            raise ModelError(
                f"Cache: bits = {bits}, and {type(model).__name__} caches latents, which are not quantized.\n"
                "  Leave bits out; latents are small."
            )
        asks = _Asks(decoder)
        layers: list[Any] = []
        for number, (layer_type, said) in enumerate(zip(types, settings, strict=True)):
            if number in modules and layer_type == "full_attention":
                layers.append(LatentLayer(_latent(modules[number]), asks, modules[number]))
            elif layer_type in SLIDING and kind != "dense":
                layers.append(Layer(qkv.cache.Ring(said["sliding_window"], bits=bits), asks))
            elif layer_type in SLIDING or layer_type == "full_attention":
                made = qkv.cache.Dense(capacity) if bits is None else qkv.cache.Quantized(bits, capacity, **newest)
                layers.append(Layer(made, asks))
            else:
                layers.append(hf.caches.DYNAMIC_LAYER_TYPE_MAPPING[layer_type](**said))
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """Bytes of storage in layers of qkv's."""
        return sum(layer.cache.nbytes for layer in self.layers if isinstance(layer, Layer))

    def explain(self) -> str:
        """One line for each kind of layer: how many there are, and what attention gets of them."""
        found: dict[str, int] = {}
        for layer in self.layers:
            if isinstance(layer, Layer):
                bits: int | None = getattr(layer.cache, "bits", None)
                codes = "" if bits is None else f" of {bits} bits"
                words = f"{layer.cache.kind}{codes}, {layer.reading}"
            else:
                words = f"{type(layer).__name__} of transformers"
            found[words] = found.get(words, 0) + 1
        return "\n".join(f"{count} layers of {len(self.layers)}: {words}" for words, count in found.items())

    def __deepcopy__(self, memo: Any) -> Cache:
        twin = copy.copy(self)
        twin.layers = copy.deepcopy(self.layers, memo)
        return twin


class _Asks:
    """Whether the model of a configuration has its attention from qkv now."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self) -> bool:
        return hf.implementation_of(self.config) == NAME

    def __deepcopy__(self, memo: Any) -> _Asks:
        return self


def _latent_modules(model: nn.Module) -> dict[int, nn.Module]:
    """Attention modules that cache latents and expand them by one linear map without a bias, by their layer."""
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        up: Any = getattr(module, "kv_b_proj", None)
        names = ("layer_idx", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "expand_kv")
        if type(up) is nn.Linear and getattr(up, "bias", None) is None and all(hasattr(module, name) for name in names):
            found[int(module.layer_idx)] = module  # pyright: ignore[reportArgumentType]
    return found


def _latent(module: Any) -> qkv.cache.Latent:
    weight: torch.Tensor = module.kv_b_proj.weight.detach()
    content, values = module.qk_nope_head_dim, module.v_head_dim
    both = weight.view(-1, content + values, weight.shape[-1])
    return qkv.cache.Latent(both[:, :content], both[:, content:], rotary="last")
