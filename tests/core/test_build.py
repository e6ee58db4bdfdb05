"""The build says what to install when no compiler serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="compilers are looked for along PATH on POSIX systems")


def configured(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """CMake's first step, which finds no program but cmake, ninja and those that the environment names."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cmake", "ninja"):
        found = shutil.which(name, path=f"{HERE}{os.pathsep}{os.environ['PATH']}")
        assert found, f"{name} is part of the development set-up"
        (programs / name).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if name not in {"CXX", "CC", "CXXFLAGS"}}
    return subprocess.run(
        ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DQKV_PYTHON=OFF"],
        env=kept | {"PATH": str(programs)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def asks_for_a_compiler(text: str) -> bool:
    return all(
        line in text
        for line in (
            "qkv is compiled from C++20 and needs gcc 11 or later, or clang 14 or later:",
            "    Debian, Ubuntu:  apt install g++",
            "    macOS:           xcode-select --install",
            "A compiler that is not found by its usual name is named by the environment variable CXX.",
        )
    )


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path) -> None:
    found = configured(tmp_path)
    assert found.returncode != 0
    assert "There is no C++ compiler here." in found.stderr
    assert asks_for_a_compiler(found.stderr)


def test_a_compiler_of_an_older_language_is_named(tmp_path: Path) -> None:
    real = shutil.which("g++") or shutil.which("clang++")
    assert real, "the core was built with one of them"
    old = tmp_path / "old++"
    old.write_text(f'#!/bin/sh\nPATH="{os.environ["PATH"]}" exec "{real}" "$@" -std=c++17\n', encoding="utf-8")
    old.chmod(0o755)
    found = configured(tmp_path, CXX=str(old))
    assert found.returncode != 0
    assert f"{old} (" in found.stderr
    assert "cannot compile qkv's C++20." in found.stderr
    assert asks_for_a_compiler(found.stderr)


def test_the_check_can_fail() -> None:
    assert not asks_for_a_compiler("No CMAKE_CXX_COMPILER could be found.")
