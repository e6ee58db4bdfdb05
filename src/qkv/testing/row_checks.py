"""The checks that are one row of the grid: a call or its gradients, judged and named.

Knows how a function is called, and how to say what is wrong with its answer. Refuses to know which rows there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qkv.testing.bounds import case_ratios, worst_gradient_ratio, worst_ratio
from qkv.testing.cases import Case
from qkv.testing.checks import Check, Raised, attempt
from qkv.testing.families import FAMILIES
from qkv.testing.grid import Row, row_sizes, standard_forbidden
from qkv.testing.invariants import Attention
from qkv.testing.masks import Align, make_keep
from qkv.testing.oracle import OracleResult, oracle
from qkv.testing.oracle_gradients import oracle_gradients
from qkv.testing.report import Finding


@dataclass(frozen=True, slots=True)
class RowCheck:
    """One row of the grid, forward: the answer against the oracle, or against what is known exactly.

    A causal row is called with ``causal=True`` when the function has it, and otherwise with a mask.
    """

    row: Row
    supports: frozenset[str]
    align: Align
    seed: int

    @property
    def name(self) -> str:
        """The row in words."""
        return ", ".join(f"{axis.replace('_', ' ')} {_word(value)}" for axis, value in self.row.items())

    @property
    def needs(self) -> frozenset[str]:
        """The options that the row uses."""
        sizes, needs = row_sizes(self.row), set[str]()
        if self.row["keep"] != "full":
            needs.add("causal" if self._by_flag else "mask")
        if sizes.query_heads != sizes.key_heads:
            needs.add("gqa")
        if sizes.value_size != sizes.feature_size:
            needs.add("value_size")
        return frozenset(needs)

    def run(self, fn: Attention) -> Iterator[Finding]:
        """What the function breaks on this row."""
        case = self.case()
        before = [x.clone() for x in (case.q, case.k, case.v)]
        leave_nans(case)
        output = attempt(lambda: self.call(fn, case.q, case.k, case.v, case.keep))
        if isinstance(output, Raised):
            yield self._finding(f"raises {output.type}", torch.inf, output.message)
            return
        if any(not _same_bits(x, old) for x, old in zip((case.q, case.k, case.v), before, strict=True)):
            yield self._finding("inputs changed", torch.inf, "q, k or v holds other bits after the call")
        expected = (*case.q.shape[:3], case.v.shape[3])
        if tuple(output.shape) != expected or output.dtype != case.q.dtype:
            seen = f"{tuple(output.shape)} {output.dtype}, expected {expected} {case.q.dtype}"
            yield self._finding("shape or dtype", torch.inf, seen)
            return
        yield from self._judge(case, output)

    def case(self) -> Case:
        """The inputs of the row."""
        sizes, dtype = row_sizes(self.row), self.row["dtype"]
        keep = None if self.row["keep"] == "full" else self._keep(self.align)
        make = FAMILIES[str(self.row["family"])]
        return make(sizes, dtype, keep=keep, seed=self.seed, layout=str(self.row["layout"]))

    def call(self, fn: Attention, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        """The function's output, asked for with the arguments that the row uses and no others."""
        if keep is None:
            return fn(q, k, v)
        return fn(q, k, v, causal=True) if self._by_flag else fn(q, k, v, mask=keep)

    def smaller(self) -> Iterator[Check]:
        """The same check on simpler rows that are allowed and that the function supports."""
        for row in smaller_rows(self.row):
            check = replace(self, row=row)
            if not standard_forbidden(row) and check.needs <= self.supports:
                yield check

    def code(self, *lines: str) -> str:
        """The call as code, followed by ``lines``."""
        sizes, family = row_sizes(self.row), str(self.row["family"]).replace(" ", "_")
        masked = self.row["keep"] != "full"
        names = ", ".join(sorted({"Sizes", family, "worst_case_ratio", *(["make_keep"] if masked else [])}))
        made = [f"import torch\nfrom qkv.testing import {names}\n"]
        if masked:
            shape = f"{sizes.batch}, {sizes.query_length}, {sizes.key_length}"
            made.append(f'keep = make_keep("{self.row["keep"]}", {shape}, align="{self.align}", seed={self.seed})')
        keep = ", keep=keep" if masked else ""
        layout = f', layout="{self.row["layout"]}"'
        made.append(f"sizes = {sizes}")
        made.append(f"case = {family}(sizes, {self.row['dtype']}{keep}, seed={self.seed}{layout})")
        argument = "" if not masked else ", causal=True" if self._by_flag else ", mask=keep"
        return "\n".join([*made, *(line.format(arguments=argument) for line in lines)])

    @property
    def _by_flag(self) -> bool:
        return self.row["keep"] == "causal" and "causal" in self.supports

    def _keep(self, align: Align) -> Tensor:
        sizes = row_sizes(self.row)
        lengths = (sizes.query_length, sizes.key_length)
        return make_keep(str(self.row["keep"]), sizes.batch, *lengths, align=align, seed=self.seed)

    def _judge(self, case: Case, output: Tensor) -> Iterator[Finding]:
        result = case.reference()
        ratio = case_ratios(output, case, result)
        wrong = ratio > 1
        if not bool(wrong.any()):
            return
        if self._by_flag and self._equals_other_alignment(case, output, wrong):
            other = "first" if self.align == "end" else "last"
            detail = f"the answer is that of queries standing at the {other} keys ({self.row['query_length']} queries, "
            yield self._finding("causal alignment", torch.inf, f"{detail}{self.row['key_length']} keys)")
            wrong = wrong & output.isnan()
        dead = (result.count == 0)[..., None].expand_as(wrong)
        lost = output.isnan() & ~result.output.isnan() & ~dead
        if bool((wrong & dead).any()):
            yield self._dead(output[wrong & dead][0].item())
        if bool(lost.any()):
            kind = "NaN leaks" if self.row["family"] == "poison" else "NaN"
            source = "keys that are not kept hold NaN and inf" if kind == "NaN leaks" else "no kept key holds NaN"
            yield self._finding(kind, torch.inf, f"the output has NaN where {source}")
        rest = wrong & ~dead & ~lost
        if bool(rest.any()):
            yield self._finding(*self._describe(case, output, result, ratio, rest))

    def _dead(self, seen: float) -> Finding:
        answer = f"is {seen:.4g}, not 0"
        if self.row["key_length"] == 0:
            return self._finding("no keys", torch.inf, f"the output for no keys at all {answer}")
        if self.row["family"] == "poison":
            return self._finding("NaN leaks", torch.inf, f"a row that keeps nothing and whose query holds NaN {answer}")
        return self._finding("dead rows", torch.inf, f"a row that keeps nothing {answer}")

    def _describe(
        self, case: Case, output: Tensor, result: OracleResult, ratio: Tensor, rest: Tensor
    ) -> tuple[str, float, str]:
        worst = torch.where(rest, ratio, -1.0).argmax()
        place = tuple(int(index) for index in torch.unravel_index(worst, rest.shape))
        exact = case.exact is not None and bool(case.exact[place[:3]])
        known = case.expected if exact and case.expected is not None else result.output
        seen = f"output{list(place)} is {output[place].item():.6g}, expected {known[place].item():.6g}"
        return "exact answer missed" if exact else "outside the bound", float(ratio[place]), seen

    def _equals_other_alignment(self, case: Case, output: Tensor, wrong: Tensor) -> bool:
        """Whether what is wrong, NaN aside, is what the other alignment would give."""
        number = ~output.isnan()
        if self.row["query_length"] == self.row["key_length"] or not bool((wrong & number).any()):
            return False
        moved = oracle(case.q, case.k, case.v, keep=self._keep("start" if self.align == "end" else "end"))
        return worst_ratio(torch.where(number, output, moved.output.to(output.dtype)), moved) <= 1

    def _finding(self, kind: str, ratio: float, detail: str) -> Finding:
        lines = (
            "output = fn(case.q, case.k, case.v{arguments})",
            "worst_case_ratio(output, case)  # at most 1 is right",
        )
        return Finding(kind, self.name, ratio, detail, self.code(*lines))


