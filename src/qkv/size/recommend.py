"""A recommendation: deterministic rules over computed figures, each with its source, in the order in which they apply.

The candidates (``stacks.candidates``) stand in the order in which they depart from multi-head attention. Rules only
rule out, and say why with the figures that decided; the first that is left is taken, or, where memory comes first, the
smallest. A rule that would leave nothing is not met, and is said to be. Knows these rules. Refuses taste: two runs of
one scenario agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from ..spec import Spec
from .fit import fit
from .layer import Kind
from .scenario import First, Scenario, Use, make_scenario
from .stacks import BIGBIRD, LOCAL_LAYERS, LOCAL_WINDOW, Figures, Segment, candidates, figures, theta_for
from .units import show_bytes, show_count, show_flops

Figured = tuple[Figures, ...]
Verdict = str | None
"""Why a stack is ruled out; None where it is not."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of the recommended stack: what it settles, the mechanism, why, and who found it."""

    part: str
    choice: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The stack for a scenario, what it costs beside the others, and why.

    ``figures`` has every candidate in its order, the recommended one among them; ``ruled_out`` maps the others to the
    reason. ``unmet`` are the constraints that no candidate meets; where memory is one, the smallest is chosen.
    """

    scenario: Scenario
    chosen: Figures
    reasons: tuple[Reason, ...]
    figures: Figured
    ruled_out: dict[str, str]
    unmet: tuple[Reason, ...]

    @property
    def specs(self) -> dict[str, Spec]:
        """The specs of the stack's layers, ready to run: segment to spec."""
        return {segment.name: segment.spec for segment in self.chosen.stack.segments}

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms of ``qkv.mechanisms`` that the stack uses."""
        return self.chosen.stack.mechanisms


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when it applies, and what it says of a stack given all figures."""

    name: str
    source: str
    applies: Callable[[Scenario], bool]
    judge: Callable[[Scenario, Figures, Figured], Verdict]


def recommend(use: Use | str = "free", **constraints: Any) -> Recommendation:
    """The stack of mechanisms for a use and constraints, with figures, reasons and what was ruled out.

    ``use`` is one of ``Use``; constraints are ``width, heads, layers, context, batch, memory, causal, first ("quality"
    or "memory"), dtype, machine, source``, each with a default of the use. Raises ``SpecError`` for what makes no
    sense.

    >>> import qkv
    >>> found = qkv.size.recommend("generation", context=8192)
    >>> found.chosen.name, list(found.specs)
    ('multi-head', ['all'])
    >>> qkv.size.recommend("generation", context="128k", batch=8, memory="64GiB").chosen.name
    'latent'
    """
    try:
        scenario = make_scenario(use, **constraints)
    except TypeError as error:
        raise SpecError(
            f"a constraint is not known: {error}.\n  Known: width, heads, layers, context, batch, memory, causal, "
            "first, dtype, machine, source."
        ) from None
    return decide(scenario)


def decide(scenario: Scenario) -> Recommendation:
    """The recommendation for a scenario. The rules are ``RULES``, in their order."""
    found = tuple(figures(stack, scenario) for stack in candidates(scenario))
    ruled_out: dict[str, str] = {}
    unmet: list[Reason] = []
    for rule in RULES:
        if not rule.applies(scenario):
            continue
        left = [item for item in found if item.name not in ruled_out]
        judged = {item.name: rule.judge(scenario, item, found) for item in left}
        if all(judged.values()):
            smallest = min(left, key=lambda item: item.cache_bytes)
            unmet.append(_not_met(rule, scenario, smallest, judged))
            if rule is MEMORY:  # no wish moves it: what is left is compared by size
                judged = {item.name: judged[item.name] if item is not smallest else None for item in left}
            else:
                continue
        ruled_out.update({name: f"{rule.name}: {why}" for name, why in judged.items() if why})
    left = [item for item in found if item.name not in ruled_out]
    chosen = min(left, key=lambda item: item.cache_bytes) if scenario.first is First.MEMORY else left[0]
    ruled_out.update({item.name: _second(scenario, item, chosen) for item in left if item is not chosen})
    ordered = {item.name: ruled_out[item.name] for item in found if item.name in ruled_out}
    return Recommendation(scenario, chosen, reasons(scenario, chosen, found), found, ordered, tuple(unmet))


def _not_met(rule: Rule, scenario: Scenario, smallest: Figures, judged: dict[str, Verdict]) -> Reason:
    """What no candidate meets; for memory, the context that would fit."""
    if rule is not MEMORY:
        return Reason(rule.name, "not met", f"no stack that is left meets it; {judged[smallest.name]}", rule.source)
    stack, limit = smallest.stack, scenario.memory_bytes or 0
    room = fit(
        stack.model(scenario), limit, batch=scenario.batch, dtype=stack.cache_dtype, source=scenario.source
    ).value
    why = (
        f"the smallest cache, of {smallest.name}, takes {show_bytes(smallest.cache_bytes)}, and {show_bytes(limit)} "
        f"are there: {'any number of' if room is None else show_count(room)} tokens of context fit with it"
    )
    return Reason("memory", "not met", why, rule.source)


