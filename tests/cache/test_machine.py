"""Random scripts of append, truncate, fork, reorder and release on every kind, held against lists of tokens.

``QKV_CACHE_RUNS=200`` runs 200 scripts of 50 steps on each kind.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import qkv
from tests.cache.kinds import HEADS, KINDS, RECENT, Kind, prefill, tokens

RUNS = int(os.environ.get("QKV_CACHE_RUNS", "24"))
STEPS = 50


class Script(RuleBasedStateMachine):
    """Caches and the tokens that each should hold, as tensors along the token axis."""

    kind: Kind
    caches = Bundle("caches")

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.known: dict[int, qkv.cache.Cache] = {}
        self.dropped: dict[int, int] = {}  # how many tokens a ring has let go, which come back by no truncate
        self.exact: dict[int, int] = {}  # the first token that is seen as it came, where codes are held
        self.seed = 0

    def add(self, cache: qkv.cache.Cache, k: torch.Tensor, v: torch.Tensor) -> int:
        number = len(self.known)
        self.known[number], self.held[number], self.dropped[number] = cache, (k, v), 0
        self.exact[number] = 0
        return number

    def draw(self, count: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.seed += 1
        return tokens(count, self.seed, batch)

    @initialize(target=caches)
    def begin(self) -> int:
        _, k, v = self.draw(0, 2)
        return self.add(self.kind.make(), k, v)

    @rule(number=caches, count=st.integers(1, 4))
    def call(self, number: int, count: int) -> None:
        k, v = self.held[number]
        new = self.draw(count, k.shape[0])
        self.held[number] = torch.cat((k, new[1]), 2), torch.cat((v, new[2]), 2)
        cache = self.known[number]
        if isinstance(cache, qkv.cache.Ring):
            gone = k.shape[2] + count - cache.window - cache.spare
            self.dropped[number] = max(self.dropped[number], gone)
        self.exact[number] = max(self.exact[number], k.shape[2] + count - self.kind.recent)
        out = self.kind.spec(*new, cache=self.known[number])
        want = prefill(self.kind, new[0], *self.held[number], self.exact[number])
        torch.testing.assert_close(out, want, atol=1e-12, rtol=0.0)

    @rule(number=caches, count=st.integers(1, 4))
    def fail(self, number: int, count: int) -> None:
        """An append that comes to nothing, after it was written."""
        cache, (k, _) = self.known[number], self.held[number]
        _, new_k, new_v = self.draw(count, k.shape[0])
        if self.kind.name == "recurrent":  # whose sum is made inside a call
            return
        before = cache.snapshot()
        cache.extend(new_k, new_v)
        cache.restore(before)

    @rule(number=caches, share=st.floats(0.0, 1.0))
    def truncate(self, number: int, share: float) -> None:
        cache, (k, v) = self.known[number], self.held[number]
        count = round(share * k.shape[2])
        if self.kind.name == "recurrent":
            count = k.shape[2]
        if isinstance(cache, qkv.cache.Ring) and count < k.shape[2]:
            needed = max(0, count - cache.window + 1)
            if needed < self.dropped[number]:
                with pytest.raises(qkv.CacheError, match="the ring has dropped all before"):
                    cache.truncate(count)
                return
        cache.truncate(count)
        self.held[number] = k[:, :, :count], v[:, :, :count]
        self.exact[number] = min(self.exact[number], count)

    @rule(target=caches, number=caches)
    def fork(self, number: int) -> int:
        twin = self.add(self.known[number].fork(), *self.held[number])
        self.dropped[twin], self.exact[twin] = self.dropped[number], self.exact[number]
        return twin

    @rule(number=caches, data=st.data())
    def reorder(self, number: int, data: st.DataObject) -> None:
        k, v = self.held[number]
        if k.shape[2] == 0:
            return
        index = data.draw(st.lists(st.integers(0, k.shape[0] - 1), min_size=1, max_size=3))
        self.known[number].reorder(index)
        self.held[number] = k[index], v[index]

    @rule(number=caches)
    def release(self, number: int) -> None:
        cache = self.known[number]
        cache.release()
        pages = isinstance(cache, qkv.cache.Paged)
        assert cache.length == 0
        assert pages or cache.nbytes == 0
        k, v = self.held[number]
        self.held[number], self.dropped[number] = (k[:, :, :0], v[:, :, :0]), 0
        self.exact[number] = 0

    @rule(number=caches)
    def look(self, number: int) -> None:
        cache, (k, _) = self.known[number], self.held[number]
        assert cache.length == k.shape[2]
        held = cache.positions.tolist()
        assert held == list(range(k.shape[2] - len(held), k.shape[2]))

    def teardown(self) -> None:
        pools = {cache.pool for cache in self.known.values() if isinstance(cache, qkv.cache.Paged)}
        for cache in self.known.values():
            cache.release()
        for pool in pools:
            assert pool.num_used == 0, "a page was kept that nobody holds"
            assert set(pool.references) <= {0}


def machine(name: str) -> type[Script]:
    return type(f"Script_{name}", (Script,), {"kind": {**KINDS, **RECENT}[name]})


@pytest.mark.parametrize("name", [*KINDS, *RECENT])
def test_scripts(name: str) -> None:
    assert HEADS == 1
    run_state_machine_as_test(
        machine(name),
        settings=settings(
            max_examples=RUNS, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_script_finds_a_truncate_that_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qkv.cache.Dense, "truncate", lambda self, count: None)
    with pytest.raises(Exception, match=r"."):
        run_state_machine_as_test(
            machine("dense"),
            settings=settings(
                max_examples=400, stateful_step_count=40, deadline=None, database=None, phases=[Phase.generate]
            ),
        )
