"""How long a process waits for ``import qkv``, beside the torch that it needs anyway."""

from __future__ import annotations

import subprocess
import sys

from harness import Bench, benchmark


def _process(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True)


@benchmark("import", "a new process that imports and ends")
def import_time(bench: Bench) -> None:
    """Compare torch alone with torch and qkv."""
    bench.compare(
        {
            "import torch": lambda: _process("import torch"),
            "import torch, qkv": lambda: _process("import torch, qkv"),
        },
        shapes="one process each",
    )
