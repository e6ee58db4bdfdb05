"""Attention made cheaper after training: heads of keys and values pooled, or compressed into a latent.

Each conversion returns the new module and what it lost. It knows weights alone; training afterwards is the user's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

import qkv
from qkv import SizeMismatch, SpecError

from .attention import Attention, Score
from .latent import LatentAttention
from .module import Bias
from .sizes import HeadSizes, whole


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion changed: ``weights``, the relative error of each map in the Frobenius norm; ``output``, that of
    the outputs on the inputs given, NaN without; ``parameters`` and ``cache``, numbers before and after, the second for
    each token.
    """

    title: str
    weights: Mapping[str, float]
    output: float
    parameters: tuple[int, int]
    cache: tuple[int, int]

    def __str__(self) -> str:
        output = "not measured: give x=" if math.isnan(self.output) else f"{self.output:.4f} of their norm"
        return "\n".join(
            (
                self.title,
                *(f"  error of {name:<16} {error:.4f} of their norm" for name, error in self.weights.items()),
                f"  error of {'outputs':<16} {output}",
                f"  {'parameters':<25} {self.parameters[0]:,} -> {self.parameters[1]:,}",
                f"  {'cached for each token':<25} {self.cache[0]:,} -> {self.cache[1]:,} numbers",
            )
        )


@torch.no_grad()
def to_grouped(
    module: Attention, kv_heads: int, *, x: Tensor | None = None, score: Score = None
) -> tuple[Attention, Conversion]:
    """Return grouped-query attention whose keys and values are the means of those of ``module``, and what was lost.

    Each of the ``kv_heads`` new heads is the mean of the old ones that it replaces, which stand side by side; queries
    and the output stay. ``x``: inputs on which the outputs' error is measured. ``score``: the terms of the new module,
    which are said anew where the old one has some, because ``h`` now counts fewer heads. Raises ``SizeMismatch`` for a
    number that does not divide the old one, ``SpecError`` for score terms that are not said.
    Source: Ainslie et al. 2023, GQA (arXiv 2305.13245), section 2.1

    >>> layer, lost = qkv.nn.to_grouped(qkv.nn.Attention(64, 8), 2)
    >>> layer.sizes.kv_heads, lost.cache
    (2, (128, 32))
    """
    old, spec = module.sizes, module.spec
    whole("to_grouped", kv_heads=kv_heads)
    if old.kv_heads % kv_heads:
        raise SizeMismatch(
            f"to_grouped: {old.kv_heads} heads of keys cannot be pooled into kv_heads={kv_heads}.\n"
            "  Each new head is the mean of the same number of old ones."
        )
    if spec.score and score is None:
        raise SpecError(
            f"to_grouped: the module has score={spec.score!r}, whose heads are counted anew.\n"
            "  Say the terms of the new module: score=..., with h for its key heads and g within them."
        )
    new = Attention(
        old.d_model,
        old.heads,
        kv_heads,
        old.head_dim,
        position=spec.position,
        score=score,
        keep=spec.keep,
        weights=spec.weights,
        scale=spec.scale,
        bias=_bias(module),
        qk_norm=module.q_norm is not None,
        norm_eps=module.norm_eps,
        out_proj=module.o_proj is not None,
        dropout=module.dropout,
        device=module.q_proj.weight.device,
        dtype=module.q_proj.weight.dtype,
    ).train(module.training)
    given = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("terms.")}
    lost: dict[str, float] = {}
    for layer, name in (("k_proj", "keys"), ("v_proj", "values")):
        for what in ("weight", "bias"):
            if (key := f"{layer}.{what}") in given:
                by_head = given[key].reshape(kv_heads, -1, old.head_dim, *given[key].shape[1:])
                mean = by_head.mean(1, keepdim=True)
                given[key] = mean.reshape(kv_heads * old.head_dim, *given[key].shape[1:])
                lost |= {name: _relative(by_head - mean, by_head)} if what == "weight" else {}
    for name, parameter in new.named_parameters():
        if not name.startswith("terms."):
            parameter.copy_(given[name])
    cache = (2 * old.kv_heads * old.head_dim, 2 * kv_heads * old.head_dim)
    return new, _report(f"{old.kv_heads} heads of keys and values -> {kv_heads}, pooled", module, new, x, lost, cache)


