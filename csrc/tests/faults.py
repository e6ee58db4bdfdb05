"""Plants faults in the kernels, one at a time, and demands that the C++ tests notice each of them.

    python csrc/tests/faults.py [--only TEXT] [--list]

Every fault is one piece of text in one file, replaced by another. The portable kernels (or their terms) are compiled
with it, linked with everything else, and `attention_fuzz`, `terms_test` and `graph_fuzz` are run until one fails. A
fault that none notices, or whose text is no longer there exactly once, is an error. Needs a C++20 compiler (CXX);
build/faults holds what is made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "faults"
CXX = os.environ.get("CXX", "c++")
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-pthread"]
SOURCES = [
    "cpu.cc",
    "cpu_registers.cc",
    "compile.cc",
    "graph.cc",
    "interval.cc",
    "openmp.cc",
    "pool.cc",
    "probe.cc",
    "targets.cc",
]
NUM_INPUTS = "400"
PAIRS = ("-DQKV_LANES=16", "-DQKV_PAIRS")  # the logic of bfloat16 in pairs, on any machine


@dataclass(frozen=True)
class Fault:
    """``before`` in ``file`` (of csrc) becomes ``after``; ``name`` says what is wrong then."""

    name: str
    file: str
    before: str
    after: str
    flags: tuple[str, ...] = ()  # what the portable target is made with


FORWARD, ENTRY, BACKWARD = "kernel/forward.h", "kernel/entry.h", "kernel/backward.h"
PAIRED = "kernel/pairs.h"
PLACES, GEMM, ROWS, TERMS, IN_PLACE = (
    "kernel/places.h",
    "kernel/gemm.h",
    "kernel/rows.h",
    "kernel/terms.h",
    "kernel/in_place.h",
)

FAULTS = [
    Fault(
        "what is known of two stretches is taken for the block",
        FORWARD,
        "if (slot != all && settles(wide)) return",
        "if (settles(wide)) return",
    ),
    Fault(
        "rows on the other side of an edge are kept",
        FORWARD,
        "if (before == Verdict::all && after == Verdict::none) kept.above |= bit;",
        "if (before == Verdict::all && after == Verdict::none) kept.below |= bit;",
    ),
    Fault(
        "an empty stretch between two others is kept",
        FORWARD,
        "kept.last = step + width, kept.empty = empty;",
        "kept.last = step + width, kept.empty = 0;",
    ),
    Fault(
        "an edge of rows is counted from the chunk's first row",
        FORWARD,
        "kept.edge = static_cast<int>(last * kMaskRows - offset - row);",
        "kept.edge = static_cast<int>(last * kMaskRows - row) - static_cast<int>(rows) / 2;",
    ),
    Fault(
        "the newest keys are read from their codes",
        FORWARD,
        "const int64_t recent = call.recent.slots ? call.recent.first : last;",
        "const int64_t recent = call.recent.slots ? call.recent.first + 1 : last;",
    ),
    Fault(
        "the newest keys are looked for where the ring begins",
        PLACES,
        "ring_start(recent.first % recent.slots - recent.first)",
        "ring_start(-recent.first)",
    ),
    Fault("a mask keeps one key less", TERMS, "QKV_COMPARE(le_##s, T, a <= b)", "QKV_COMPARE(le_##s, T, a < b)"),
    Fault("a mask keeps one key more", TERMS, "QKV_COMPARE(lt_##s, T, a < b)", "QKV_COMPARE(lt_##s, T, a <= b)"),
    Fault(
        "sums are not rescaled when a larger score comes",
        GEMM,
        "acc[r][n] = load<T>(c + r * c_row + n * Lanes<T>::count) * splat<T>(factor[r]);",
        "acc[r][n] = load<T>(c + r * c_row + n * Lanes<T>::count) + splat<T>(T(0) * factor[r]);",
    ),
    Fault(
        "in place, sums are not rescaled",
        IN_PLACE,
        "acc[r][n] = load<T>(sums + r * row + f + n * W) * splat<T>(factor[r]);",
        "acc[r][n] = load<T>(sums + r * row + f + n * W) + splat<T>(T(0) * factor[r]);",
    ),
    Fault(
        "scores of keys taken together are exchanged",
        IN_PLACE,
        "__builtin_memcpy(to + (m * part + n) * Rows,",
        "__builtin_memcpy(to + (m + Keys * n) * Rows,",
    ),
    Fault(
        "sums of codes are rescaled again for later values of a block",
        IN_PLACE,
        "const T* so_far = first ? ones : factor;",
        "const T* so_far = factor;",
    ),
    Fault(
        "few rows take keys that are kept in part for kept whole",
        FORWARD,
        "to < last && ask(to) == found; to = end(to)",
        "to < last && ask(to) != Verdict::none; to = end(to)",
    ),
    Fault(
        "scales are read past the end of a ring or a page",
        FORWARD,
        "run = segment.keys.together(key0 + n);",
        "run = count;",
    ),
    Fault(
        "keys left over are taken for the first ones",
        IN_PLACE,
        "few_scores<T, E, Rows, 1>(q, d, {key_at(n), 0}",
        "few_scores<T, E, Rows, 1>(q, d, {key_at(n - part * Keys), 0}",
    ),
    Fault(
        "a second pass over rows begins with the first row",
        IN_PLACE,
        "key_at, ask, ask_step, count, step, s + row * stride, stride);",
        "key_at, ask, ask_step, count, step, s, stride);",
    ),
    Fault(
        "totals are not rescaled",
        ROWS,
        "rows.total[row] = rows.total[row] * moved[r] + mass[r];",
        "rows.total[row] = rows.total[row] + mass[r];",
    ),
    Fault(
        "heads are tiled, not repeated: the flat index is taken apart from the wrong end",
        PLACES,
        "for (int n = axes.count - 1; n >= 0; --n) {",
        "for (int n = 0; n < axes.count; ++n) {",
    ),
    Fault(
        "the batch's stride for the head's",
        PLACES,
        "offset += flat % axes.size[n] * strides[n];",
        "offset += flat % axes.size[n] * strides[0];",
    ),
    Fault(
        "the last row is not written",
        FORWARD,
        "        for (int64_t n = 0; n < num_rows; ++n) {\n            const bool dead",
        "        for (int64_t n = 0; n < num_rows - (num_rows > 1); ++n) {\n            const bool dead",
    ),
    Fault(
        "lse to base 2",
        FORWARD,
        "dead ? none : rows.level[n] * back + natural_log(total)",
        "dead ? none : rows.level[n] + natural_log(total)",
    ),
    Fault("the sink once for every split", ENTRY, "if (part.split > 0) chunk.leave_sinks_out();", ""),
    Fault("a split's sums are added as they are", FORWARD, ": a * a_part + b * b_part;", ": a + b * b_part;"),
    Fault(
        "a row that keeps nothing is not 0",
        FORWARD,
        "const T factor = !divide ? T(1) : dead ? T(0) : T(1) / total;",
        "const T factor = !divide ? T(1) : T(1) / total;",
    ),
    Fault(
        "dropped scores are left in the padded columns",
        FORWARD,
        "for (int64_t n = last; n < right; ++n) work.s[r * kBlockKeys + n] = none;\n"
        "        }\n        if (!finite) note",
        "}\n        if (!finite) note",
    ),
    Fault(
        "values that are not finite reach rows that drop their key",
        FORWARD,
        "if (work.keeps[r * kBlockKeys + n]) work.sums",
        "work.sums",
    ),
    Fault("the entropy forgets what was before", ROWS, "rows.moment[row] * moved[r] + moment[r]", "moment[r]"),
    Fault(
        "the largest score is the last block's",
        ROWS,
        "rows.best[row] = best[r] > rows.best[row] ? best[r] : rows.best[row];",
        "rows.best[row] = best[r];",
    ),
    Fault(
        "a ring goes on past its end",
        PLACES,
        "slot < ring_slots ? slot : slot - ring_slots) * view->item[0] * bytes;",
        "slot <= ring_slots ? slot : slot - ring_slots) * view->item[0] * bytes;",
    ),
    Fault(
        "pages are read in their physical order",
        PLACES,
        "base + (pages[n / page_slots] * page_step",
        "base + (n / page_slots * page_step",
    ),
    Fault(
        "the halves of a byte change places",
        FORWARD,
        "to[n] = static_cast<int8_t>((from[n] & 15) - 8);",
        "to[n] = static_cast<int8_t>((from[n] >> 4) - 8);",
    ),
    Fault("codes of values are not scaled", FORWARD, "s[n] *= work.v_scales[n];", "s[n] *= T(1);"),
    Fault(
        "a scale that is not finite reaches rows that drop its key",
        FORWARD,
        "work.keeps[r * kBlockKeys + n] ? s[n] * work.v_scales[n] : T(0);",
        "s[n] * work.v_scales[n];",
    ),
    Fault(
        "values too small for pairs are lost",
        FORWARD,
        "return !paired || size == T(0) || size >= static_cast<T>(0x1p-100);",
        "return true;",
        PAIRS,
    ),
    Fault(
        "what a query's power of two leaves over is lost",
        FORWARD,
        "call.scored ? T(1) : left_over, how",
        "T(1), how",
        PAIRS,
    ),
    Fault(
        "scores of pairs meet their terms without the rest of their scale",
        FORWARD,
        "work.s[r * kBlockKeys + n] *= left_over;",
        "work.s[r * kBlockKeys + n] *= T(1);",
        PAIRS,
    ),
    Fault(
        "the lower rows of a group have no sums",
        FORWARD,
        "const bool two = rows > kPairRows / 2;",
        "const bool two = false;",
        PAIRS,
    ),
    Fault(
        "the last feature of an odd count is lost",
        PAIRED,
        "n < count && f < features ? from[n]",
        "n < count && f < features - features % 2 ? from[n]",
        PAIRS,
    ),
    Fault(
        "sums of pairs are not rescaled",
        FORWARD,
        "load<float>(sums + n) * factor + load",
        "load<float>(sums + n) + load",
        PAIRS,
    ),
    Fault("delta is not subtracted", BACKWARD, "p * (load<T>(g + n) - delta);", "p * (load<T>(g + n) - T(0) * delta);"),
    Fault(
        "the queries' gradient is not scaled",
        BACKWARD,
        "work.dq + n * wide_d, d, scale,",
        "work.dq + n * wide_d, d, T(1),",
    ),
    Fault(
        "the keys' gradient takes queries of the first group",
        BACKWARD,
        "work.q_along + panel * how.chunk_rows + row * C,",
        "work.q_along + panel * how.chunk_rows + 0 * row * C,",
    ),
    Fault(
        "a dropped pair has a gradient",
        BACKWARD,
        "- delta);\n            store<T>(s + n, p);\n            store<T>(g + n, x == nothing ? Vec<T>{} : slope);",
        "- delta);\n            store<T>(s + n, p);\n            store<T>(g + n, x == nothing ? slope + T(1) : slope);",
    ),
    Fault(
        "one part of the rows is not summed",
        "kernel/entry_backward.h",
        "for (int64_t part = 1; part < how.num_parts; ++part) {",
        "for (int64_t part = 2; part < how.num_parts; ++part) {",
    ),
]


def run(*command: str | Path, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """One command, quiet unless it fails to run at all."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)


