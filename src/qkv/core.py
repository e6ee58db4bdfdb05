"""The Python face of the compiled core: what this machine's processor offers.

Knows that the core may be missing and says then what to do. Refuses to know what any feature is for, and
to load the core before somebody asks: the source tree is importable without a compiler.
"""

from __future__ import annotations

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
    return _load().cpu_features()


def cpu_sizes() -> dict[str, int]:
    """Return the number of threads this process may run on and the cache sizes in bytes.

    Keys: ``num_threads``, ``cache_line_bytes``, ``l1_data_bytes``, ``l2_bytes``, ``l3_bytes``. A size that the
    system does not tell is 0; ``num_threads`` is at least 1.

    Raises ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import cpu_sizes
    >>> cpu_sizes()["num_threads"] >= 1
    True
    """
    return _load().cpu_sizes()


def compiler() -> str:
    """Return name and version of the compiler that built the core, such as ``gcc 12.2.0``.

    Raises ``ImportError`` when the compiled core is not built.

    >>> from qkv.core import compiler
    >>> " " in compiler()
    True
    """
    return _load().compiler()


def _load():  # no annotation: what is inferred is the module itself, as its stub file describes it
    try:
        from qkv import _core
    except ImportError as error:
        raise ImportError(_MISSING.format(reason=error), name="qkv._core") from error
    return _core
