"""What every attention module of heads has: projections, a spec made once, and how a call goes through it.

It knows projections, initialisation, the merging of batch axes, and the terms of one call. It refuses to know where
keys and values come from, which the modules say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

import qkv
from qkv import ShapeError, SizeMismatch, SpecError

from .sizes import HeadSizes, share

Bias = bool | Literal["qkv"]
"""Which projections have a bias: all, none, or those of queries, keys and values."""

Positions = int | Tensor | Mapping[str, Any] | None
"""Where tokens stand: the first one's position, one for each token, or by coordinate as ``Spec.run`` takes them."""


class HeadsModule(nn.Module):
    """Projections of heads around one spec; the modules for users derive from it."""

    def __init__(
        self,
        sizes: HeadSizes,
        spec: qkv.Spec,
        *,
        d_memory: int | None = None,
        bias: Bias = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        out_proj: bool = True,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if bias not in (True, False, "qkv"):
            raise SpecError(f'{self._name}: bias={bias!r} is not known.\n  Known: True, False, "qkv" (all but o_proj).')
        made = {"device": device, "dtype": dtype}
        self.sizes, self.spec, self.dropout, self.norm_eps = sizes, spec, share(self._name, dropout), norm_eps
        source = sizes.d_model if d_memory is None else d_memory
        queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        self.q_proj = nn.Linear(sizes.d_model, queries, bias=bool(bias), **made)
        self.k_proj = nn.Linear(source, keys, bias=bool(bias), **made)
        self.v_proj = nn.Linear(source, keys, bias=bool(bias), **made)
        self.o_proj = nn.Linear(queries, sizes.d_model, bias=bias is True, **made) if out_proj else None
        self.q_norm = nn.RMSNorm(sizes.head_dim, norm_eps, **made) if qk_norm else None
        self.k_norm = nn.RMSNorm(sizes.head_dim, norm_eps, **made) if qk_norm else None
        register_terms(self, spec)
        self.reset_parameters()

    @property
    def _name(self) -> str:
        return type(self).__name__

    def reset_parameters(self) -> None:
        """Projections are drawn anew: Xavier's uniform distribution, biases 0. Norms become 1; terms stay."""
        for layer in self.children():
            draw(layer)

    def heads_of(self, layer: nn.Module, norm: nn.Module | None, x: Tensor) -> Tensor:
        """``x`` [b, position, from] through a projection, by head and normalised: [b, position, head, feature]."""
        projected: Tensor = layer(x)
        heads = parted(projected, projected.shape[-1] // self.sizes.head_dim, self.sizes.head_dim)
        return heads if norm is None else norm(heads)

    def finish(self, output: Tensor, lead: torch.Size) -> Tensor:
        """The output [b, query, head, feature] projected, with the batch axes that were given."""
        joined = output.flatten(-2)
        joined = joined if self.o_proj is None else self.o_proj(joined)
        return joined if len(lead) == 1 else joined.reshape(*lead, *joined.shape[1:])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        check_terms(self, self.spec)
        return self

    def extra_repr(self) -> str:
        """The coordinates, their sizes, and the spec."""
        dropout = f", dropout={self.dropout:g}" if self.dropout else ""
        return f'"..b i model" -> "..b i model", {self.sizes}{dropout}\n{self.spec!r}'


def draw(layer: nn.Module) -> None:
    """Xavier's uniform distribution for a linear layer, bias 0; ones for a norm; nothing for anything else."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - torch says that it is always there
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.RMSNorm):
        layer.reset_parameters()


def register_terms(module: nn.Module, spec: qkv.Spec) -> None:
    """Makes the parameters that the spec's terms capture parameters of the module, ``terms.0`` and on, if there are."""
    learned = [table for table in spec.tables if isinstance(table, nn.Parameter)]
    if learned:
        module.terms = nn.ParameterList(learned)


def check_terms(module: nn.Module, spec: qkv.Spec) -> None:
    """``SpecError`` when a conversion put other parameters in the place of those that the terms capture."""
    held = list(cast("nn.ParameterList", module.terms)) if hasattr(module, "terms") else []
    captured = [table for table in spec.tables if isinstance(table, nn.Parameter)]
    if any(a is not b for a, b in zip(held, captured, strict=True)):
        raise SpecError(
            f"{type(module).__name__}: this conversion makes new parameters, and the spec's terms hold the old ones.\n"
            "  Make the terms and the module on the device where they are used."
        )


def flat(owner: str, x: Tensor, size: int, name: str = "x") -> tuple[Tensor, torch.Size]:
    """``x`` with its batch axes merged, [b, position, ``size``], and the axes that there were."""
    if x.dim() < 2:
        raise ShapeError(
            f'{owner}: {name} has the shape {tuple(x.shape)}, and "..b i model" has at least two axes.\n'
            f"  Give [position, {size}], with any batch axes before them."
        )
    if x.shape[-1] != size:
        raise SizeMismatch(
            f"{owner}: {name} has {x.shape[-1]} features in its last axis, shape {tuple(x.shape)}, not {size}.\n"
            "  The last axis is the model's."
        )
    return (x if x.dim() == 3 else x.reshape(-1, *x.shape[-2:])), x.shape[:-2]


def parted(x: Tensor, *sizes: int) -> Tensor:
    """``x`` with its last axis cut into axes of these sizes, major to minor."""
    return x.reshape(*x.shape[:-1], *sizes)


def places(owner: str, positions: Positions, shape: torch.Size, names: Iterable[str]) -> dict[str, Any]:
    """The option ``positions`` of a spec: the same for each of the coordinates; nothing when none are given.

    ``shape``: the batch axes and the number of tokens, to which a tensor's shape must fit.
    """
    if positions is None:
        return {}
    if isinstance(positions, Mapping):
        return {"positions": positions}
    if isinstance(positions, int):
        return {"positions": dict.fromkeys(names, positions)}
    if tuple(positions.shape) not in (tuple(shape[-1:]), tuple(shape)):
        raise ShapeError(
            f"{owner}: positions have the shape {tuple(positions.shape)}, and tokens {tuple(shape)}.\n"
            f"  Give one for each place, {tuple(shape[-1:])}, or for each token, {tuple(shape)}; or the first one's."
        )
    if positions.dim() == 1:
        return {"positions": dict.fromkeys(names, positions)}
    merged = positions.reshape(-1, positions.shape[-1])
    return {"positions": {name: (merged, f"b {name}") for name in names}}


def attend(spec: qkv.Spec, q: Tensor, k: Tensor, v: Tensor, keep: qkv.Keep | None, options: dict[str, Any]) -> Tensor:
    """The output of one call of the spec, to whose mask ``keep`` is added for this call."""
    if keep is None:
        return spec(q, k, v, **options)
    if torch.compiler.is_compiling():
        refuse_in_a_graph()
    joined = keep if spec.keep is None else spec.keep & keep
    parts: dict[str, Any] = {
        "position": spec.position,
        "score": spec.score,
        "keep": joined,
        "weights": spec.weights,
        "scale": spec.scale,
    }
    if "cache" in options:
        return qkv.Spec(spec.pattern, **parts)(q, k, v, **options)
    return qkv.attention(q, k, v, spec.pattern, **parts, **options)


@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator]
def refuse_in_a_graph() -> None:
    """``SpecError``: a graph holds the masks that were there when it was made."""
    raise SpecError(
        "keep= is given for one call inside torch.compile, and a graph holds masks, not their values at each call.\n"
        "  Give keep= to the module when it is made, or call the module outside of the compiled function."
    )
