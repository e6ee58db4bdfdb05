"""The float64 definitions of weights that are not a softmax, and the magnitude of the terms each is made of.

Knows how scores become weights. A magnitude here is the sum of the absolute values of what is added up: where terms
cancel, it stays while the weight shrinks, and the rounding error follows it. Refuses to know masks and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qkv.errors import SpecError
from qkv.testing.magnitudes import row_maximum

FEATURE_MAPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # the map, and the magnitude of its terms: elu(x) + 1 is computed as a sum, so near 0 its error is that of the 1
    "elu1": (lambda x: torch.nn.functional.elu(x) + 1, lambda x: torch.nn.functional.elu(x).abs() + 1),
    "relu": (torch.relu, torch.relu),
    "identity": (lambda x: x, torch.abs),
}


@dataclass(frozen=True, slots=True)
class Weighed:
    """Weights [b, h, i, j], the magnitudes of their terms, and what they came from.

    ``shares`` are the weights whose entropy and argmax are reported; under differential weights they, ``logits``,
    ``delta`` and ``lse`` carry the branch as their first axis. ``top`` [b, h, i] is the largest term that a weight
    stands beside in the same sum. ``average`` is 1 where weights sum to at most 1, so that the output is no larger than
    the values, and inf elsewhere.
    """

    weights: Tensor
    magnitudes: Tensor
    logits: Tensor
    delta: Tensor
    lse: Tensor | None
    shares: Tensor
    top: Tensor
    average: float


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """Weights sigmoid(logit + bias), each key for itself. Source: Ramapuram et al. 2024, section 2."""

    bias: float = 0.0

    def weigh(self, logits: Tensor, kept: Tensor, delta: Tensor) -> Weighed:
        """The weights of logits [b, h, i, j]; d sigmoid = w (1 - w), so a logit's error enters with at most w."""
        # through its logarithm: autograd's slope of a sigmoid, w (1 - w), has few digits where w is near 1
        logs = torch.nn.functional.logsigmoid(logits + self.bias)
        weights = torch.where(kept, torch.exp(logs), 0.0)
        return Weighed(weights, weights, logits, delta, None, weights, torch.ones_like(delta), torch.inf)


@dataclass(frozen=True, slots=True)
class Differential:
    """Weights softmax_1 - lam softmax_2 of two branches. Source: Ye et al. 2024, equations 1 to 3.

    Coordinates: ``lam`` a number or [h]. ``normalize`` divides each head's output by its root mean square over the
    value feature (``epsilon`` added to the mean square) and multiplies by (1 - lambda_init). ``renormalize="clamp"``
    sets negative weights to 0 and divides the row by what is left.
    Edges: a clamped row without a positive weight is 0.
    """

    lam: float | Tensor
    lambda_init: float = 0.8
    normalize: bool = True
    renormalize: Literal["clamp"] | None = None
    epsilon: float = 1e-5

    def weigh(self, softmax: Tensor, logits: Tensor, lse: Tensor, delta: Tensor) -> Weighed:
        """The weights of two softmaxes [2, b, h, i, j]."""
        if softmax.dim() != 5 or softmax.shape[0] != 2:
            raise SpecError(
                f"differential weights need q and k with a leading axis of 2; b h i j is {tuple(softmax.shape)}"
            )
        lam = (
            self.lam.double()[:, None, None]
            if isinstance(self.lam, Tensor)
            else torch.tensor(self.lam, dtype=torch.float64)
        )
        weights = softmax[0] - lam * softmax[1]
        magnitudes = softmax[0] + lam.abs() * softmax[1]
        if self.renormalize == "clamp":
            positive = weights.clamp(min=0)
            total = positive.sum(-1, keepdim=True)
            divisor = torch.where(total > 0, total, 1.0)
            weights = torch.where(total > 0, positive / divisor, 0.0)
            # the quotient's error: the numerator's, and the sum's in proportion to the weight
            magnitudes = (magnitudes + weights * magnitudes.sum(-1, keepdim=True)) / divisor
        return Weighed(weights, magnitudes, logits, delta, lse, softmax, row_maximum(magnitudes, 0.0), torch.inf)

    def normalise(self, output: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Each head's output over its root mean square, and the magnitude carried through to first order.

        y = c x / r, r = sqrt(mean x^2 + epsilon): dy = c (dx - x (mean x dx) / r^2) / r.
        """
        if not self.normalize:
            return output, magnitude
        root = (output.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        factor = 1 - self.lambda_init
        unit = (output / root).abs()
        carried = (magnitude + unit * (unit * magnitude).mean(-1, keepdim=True)) / root
        return factor * output / root, (abs(factor) * carried).detach()


@dataclass(frozen=True, slots=True)
class Linear:
    """Weights phi(q) . phi(k) decay^(i - j), divided by their sum. Source: Katharopoulos et al. 2020, equation 5.

    Coordinates: ``feature_map`` a name of ``FEATURE_MAPS`` or an elementwise function; ``decay`` a number or [h], in
    (0, 1]; ``first_query_position`` is the position of query 0 when key 0 stands at 0. There is no scale.
    Edges: with decay, a kept key after its query counts decay^-(j - i). A row whose weights sum to 0 is 0.
    """

    feature_map: str | Callable[[Tensor], Tensor] = "elu1"
    decay: float | Tensor | None = None
    normalize: bool = True
    first_query_position: int = 0

    def weigh(self, q: Tensor, k: Tensor, kept: Tensor) -> Weighed:
        """The weights of q [b, h, i, d] and k [b, h, j, d]."""
        phi, size = self._maps()
        similarity = phi(q) @ phi(k).transpose(-1, -2)
        magnitudes = size(q) @ size(k).transpose(-1, -2)
        delta = 4 * q.shape[-1] ** 0.5 * 2.0**-24 * kept.any(-1).double()
        if self.decay is not None:
            decay = (
                self.decay.double()[:, None, None]
                if isinstance(self.decay, Tensor)
                else torch.tensor(self.decay, dtype=torch.float64)
            )
            positions = torch.arange(q.shape[-2], device=q.device) + self.first_query_position
            distance = torch.where(kept, positions[:, None] - torch.arange(k.shape[-2], device=q.device), 0)
            similarity, magnitudes = similarity * decay**distance, magnitudes * decay**distance
            # decay^n is computed as exp(n ln decay): the exponent's rounding is relative to its size
            exponent = (distance * decay.log()).abs().detach()
            delta = delta + 4 * 2.0**-24 * (exponent.amax(-1) if exponent.shape[-1] else 0.0)
        similarity = torch.where(kept, similarity, 0.0)
        magnitudes = torch.where(kept, magnitudes, 0.0)
        weights = similarity
        if self.normalize:
            total = similarity.sum(-1, keepdim=True)
            divisor = torch.where(total != 0, total, 1.0)
            weights = similarity / divisor
            magnitudes = (magnitudes + weights.abs() * magnitudes.sum(-1, keepdim=True)) / divisor.abs()
        logits = torch.where(kept, similarity, -torch.inf)
        top = row_maximum(magnitudes, 0.0)
        return Weighed(weights, magnitudes, logits, delta, None, weights.abs(), top, torch.inf)

    def _maps(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        if not isinstance(self.feature_map, str):
            given = self.feature_map
            return given, lambda x: given(x).abs()
        if self.feature_map not in FEATURE_MAPS:
            raise SpecError(f'there is no feature map "{self.feature_map}".\n    maps: {", ".join(FEATURE_MAPS)}')
        return FEATURE_MAPS[self.feature_map]