@dataclass(frozen=True, slots=True)
class GradientCheck(RowCheck):
    """One row of the grid, backward: the gradients of q, k and v against the oracle's."""

    @property
    def name(self) -> str:
        """The row in words."""
        return "gradients: " + super(GradientCheck, self).name

    @property
    def needs(self) -> frozenset[str]:
        """The options that the row uses."""
        return super(GradientCheck, self).needs | {"backward"}

    def run(self, fn: Attention) -> Iterator[Finding]:
        """What the function's gradients break on this row; a wrong output is the forward check's finding."""
        case = self.case()
        q, k, v = case.q.detach().requires_grad_(), case.k.detach().requires_grad_(), case.v.detach().requires_grad_()
        generator = torch.Generator().manual_seed(self.seed)
        shape = (*case.q.shape[:3], case.v.shape[3])
        grad_output = torch.randn(shape, generator=generator).to(case.q.dtype)
        found = attempt(lambda: torch.autograd.grad(self.call(fn, q, k, v, case.keep), (q, k, v), grad_output))
        if isinstance(found, Raised):
            yield self._finding(f"backward raises {found.type}", torch.inf, found.message)
            return
        ratios = self._ratios(case, case.keep, grad_output, found)
        worst = max(ratios)
        if worst <= 1:
            return
        spoiled = any(bool(gradient.isnan().any()) for gradient in found)
        if self._by_flag and self.row["query_length"] != self.row["key_length"] and not spoiled:
            moved = self._keep("start" if self.align == "end" else "end")
            if max(self._ratios(case, moved, grad_output, found)) <= 1:
                yield self._finding("causal alignment", torch.inf, "the gradients are those of the other alignment")
                return
        names = ", ".join(name for name, ratio in zip("qkv", ratios, strict=True) if ratio > 1)
        if not spoiled:
            yield self._finding("gradient outside the bound", worst, f"wrong for {names}")
        elif self.row["family"] == "poison":
            yield self._finding(
                "gradient NaN leaks", torch.inf, f"NaN for {names} where only what is not kept holds NaN"
            )
        else:
            yield self._finding("gradient NaN", torch.inf, f"NaN for {names}")

    def _ratios(self, case: Case, keep: Tensor | None, grad_output: Tensor, found: tuple[Tensor, ...]) -> list[float]:
        right = oracle_gradients(case.q, case.k, case.v, grad_output, keep=keep, scale=case.scale)
        return [worst_gradient_ratio(gradient, right[name]) for name, gradient in zip("qkv", found, strict=True)]

    def _finding(self, kind: str, ratio: float, detail: str) -> Finding:
        lines = (
            "q, k, v = (x.detach().requires_grad_() for x in (case.q, case.k, case.v))",
            "output = fn(q, k, v{arguments})",
            f"grad = torch.randn(output.shape, generator=torch.Generator().manual_seed({self.seed})).to(output.dtype)",
            "gradients = torch.autograd.grad(output, (q, k, v), grad)",
        )
        return Finding(kind, self.name, ratio, detail, self.code(*lines))


