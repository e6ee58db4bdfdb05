"""The stacks that a recommendation chooses among: layers with their specs, and what each costs in a scenario.

Knows how each stack is built from ``qkv.mechanisms`` and its figures. Refuses to choose (``recommend``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import mechanisms
from ..spec import Spec
from ..terms import masks, position
from ..terms.keep import Keep
from .cache import cache_size
from .description import Model
from .flops import layer_work, linear_layer
from .layer import Kind, Layer
from .roofline import Roof, roof
from .scenario import Scenario
from .work import Work

LOCAL_WINDOW, LOCAL_LAYERS = 1024, 5
"""Gemma 3 (arXiv 2503.19786), section 2: five local layers with a window of 1024 for each global one."""
BIGBIRD = {"window": 1, "num_global": 2, "num_random": 3, "block_size": 64}
"""Zaheer et al. 2020, Big Bird (arXiv 2007.14062), appendix E: blocks of 64, 3 of window, 2 global, 3 random."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers of a stack that are alike: how many, the mechanism of ``qkv.mechanisms``, the spec, and their sizes."""

    name: str
    num_layers: int
    mechanism: str
    spec: Spec
    layer: Layer
    keep: Keep | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of layers: ``cache_dtype`` is how its cache is stored, ``reach`` what a query can still see."""

    name: str
    segments: tuple[Segment, ...]
    cache_dtype: str
    reach: str

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms it uses, each once."""
        return tuple(dict.fromkeys(segment.mechanism for segment in self.segments))

    def model(self, scenario: Scenario) -> Model:
        """The stack as a model whose sizes can be asked for."""
        layers = [replace(s.layer, number=n) for s in self.segments for n in range(s.num_layers)]
        return Model(self.name, "", tuple(layers), scenario.width)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a stack costs in a scenario: cache under policy ``math``, work of a prompt and of one more token."""

    stack: Stack
    cache_bytes: int
    prefill: Roof
    decode: Roof | None
    pair_flops: int
    projection_flops: int
    cache_read_bytes: int
    weight_bytes: int

    @property
    def name(self) -> str:
        """The stack's name."""
        return self.stack.name