def _second(scenario: Scenario, item: Figures, chosen: Figures) -> str:
    if scenario.first is First.MEMORY:
        less = f"{show_bytes(chosen.cache_bytes)} of {chosen.name}"
        return f"memory first: {show_bytes(item.cache_bytes)} is not less than {less}"
    return f"quality first: {chosen.name} departs less from multi-head attention, and no rule speaks against it"


# The rules, in their order.


def _linear_asked(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """Time linear in the length: no stack whose pairs grow with its square."""
    if item.stack.reach in ("a state", "a few steps"):
        return None
    return f"its scores take {show_flops(item.pair_flops)}, which grow with the square of the context"


def _whole_reach(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """Retrieval: a state of constant size cannot hold every fact, and a window does not see it."""
    if item.stack.reach == "a state":
        state = item.stack.segments[0].layer.state_size
        cached = 2 * scenario.width * scenario.context
        return f"its state of {state:,} numbers a layer stands for {cached:,} of keys and values"
    if item.stack.reach == "some layers":
        return f"{LOCAL_LAYERS} of {LOCAL_LAYERS + 1} layers see the last {LOCAL_WINDOW:,} tokens alone"
    return None


def _fits(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """Memory: the cache must fit."""
    limit = scenario.memory_bytes or 0
    if item.cache_bytes <= limit:
        return None
    return f"its cache of {show_bytes(item.cache_bytes)} is more than {show_bytes(limit)}"


def _kept_exact(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """A state in place of keys and values: only where it is asked for, or nothing else fits."""
    limit = scenario.memory_bytes
    others = (one for one in found if one.stack.reach != "a state")
    if item.stack.reach != "a state" or (limit is not None and all(one.cache_bytes > limit for one in others)):
        return None
    return "it gives up exact softmax, which nothing here asks for"


def _cache_read(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """Decoding: keys and values for every head do not pay where reading them moves more than the weights do."""
    if item.name != "multi-head" or item.cache_read_bytes <= item.weight_bytes:
        return None
    return (
        f"a decoded token reads {show_bytes(item.cache_read_bytes)} of cache, more than the "
        f"{show_bytes(item.weight_bytes)} of its projections"
    )


def _pairs_first(scenario: Scenario, item: Figures, found: Figured) -> Verdict:
    """Long contexts: where pairs cost more than projections in every layer, most layers are local or sparse."""
    if item.stack.reach != "all" or item.pair_flops <= item.projection_flops:
        return None
    return (
        f"its pairs take {show_flops(item.pair_flops)} for a prompt, more than the {show_flops(item.projection_flops)} "
        "of everything else"
    )


MEMORY = Rule("memory", "policy math", lambda s: s.memory_bytes is not None and s.causal, _fits)

RULES: tuple[Rule, ...] = (
    Rule(
        "linear time",
        "Katharopoulos et al. 2020, Transformers are RNNs (arXiv 2006.16236), section 3.2",
        lambda s: s.use is Use.LINEAR,
        _linear_asked,
    ),
    Rule(
        "softmax kept",
        "Arora et al. 2023, Zoology (arXiv 2312.04927), section 3: recall is what linear attention loses",
        lambda s: s.use is not Use.LINEAR,
        _kept_exact,
    ),
    MEMORY,
    Rule(
        "whole reach",
        "Jelassi et al. 2024, Repeat After Me (arXiv 2402.01032), section 2: copying needs memory of the whole input",
        lambda s: s.use is Use.RETRIEVAL,
        _whole_reach,
    ),
    Rule(
        "cache reads",
        "Shazeer 2019, Fast Transformer Decoding (arXiv 1911.02150), section 2.4.1: reading keys and values binds",
        lambda s: s.causal and s.use in (Use.SERVING, Use.GENERATION, Use.RETRIEVAL, Use.ENCODER_DECODER, Use.FREE),
        _cache_read,
    ),
    Rule(
        "pairs",
        "Gemma 3 (arXiv 2503.19786), section 5.2, for causal stacks; Big Bird (arXiv 2007.14062), section 2, for "
        "others",
        lambda s: s.use in (Use.SERVING, Use.DOCUMENTS),
        _pairs_first,
    ),
)


def reasons(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[Reason, ...]:
    """Why the chosen stack has the parts it has, each with its source."""
    made: list[Reason] = []
    for segment in chosen.stack.segments:
        encoder = segment.layer.kind is Kind.NONE and segment.mechanism == "multi-head"
        why, source = (_why_encoder if encoder else _MECHANISM[segment.mechanism])(scenario, chosen, found)
        made.append(Reason(_layers(segment), segment.mechanism, why, source))
    if any(segment.spec.position is not None for segment in chosen.stack.segments):
        length = max(scenario.context, scenario.source)
        theta, source = theta_for(length)
        where = ", 10,000 in local layers" if chosen.stack.reach == "some layers" else ""
        made.append(Reason("positions", "rope", f"theta {theta:,.0f} for {show_count(length)} tokens{where}", source))
    if scenario.causal:
        made.append(_cache_reason(scenario, chosen))
    if chosen.stack.reach not in ("a state",):
        made.append(_kernel_reason(scenario))
    return tuple(made)


def _layers(segment: Segment) -> str:
    name = "" if segment.name == "all" else f"{segment.name} "
    return f"{segment.num_layers} {name}{'layer' if segment.num_layers == 1 else 'layers'}"


def _cache_reason(scenario: Scenario, chosen: Figures) -> Reason:
    if scenario.use is Use.TRAINING:
        return Reason("cache", "none in training", "every token of a batch is computed at once", "qkv.causal")
    dtype = chosen.stack.cache_dtype
    if chosen.stack.reach == "a state":
        why = f"a state of {show_bytes(chosen.cache_bytes)} in f32, whatever the context"
        return Reason("cache", "recurrent state", why, "Katharopoulos et al. 2020 (arXiv 2006.16236), section 3.4")
    source = "policy math"
    if dtype in ("int8", "int4"):
        source = "Liu et al. 2024, KIVI (arXiv 2402.02750), section 3, on quantized caches; policy math"
    return Reason("cache", f"{dtype} keys and values", f"{show_bytes(chosen.cache_bytes)} in all", source)


def _kernel_reason(scenario: Scenario) -> Reason:
    length = max(scenario.context, scenario.source)
    bytes_ = scenario.batch * scenario.heads * length * length * 2
    return Reason(
        "kernel",
        "flash",
        f"the scores of all pairs of a layer would take {show_bytes(bytes_)}; block by block they are never stored",
        "Dao et al. 2022, FlashAttention (arXiv 2205.14135), section 3.1",
    )


_VASWANI = "Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762), section 3.2"


def _why_encoder(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    return "every token sees every other, and nothing is kept from token to token", _VASWANI


def _why_multi_head(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    if scenario.use is Use.TRAINING:
        why = "nothing is cached in training, so that sharing keys and values saves little"
    elif chosen.cache_read_bytes <= chosen.weight_bytes:
        why = (
            f"a decoded token reads {show_bytes(chosen.cache_read_bytes)} of cache, no more than the "
            f"{show_bytes(chosen.weight_bytes)} of its projections: sharing heads would gain little"
        )
    else:
        read, weights = show_bytes(chosen.cache_read_bytes), show_bytes(chosen.weight_bytes)
        why = f"no rule of this use speaks against it; a decoded token reads {read} of cache and {weights} of weights"
    return why, _VASWANI


def _smaller(chosen: Figures, found: Figured) -> str:
    first = found[0]
    if not chosen.cache_bytes or first is chosen:
        return f"its cache takes {show_bytes(chosen.cache_bytes)}"
    times = first.cache_bytes / chosen.cache_bytes
    return f"its cache takes {show_bytes(chosen.cache_bytes)}, {times:.3g} times less than {first.name}"


def _why_grouped(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    return _smaller(chosen, found), "Ainslie et al. 2023, GQA (arXiv 2305.13245), section 3.2"


def _why_multi_query(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    return _smaller(chosen, found), "Shazeer 2019, Fast Transformer Decoding (arXiv 1911.02150), section 3"


def _why_latent(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    return _smaller(chosen, found), "DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), section 2.1 and appendix D.2"


def _why_window(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    why = (
        f"a window of {LOCAL_WINDOW:,} tokens in {LOCAL_LAYERS} of {LOCAL_LAYERS + 1} layers; {_smaller(chosen, found)}"
    )
    return why, "Gemma Team 2025, Gemma 3 (arXiv 2503.19786), sections 2 and 5.2"


def _why_bigbird(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    times = found[0].pair_flops / chosen.pair_flops
    why = (
        f"its pairs take {show_flops(chosen.pair_flops)}, {times:.3g} times less than all of them, and any two tokens "
        f"are a few steps apart (blocks of {BIGBIRD['block_size']})"
    )
    return why, "Zaheer et al. 2020, Big Bird (arXiv 2007.14062), section 2"


def _why_linear(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    why = (
        f"its work for {show_count(scenario.context)} tokens is {show_flops(chosen.prefill.flops)} and grows with them"
    )
    return why, "Katharopoulos et al. 2020, Transformers are RNNs (arXiv 2006.16236), section 3.2"


def _why_cross(scenario: Scenario, chosen: Figures, found: Figured) -> tuple[str, str]:
    why = f"each token of the result reads all {show_count(scenario.source)} of the source, whose keys are made once"
    return why, _VASWANI


_MECHANISM: dict[str, Callable[[Scenario, Figures, Figured], tuple[str, str]]] = {
    "multi-head": _why_multi_head,
    "grouped-query": _why_grouped,
    "multi-query": _why_multi_query,
    "latent": _why_latent,
    "sliding-window": _why_window,
    "bigbird": _why_bigbird,
    "linear": _why_linear,
    "cross": _why_cross,
}
