"""The core's tasks run on torch's own threads, and the numbers are those of any threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

import qkv
from qkv.core import loaded, riding

HAS_OPENMP = sys.platform == "linux" and "OpenMP" in torch.__config__.parallel_info()


@pytest.fixture
def many_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    riding.cache_clear()
    riding()


def tensors(length: int) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, 4, length, 16, generator=made) for _ in range(3))


def test_torch_s_threads_are_ridden_where_it_has_some() -> None:
    qkv.attention(*tensors(8))
    assert riding() is loaded()
    assert loaded().rides() == HAS_OPENMP


def test_threads_of_its_own_give_the_same_bits(many_threads: None) -> None:
    q, k, v = tensors(500)
    with qkv.strategy("cpu"):
        ridden = qkv.attention(q, k, v, keep=qkv.causal())
        assert loaded().ride(openmp=False) is False
        assert qkv.attention(q, k, v, keep=qkv.causal()).equal(ridden)


def test_python_threads_at_once_ride(many_threads: None) -> None:
    q, k, v = tensors(300)
    with qkv.strategy("cpu"):
        expected = qkv.attention(q, k, v)
    found: list[bool] = []

    def run() -> None:
        with qkv.strategy("cpu"):
            for _ in range(20):
                found.append(qkv.attention(q, k, v).equal(expected))
                torch.mm(q[0, 0], k[0, 0].T)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_forked_child_computes_by_threads_of_its_own(many_threads: None) -> None:
    q, k, v = tensors(300)
    with qkv.strategy("cpu"):
        expected = qkv.attention(q, k, v)
        torch.mm(torch.randn(300, 300), torch.randn(300, 300))  # torch has threads, which the child will lack
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that waits for threads that are not there
            good = not loaded().rides() and not loaded().ride(openmp=True)
            same = all(bool((qkv.attention(q, k, v) == expected).numpy().all()) for _ in range(3))
            os._exit(0 if good and same else 1)
        _, status = os.waitpid(child, 0)
    assert status == 0