def leave_nans(case: Case) -> None:
    """Fills memory of the output's size with NaN and frees it: a kernel that leaves a hole is likely to show it."""
    torch.full((*case.q.shape[:3], case.v.shape[3]), torch.nan, dtype=case.q.dtype)


def _same_bits(x: Tensor, y: Tensor) -> bool:
    return (
        x.shape == y.shape and torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) and torch.equal(x.isnan(), y.isnan())
    )


def _word(value: object) -> str:
    return str(value).removeprefix("torch.").replace(", ", "/").strip("()")


def smaller_rows(row: Row) -> Iterator[Row]:
    """Rows that differ from this one in one axis and are simpler in it, the simplest first."""
    simpler: dict[str, tuple[Hashable, ...]] = {
        "layout": ("contiguous",),
        "value": ("same",),
        "family": ("randn",),
        "heads": ((1, 1), (2, 1), (2, 2)),
        "batch": (1, 2),
        "feature_size": (1, 2, 4, 8, 16, 32, 64, 80, 128),
        "key_length": (1, 2, 3, 4, 8, 16, 17, 33),
        "query_length": (1, 2, 3, 4, 8, 16, 17, 33),
        "dtype": (torch.float32,),
        "keep": ("full", "causal"),
    }
    for axis, values in simpler.items():
        known = row[axis]
        for value in values:
            if value == known or (isinstance(value, int) and isinstance(known, int) and value >= known):
                break
            yield {**row, axis: value}
