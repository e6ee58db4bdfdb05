"""The compiled core. Use it through ``qkv.core``, which says what to do when it is not built."""

def cpu_features() -> dict[str, bool]:
    """Each known processor feature, and whether it is usable here."""

def cpu_sizes() -> dict[str, int]:
    """Threads and cache sizes in bytes; 0 where the system does not tell."""

def cpu_targets() -> list[str]:
    """Names of the targets that were built and can run here, best first."""

def cpu_target() -> str:
    """Name of the target in use."""

def use_cpu_target(name: str) -> None:
    """Uses the named target from now on; "" chooses anew."""

def probe_fma_flops(num_threads: int, dtype: str) -> float:
    """Floating-point operations in a second by multiply-adds in registers alone, measured."""

def probe_read_bandwidth(num_threads: int, bytes: int) -> float:
    """Bytes read in a second from an array of this size that is read again and again, measured."""

def compiler() -> str:
    """Name and version of the compiler that built this module."""
