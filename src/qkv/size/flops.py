"""FLOPs and bytes of attention layers, part by part, each with its formula and the convention of its pairs.

A multiply and an add are two operations. Knows products, softmax, projections, latents, indexers and states. Refuses to
count what is not settled: the projections of a state layer that is made without any are left out, and said to be.

One layer, n = 2048 tokens at once, width d = 4096, 32 heads of 128, multi-head, convention ``full``:

    query, key, value, output   2 n d (32 · 128) = 2 · 2048 · 4096 · 4096 =  68,719,476,736 each
    scores                      2 n² · 32 · 128  = 2 · 2048² · 4096       =  34,359,738,368
    softmax                     5 n² · 32        = 5 · 2048² · 32         =     671,088,640
    values                      2 n² · 32 · 128                           =  34,359,738,368

The six products are 343,597,383,680 together; torch's FlopCounterMode counts the same on its math path. Sources: the
products follow from their shapes; latents DeepSeek-V2 (arXiv 2405.04434), equations 9 to 19; the indexer
DeepSeek-V3.2-Exp (technical report, section 2.1); ``half`` is how FlashAttention-2 (arXiv 2307.08691, section 4.1)
counts causal attention.
"""

from __future__ import annotations

from ..errors import SpecError
from ..terms.keep import Keep
from .format import Format, to_format
from .layer import Kind, Layer
from .pairs import causal_pairs, chunk_pairs, visible_pairs, window_pairs
from .work import Convention, LatentForm, Parts, Work, to_convention, to_form


def multi_head_layer(
    width: int, num_heads: int, num_kv_heads: int | None = None, *, head_size: int | None = None, window: int = 0
) -> Layer:
    """A layer of its own, without a model: ``window`` 0 is full attention, ``num_kv_heads`` None multi-head.

    >>> multi_head_layer(4096, 32, 8).key_size
    128
    """
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if width < 1 or num_heads < 1 or kv_heads < 1 or num_heads % kv_heads or window < 0:
        raise SpecError(
            f"a layer of width {width}, {num_heads} heads, {kv_heads} key-value heads, window {window}.\n"
            "  All are positive, and the heads a multiple of the key-value heads."
        )
    if head_size is None and width % num_heads:
        raise SpecError(f"width {width} is no multiple of {num_heads} heads.\n  Give head_size=.")
    size = head_size or width // num_heads
    kind = Kind.WINDOW if window else Kind.FULL
    return Layer(kind, num_heads=num_heads, num_kv_heads=kv_heads, key_size=size, value_size=size, span=window)


def linear_layer(width: int, num_heads: int, *, head_size: int | None = None) -> Layer:
    """A layer of linear attention (``weights=linear()``): a state of head_size (head_size + 1) numbers for each head,
    whatever the context (Katharopoulos et al. 2020, arXiv 2006.16236, equations 16 to 20).

    >>> linear_layer(512, 8).state_size
    33280
    """
    like = multi_head_layer(width, num_heads, head_size=head_size)
    size = like.key_size
    return Layer(
        Kind.STATE,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        key_size=size,
        value_size=size,
        state_size=num_heads * size * (size + 1),
        state_heads=num_heads,
    )


