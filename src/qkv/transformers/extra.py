"""Whether Hugging Face transformers is here, and in a version whose attention interface is the one that is registered
with.

This module knows the extra's name and the oldest version. It refuses to know anything of attention.
"""

from __future__ import annotations

import importlib.util

from ..errors import ModelError

OLDEST = (5, 0)
"""The first release whose models ask ``ALL_MASK_ATTENTION_FUNCTIONS`` for every mask and ``get_interface`` for
attention.
"""


class MissingExtra(ModelError, ImportError):
    """``qkv.transformers`` is imported where transformers is not installed, or is too old."""


def require() -> None:
    """Nothing, when transformers is installed and new enough.

    Raises ``MissingExtra``, which is an ``ImportError`` too, with the line to install it.

    >>> require()
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra(
            "qkv.transformers needs Hugging Face transformers, which is not installed.\n"
            "  Install the extra: pip install 'qkv[transformers]'"
        )
    from transformers import __version__

    found = tuple(int(part) for part in __version__.split(".")[:2] if part.isdigit())
    if found < OLDEST:
        raise MissingExtra(
            f"qkv.transformers needs transformers {OLDEST[0]}.{OLDEST[1]} or newer, and {__version__} is installed.\n"
            "  Upgrade: pip install --upgrade 'qkv[transformers]'"
        )
