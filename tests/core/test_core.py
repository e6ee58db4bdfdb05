"""The compiled core is built, agrees with the operating system, and says what to do when it is missing."""

from __future__ import annotations

import ast
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qkv import core, limits
from qkv.errors import LimitError, SpecError, TargetError

ROOT = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")

# Our name -> the Linux kernel's. The kernel hides a feature whose registers it does not save.
X86 = {
    "sse4_2": "sse4_2", "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512dq": "avx512dq", "avx512vl": "avx512vl",
    "avx512_bf16": "avx512_bf16", "avx512_vnni": "avx512_vnni",
    "amx_tile": "amx_tile", "amx_bf16": "amx_bf16", "amx_int8": "amx_int8",
}  # fmt: skip
ARM = {"neon": "asimd"}


def kernel_flags() -> set[str]:
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    return {flag for line in lines if re.match(r"(flags|Features)\s*:", line) for flag in line.split(":")[1].split()}


def test_every_name_is_listed_on_every_machine() -> None:
    assert set(core.cpu_features()) == set(X86) | set(ARM)
    assert all(isinstance(usable, bool) for usable in core.cpu_features().values())


@pytest.mark.skipif(not CPUINFO.exists(), reason="only Linux lists its processor's features in /proc/cpuinfo")
def test_features_are_those_the_kernel_lists() -> None:
    theirs = ARM if platform.machine() == "aarch64" else X86
    expected = {ours: kernels in kernel_flags() for ours, kernels in theirs.items()}
    assert core.cpu_features() == {name: expected.get(name, False) for name in X86 | ARM}


def test_sizes_are_plausible() -> None:
    sizes = core.cpu_sizes()
    assert list(sizes) == ["num_threads", "cache_line_bytes", "l1_data_bytes", "l2_bytes", "l3_bytes"]
    assert 1 <= sizes["num_threads"] < 10_000
    assert sizes["cache_line_bytes"] in {0, 32, 64, 128, 256}


TARGETS = ["amx", "avx512bf16", "avx512", "avx2", "neon", "portable", "wide"]  # best first; the last only when named
NEEDS = {
    "amx": {
        "amx_tile",
        "amx_bf16",
        "avx512_bf16",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx2",
        "fma",
        "f16c",
    },
    "avx512bf16": {"avx512_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"neon"},
}


def test_targets_are_those_that_the_features_allow() -> None:
    usable = {name for name, has in core.cpu_features().items() if has}
    targets = core.cpu_targets()
    assert targets == [name for name in TARGETS if name in targets]
    assert "portable" in targets
    assert "wide" in targets, "make builds it for tests"
    assert {name for name in targets if name in NEEDS} == {name for name, needs in NEEDS.items() if needs <= usable}


def asked(target: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter under QKV_CPU_TARGET, which prints the target that it uses."""
    script = "import qkv\ntry:\n    print(qkv.cpu_target())\nexcept qkv.QkvError as error:\n    print(repr(error))"
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"QKV_CPU_TARGET": target},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_environment_forces_a_target() -> None:
    assert asked("").stdout.strip() == core.cpu_targets()[0]
    assert asked("wide").stdout.strip() == "wide"
    assert eval(asked("avx9").stdout, {"TargetError": str}) == (  # noqa: S307 - a repr of our own
        'QKV_CPU_TARGET is "avx9", which is no target of this version.\n'
        f"  Usable here, best first: {', '.join(core.cpu_targets())}\n"
        "  Name one of them, or none to let qkv choose."
    )


def test_a_target_is_used_inside_a_block_and_not_after_it() -> None:
    before = core.cpu_target()
    for name in core.cpu_targets():
        with core.using_cpu_target(name):
            assert core.cpu_target() == name
        assert core.cpu_target() == before
    with pytest.raises(TargetError, match='The target asked for is "avx9", which is no'), core.using_cpu_target("avx9"):
        pass
    with pytest.raises(ZeroDivisionError), core.using_cpu_target("portable"):
        1 / 0  # noqa: B018 - the block fails
    assert core.cpu_target() == before


@pytest.mark.parametrize("target", core.cpu_targets())
def test_what_the_machine_reaches_is_measured(target: str) -> None:
    with core.using_cpu_target(target):
        for dtype in ("float32", "float64", "bfloat16"):
            assert 1e6 < core.probe_fma_flops(1, dtype) < 1e13
        assert 1e6 < core.probe_read_bandwidth(2, 1 << 20) < 1e14
        assert core.probe_read_bandwidth(3, 1) > 1e6  # a page for each thread at least


def test_a_probe_refuses_what_it_cannot_measure() -> None:
    def message(kind: type[Exception], run: Callable[[], object]) -> str:
        with pytest.raises(kind) as caught:
            run()
        return str(caught.value)

    assert message(SpecError, lambda: core.probe_fma_flops(0)) == (
        "probe_fma_flops: num_threads=0 does nothing.\n  Give at least 1."
    )
    assert message(LimitError, lambda: core.probe_read_bandwidth(limits.PROBE_THREADS + 1)) == (
        "probe_read_bandwidth: num_threads=1025 is more than 1024.\n"
        '  Give the number of processors: cpu_sizes()["num_threads"].'
    )
    assert message(SpecError, lambda: core.probe_fma_flops(1, "float16")) == (
        'probe_fma_flops: dtype=\'float16\' is not known.\n  Give "float32", "float64" or "bfloat16".'
    )
    assert message(SpecError, lambda: core.probe_read_bandwidth(1, 0)) == (
        "probe_read_bandwidth: num_bytes=0 is nothing to read.\n  Give at least 1."
    )
    assert message(LimitError, lambda: core.probe_read_bandwidth(1, limits.PROBE_BYTES + 1)) == (
        "probe_read_bandwidth: num_bytes=8589934593 is more than 8589934592.\n"
        "  An array of some times the largest cache says all that there is to learn."
    )


def test_the_compiler_is_named() -> None:
    assert re.fullmatch(r"(gcc|clang) \d+\.\d+\.\d+|msvc \d+", core.compiler())


def test_a_missing_core_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import qkv

    monkeypatch.delattr(qkv, "_core", raising=False)
    monkeypatch.setitem(sys.modules, "qkv._core", None)
    with pytest.raises(ImportError) as caught:
        core.cpu_features()
    message = str(caught.value)
    assert message.startswith("qkv's compiled core (qkv._core) is not built for this Python: ")
    assert "    make\n" in message
    assert "pip install --no-build-isolation -e ." in message
    assert caught.value.name == "qkv._core"


def test_the_stub_lists_what_the_module_offers() -> None:
    from qkv import _core

    tree = ast.parse((ROOT / "src" / "qkv" / "_core.pyi").read_text(encoding="utf-8"))
    stub = {
        node.name: ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    offered = {name for name in vars(_core) if not name.startswith("_")}
    assert set(stub) == offered
    for name, text in stub.items():
        assert text, name
        assert text in (getattr(_core, name).__doc__ or ""), name


def test_the_contract_header_has_no_word_of_an_instruction_set() -> None:
    header = (ROOT / "csrc" / "cpu.h").read_text(encoding="utf-8")
    found = re.findall(r"(?i)sse\d|avx|fma\b|amx|neon|[xyz]mm|x86|arm64|cpuid", header)
    assert found == []