def demand(*command: str | Path) -> None:
    """A command that must succeed."""
    done = run(*command)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def compile_to(source: Path, to: Path, *more: str) -> None:
    """One object file."""
    demand(CXX, *FLAGS, *more, "-c", source, "-o", to)


def base() -> list[Path]:
    """Everything but the portable kernels, and the three programs' own objects, compiled once."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    csrc, tests = ROOT / "csrc", ROOT / "csrc" / "tests"
    jobs = [(csrc / name, BUILD / f"{name}.o") for name in SOURCES]
    for source in (
        tests / "fuzz" / "attention_fuzz.cc",
        tests / "fuzz" / "graph_fuzz.cc",
        tests / "fuzz" / "driver.cc",
        tests / "terms_test.cc",
    ):
        jobs.append((source, BUILD / f"{source.name}.o"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: compile_to(*job, f"-I{csrc}", f"-I{tests}"), jobs))
        kinds = [(terms, flags) for flags in ((), PAIRS) for terms in (False, True)]
        list(pool.map(lambda kind: portable(csrc, BUILD, terms=kind[0], flags=kind[1]), kinds))
    return [BUILD / f"{name}.o" for name in SOURCES]


def portable(csrc: Path, to: Path, *, terms: bool, flags: tuple[str, ...]) -> Path:
    """The portable kernels of a source tree, or their terms, made with these flags: the object file."""
    made = object_of(to, terms=terms, flags=flags)
    compile_to(csrc / "targets" / "portable.cc", made, *flags, *(["-DQKV_TERMS_ALONE"] if terms else []))
    return made


def object_of(tree: Path, *, terms: bool, flags: tuple[str, ...]) -> Path:
    """Where such an object file lies."""
    return tree / f"{'terms' if terms else 'kernels'}{'_pairs' if flags else ''}.o"


def noticed(tree: Path, kernels: Path, terms: Path, common: list[Path]) -> str | None:
    """The program that fails with these kernels, or None."""
    for name, arguments in (("attention_fuzz", [NUM_INPUTS]), ("terms_test", []), ("graph_fuzz", [NUM_INPUTS])):
        own = [BUILD / f"{name}.cc.o", *([BUILD / "driver.cc.o"] if name.endswith("fuzz") else [])]
        demand(CXX, "-pthread", *own, *common, kernels, terms, "-o", tree / name)
        try:
            done = run(tree / name, *arguments, timeout=600)
        except subprocess.TimeoutExpired:
            return f"{name} (does not end)"
        if done.returncode:
            return name
    return None


def plant(fault: Fault, common: list[Path]) -> str | None:
    """The program that noticed the fault, or None."""
    tree = BUILD / fault.name.replace(" ", "_").replace(",", "").replace(":", "")[:60]
    shutil.copytree(ROOT / "csrc", tree / "csrc", ignore=shutil.ignore_patterns("tests"))
    file = tree / "csrc" / fault.file
    text = file.read_text()
    if text.count(fault.before) != 1:
        raise SystemExit(f"{fault.name}: {fault.file} has {text.count(fault.before)} times, not once:\n{fault.before}")
    file.write_text(text.replace(fault.before, fault.after))
    terms = fault.file == TERMS
    made = portable(tree / "csrc", tree, terms=terms, flags=fault.flags)
    other = object_of(BUILD, terms=not terms, flags=fault.flags)
    found = noticed(tree, *((other, made) if terms else (made, other)), common)
    shutil.rmtree(tree)
    return found


def main() -> int:
    """0 when every fault is noticed and the sound kernels pass."""
    parser = argparse.ArgumentParser(description="plant faults in the kernels and see them noticed")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    given = parser.parse_args()
    faults = [fault for fault in FAULTS if given.only in fault.name]
    if given.list:
        print("\n".join(fault.name for fault in faults))
        return 0
    common = base()
    for flags in {(), *(fault.flags for fault in faults)}:
        kernels, terms = (object_of(BUILD, terms=terms, flags=flags) for terms in (False, True))
        sound = noticed(BUILD, kernels, terms, common)
        if sound is not None:
            raise SystemExit(f"{sound} fails without a fault")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda fault: plant(fault, common), faults))
    for fault, by in zip(faults, found, strict=True):
        print(f"{'MISSED ' if by is None else 'noticed'}  {fault.name}{'' if by is None else f': {by}'}")
    missed = found.count(None)
    print(f"{len(faults) - missed} of {len(faults)} faults in the kernels were noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
