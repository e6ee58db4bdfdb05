"""The ``qkv`` command: thin commands over the public face, one file each.

Knows words on a command line and how results look in a terminal; refuses to compute anything, and to load torch or
transformers before a command needs them.
"""

from __future__ import annotations

import sys

from .app import app as app


def main() -> None:
    """Run the command line; the entry point of the ``qkv`` script and of ``python -m qkv``."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that lacks a character shows "?" and the command goes on
    app(prog_name="qkv")
