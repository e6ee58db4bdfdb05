"""Planting a fault in a kernel: one line of its source exchanged while a test runs.

Knows how to find a function everywhere it was imported. A fault whose line is no longer there is an error, so that
the list cannot
rot silently.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Fault:
    """``old`` in the source of ``module``'s ``function`` (a name, or ``Class.method``) becomes ``new``."""

    says: str
    module: str
    function: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.says

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        """Exchanges the line wherever the function is known, until ``patch`` is undone."""
        module = sys.modules[f"qkv.run.{self.module}"]
        owner: Any = module
        *path, name = self.function.split(".")
        for part in path:
            owner = getattr(owner, part)
        original = inspect.getattr_static(owner, name)
        function = original.__func__ if isinstance(original, staticmethod) else original
        source = textwrap.dedent(inspect.getsource(function))
        line = _whatever_the_spaces(self.old)
        found = len(line.findall(source))
        assert found == 1, f"{self.says}: `{self.old}` stands {found} times in {self.function}"
        wrong = line.sub(lambda _: self.new, source)
        made: dict[str, Any] = {}
        patch.setattr(module, "moved_keys", moved_keys, raising=False)
        # the function keeps its module's names; only the definition goes elsewhere
        exec(compile(wrong, f"<{self.says}>", "exec"), module.__dict__, made)
        if path:
            patch.setattr(owner, name, made[name])
            return
        for other in [m for n, m in sys.modules.items() if n.split(".")[0] == "qkv"]:
            if isinstance(other, ModuleType) and other.__dict__.get(name) is original:
                patch.setattr(other, name, made[name])


