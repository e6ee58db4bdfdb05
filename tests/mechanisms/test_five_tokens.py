"""The published example: all fifteen rows by both strategies that run everything, and the weights behind them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import qkv
from qkv.mechanisms import five_tokens

DATA = json.loads(Path(__file__).with_name("fifteen.json").read_text(encoding="utf-8"))
STRATEGIES = ("reference", "chunked")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_fifteen_published_rows_are_met(strategy: str) -> None:
    with qkv.strategy(strategy):
        rows = qkv.mechanisms.fifteen()
    found = {row.name: [f"{x:.4f}" for x in row.output[1] + 0.0] for row in rows}
    golden = {name: [f"{x:.4f}" for x in values] for name, values in DATA["expected"].items()}
    assert found == golden
    assert len(found) == 15
    assert all(row.met for row in rows)


def test_the_packaged_data_is_the_published_data() -> None:
    assert five_tokens.data() == DATA


def test_a_row_that_is_not_met_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    falsified = copy.deepcopy(DATA)
    falsified["expected"]["rope"][2] += 0.0001
    monkeypatch.setattr(five_tokens, "data", lambda: falsified)
    assert [row.name for row in qkv.mechanisms.fifteen() if not row.met] == ["rope"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_heat_maps_are_the_weights_that_the_reference_reports(strategy: str) -> None:
    """Maps come from unit values; the reference returns its weights as a statistic as well."""
    with qkv.strategy(strategy):
        maps = {row.name: row.maps for row in qkv.mechanisms.fifteen()}
    given = five_tokens.FIFTEEN
    keys = torch.tensor(DATA["key"], dtype=torch.float64)[None]
    queries = 2 * keys
    queries[0, 1] = torch.tensor(DATA["query_cat"])
    values = torch.tensor(DATA["value"], dtype=torch.float64)[None]
    decoder = queries + torch.tensor([1, 0, 1, 1])
    for name, make in given.items():
        call = make(five_tokens._Given(queries, decoder, keys, values))
        sizes = {"h": call.merged_heads} if call.merged_heads else None
        with qkv.strategy("reference"):
            weights = call.spec.run(call.q, call.k, call.v, want="weights", sizes=sizes).stats["weights"]
        expected = weights.reshape(-1, 5, 5).numpy()
        np.testing.assert_allclose(maps[name], expected, atol=1e-12, err_msg=name)


def test_rows_of_weights_sum_to_one_and_masked_keys_have_none() -> None:
    rows = {row.name: row for row in qkv.mechanisms.fifteen()}
    for name, row in rows.items():
        np.testing.assert_allclose(row.maps.sum(-1), 1.0, atol=1e-12, err_msg=name)
        assert (row.maps >= 0).all(), name
    assert (np.triu(rows["causal"].maps[0], 1) == 0).all()
    distance = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert (rows["sliding_window"].maps[0][distance > 1] == 0).all()


def test_bigbird_shows_random_keys_but_none_in_the_published_row() -> None:
    row = next(row for row in qkv.mechanisms.fifteen() if row.name == "bigbird")
    kept = row.maps[0] > 0
    distance = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    plain = (distance <= 1) | (np.arange(5) == 0) | (np.arange(5)[:, None] == 0)
    assert (kept[plain]).all()
    random = (kept & ~plain).any(axis=1)
    assert not random[1]
    assert random.any()


def test_what_cannot_run_all_fifteen_says_which() -> None:
    with qkv.strategy("linear"), pytest.raises(qkv.Refused, match=r"^scaled dot product: strategy") as caught:
        qkv.mechanisms.fifteen()
    assert caught.value.strategy == "linear"
    assert caught.value.reasons


def test_written_numbers_have_four_decimals_and_no_negative_zero() -> None:
    assert qkv.mechanisms.written([-0.00001, 0.51789, 1]) == ("0.0000", "0.5179", "1.0000")


def test_a_picture_of_all_heat_maps(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "maps.png"
    rows = qkv.mechanisms.fifteen()
    qkv.mechanisms.draw(rows, path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    empty = tmp_path / "one.png"
    qkv.mechanisms.draw(rows[:1], empty)
    with Image.open(empty) as image:
        assert image.size[0] * image.size[1] < pixels.shape[0] * pixels.shape[1] / 10
