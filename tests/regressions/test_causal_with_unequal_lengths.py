"""``is_causal=True`` with fewer queries than keys puts the first query at the first key, so that a decoding step sees
one key of its cache.

pytorch/pytorch#103082 and #108108; the same question in Dao-AILab/flash-attention#282, and the other corner in
ml-explore/mlx#2835. qkv compares positions, and asks where the queries stand.
"""

from __future__ import annotations

import pytest
import torch

import qkv
from tests.regressions.plain import answers, close, definition, tensors

SPEC = qkv.Spec(keep=qkv.causal())


@pytest.mark.parametrize("queries", [1, 3])
def test_nobody_said_where_the_queries_stand(queries: int) -> None:
    with pytest.raises(qkv.PositionError, match="where the queries stand"):
        SPEC(*tensors(queries, 6))


@pytest.mark.parametrize(("align", "diagonal"), [("end", 3), ("start", 0)])
def test_the_corner_that_was_said(align: str, diagonal: int) -> None:
    q, k, v = tensors(3, 6)
    wanted, _ = definition(q, k, v, kept=torch.ones(3, 6, dtype=torch.bool).tril(diagonal))
    for name, result in answers(SPEC, q, k, v, align=align):
        close(result.output, wanted, name)


def test_a_decoding_step_sees_its_whole_cache() -> None:
    q, k, v = tensors(1, 6)
    wanted, _ = definition(q, k, v)
    for name, result in answers(SPEC, q, k, v, positions={"i": 5}):
        close(result.output, wanted, name)


def test_more_queries_than_keys_leaves_the_first_ones_nothing() -> None:
    q, k, v = tensors(6, 3)
    wanted, _ = definition(q, k, v, kept=torch.ones(6, 3, dtype=torch.bool).tril(-3))
    for name, result in answers(SPEC, q, k, v, align="end"):
        assert not result.output[..., :3, :].any(), name
        close(result.output, wanted, name)