def layer_work(
    layer: Layer,
    width: int,
    keys: int,
    queries: int | None = None,
    *,
    batch: int = 1,
    convention: Convention | str = "exact",
    latent: LatentForm | str = "expanded",
    keep: Keep | None = None,
    dtype: str | Format = "bf16",
    source: int = 0,
) -> Work:
    """The work of one ``layer`` of a model ``width`` wide: ``queries`` new tokens (all without it) among ``keys``.

    ``keep`` replaces the mask that the layer's kind implies, counted exactly. Cross-attention makes the keys and values
    of its ``source``, and an encoder runs, only when the whole sequence is new. Raises ``SpecError`` for more queries
    than keys. The module says the formulas.

    >>> work = layer_work(multi_head_layer(4096, 32), 4096, 2048, convention="full")
    >>> work.product_flops, work.part("softmax")
    (343597383680, 671088640)
    """
    new = keys if queries is None else queries
    rule, form = to_convention(convention), to_form(latent)
    element = to_format(dtype)
    if layer.kind is Kind.STATE:
        return _state_work(layer, width, new, batch, rule, element)
    if layer.kind is Kind.NONE:
        tokens = (source or keys) if new == keys else 0
        return _encoder_work(layer, width, tokens, batch, rule, element, keep)
    source = layer.source_tokens or source
    span = source if layer.kind is Kind.CROSS else keys
    pairs = _pairs(layer, rule, new, span, keep)
    if layer.latent_size:
        return _latent_work(layer, width, new, keys, batch, rule, form, pairs, element)
    made = (source if new == keys else 0) if layer.kind is Kind.CROSS else new
    made = 0 if layer.kind is Kind.SHARED else made
    return _attention_work(layer, width, new, made, span, batch, rule, pairs, element)


def _pairs(layer: Layer, rule: Convention, new: int, keys: int, keep: Keep | None) -> int:
    """Pairs of one sequence and one head under the convention."""
    if rule is Convention.FULL or layer.kind is Kind.CROSS:
        return new * keys
    if rule is Convention.HALF:
        return new * keys - new * new // 2
    if keep is not None:
        return visible_pairs(keep, new, keys)
    if layer.kind is Kind.CHUNK:
        return chunk_pairs(new, keys, chunk=layer.span)
    chosen = layer.index_topk or layer.span  # an indexer leaves as many keys as a window of that width would
    return window_pairs(new, keys, window=chosen) if chosen else causal_pairs(new, keys)


def _attention_work(
    layer: Layer, width: int, new: int, made: int, keys: int, batch: int, rule: Convention, pairs: int, element: Format
) -> Work:
    """Multi-head, grouped-query and multi-query attention over keys and values; ``made`` tokens get new ones."""
    heads, kv_heads, key, value = layer.num_heads, layer.num_kv_heads, layer.key_size, layer.value_size
    parts = Parts(batch)
    parts.project("query", new, width, heads * key)
    parts.project("key", made, width, kv_heads * key)
    parts.project("value", made, width, kv_heads * value)
    parts.pairs("scores", pairs, heads, key)
    parts.softmax(pairs, heads)
    parts.pairs("values", pairs, heads, value)
    parts.project("gate", new, width, heads * layer.gate_size)
    parts.project("output", new, heads * value, width)
    row = kv_heads * (element.row_bytes(key) + element.row_bytes(value))
    held = min(keys, layer.span + new - 1) if layer.span else keys  # what the last ``new`` queries reach
    moved = new * (2 * width + 2 * heads * (key + value + layer.gate_size))
    return _work(layer, rule, pairs, parts, batch, held * row, made * row, moved, element)


