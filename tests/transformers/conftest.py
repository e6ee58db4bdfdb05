"""No test here may reach the network; models are tiny or lie in an installed package."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import pytest
import transformers

import qkv.transformers


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    transformers.logging.set_verbosity_error()
    qkv.transformers.register()