@torch.no_grad()
def to_latent(module: Attention, kv_lora_rank: int, *, x: Tensor | None = None) -> tuple[LatentAttention, Conversion]:
    """Return latent attention whose keys and values are the best of rank ``kv_lora_rank``, and what was lost.

    The maps to keys and values of all heads are one matrix, whose singular value decomposition gives the way down and
    up: no other maps of this rank have a smaller error in the Frobenius norm. Features that ``position`` turns are kept
    apart, exactly: a latent cannot be turned, so each key head's rotary features stand in the shared rotary key, and a
    query is 0 beside those of other heads. A module that turns all features so compresses its values alone. ``x``:
    inputs on which the outputs' error is measured. Raises ``SpecError`` for what latent attention does not have: score
    terms, other weights than softmax, biases, ``qk_norm``, no ``o_proj``, sections; and for a rank above that of the
    maps.
    Source: DeepSeek-AI 2024, DeepSeek-V2 (arXiv 2405.04434), section 2.1; Eckart and Young 1936 for the optimum

    >>> layer, lost = qkv.nn.to_latent(qkv.nn.Attention(64, 8, 2), 16)
    >>> layer.sizes.kv_lora_rank, lost.cache
    (16, (32, 16))
    """
    _check_latent(module)
    size, position = module.sizes, module.spec.position
    rotary = 0 if position is None else position.rotary_size(size.head_dim)
    nope = size.head_dim - rotary
    wide = [layer.weight.double() for layer in (module.q_proj, module.k_proj, module.v_proj)]
    if position is not None and not position.interleaved:
        wide[:2] = [qkv.permute_pairing(w, size.head_dim, to="interleaved", rotary_size=rotary) for w in wide[:2]]
    q, k, v = (w.reshape(-1, size.head_dim, size.d_model) for w in wide)
    joint = torch.cat((k[:, rotary:], v), dim=1)  # [key head, feature, model]
    rows = joint.shape[0] * joint.shape[1]
    whole("to_latent", kv_lora_rank=kv_lora_rank)
    if kv_lora_rank > min(rows, size.d_model):
        raise SpecError(
            f"to_latent: kv_lora_rank={kv_lora_rank} is above the rank of the maps, {min(rows, size.d_model)}.\n"
            "  A latent of that many numbers loses nothing; more are of no use."
        )
    up, down, error = _factors(joint.reshape(rows, -1), kv_lora_rank)
    new = LatentAttention(
        size.d_model,
        size.heads,
        kv_lora_rank=kv_lora_rank,
        qk_nope_head_dim=nope,
        qk_rope_head_dim=size.kv_heads * rotary,
        v_head_dim=size.head_dim,
        position=None if position is None else _side_by_side(position, rotary, size.kv_heads),
        keep=module.spec.keep,
        scale=1 / math.sqrt(size.head_dim) if module.spec.scale is None else module.spec.scale,
        latent_norm=False,
        dropout=module.dropout,
        device=module.q_proj.weight.device,
        dtype=module.q_proj.weight.dtype,
    ).train(module.training)
    turned = q.new_zeros(size.heads, size.kv_heads, rotary, size.d_model)
    for head in range(size.heads):
        turned[head, head // size.group] = q[head, :rotary]
    new.q_proj.weight.copy_(torch.cat((q[:, rotary:], turned.flatten(1, 2)), dim=1).flatten(0, 1))
    new.kv_a_proj_with_mqa.weight.copy_(torch.cat((down, k[:, :rotary].flatten(0, 1))))
    new.kv_b_proj.weight.copy_(_by_query_head(up, size))
    new.o_proj.weight.copy_(module.state_dict()["o_proj.weight"])
    lost = {"keys and values": error}
    cache = (2 * size.kv_heads * size.head_dim, kv_lora_rank + size.kv_heads * rotary)
    title = f"{size.kv_heads} heads of keys and values -> a latent of {kv_lora_rank}"
    title += f", beside {size.kv_heads * rotary} rotary features" if rotary else ""
    return new, _report(title, module, new, x, lost, cache)


def _check_latent(module: Attention) -> None:
    """``SpecError`` for what latent attention does not have."""
    position = module.spec.position
    several = position is not None and position.sections is not None
    lacking = {
        f"score={module.spec.score!r}": bool(module.spec.score),
        f"weights={module.spec.weights!r}": module.spec.weights != qkv.Spec().weights,
        "biases": _bias(module) is not False,
        "qk_norm=True": module.q_norm is not None,
        "out_proj=False": module.o_proj is None,
        f"position={position!r}": several
        or (position is not None and isinstance(position.scaling, type(qkv.scaling.proportional()))),
    }
    found = [name for name, there in lacking.items() if there]
    if found:
        raise SpecError(
            f"to_latent: the module has {', '.join(found)}, for which latent attention has no place.\n"
            "  Convert a module of projections, a plain position and a mask."
        )


def _factors(joint: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The way up [to, rank] and down [rank, from] whose product is nearest to ``joint``, and how far it lies off."""
    decomposed: Any = torch.linalg.svd(joint, full_matrices=False)  # pyright: ignore
    left, values, right = cast("tuple[Tensor, Tensor, Tensor]", decomposed)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank], _relative(values[rank:], values)


def _by_query_head(up: Tensor, size: HeadSizes) -> Tensor:
    """The way up of each key head once for each of its query heads: [heads * feature, rank]."""
    by_head = up.reshape(size.kv_heads, 1, -1, up.shape[-1])
    return by_head.expand(-1, size.group, -1, -1).reshape(-1, up.shape[-1])


def _side_by_side(position: qkv.Rope, rotary: int, count: int) -> qkv.Rope:
    """``position`` for the rotary features of ``count`` heads, each turned as if it stood alone."""
    sections = (rotary // 2,) * count
    return dataclasses.replace(position, interleaved=True, fraction=1.0, sections=sections, section_layout="axial")


def _bias(module: Attention) -> Bias:
    names = {name for name, _ in module.named_parameters()}
    return "q_proj.bias" in names and (True if module.o_proj is None or "o_proj.bias" in names else "qkv")


def _relative(difference: Tensor, of: Tensor) -> float:
    return float(difference.double().square().sum().sqrt() / of.double().square().sum().sqrt())


def _report(
    title: str,
    old: Attention,
    new: nn.Module,
    x: Tensor | None,
    lost: Mapping[str, float],
    cache: tuple[int, int],
) -> Conversion:
    """The report; outputs are compared without dropout, and without a change of either module."""
    error = math.nan
    if x is not None:
        trains = old.training
        expected, found = old.eval()(x), new.eval()(x)
        old.train(trains)
        new.train(trains)
        error = _relative(found - expected, expected)
    before, after = (sum(p.numel() for p in module.parameters()) for module in (old, new))
    return Conversion(title, lost, error, (before, after), cache)
