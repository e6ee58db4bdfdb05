"""What holds for every test: the seed is fixed, printed and can be chosen; hypothesis says how to repeat a failure."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

from tests.contract.tally import pytest_terminal_summary as pytest_terminal_summary

SEED = int(os.environ.get("QKV_SEED", "0"))

# No deadline: the machine is shared by the workers, so that times say nothing.
hypothesis.settings.register_profile("qkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("qkv")


def pytest_report_header() -> str:
    return f"seed {SEED} (QKV_SEED), torch {torch.__version__} with {torch.get_num_threads()} threads"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(SEED)
