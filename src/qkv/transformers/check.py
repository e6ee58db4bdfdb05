"""The first-use check: does a model give with qkv what it gives with its own eager attention?

A text model reads a tiny left-padded batch both ways and the logits are compared. A module that this does not reach
(vision and audio towers, models that need other inputs) has its first real call compared with the eager function of its
own source file. What fails is refused with the figures. This module refuses to know how attention is computed.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import ModelError
from . import watch
from .eager import UNIT, against_own_eager, own_eager_ratio, worse
from .routes import unrouted
from .tiny import implementation, output_of, tiny_batch, untouched

_UNSUITABLE = (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError)
"""What a model raises when it is given a batch of text that it cannot read."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a model's output with qkv lies from its output with eager attention, on the tiny batch.

    ``difference`` is the worst row's figure: the largest difference at a position relative to the largest output there,
    and over the row's positions that are not padding the largest (float32, float64) or the median (16-bit types, where
    one rounding may flip an expert or a near tie). ``calls`` counts the attention calls that reached qkv, and
    ``call_ratio`` is the worst one's difference from the eager function of its own source file, in multiples of what
    rounding explains.
    """

    model: str
    calls: int
    difference: float
    limit: float
    row: int
    call_ratio: float

    @property
    def agrees(self) -> bool:
        """Whether qkv was called and stays within both limits (a NaN does not)."""
        return self.calls > 0 and self.difference <= self.limit and self.call_ratio <= 1.0

    def explain(self) -> str:
        """The message for a model that is refused."""
        if not self.calls:
            return unrouted(self.model)
        which = "left-padded row" if self.row == 0 else "row without padding"
        return (
            f"{self.model} gives other results with qkv than with its own eager attention, so it is refused.\n"
            f"    difference {self.difference:.3g} of the largest output, limit {self.limit:.3g}, worst in the "
            f"{which} of a tiny batch\n"
            f"    worst of {self.calls} attention calls: {self.call_ratio:.3g} times the rounding bound\n"
            '  Load it with attn_implementation="eager", and please report the model; use(model, check=False) runs '
            "it all the same."
        )


def limit_of(dtype: torch.dtype) -> float:
    """The largest relative difference of two correct runs of a model in ``dtype``.

    Layers, residual sums and norms amplify the rounding of one layer. The largest seen between two correct
    implementations, over the test families and SmolLM2 (30 layers): 45 units in float32, 9 in float16, 6 in bfloat16.
    Eager attention takes its softmax in float32 even in float64 models. A lost mask, window or scale moves float32
    outputs by 0.1 and more.
    """
    unit = UNIT.get(dtype, 2.0**-8)
    return 800 * UNIT[torch.float32] if dtype in (torch.float32, torch.float64) else 24 * unit


def compare(model: PreTrainedModel) -> Agreement | None:
    """The agreement of ``model`` with its eager attention on a tiny left-padded batch; None when it cannot read one.

    The model must have "qkv" set already. It is left as it was: its mode, its buffers' bindings, its attributes and its
    implementation.
    """
    batch = tiny_batch(model)
    if batch is None:
        return None
    calls: list[nn.Module] = []
    ratios: list[float] = []

    def look(call: watch.Call) -> None:
        calls.append(call.module)
        ratios.append(own_eager_ratio(call))

    with torch.no_grad(), untouched(model):
        with implementation(model, "eager"):
            try:
                eager = output_of(model(**batch))
            except _UNSUITABLE:
                return None
        if eager is None:
            return None
        with watch.watching(look):
            ours = output_of(model(**batch))
    name = type(model).__name__
    if ours is None:
        return None
    agreement = _measure(name, ratios, ours, eager, batch)
    if agreement.agrees:
        for module in calls:
            watch.seen(module)
    return agreement


def _measure(name: str, ratios: list[float], ours: Tensor, eager: Tensor, batch: dict[str, Any]) -> Agreement:
    low = eager.dtype in (torch.float16, torch.bfloat16)
    difference = (ours.double() - eager.double()).abs().amax(-1) / eager.double().abs().amax(-1).clamp_min(1e-30)
    there = batch["decoder_attention_mask" if "decoder_attention_mask" in batch else "attention_mask"].bool()
    rows = [difference[row][there[row]] for row in range(difference.shape[0])]
    figures = [float(r.median() if low else r.max()) for r in rows]
    worst = max(range(len(figures)), key=lambda row: worse(figures[row]))
    return Agreement(
        name, len(ratios), figures[worst], limit_of(eager.dtype), worst, max(ratios, key=worse, default=0.0)
    )


_passed: dict[tuple[type, str, str, str], frozenset[str]] = {}
"""Model classes, configurations, types and devices that agreed, with the names of the modules that the tiny batch
reached.
"""


def first_use(call: watch.Call) -> None:
    """Checks the model that is making ``call``, once for each class, configuration, type and device, and the module
    itself where that did not reach it.

    Raises ``ModelError`` with the figures when the results differ.
    """
    model = _caller()
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    # A forward pass inside another would leave the other ranks waiting.
    reached = _checked(model) if model is not None and alone else []
    if not any(module is call.module for module in reached):
        against_own_eager(call)
    watch.seen(call.module)  # only now: what was refused is refused again


def _checked(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of ``model`` that the tiny batch reaches, after it agreed."""
    config = hashlib.sha256(model.config.to_json_string(use_diff=False).encode()).hexdigest()
    key = (type(model), config, str(model.dtype), model.device.type)
    parts: Any = model
    modules: dict[str, nn.Module] = dict(parts.named_modules())
    if key not in _passed:
        agreement = compare(model)
        if agreement is not None and not agreement.agrees:
            raise ModelError(agreement.explain())
        reached = {n for n, m in modules.items() if not watch.wanted(m)} if agreement is not None else set[str]()
        _passed[key] = frozenset(reached)
    found = [modules[name] for name in _passed[key] if name in modules]
    for module in found:
        watch.seen(module)
    return found


def _caller() -> PreTrainedModel | None:
    """The outermost transformers model whose forward pass is running."""
    found: PreTrainedModel | None = None
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, PreTrainedModel):
            found = owner
        frame = frame.f_back
    return found
