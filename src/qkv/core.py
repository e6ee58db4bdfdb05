"""The Python face of the compiled core: what this machine's processor offers, and which kernels run on it.

Knows that the core may be missing and says then what to do. Refuses to know what any feature is for, and
to load the core before somebody asks: the source tree is importable without a compiler.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from . import limits
from .errors import LimitError, SpecError

if TYPE_CHECKING:
    from qkv._core import Attention as Attention
    from qkv._core import Graph as Graph
    from qkv._core import Terms as Terms

_MISSING = """qkv's compiled core (qkv._core) is not built for this Python: {reason}
  A wheel brings it along; a source tree builds it. In a checkout, with a C++20 compiler present:
    make
  or, into an environment of your own:
    pip install scikit-build-core nanobind cmake ninja
    pip install --no-build-isolation -e ."""


def cpu_features() -> dict[str, bool]:
    """Return which processor features are usable here, by name.

    A feature is usable when the processor has it and the operating system saves its registers. The same
    names are listed on every machine, those of other processors with ``False``. For the ``amx`` features a
    Linux process still has to ask for permission before its first tile instruction.

    Raises ``ImportError`` when the compiled core is not built.

    >>> features = qkv.cpu_features()
    >>> sorted(features)[:3]
    ['amx_bf16', 'amx_int8', 'amx_tile']
    """
    return loaded().cpu_features()


def cpu_sizes() -> dict[str, int]:
    """Return the number of threads this process may run on and the cache sizes in bytes.

    Keys: ``num_threads``, ``cache_line_bytes``, ``l1_data_bytes``, ``l2_bytes``, ``l3_bytes``. A size that the
    system does not tell is 0; ``num_threads`` is at least 1.

    Raises ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import cpu_sizes
    >>> cpu_sizes()["num_threads"] >= 1
    True
    """
    return loaded().cpu_sizes()


def cpu_target() -> str:
    """Return the name of the instruction set whose kernels the strategy ``cpu`` runs.

    One of ``amx``, ``avx512bf16``, ``avx512``, ``avx2``, ``neon`` and ``portable``: the best that this build contains,
    this processor offers and the operating system supports. It is chosen once in a process. The environment variable
    ``QKV_CPU_TARGET``, set before the first call that needs it, forces one by name.

    Raises ``TargetError`` when that variable names a target that does not exist or cannot run here, and
    ``ImportError`` when the compiled core is not built.

    >>> qkv.cpu_target() in {"amx", "avx512bf16", "avx512", "avx2", "neon", "portable", "wide"}
    True
    """
    return loaded().cpu_target()


def cpu_targets() -> list[str]:
    """Return the names of the targets that were built and can run here, best first.

    ``portable`` is always among them. ``wide`` is there in development builds: the kernels of AVX-512 without its
    instructions, slow, for tests; it is used only when it is asked for by name.

    Raises ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import cpu_targets
    >>> "portable" in cpu_targets()
    True
    """
    return loaded().cpu_targets()


@contextmanager
def using_cpu_target(name: str) -> Generator[None]:
    """Run the kernels of target ``name`` inside a ``with`` block, in every thread: how tests compare targets.

    Raises ``TargetError`` when ``name`` is none of ``cpu_targets()``; the target in use stays then.

    >>> from qkv.core import using_cpu_target
    >>> with using_cpu_target("portable"):
    ...     qkv.cpu_target()
    'portable'
    """
    core = loaded()
    before = core.cpu_target()
    core.use_cpu_target(name)
    try:
        yield
    finally:
        core.use_cpu_target(before)


def probe_fma_flops(num_threads: int, dtype: str = "float32") -> float:
    """Return the floating-point operations in a second that ``num_threads`` threads reach together, measured.

    A loop of independent multiply-adds in registers, with the vectors of the target in use; a multiply-add counts
    twice. ``dtype`` is ``"float32"``, ``"float64"`` or ``"bfloat16"``, the last being float32 where the target has no
    instruction for it. The best of eight trials, in about a tenth of a second: what no kernel of this type exceeds.

    Raises ``SpecError`` for fewer than 1 thread or another ``dtype``, ``LimitError`` for more threads than
    ``limits.PROBE_THREADS``, and ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import probe_fma_flops
    >>> probe_fma_flops(1) > 1e6
    True
    """
    _check_threads("probe_fma_flops", num_threads)
    if dtype not in ("float32", "float64", "bfloat16"):
        raise SpecError(
            f'probe_fma_flops: dtype={dtype!r:.80} is not known.\n  Give "float32", "float64" or "bfloat16".'
        )
    return loaded().probe_fma_flops(num_threads, dtype)


def probe_read_bandwidth(num_threads: int, num_bytes: int = 1 << 28) -> float:
    """Return the bytes in a second that ``num_threads`` threads read together, measured.

    Each thread reads its own part of an array of ``num_bytes`` (rounded to whole pages) again and again, at four places
    in turn; the best of eight trials. An array larger than the caches says what memory gives, a smaller one what a
    kernel gets that is called again on the same tensors.

    Raises ``SpecError`` for fewer than 1 thread or byte, ``LimitError`` for more than ``limits.PROBE_THREADS`` threads
    or ``limits.PROBE_BYTES``, ``MemoryError`` where the array does not fit, and ``ImportError`` when the compiled core
    is not built.

    >>> from qkv.core import probe_read_bandwidth
    >>> probe_read_bandwidth(1, 1 << 20) > 1e6
    True
    """
    _check_threads("probe_read_bandwidth", num_threads)
    if num_bytes < 1:
        raise SpecError(f"probe_read_bandwidth: num_bytes={num_bytes} is nothing to read.\n  Give at least 1.")
    if num_bytes > limits.PROBE_BYTES:
        raise LimitError(
            f"probe_read_bandwidth: num_bytes={num_bytes} is more than {limits.PROBE_BYTES}.\n"
            "  An array of some times the largest cache says all that there is to learn."
        )
    return loaded().probe_read_bandwidth(num_threads, num_bytes)


def is_built() -> bool:
    """Return whether the compiled core is there for this Python.

    >>> from qkv.core import is_built
    >>> is_built()
    True
    """
    try:
        loaded()
    except ImportError:
        return False
    return True


def compiler() -> str:
    """Return name and version of the compiler that built the core, such as ``gcc 12.2.0``.

    Raises ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import compiler
    >>> " " in compiler()
    True
    """
    return loaded().compiler()


def loaded():  # no annotation: what is inferred is the module itself, as its stub file describes it
    """Return the compiled module; ``ImportError`` says what to do where it is not built."""
    try:
        from qkv import _core
    except ImportError as error:
        raise ImportError(_MISSING.format(reason=error), name="qkv._core") from error
    return _core


@cache
def riding():  # no annotation, as above
    """The compiled module, whose tasks run on the OpenMP threads that torch keeps in this process, where it keeps any:
    those watch for the next task a while after each of torch's operations, and a second team would have to share the
    processors with them. A process that was forked has left them behind, and runs tasks by the core's own threads.
    """
    core = loaded()
    core.ride(openmp=multiprocessing.parent_process() is None)
    return core


def _check_threads(function: str, num_threads: int) -> None:
    if num_threads < 1:
        raise SpecError(f"{function}: num_threads={num_threads} does nothing.\n  Give at least 1.")
    if num_threads > limits.PROBE_THREADS:
        raise LimitError(
            f"{function}: num_threads={num_threads} is more than {limits.PROBE_THREADS}.\n"
            '  Give the number of processors: cpu_sizes()["num_threads"].'
        )
