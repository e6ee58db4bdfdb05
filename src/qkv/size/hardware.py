"""Named machines: peak rates of dense products by format, read bandwidth and memory, each from its maker's publication.

Knows published peaks, which no program reaches. Refuses to hold a rate that was not published: a format without one has
none. Rates of processors follow from cores, base clock and operations for each cycle, as their source says.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import SpecError


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine: ``flops_per_s`` by format (dense, no sparsity), bytes read each second, bytes of memory.

    ``measured`` says that the figures come from a probe on this machine and not from a publication.
    """

    name: str
    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: int
    source: str
    measured: bool = False

    def rate(self, dtype: str) -> float:
        """Operations each second with products of ``dtype``.

        f16 and bf16 stand for one another; quantized caches are computed in 16 bits; a machine that multiplies in f32
        alone converts what it reads and computes there. Raises ``SpecError`` for f32 where no such rate was published.
        """
        half = ("bf16", "f16", "f32")
        wanted = {"f32": ("f32",), "f16": ("f16", "bf16", "f32"), "fp8": ("fp8", *half)}
        for name in wanted.get(dtype, half):
            if name in self.flops_per_s:
                return self.flops_per_s[name]
        known = ", ".join(self.flops_per_s)
        raise SpecError(f"{self.name} has no published rate of {dtype} products.\n  It has: {known}.")


_GB, _TB, _T = 10**9, 1e12, 1e12

HARDWARE: dict[str, Hardware] = {
    made.name: made
    for made in (
        Hardware(
            "a100-40gb", {"f32": 19.5 * _T, "bf16": 312 * _T, "f16": 312 * _T}, 1.555 * _TB, 40 * _GB,
            "NVIDIA A100 Tensor Core GPU datasheet (SXM 40 GB)",
        ),
        Hardware(
            "a100-80gb", {"f32": 19.5 * _T, "bf16": 312 * _T, "f16": 312 * _T}, 2.039 * _TB, 80 * _GB,
            "NVIDIA A100 Tensor Core GPU datasheet (SXM 80 GB)",
        ),
        Hardware(
            "h100", {"f32": 67 * _T, "bf16": 989.5 * _T, "f16": 989.5 * _T, "fp8": 1979 * _T}, 3.35 * _TB, 80 * _GB,
            "NVIDIA H100 Tensor Core GPU datasheet (SXM; half of the figures with sparsity)",
        ),
        Hardware(
            "h200", {"f32": 67 * _T, "bf16": 989.5 * _T, "f16": 989.5 * _T, "fp8": 1979 * _T}, 4.8 * _TB, 141 * _GB,
            "NVIDIA H200 Tensor Core GPU datasheet (SXM; half of the figures with sparsity)",
        ),
        Hardware(
            "b200", {"bf16": 2250 * _T, "f16": 2250 * _T, "fp8": 4500 * _T}, 8 * _TB, 180 * _GB,
            "NVIDIA DGX B200 datasheet (an eighth of the system; half of the figures with sparsity)",
        ),
        Hardware(
            "l4", {"f32": 30.3 * _T, "bf16": 121 * _T, "f16": 121 * _T, "fp8": 242.5 * _T}, 0.3 * _TB, 24 * _GB,
            "NVIDIA L4 Tensor Core GPU datasheet (half of the figures with sparsity)",
        ),
        Hardware(
            "rtx-4090", {"f32": 82.6 * _T, "bf16": 165.2 * _T, "f16": 165.2 * _T, "fp8": 330.3 * _T}, 1.008 * _TB,
            24 * _GB, "NVIDIA Ada GPU architecture whitepaper, appendix A (float32 accumulation, dense)",
        ),
        Hardware(
            "apple-m1", {"f32": 2.6 * _T}, 68.25e9, 16 * _GB,
            "Apple, M1 announcement of November 2020 (2.6 teraflops); LPDDR4X-4266 on 128 bits",
        ),
        Hardware(
            "apple-m1-max", {"f32": 10.4 * _T}, 400e9, 64 * _GB,
            "Apple, M1 Max announcement of October 2021 (10.4 teraflops, 400 GB/s, 64 GB)",
        ),
        Hardware(
            "apple-m2", {"f32": 3.6 * _T}, 100e9, 24 * _GB,
            "Apple, M2 announcement of June 2022 (3.6 teraflops, 100 GB/s, 24 GB)",
        ),
        Hardware(
            "epyc-7763", {"f32": 64 * 2.45e9 * 32}, 204.8e9, 4096 * _GB,
            "AMD EPYC 7763 product page: 64 cores, 2.45 GHz, 8 channels of DDR4-3200, 4 TB; 32 f32 operations a cycle "
            "(two 256-bit multiply-adds)",
        ),
        Hardware(
            "epyc-9654", {"f32": 96 * 2.4e9 * 32, "bf16": 96 * 2.4e9 * 64}, 460.8e9, 6144 * _GB,
            "AMD EPYC 9654 product page: 96 cores, 2.4 GHz, 460.8 GB/s, 6 TB; 32 f32 or 64 bf16 operations a cycle "
            "(AVX-512 on 256-bit units)",
        ),
        Hardware(
            "xeon-8480", {"f32": 56 * 2.0e9 * 64, "bf16": 56 * 2.0e9 * 2048}, 307.2e9, 4096 * _GB,
            "Intel Xeon Platinum 8480+ product page: 56 cores, 2.0 GHz, 8 channels of DDR5-4800, 4 TB; 64 f32 "
            "operations a cycle (two AVX-512 multiply-adds), 2048 bf16 operations a cycle (AMX)",
        ),
        Hardware(
            "ryzen-7950x", {"f32": 16 * 4.5e9 * 32, "bf16": 16 * 4.5e9 * 64}, 83.2e9, 128 * _GB,
            "AMD Ryzen 9 7950X product page: 16 cores, 4.5 GHz, 2 channels of DDR5-5200, 128 GB; 32 f32 or 64 bf16 "
            "operations a cycle (AVX-512 on 256-bit units)",
        ),
    )
}  # fmt: skip
"""Every named machine."""

_ALIASES = {"a100": "a100-80gb", "4090": "rtx-4090", "m1": "apple-m1", "m1-max": "apple-m1-max", "m2": "apple-m2"}


def hardware(what: str | Hardware) -> Hardware:
    """The machine called ``what``; ``"this"`` probes the one that runs (``probe``).

    Raises ``SpecError`` for a name that none has.

    >>> hardware("h100").bytes_per_s
    3350000000000.0
    """
    if isinstance(what, Hardware):
        return what
    name = str(what).strip().lower().replace("_", "-").replace(" ", "-")
    if name == "this":
        from .probe import probe

        return probe()
    name = _ALIASES.get(name, name)
    if name in HARDWARE:
        return HARDWARE[name]
    near = difflib.get_close_matches(name, HARDWARE, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise SpecError(f'no machine is called "{str(what)[:40]}".\n  {hint}Known: {", ".join(HARDWARE)}, and "this".')