def _whatever_the_spaces(text: str) -> re.Pattern[str]:
    """The text as a pattern that a formatter's line breaks and trailing commas do not change."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    return re.compile(r"\s*".join((r"(?:,\s*)?" if t in ")]}" else "") + re.escape(t) for t in tokens))


def moved_keys(bound: Any, env: Any, by: int) -> dict[str, Any]:
    """The positions with those of the keys moved."""
    return {n: x + by if n in bound.lowered.key else x for n, x in env.positions.items()}


FORWARD = [
    Fault("missing rescale", "online", "fold", "sums.output *= shrink", "pass"),
    Fault("missing rescale of the sum", "online", "fold", "sums.total * shrink +", "sums.total +"),
    Fault("missing rescale of value rows", "online", "fold", "sums.buckets *= shrink", "pass"),
    Fault(
        "first maximum zero",
        "online",
        "accumulate",
        "start = query.new_full((*shape, 1), -math.inf)",
        "start = query.new_zeros((*shape, 1))",
    ),
    Fault("lse base 2", "online", "finish", "torch.log(safe) +", "torch.log2(safe) +"),
    Fault(
        "sink once per block",
        "online",
        "fold",
        "weights.sum(-1, keepdim=True)\n        sums.output",
        "weights.sum(-1, keepdim=True) + (0 if job.bound.lowered.sink is None else shrink)\n        sums.output",
    ),
    Fault(
        "sink of one head for all",
        "online",
        "accumulate",
        "start = job.rowwise(sink, ranges)",
        "start = job.rowwise(sink * 0 + sink.reshape(-1)[0], ranges)",
    ),
    Fault(
        "scale twice",
        "online",
        "piece",
        "raw = q @ k.transpose(-1, -2)",
        "raw = q @ k.transpose(-1, -2) * bound.frame.scale",
    ),
    Fault("no scale", "online", "accumulate", " * job.bound.frame.scale", ""),
    Fault(
        "mask upside down", "online", "piece", "scores.masked_fill_(~mask, empty)", "scores.masked_fill_(mask, empty)"
    ),
    Fault(
        "mask one key late",
        "scores",
        "kept",
        "mask = evaluate(node, env)",
        "env.positions = moved_keys(bound, env, -1); mask = evaluate(node, env)",
    ),
    Fault(
        "mask one key early",
        "scores",
        "kept",
        "mask = evaluate(node, env)",
        "env.positions = moved_keys(bound, env, 1); mask = evaluate(node, env)",
    ),
    Fault(
        "partial blocks unmasked",
        "blocks",
        "Blocking.key_ranges",
        "self.state[query_block, n] == 2",
        "self.state[query_block, n] == 3",
    ),
    Fault("partial blocks skipped", "blocks", "_states", "np.where(high == 0, 0,", "np.where(low == 0, 0,"),
    Fault(
        "last block of keys dropped",
        "blocks",
        "_edges",
        "(*range(0, size, max(1, step)), size)",
        "tuple(range(0, size, max(1, step))) if size > step else (0, size)",
    ),
    Fault("block border shared", "online", "Job.cut", "start, stop - start", "max(0, start - 1), stop - start"),
    Fault(
        "last row unwritten",
        "online",
        "_place",
        "view.copy_(part.reshape(view.shape))",
        "view[..., :-1, :].copy_(part.reshape(view.shape)[..., :-1, :])",
    ),
    Fault(
        "tile for repeat",
        "layout",
        "Layout.canonical",
        "torch.unflatten(tensor, axis, sizes)",
        "torch.unflatten(tensor, axis, sizes[::-1]).movedim(axis, axis + len(sizes) - 1)",
    ),
    Fault(
        "batch stride for head stride",
        "layout",
        "Layout.canonical",
        "return tensor.permute(self.order)",
        "return tensor.transpose(0, 1).permute(self.order)",
    ),
    Fault(
        "batch entry of the first",
        "online",
        "Job.keys",
        "self.cut(x, ranges,",
        "self.cut(x[:1].expand(x.shape) if x.dim() == 4 else x, ranges,",
    ),
    Fault(
        "NaN multiplied by zero",
        "finite",
        "clean",
        "torch.where(torch.isfinite(tensor), tensor, ",
        "torch.where(torch.ones_like(tensor) > 0, tensor, ",
    ),
    Fault("kept NaN lost", "finite", "weighted", "torch.where(nan, torch.nan, extra)", "torch.where(nan, 0.0, extra)"),
    Fault("NaN of a key in every row", "finite", "scores", "torch.where(odd,", "torch.where(odd.any(),"),
    Fault("dead rows by the sum", "online", "finish", "torch.where(sums.alive,", "torch.where(sums.total != 0,"),
    Fault(
        "16-bit values", "online", "product", "weights @ values if", "weights.bfloat16().to(weights.dtype) @ values if"
    ),
    Fault(
        "rotation one position on",
        "bind",
        "turned",
        "standing = places.rotation(lowered.rotated[side], axes)",
        "standing = places.rotation(lowered.rotated[side], axes) + side",
    ),
    Fault("16-bit rotation", "bind", "turned", "x = x.to(precision)", "pass"),
    Fault("queries from the first key", "places", "resolve", 'sizes[key] - sizes[query] if align == "end" else 0', "0"),
    Fault(
        "positions ignored",
        "places",
        "resolve",
        "places[name] = place_of(",
        "places[name] = Place() if True else place_of(",
    ),
    Fault(
        "second map forgotten",
        "chunked",
        "Chunked.differential",
        "output = output[0] - lam.unsqueeze(-1) * output[1]",
        "output = output[0]",
    ),
    Fault(
        "lambda_init not subtracted",
        "chunked",
        "Chunked.differential",
        "(1.0 - weights.lambda_init)",
        "weights.lambda_init",
    ),
    Fault(
        "negative weights kept",
        "clamped",
        "Clamped.forward",
        "torch.relu(_difference(made, rows_lse, rows_lam))",
        "_difference(made, rows_lse, rows_lam)",
    ),
    Fault("sigmoid bias forgotten", "online", "_plain_weights", "made.scores + weights.bias", "made.scores"),
    Fault(
        "entropy's level not moved",
        "online",
        "_spread",
        "sums.moment + sums.mass * (_level(sums.largest) - level)",
        "sums.moment",
    ),
    Fault("argmax within the block", "online", "_observe", "(block[name][0] if name in block else 0)", "0"),
    Fault(
        "score terms of another block",
        "scores",
        "environment",
        "bound.places.part(ranges)",
        "bound.places.part({n: (0, b - a) for n, (a, b) in ranges.items()})",
    ),
    Fault("dropped weights not scaled", "dropout", "survivors", "/ (1.0 - dropout)", "/ 1.0"),
    Fault(
        "dropout by block",
        "dropout",
        "survivors",
        "bound.places.part(ranges)",
        "bound.places.part({n: (0, b - a) for n, (a, b) in ranges.items()})",
    ),
]

BACKWARD = [
    Fault(
        "row sum missing",
        "recompute",
        "_through_weights",
        "d_scores = weights * (incoming - delta)",
        "d_scores = weights * incoming",
    ),
    Fault(
        "scale missing for keys",
        "recompute",
        "_rows_backward",
        "query = job.queries(q, ranges) * scale",
        "query = job.queries(q, ranges)",
    ),
    Fault("scale missing for queries", "recompute", "_rows_backward", "d_query * scale", "d_query"),
    Fault(
        "query gradient overwritten", "recompute", "_rows_backward", "d_query += d_raw @ key", "d_query = d_raw @ key"
    ),
    Fault(
        "key gradient overwritten",
        "recompute",
        "add_keys",
        "view += part.reshape(view.shape)",
        "view.copy_(part.reshape(view.shape))",
    ),
    Fault("gradient of lse forgotten", "recompute", "gradients", "delta = delta - grad_lse", "pass"),
    Fault("sink gradient's sign", "recompute", "_sink_gradient", "-share * delta", "share * delta"),
    Fault(
        "sink gradient of dead rows",
        "recompute",
        "_sink_gradient",
        "torch.where(lse == -math.inf, 0.0, torch.exp(",
        "torch.where(lse == math.inf, 0.0, torch.exp(",
    ),
    Fault(
        "table gradient overwritten",
        "recompute",
        "_scatter",
        "target.view(-1).index_add_(0, flat.reshape(-1), summed.reshape(-1))",
        "target.view(-1)[flat.reshape(-1)] = summed.reshape(-1)",
    ),
    Fault(
        "derivative of terms forgotten",
        "recompute",
        "through_terms",
        "return _masked(spread * evaluate(rules.by_score, env), made, sizes)",
        "return _masked(spread, made, sizes)",
    ),
    Fault("NaN slopes of dropped pairs", "recompute", "_masked", "x if made.keep is None else", "x if True else"),
    Fault(
        "value rows forgotten in scores",
        "recompute",
        "_through_weights",
        "incoming = incoming + (grad",
        "incoming = incoming + 0 * (grad",
    ),
    Fault(
        "sigmoid slope",
        "recompute",
        "_through_weights",
        "incoming * weights * torch.sigmoid(",
        "incoming * weights * torch.sigmoid(0 * ",
    ),
    Fault(
        "sums of clamped rows forgotten",
        "clamped",
        "_rows_backward",
        "slope = torch.where(taken, (incoming - delta) / safe, 0.0)",
        "slope = torch.where(taken, incoming / safe, 0.0)",
    ),
    Fault(
        "pulls of the second map",
        "clamped",
        "_rows_backward",
        "d_second = -lam * shares[1] * (slope - pulls[1])",
        "d_second = -lam * shares[1] * slope",
    ),
    Fault(
        "dropout forgotten in the backward",
        "recompute",
        "_through_weights",
        "incoming = incoming * made.survive",
        "pass",
    ),
]

OTHERS = [
    Fault("sdpa not causal", "sdpa", "Sdpa.run", "is_causal=lowered.keep is not None", "is_causal=False"),
    Fault("sdpa's own scale", "sdpa", "Sdpa.run", "scale=bound.frame.scale", "scale=None"),
    Fault(
        "sdpa's groups as tiles",
        "sdpa",
        "Sdpa.run",
        "(heads, out.shape[1] // heads)).transpose(-2, -3)",
        "(out.shape[1] // heads, heads)).transpose(1, 2).transpose(-2, -3)",
    ),
    Fault(
        "16-bit rotation in sdpa",
        "sdpa",
        "Sdpa.run",
        "if bound.spec.position is None else bound.working_dtype",
        "if True else None",
    ),
    Fault("state not carried", "linear", "_causal", "state = kept_state + fading", "state = fading"),
    Fault("sum not carried", "linear", "_causal", "total = kept_total + fading", "total = fading"),
    Fault("diagonal dropped", "linear", "_causal", "masked_fill(distance < 0, 0.0)", "masked_fill(distance <= 0, 0.0)"),
    Fault("decay one step short", "linear", "_causal", "decay ** (step + 1)[:, None]", "decay**step[:, None]"),
    Fault(
        "state does not fade", "linear", "_causal", "(state * decay**length, total * decay**length)", "(state, total)"
    ),
    Fault("padded keys in the state", "linear", "_dropped", "k.masked_fill(~mask, 0.0)", "k"),
    Fault("step forgets", "linear", "linear_step", "state.memory * fade + memory", "memory"),
    Fault("step does not fade", "linear", "linear_step", "fade = 1.0 if decay is None else decay", "fade = 1.0"),
    Fault(
        "reference dead rows",
        "reference",
        "softmax",
        "torch.where(dead, -math.inf,",
        "torch.where(total == 0, -math.inf,",
    ),
    Fault(
        "reference lets NaN slopes through",
        "reference",
        "Reference.run",
        "flows=everywhere if keep is None else keep",
        "flows=None",
    ),
    Fault(
        "axes in the order of the strategy",
        "layout",
        "Return.apply",
        "out.permute((*range(lead), *(lead + n for n in self.order)))",
        "out.permute((*range(lead), *(lead + n for n in sorted(self.order))))",
    ),
]
