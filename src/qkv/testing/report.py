"""What a conformance run found: data, a table to read, and JSON.

Knows how findings are grouped and shown. Refuses to know how they were found.
"""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a function breaks.

    ``kind`` groups findings ("dead rows"); ``check`` names the check; ``ratio`` is the error over its tolerance (inf
    where no error is allowed); ``detail`` says what was seen; ``code`` shows it again, with the function under the name
    ``fn``.
    """

    kind: str
    check: str
    ratio: float
    detail: str
    code: str


@dataclass(frozen=True, slots=True)
class NotRun:
    """One check that was not run, and why."""

    check: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of :func:`conformance`: ``passed`` counts checks, ``failures`` hold what failed, nothing is left out.

    ``examples`` has one finding for every kind among the failures, made as small as it goes. ``str(report)`` is a table
    by kind with these examples as code; ``ok`` is True when something was run and nothing failed.

    >>> print(Report("mine", seed=0, passed=3, failures=(), not_run=()))
    mine: 3 checks passed, 0 failed, 0 not run (seed 0)
    """

    name: str
    seed: int
    passed: int
    failures: tuple[Finding, ...]
    not_run: tuple[NotRun, ...]
    examples: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether at least one check was run and none failed."""
        return self.passed > 0 and not self.failures

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """The failures of one kind, worst first."""
        found = [finding for finding in self.failures if finding.kind == kind]
        return tuple(sorted(found, key=lambda finding: -finding.ratio))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of failure, most frequent first."""
        names = [finding.kind for finding in self.failures]
        return tuple(sorted(dict.fromkeys(names), key=lambda kind: -names.count(kind)))

    def __str__(self) -> str:
        failed = len({finding.check for finding in self.failures})
        lines = [
            f"{self.name}: {self.passed} checks passed, {failed} failed, {len(self.not_run)} not run (seed {self.seed})"
        ]
        width = max(map(len, self.kinds), default=0)
        if self.failures:
            lines += ["", f"  {'what breaks':{width}}  checks  worst error / tolerance"]
        for kind in self.kinds:
            found = self.of_kind(kind)
            worst = "no error allowed" if math.isinf(found[0].ratio) else f"{found[0].ratio:.3g}"
            lines.append(f"  {kind:{width}}  {len({finding.check for finding in found}):6}  {worst}")
        for finding in self.examples:
            lines += ["", f"{finding.kind}: {finding.detail}", textwrap.indent(finding.code, "    ")]
        reasons = [entry.reason for entry in self.not_run]
        lines += [""] if reasons else []
        for reason in dict.fromkeys(reasons):
            first = next(entry.check for entry in self.not_run if entry.reason == reason)
            lines += [f"not run: {reasons.count(reason)} checks, {reason} (the first: {first})"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The whole report as JSON; an infinite ratio is the string ``inf``."""
        data = asdict(self)
        for finding in (*data["failures"], *data["examples"]):
            finding["ratio"] = finding["ratio"] if math.isfinite(finding["ratio"]) else "inf"
        return json.dumps({**data, "ok": self.ok}, indent=2)
