"""Rows of the table: what is promised, what came out, whether it held; and how a run goes on."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import machine
from harness.tables import table

MIB = 1 << 20
HEADING = "## The last full run"


@dataclass
class Row:
    """One promise."""

    promise: str
    limit: str
    figure: str
    held: bool
    # What went wrong, each as a line that lets it be repeated.
    faults: list[str] = field(default_factory=list)
    details: dict = field(default_factory=dict)


@dataclass
class Run:
    """What all checks need."""

    binary: Path
    short: bool
    rows: list[Row] = field(default_factory=list)

    def size(self, full: int, short: int) -> int:
        return short if self.short else full

    def add(self, row: Row) -> None:
        self.rows.append(row)
        say(f"{'held' if row.held else 'NOT HELD'}: {row.promise}: {row.figure} (promised: {row.limit})")
        for line in row.faults[:10]:
            say(f"  {line}")
        if len(row.faults) > 10:
            say(f"  and {len(row.faults) - 10} more")


BEGIN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGIN:6.1f} s] {text}", flush=True)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def mib(count: float) -> str:
    return f"{count / MIB:.0f} MiB" if count >= 10 * MIB else f"{count / MIB:.1f} MiB"


def where(binary: Path) -> dict[str, str]:
    """What was tried, where and when."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return {"program": machine.output(str(binary), "-V"), **machine.describe(), "load before": load}


def markdown(run: Run, where: dict[str, str], seconds: float) -> str:
    rows = [[row.promise, row.limit, row.figure, "yes" if row.held else "**no**"] for row in run.rows]
    kind = "short form" if run.short else "full form"
    told = "; ".join(f"{name}: {value}" for name, value in where.items())
    lines = table(["promise", "promised", "figure", "held"], rows, "---")
    lines += ["", f"The {kind}, {seconds / 60:.0f} minutes: {told}."]
    broken = [(row.promise, line) for row in run.rows if not row.held for line in row.faults[:10]]
    if broken:
        lines += ["", "What did not hold:", ""] + [f"- {promise}: {line}" for promise, line in broken]
    return "\n".join(lines) + "\n"


def write_markdown(path: Path, text: str) -> None:
    """Writes the table into a file; in one that has the heading for it, below that."""
    before, heading, _ = path.read_text().partition(HEADING) if path.exists() else ("", "", "")
    path.write_text(f"{before}{HEADING}\n\n{text}" if heading else text)


def as_json(run: Run, where: dict[str, str], seconds: float) -> str:
    rows = [asdict(row) for row in run.rows]
    whole = {"form": "short" if run.short else "full", "seconds": round(seconds, 1), "machine": where, "rows": rows}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
