"""The compiled core. Use it through ``qkv.core``, which says what to do when it is not built."""

from collections.abc import Sequence

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

def ride(openmp: bool) -> bool:
    """Runs tasks by the threads of an OpenMP runtime, or by own ones; whether there is one to ride."""

def rides() -> bool:
    """Whether tasks are run by an OpenMP runtime's threads."""

def compiler() -> str:
    """Name and version of the compiler that built this module."""

def encode(
    rows: int,
    element: int,
    bits: int,
    sizes: Sequence[int],
    row_strides: Sequence[int],
    codes: int,
    code_strides: Sequence[int],
    scales: int,
    scale_strides: Sequence[int],
) -> None:
    """Writes codes and scales of rows at these addresses."""
    # sizes and strides of rows and codes end with those of the feature; `element` as in csrc/elements.h

class Graph:
    """Expression graphs of one spec, checked."""

    def __init__(
        self,
        nodes: list[tuple[int, int, list[int], int, int, float]],
        num_coordinates: int,
        num_tables: int,
        keep: int,
        score: int,
        by_score: int,
        row: int,
        gradients: list[tuple[int, int]],
        keep_guards: list[tuple[int, int]],
        score_guards: list[tuple[int, int]],
        row_guards: list[tuple[int, int]],
    ) -> None:
        """Nodes are (operation, kind, operands or indices, coordinate or table, whole, real); parts are node numbers,
        -1 for none. Raises ``InternalError`` for what is no graph.
        """

    def bind(
        self,
        coordinates: list[tuple[int, int, int, int]],
        tables: list[tuple[int, int, list[int], list[int], bool]],
        wide: bool,
        alive: object,
    ) -> Terms:
        """The programs of one call. Coordinates are (role, size, divisor, offset), tables (address, elements, sizes,
        strides, whether to learn their bounds); ``alive`` is held as long as the terms are.
        """

class Terms:
    """Terms of one call: programs that kernels run."""

    masks: bool
    changes: bool
    scratch_bytes: int

    def verdict(self, shared: int, row0: int, rows: int, key0: int, keys: int) -> int:
        """What the mask keeps of a block: 0 nothing, 1 all, 2 perhaps some."""

    def evaluate(
        self, shared: int, row0: int, rows: int, key0: int, keys: int, s: int, stride: int, masked: bool
    ) -> int:
        """Changes the scores at address ``s`` in place; the node of a lookup that left its table, or -1."""

    def backward(
        self,
        shared: int,
        row0: int,
        rows: int,
        key0: int,
        keys: int,
        raw: int,
        ds: int,
        stride: int,
        masked: bool,
        table_grads: list[int],
    ) -> None:
        """Changes gradients of the scores at address ``ds`` into those of the scaled products at ``raw``, and adds to
        the dense gradients of the tables; address 0 for a table that needs none.
        """

    def rows(self, shared: int, row0: int, rows: int, key0: int, keys: int, out: int, stride: int) -> int:
        """Writes which row of the table of values each pair reads, as int32; returns as ``evaluate``."""

Strides = tuple[list[int], list[int], int]

class Attention:
    """Attention calls of one signature, checked."""

    def __init__(
        self,
        element: int,
        shared: list[int],
        rows: list[int],
        keys: list[int],
        feature_size: int,
        value_size: int,
        scale: float,
        weighing: int,
        bias: float,
        terms_shared: int,
        pair_row: list[int],
        num_buckets: int,
        views: dict[str, Strides],
        key_element: int = -1,
        out_element: int = -1,
        grad_element: int = -1,
        placing: dict[str, list[int]] = ...,
    ) -> None:
        """Sizes by role; ``views`` holds the strides of each tensor (q, k, v, out, grad, sink, lse, buckets, dq, dk,
        dv, k_scale, v_scale, k_recent, v_recent) along shared axes, along rows or keys, and along the last axis.
        Elements are numbered as in csrc/elements.h, -1 for that of q. ``placing`` says where keys lie that are not
        simply a step apart: either ``ring_slots``, or ``num_pages``, ``page_slots``, ``page_shared`` (steps of the
        table of pages along shared axes) and ``pages_apart`` (steps from page to page of k, v and their scales); and,
        of codes, ``recent_slots`` and ``recent_element`` of the last keys that lie as floats too. Raises
        ``InternalError`` for what does not fit.
        """

    def forward(
        self,
        q: int,
        k: int,
        v: int,
        out: int,
        sink: int = 0,
        lse: int = 0,
        level: int = 0,
        entropy: int = 0,
        argmax: int = 0,
        buckets: int = 0,
        terms: Terms | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        num_threads: int = 1,
        k_scale: int = 0,
        v_scale: int = 0,
        pages: int = 0,
        ring_start: int = 0,
        num_keys: int = -1,
        k_recent: int = 0,
        v_recent: int = 0,
        recent_first: int = 0,
    ) -> int:
        """Runs one call on tensors at these addresses (0: not wanted); the lookup that left its table, or -1.

        ``num_keys`` is how many of the keys there are this time, all where it is below 0; ``ring_start`` the slot of
        the first one in a ring, ``pages`` the table of pages: int32, checked up to the last key. Keys from
        ``recent_first`` on are read as floats at ``k_recent`` and ``v_recent``, key n at slot ``n % recent_slots``.
        """

    def run(self, q: int, k: int, v: int, out: int, terms: Terms | None, num_threads: int) -> None:
        """Runs one call that wants its output alone and whose terms read no table."""

    def backward(
        self,
        q: int,
        k: int,
        v: int,
        grad: int,
        lse: int,
        delta: int,
        bucket_grad: int,
        dq: int,
        dk: int,
        dv: int,
        table_grads: list[int],
        table_sizes: list[int],
        tables_apart: bool,
        terms: Terms | None,
        dropout: float,
        seed: int,
        num_threads: int,
    ) -> int:
        """Writes dq, dk, dv where wanted and adds to the tables' dense gradients; as ``forward``."""