def group_heads(heads: int) -> int:
    """Key-value heads of a grouped stack: the most that divide ``heads``, at most 8 and a quarter of them.

    Eight are the choice of Llama 3 and of Ainslie et al. 2023 (arXiv 2305.13245, section 3.3).

    >>> group_heads(32), group_heads(64), group_heads(12), group_heads(3)
    (8, 8, 3, 1)
    """
    return max(n for n in range(1, max(1, min(8, heads // 4)) + 1) if heads % n == 0)


def theta_for(context: int) -> tuple[float, str]:
    """The base of rotary positions for a context, and who uses it there.

    >>> theta_for(4096)[0], theta_for(32768)[0], theta_for(32769)[0]
    (10000.0, 500000.0, 1000000.0)
    """
    if context <= 4096:
        return 1e4, "Su et al. 2021, RoFormer (arXiv 2104.09864), section 3.3; Llama 2 at 4096 tokens"
    if context <= 32768:
        return 5e5, "Llama 3 (arXiv 2407.21783), section 3.2: 500,000, effective up to 32,768 tokens"
    return 1e6, "Gemma 3 (arXiv 2503.19786), section 2: 1,000,000 in global layers, for 128k tokens"


def _heads(scenario: Scenario, kv_heads: int, kind: Kind = Kind.FULL, span: int = 0) -> Layer:
    size = scenario.head_size
    return Layer(kind, num_heads=scenario.heads, num_kv_heads=kv_heads, key_size=size, value_size=size, span=span)


def _spec(scenario: Scenario, keep: Keep | None, *, local: bool = False) -> Spec:
    """Grouped-query attention with rotary positions; with one query head for each key-value head it is multi-head,
    with one key-value head multi-query.
    """
    theta = 1e4 if local else theta_for(max(scenario.context, scenario.source))[0]
    return Spec(mechanisms.grouped_query().pattern, position=position.rope(theta), keep=keep)


def full(scenario: Scenario, name: str, kv_heads: int, dtype: str | None = None) -> Stack:
    """Every layer sees every earlier token."""
    segment = Segment("all", scenario.layers, name, _spec(scenario, masks.causal()), _heads(scenario, kv_heads))
    title = name if dtype is None else f"{name}, {dtype} cache"
    return Stack(title, (segment,), dtype or scenario.dtype, "all")


def latent(scenario: Scenario) -> Stack:
    """DeepSeek-V2 (arXiv 2405.04434), section 2.1: a latent of four heads' size and a rotary key of half a head."""
    size = scenario.head_size
    rotary = size // 4 * 2 or 2
    layer = Layer(
        Kind.LATENT, num_heads=scenario.heads, num_kv_heads=scenario.heads, key_size=size + rotary, value_size=size,
        latent_size=4 * size, rotary_size=rotary, content_size=size,
    )  # fmt: skip
    spec = mechanisms.latent(
        rotary_size=rotary, content_size=size, theta=theta_for(scenario.context)[0], keep=masks.causal()
    )
    return Stack("latent", (Segment("all", scenario.layers, "latent", spec, layer),), scenario.dtype, "all")


def local_global(scenario: Scenario, sharing: str, kv_heads: int, dtype: str | None = None) -> Stack:
    """Five layers with a window for each that sees everything, which stands last of six."""
    global_layers = scenario.layers // (LOCAL_LAYERS + 1)
    window = masks.causal() & masks.window(LOCAL_WINDOW)
    layer = _heads(scenario, kv_heads, Kind.WINDOW, LOCAL_WINDOW)
    near = _spec(scenario, window, local=True)
    far = _spec(scenario, masks.causal())
    segments = (
        Segment("local", scenario.layers - global_layers, "sliding-window", near, layer),
        Segment("global", global_layers, sharing, far, _heads(scenario, kv_heads)),
    )
    suffix = "" if dtype is None else f", {dtype} cache"
    return Stack(f"{sharing}, local and global{suffix}", segments, dtype or scenario.dtype, "some layers")


def linear(scenario: Scenario) -> Stack:
    """Linear attention in every layer."""
    layer = linear_layer(scenario.width, scenario.heads)
    spec = mechanisms.linear(causal=scenario.causal)
    segment = Segment("all", scenario.layers, "linear", spec, layer)
    return Stack("linear", (segment,), scenario.dtype, "a state")


def bidirectional(scenario: Scenario) -> Stack:
    """Every layer sees every token."""
    layer = _heads(scenario, scenario.heads, Kind.NONE)
    segment = Segment("all", scenario.layers, "multi-head", _spec(scenario, None), layer)
    return Stack("multi-head", (segment,), scenario.dtype, "all")


def bigbird(scenario: Scenario) -> Stack:
    """A window, global blocks and random blocks in every layer."""
    spec = mechanisms.bigbird(**BIGBIRD)
    layer = _heads(scenario, scenario.heads, Kind.NONE)
    segment = Segment("all", scenario.layers, "bigbird", spec, layer, spec.keep)
    return Stack("bigbird", (segment,), scenario.dtype, "a few steps")


def encoder_decoder(scenario: Scenario, name: str, kv_heads: int) -> Stack:
    """An encoder that sees its whole input, and a decoder with causal and cross-attention in each layer."""
    inside = _heads(scenario, scenario.heads, Kind.NONE)
    encoder = Segment("encoder", scenario.layers, "multi-head", _spec(scenario, None), inside)
    decoder = Segment("decoder", scenario.layers, name, _spec(scenario, masks.causal()), _heads(scenario, kv_heads))
    grouped = Spec("b (h g) t d, b h s d, b h s e -> b (h g) t e")
    spec = mechanisms.cross() if kv_heads == scenario.heads else grouped
    cross = Segment("cross", scenario.layers, "cross", spec, _heads(scenario, kv_heads, Kind.CROSS))
    return Stack(name, (encoder, decoder, cross), scenario.dtype, "all")


def candidates(scenario: Scenario) -> tuple[Stack, ...]:
    """The stacks that are weighed, from what departs least from multi-head attention to what departs most."""
    heads = scenario.heads
    few = group_heads(heads)
    shared: list[tuple[str, int]] = [("multi-head", heads)]
    if few not in (1, heads):
        shared.append(("grouped-query", few))
    one: list[tuple[str, int]] = [("multi-query", 1)] if heads > 1 else []
    if scenario.source:
        return tuple(encoder_decoder(scenario, name, number) for name, number in shared + one)
    if not scenario.causal:
        return (bidirectional(scenario), bigbird(scenario), linear(scenario))
    sharing, number = shared[-1]
    least, least_number = (shared + one)[-1]
    mixed = scenario.layers > LOCAL_LAYERS
    return (
        *(full(scenario, name, count) for name, count in shared),
        latent(scenario),
        *((local_global(scenario, sharing, number),) if mixed else ()),
        *(full(scenario, name, count) for name, count in one),
        _quantized(scenario, sharing, number, mixed),
        *((_quantized(scenario, least, least_number, mixed),) if least != sharing else ()),
        _quantized(scenario, least, least_number, mixed, "int4"),
        linear(scenario),
    )


def _quantized(scenario: Scenario, name: str, kv_heads: int, mixed: bool, dtype: str = "int8") -> Stack:
    """The stack with a quantized cache: local and global layers where there are enough of them."""
    return (local_global if mixed else full)(scenario, name, kv_heads, dtype)


def figures(stack: Stack, scenario: Scenario) -> Figures:
    """What ``stack`` costs in ``scenario``; a stack that is not causal decodes nothing and keeps nothing."""
    whole = [(segment, _work(segment, stack, scenario, None)) for segment in stack.segments]
    one = [(segment, _work(segment, stack, scenario, 1)) for segment in stack.segments] if scenario.causal else []
    cached = cache_size(
        stack.model(scenario), scenario.context, batch=scenario.batch, dtype=stack.cache_dtype, source=scenario.source
    ).bytes
    pairs = _sum(whole, lambda work: sum(work.part(name) for name in ("scores", "softmax", "values")))
    return Figures(
        stack,
        cached if scenario.causal else 0,
        _roof(whole, scenario),
        _roof(one, scenario) if one else None,
        pairs,
        _sum(whole, lambda work: work.flops) - pairs,
        _sum(one, lambda work: work.read_bytes),
        _sum(one, lambda work: work.weight_bytes),
    )


def _work(segment: Segment, stack: Stack, scenario: Scenario, queries: int | None) -> Work:
    keeps = segment.layer.kind not in (Kind.NONE, Kind.STATE)
    return layer_work(
        segment.layer, scenario.width, scenario.context, queries, batch=scenario.batch, keep=segment.keep,
        latent="absorbed" if queries == 1 else "expanded", dtype=stack.cache_dtype if keeps else scenario.dtype,
        source=scenario.source,
    )  # fmt: skip


def _sum(works: list[tuple[Segment, Work]], what: Callable[[Work], int]) -> int:
    return sum(segment.num_layers * what(work) for segment, work in works)


def _roof(works: list[tuple[Segment, Work]], scenario: Scenario) -> Roof:
    found = [(segment.num_layers, roof(work, scenario.machine, scenario.dtype)) for segment, work in works]
    return Roof(
        scenario.machine.name,
        sum(n * one.flops for n, one in found),
        sum(n * one.bytes for n, one in found),
        sum(n * one.compute_s for n, one in found),
        sum(n * one.memory_s for n, one in found),
        sum(n * one.seconds for n, one in found),
    )
