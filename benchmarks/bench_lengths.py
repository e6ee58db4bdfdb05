"""Time against length for three kinds of attention, as curves: qkv, SDPA or eager torch, compiled FlexAttention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import qkv
import report
from harness import Bench, Thunk, benchmark
from peers import MaskFunction, ScoreFunction, dense, eager, flex, sdpa
from plot import Panel, Series, draw
from ways import by

HEADS, SIZE, WIDTH, CAP = 4, 64, 512, 30.0
LENGTHS = (512, 1024, 2048, 4096, 8192)
COMPILED_LENGTHS = (512, 2048, 8192)  # each takes about half a minute to compile


def _causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return j <= i


def _window(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (j <= i) & (i - j < WIDTH)


def _capped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return torch.tanh(score / CAP) * CAP


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
    return lambda: sdpa(q, k, v, is_causal=True)


def _masked(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
    mask = dense(_window, q.shape[2], k.shape[2])
    return lambda: sdpa(q, k, v, attn_mask=mask)


def _eager(q: Tensor, k: Tensor, v: Tensor) -> Thunk:
    dropped = torch.zeros(q.shape[2], k.shape[2]).masked_fill_(~dense(_causal, q.shape[2], k.shape[2]), float("-inf"))
    return lambda: eager(q, k, v, bias=dropped, cap=CAP)


@dataclass(frozen=True)
class Kind:
    """One panel: the spec, torch's own way and its name, FlexAttention's functions."""

    title: str
    spec: qkv.Spec
    torch_name: str
    torch_way: Callable[[Tensor, Tensor, Tensor], Thunk]
    mask: MaskFunction
    score: ScoreFunction | None = None


KINDS = (
    Kind("causal", qkv.Spec(keep=qkv.causal()), "torch SDPA", _plain, _causal),
    Kind("causal, window 512", qkv.Spec(keep=qkv.causal() & qkv.window(WIDTH)), "torch SDPA", _masked, _window),
    Kind(
        "causal, softcap", qkv.Spec(keep=qkv.causal(), score=qkv.softcap(CAP)), "torch eager", _eager, _causal, _capped
    ),
)


@benchmark("lengths", "time against length for causal, window and softcap, with a picture")
def lengths(bench: Bench) -> None:
    """No goal of its own; --plot says where the picture goes."""
    panels = [_panel(bench, kind) for kind in KINDS]
    if bench.plot is not None and any(panel.series for panel in panels):
        about = report.machine_line()
        draw(bench.plot, panels, footer=f"{HEADS} heads, d {SIZE}, float32, forward; {about}")
        bench.drawn.append(str(bench.plot))


def _panel(bench: Bench, kind: Kind) -> Panel:
    points: dict[str, list[tuple[float, float]]] = {}
    for wanted in LENGTHS:
        length = bench.length(wanted, wanted // 16)
        shapes = f"{kind.title}, {HEADS} heads, {length} x {length}, d {SIZE}, torch.float32"
        if bench.skips(shapes):
            continue
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, HEADS, length, SIZE) for _ in range(3))
        theirs = {kind.torch_name: kind.torch_way(q, k, v)}
        ours = by(bench, kind.spec, q, k, v)
        compiled = partial(flex, bench, q, k, v, mask=kind.mask, score=kind.score)
        runs = {**theirs, **ours, **(compiled() if wanted in COMPILED_LENGTHS else {})}
        bench.compare(runs, shapes=shapes, agree=1e-3)
        for row in bench.rows:
            if row.shapes == shapes:
                points.setdefault(row.label, []).append((float(length), row.median))
    return Panel(kind.title, tuple(Series(name, tuple(found)) for name, found in points.items()))
