"""Every benchmark's code runs at tiny sizes, holds the goals that it states, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import harness
import peaks
import peers
import qkv
import ways

FOLDER = Path(__file__).parents[2] / "benchmarks"
harness.load(FOLDER)
STARTS_PROCESSES = {"import", "train-memory", "window-memory"}
"""Each of their figures takes a new process, seconds long; ``make bench BENCH=--small`` runs them."""

RATIOS = {
    "prefill-f32": {1.2},
    "prefill-bf16": {2.5},
    "decode-f32": {8.0},
    "decode-bf16": {25.0},
    "window": {15.0},
    "terms": {1 / 1.3},
    "train": {1.2},
    "train-bias": {3.0},
    "tiny": {1 / 1.5},
    "smollm2-f32": {5.0, 1.1},
    "smollm2-bf16": {10.0, 1.4},
}


KINDS_OF_CACHES = {
    "cache-codes": {2.0},
    "cache-pages": {1 / 1.1},
    "cache-cascade": {5.0},
    "cache-latent": {10.0},
    "cache-ring": {1 / 1.1},
    "smollm2-cache": {1.6, 2.0, 2.5, 4.0},
}
"""Those that compare ways to keep keys, each by the strategy that the planner takes."""


def small(name: str, strategy: str, path: Path | None = None) -> harness.Bench:
    bench = harness.Bench(min_rounds=1, min_time_s=0.0, strategy=strategy, small=True, plot=path)
    harness.REGISTERED[name].run(bench)
    return bench


@pytest.mark.parametrize("name", sorted(set(harness.REGISTERED) - STARTS_PROCESSES))
def test_a_benchmark_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "flops", lambda dtype: 1e11)
    monkeypatch.setattr(peaks, "bandwidth", lambda num_bytes: 1e10)
    monkeypatch.setattr("bench_decode.bandwidth", lambda num_bytes: 1e10)
    bench = small(name, "chunked", tmp_path / "curves.png")
    if name == "memory":
        assert bench.notes == ["memory of chunked: left out of quick looks"]
        return
    assert bench.rows
    assert all(row.median > 0 for row in bench.rows)
    assert all("FlexAttention" in note for note in bench.notes)
    assert {row.at_least for row in bench.rows if row.at_least is not None} == (RATIOS | KINDS_OF_CACHES).get(
        name, set()
    ) or (name == "window-lengths")
    assert (tmp_path / "curves.png").exists() == (name == "lengths")


@pytest.mark.parametrize("name", sorted(RATIOS))
def test_a_missing_strategy_is_said_and_the_others_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "flops", lambda dtype: 1e11)
    monkeypatch.setattr(peaks, "bandwidth", lambda num_bytes: 1e10)
    monkeypatch.setattr("bench_decode.bandwidth", lambda num_bytes: 1e10)
    bench = small(name, "cpu9")
    assert 'qkv: there is no strategy "cpu9" yet; there are reference, chunked, ' in bench.notes[0]
    assert not any(row.label.startswith("qkv") for row in bench.rows)
    assert bool(bench.rows) == (name != "terms")
    assert not any(row.missed for row in bench.rows)


def test_a_refusing_strategy_gives_its_reason() -> None:
    bench = harness.Bench(strategy="sdpa")
    q = torch.randn(1, 1, 4, 8)
    assert ways.by(bench, qkv.Spec(score=qkv.softcap(5.0)), q, q, q) == {}
    (note,) = bench.notes
    assert note.startswith("qkv: strategy sdpa refuses ")
    assert note.endswith("score term softcap(5) is not supported")


def test_no_other_strategy_takes_its_place() -> None:
    bench = harness.Bench(strategy="chunked")
    q = torch.randn(1, 1, 4, 8)
    seen: list[str | None] = []

    class Spy(qkv.Spec):
        def __call__(self, *given: object, **named: object) -> object:
            seen.append(self.plan(*given, **named).strategy)
            return None

    ways.by(bench, Spy(keep=qkv.causal()), q, q, q)["qkv"]()
    assert seen == ["chunked"]


def test_peers_compute_the_same() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 6, 5, 8)
    k, v = torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    found = [run() for run in peers.grouped(q, k, v).values()]
    assert len(found) == 3
    for one in found:
        torch.testing.assert_close(one, found[0])
    bias = torch.randn(5, 5)
    torch.testing.assert_close(
        peers.eager(q, q, q, bias=bias), torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=bias)
    )


def test_work_is_counted() -> None:
    assert peaks.causal_pairs(4) == qkv.causal().count(4)
    assert peaks.products(torch.float32, 10, 64).amount == 4 * 10 * 64
    assert peaks.reading(torch.zeros(3, dtype=torch.bfloat16), torch.zeros(2)).amount == 14


def test_the_person_chooses_shapes() -> None:
    bench = harness.Bench(min_rounds=1, min_time_s=0.0, strategy="none", small=True, only_shapes="full, 8 heads")
    harness.REGISTERED["prefill-f32"].run(bench)
    assert {row.shapes.split(",")[0] for row in bench.rows} == {"full"}
