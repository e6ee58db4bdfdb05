"""Weights of common checkpoints, brought into the projections of a module: separate, packed, or grouped by key head.

It knows how checkpoints name and lay out projections. It loads everything or nothing, and leaves no tensor of the
checkpoint out in silence; it refuses to read files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

import qkv
from qkv import ModelError, SizeMismatch, SpecError

from .attention import Attention
from .module import HeadsModule
from .sizes import HeadSizes

Pairing = Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How checkpoints of one kind hold the projections of an attention layer, by names below the layer's own.

    ``fused`` is the one tensor of queries, keys and values: ``packed``, all rows of queries before those of keys and
    values, or ``grouped``, for each key head its queries, its key, its value; ``separate`` has three. ``transposed``
    tensors are [from, to]. ``ignored`` are names of things that are no weights of attention.
    """

    kind: Literal["separate", "packed", "grouped"]
    inputs: tuple[str, ...]
    output: str
    transposed: bool = False
    joint: str = "."
    ignored: tuple[str, ...] = ()


_BUFFERS = ("bias", "masked_bias", "attention.bias", "attention.masked_bias", "rotary_emb.inv_freq")

LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout("separate", ("q_proj", "k_proj", "v_proj"), "o_proj", ignored=_BUFFERS),
    "bart": Layout("separate", ("q_proj", "k_proj", "v_proj"), "out_proj"),
    "bert": Layout(
        "separate",
        ("self.query", "self.key", "self.value"),
        "output.dense",
        ignored=("output.LayerNorm.weight", "output.LayerNorm.bias"),
    ),
    "torch": Layout("packed", ("in_proj",), "out_proj", joint="_"),
    "gpt2": Layout("packed", ("c_attn",), "c_proj", transposed=True, ignored=_BUFFERS),
    "phi3": Layout("packed", ("qkv_proj",), "o_proj", ignored=_BUFFERS),
    "gpt_neox": Layout("grouped", ("query_key_value",), "dense", ignored=_BUFFERS),
    "falcon": Layout("grouped", ("query_key_value",), "dense", ignored=_BUFFERS),
}
"""The layouts by name. ``llama`` is that of Mistral, Qwen and Gemma too, ``gpt_neox`` that of Pythia and BLOOM."""

_NORMS = ("q_norm.weight", "k_norm.weight")