def _latent_work(
    layer: Layer, width: int, new: int, keys: int, batch: int, rule: Convention, form: LatentForm, pairs: int,
    element: Format,
) -> Work:  # fmt: skip
    """Latent attention in one of its two forms; an indexer scores every earlier token."""
    heads, value, content, rotary = layer.num_heads, layer.value_size, layer.content_size, layer.rotary_size
    parts = Parts(batch)
    if layer.query_latent_size:
        parts.project("query down", new, width, layer.query_latent_size)
    parts.project("query", new, layer.query_latent_size or width, heads * (content + rotary))
    parts.project("latent", new, width, layer.latent_size + rotary)
    if layer.index_heads:
        seen = causal_pairs(new, keys) if rule is Convention.EXACT else new * keys
        parts.project("indexer query", new, layer.query_latent_size or width, layer.index_heads * layer.index_size)
        parts.project("indexer key", new, width, layer.index_size)
        parts.project("indexer weights", new, width, layer.index_heads)
        parts.pairs("indexer scores", seen, layer.index_heads, layer.index_size)
    if form is LatentForm.EXPANDED:
        parts.project("rebuilt keys and values", keys, layer.latent_size, heads * (content + value))
        parts.pairs("scores", pairs, heads, content + rotary)
        parts.softmax(pairs, heads)
        parts.pairs("values", pairs, heads, value)
    else:
        parts.project("absorbed query", new, content, heads * layer.latent_size)
        parts.pairs("scores", pairs, heads, layer.latent_size + rotary)
        parts.softmax(pairs, heads)
        parts.pairs("values", pairs, heads, layer.latent_size)
        parts.project("absorbed value", new, layer.latent_size, heads * value)
    parts.project("output", new, heads * value, width)
    row = element.row_bytes(layer.latent_size + rotary) + element.row_bytes(layer.index_size)
    read = (min(keys, layer.index_topk + new - 1) if layer.index_topk else keys) * element.row_bytes(
        layer.latent_size + rotary
    ) + keys * element.row_bytes(layer.index_size)
    rebuilt = 2 * keys * heads * (content + value) if form is LatentForm.EXPANDED else 0  # written, then read
    moved = new * (2 * width + 2 * heads * (layer.query_size + value)) + rebuilt
    return _work(layer, rule, pairs, parts, batch, read, new * row, moved, element)


def _state_work(layer: Layer, width: int, new: int, batch: int, rule: Convention, element: Format) -> Work:
    """The recurrent form: each number of the state gets a multiply and an add to update it, and as many to read it."""
    parts = Parts(batch)
    heads = layer.num_heads
    if heads:
        parts.project("query", new, width, heads * layer.key_size)
        parts.project("key", new, width, heads * layer.key_size)
        parts.project("value", new, width, heads * layer.value_size)
    for name, size_in, size_out in layer.maps:
        parts.project(name, new, size_in, size_out)
    if layer.conv_channels:
        parts.add(
            "convolution",
            2 * new * layer.conv_channels * layer.conv_kernel,
            f"2 x {new:,} x {layer.conv_channels:,} x {layer.conv_kernel}",
            is_product=False,
        )
    parts.add("state update", 2 * new * layer.state_size, f"2 x {new:,} x {layer.state_size:,}")
    parts.add("state read", 2 * new * layer.state_size, f"2 x {new:,} x {layer.state_size:,}")
    if heads:
        parts.project("output", new, heads * layer.value_size, width)
    state = 4 * layer.state_size
    between = sum(size_in + size_out for _, size_in, size_out in layer.maps) - (2 * width if layer.maps else 0)
    moved = new * (2 * width + 2 * heads * (layer.key_size + layer.value_size) + between)
    left = "" if heads or layer.maps else "the projections of a state layer that has no maps"
    return _work(layer, rule, 0, parts, batch, state if new else 0, state if new else 0, moved, element, left)


def _encoder_work(
    layer: Layer, width: int, tokens: int, batch: int, rule: Convention, element: Format, keep: Keep | None
) -> Work:
    """An encoder's self-attention sees every pair, or those of its mask; a layer without heads does nothing here."""
    if not layer.num_heads:
        return _work(layer, rule, 0, Parts(batch), batch, 0, 0, 0, element)
    pairs = visible_pairs(keep, tokens) if rule is Convention.EXACT else tokens * tokens
    return _attention_work(layer, width, tokens, tokens, tokens, batch, rule, pairs, element)


def _work(
    layer: Layer, rule: Convention, pairs: int, parts: Parts, batch: int, read: int, write: int, moved: int,
    element: Format, left_out: str = "",
) -> Work:  # fmt: skip
    plain = max(element.bits, 16) // 8  # activations and weights are no narrower than 16 bits beside a quantized cache
    return Work(
        layer.kind, rule, pairs, tuple(parts.parts), parts.weights * plain, read * batch, write * batch,
        moved * plain * batch, left_out,
    )  # fmt: skip