def load_checkpoint(
    module: HeadsModule, state: Mapping[str, Tensor], layout: str, *, prefix: str = "", pairing: Pairing | None = None
) -> None:
    """Copies the weights of one attention layer of a checkpoint into ``module``; changes nothing when it raises.

    ``state``: tensors by name, of which those that begin with ``prefix`` belong to the layer. ``layout``: a name of
    ``LAYOUTS``. ``pairing``: how the checkpoint pairs rotary features, when not as the module's ``position`` does;
    queries and keys are then reordered. Raises ``ModelError`` for names that are missing or left over, ``SizeMismatch``
    for shapes that do not fit, ``SpecError`` for a layout or pairing that is not known.

    >>> source = torch.nn.MultiheadAttention(64, 8, batch_first=True)
    >>> layer = qkv.nn.Attention(64, 8, bias=True)
    >>> load_checkpoint(layer, source.state_dict(), "torch")
    >>> x = torch.randn(2, 5, 64)
    >>> torch.allclose(layer(x), source(x, x, x)[0], atol=1e-5)
    True
    """
    known, given = _layout(layout), _below(state, prefix)
    found = _projections(known, layout, given, module.sizes)
    found = _other_pairing(module, found, pairing)
    targets = {name: x for name, x in module.named_parameters() if not name.startswith("terms.")}
    if missing := sorted(targets.keys() - found.keys()):
        raise ModelError(
            f"the checkpoint lacks what the module has: {', '.join(missing)}.\n    it has: {_shown(given)}\n"
            "  Make the module without (bias, qk_norm, out_proj), or give the layer that has them."
        )
    if extra := sorted(found.keys() - targets.keys()):
        raise ModelError(
            f"the checkpoint has what the module lacks: {', '.join(extra)}.\n    the module has: "
            f"{', '.join(sorted(targets))}\n"
            '  Make the module with bias=True, bias="qkv" or qk_norm=True; nothing is left out in silence.'
        )
    for name, target in targets.items():
        if found[name].shape != target.shape:
            raise SizeMismatch(
                f"{name} is {tuple(found[name].shape)} in the checkpoint and {tuple(target.shape)} in the module.\n"
                f"    the module: {module.sizes}\n  Give the sizes of the checkpoint's configuration."
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(found[name])


def from_checkpoint(
    state: Mapping[str, Tensor],
    layout: str,
    *,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    prefix: str = "",
    pairing: Pairing | None = None,
    **parts: Any,
) -> Attention:
    """Return an ``Attention`` with the weights of one attention layer of a checkpoint, in their dtype.

    The model's size, biases and norms are read from the tensors; ``head_dim`` too when it is None, and ``kv_heads``
    where keys are separate, else None means ``heads``. ``parts``: ``position``, ``score``, ``keep`` and what else
    ``Attention`` takes. Other arguments, and what is raised, as of ``load_checkpoint``.

    >>> source = qkv.nn.Attention(64, 8, 2)
    >>> qkv.nn.from_checkpoint(source.state_dict(), "llama", heads=8, keep=qkv.causal()).sizes.kv_heads
    2
    """
    known, given = _layout(layout), _below(state, prefix)
    weights = _named(known, layout, given, "weight")
    rows, d_model = (weights[0].T if known.transposed else weights[0]).shape
    if known.kind == "separate":
        features = _quotient(layout, rows, heads, "heads") if head_dim is None else head_dim
        shared = _quotient(layout, weights[1].shape[0], features, "head_dim") if kv_heads is None else kv_heads
    else:
        shared = heads if kv_heads is None else kv_heads
        features = _quotient(layout, rows, heads + 2 * shared, "heads + 2 kv_heads") if head_dim is None else head_dim
    in_bias, out_bias = (f"{name}{known.joint}bias" in given for name in (known.inputs[0], known.output))
    out_bias = out_bias or f"{known.output}.bias" in given
    if out_bias and not in_bias:
        raise ModelError(
            f"the checkpoint has a bias for {known.output} and none for {known.inputs[0]}.\n"
            "  Attention has biases for all, for all but the output, or for none; load into a module of your own."
        )
    module = Attention(
        d_model,
        heads,
        shared,
        features,
        bias=True if out_bias else "qkv" if in_bias else False,
        qk_norm=_NORMS[0] in given,
        device=weights[0].device,
        dtype=weights[0].dtype,
        **parts,
    )
    load_checkpoint(module, state, layout, prefix=prefix, pairing=pairing)
    return module


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise SpecError(
            f"layout={name!r} is not known.\n  Known: {', '.join(LAYOUTS)}. Rename other tensors to one of them."
        )
    return LAYOUTS[name]


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    if not found:
        raise ModelError(
            f"no name of the checkpoint begins with {prefix!r}.\n    it has: {_shown(state)}\n"
            "  Give the layer's own prefix, its dot included."
        )
    return found


def _shown(names: Mapping[str, Any]) -> str:
    shown = list(names)[:12]
    return ", ".join(shown) + (f", and {len(names) - 12} more" if len(names) > 12 else "")


def _quotient(layout: str, rows: int, by: int, name: str) -> int:
    if by < 1 or rows % by:
        raise SizeMismatch(
            f"the projection of layout {layout!r} has {rows} rows, and {name} = {by} does not divide them.\n"
            "  Give heads, kv_heads and head_dim as the checkpoint's configuration says."
        )
    return rows // by


def _named(known: Layout, layout: str, given: Mapping[str, Tensor], what: str) -> list[Tensor]:
    names = [f"{name}{known.joint}{what}" for name in known.inputs]
    if lacking := [name for name in names if name not in given]:
        raise ModelError(
            f"layout {layout!r} needs {', '.join(lacking)}, which the checkpoint lacks.\n    it has: {_shown(given)}\n"
            f"  Give the layer's prefix, or another layout: {', '.join(LAYOUTS)}."
        )
    return [given[name] for name in names]


def _projections(known: Layout, layout: str, given: Mapping[str, Tensor], sizes: HeadSizes) -> dict[str, Tensor]:
    """The module's parameters by name, cut out of the checkpoint's tensors; none of these is left over."""
    found: dict[str, Tensor] = {}
    used = {*known.ignored, *(name for name in given if name in _NORMS)}
    for what in ("weight", "bias"):
        names = [f"{name}{known.joint}{what}" for name in known.inputs]
        if what == "weight" or any(name in given for name in names):
            tensors = _named(known, layout, given, what)
            tensors = [x.T if known.transposed and what == "weight" else x for x in tensors]
            parts = tensors if known.kind == "separate" else _cut(known, names[0], tensors[0], sizes)
            found |= {f"{to}.{what}": x for to, x in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True)}
            used |= {*names}
        name = f"{known.output}.{what}"
        if name in given:
            found[f"o_proj.{what}"] = given[name].T if known.transposed and what == "weight" else given[name]
            used.add(name)
    found |= {name: given[name] for name in _NORMS if name in given}
    if left := sorted(given.keys() - used):
        raise ModelError(
            f"layout {layout!r} has no place for {_shown(dict.fromkeys(left))}.\n"
            "  Give the prefix of the attention layer alone, or leave these out if they are no part of it."
        )
    return found


def _cut(known: Layout, name: str, fused: Tensor, sizes: HeadSizes) -> list[Tensor]:
    """Queries, keys and values out of one tensor [to, ...]."""
    group, rows = sizes.group, (sizes.heads + 2 * sizes.kv_heads) * sizes.head_dim
    if fused.shape[0] != rows:
        raise SizeMismatch(
            f"{name} has {fused.shape[0]} rows, and (heads + 2 kv_heads) head_dim = {rows}.\n    the module: {sizes}\n"
            "  Give the sizes of the checkpoint's configuration."
        )
    if known.kind == "packed":
        counts = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
        return list(torch.split(fused, [n * sizes.head_dim for n in counts]))  # pyright: ignore[reportUnknownMemberType]
    by_head = fused.reshape(sizes.kv_heads, group + 2, sizes.head_dim, *fused.shape[1:])
    parts = (by_head[:, :group], by_head[:, group], by_head[:, group + 1])
    return [x.reshape(-1, *fused.shape[1:]) for x in parts]


def _other_pairing(module: HeadsModule, found: dict[str, Tensor], pairing: Pairing | None) -> dict[str, Tensor]:
    """Queries, keys and their norms reordered, when the checkpoint pairs rotary features in another way."""
    if pairing is None:
        return found
    position = module.spec.position
    if cast(str, pairing) not in ("half", "interleaved") or position is None:
        raise SpecError(
            f"pairing={pairing!r} for a module with position={position!r}.\n"
            "  Known: half, interleaved, for a module that turns its queries and keys."
        )
    own: Pairing = "interleaved" if position.interleaved else "half"
    if pairing == own:
        return found
    size = position.rotary_size(module.sizes.head_dim)
    turned = ("q_proj", "k_proj", "q_norm", "k_norm")
    return {
        name: qkv.permute_pairing(x, module.sizes.head_dim, to=own, rotary_size=size)
        if name.split(".")[0] in turned
        else x
        for name, x in found.items()
    }
