"""The rounds of a run, and the medians, ratios and noise of them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

# A round in which others took more of the machine than this does not count, if enough others do.
QUIET_SHARE = 0.10


def counted(rounds: list[dict], noise: str = "foreign_share") -> list[dict]:
    """The quiet rounds, where there are two at least; else all."""
    quiet = [values for values in rounds if values.get(noise, 0) <= QUIET_SHARE]
    return quiet if len(quiet) >= 2 else rounds


class Results:
    """The rounds of every cell and target."""

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, list[dict]]] = {}
        self.facts: dict[str, float] = {}

    def add(self, cell: str, target: str, number: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if value is not None}
        self.rounds.setdefault(cell, {}).setdefault(target, []).append({"round": number, **values})

    def has(self, cell: str, target: str) -> bool:
        return target in self.rounds.get(cell, {})

    def of(self, cell: str, target: str) -> list[dict]:
        return self.rounds.get(cell, {}).get(target, [])

    def each(self) -> list[tuple[str, str, list[dict]]]:
        return [(cell, target, rounds) for cell, targets in self.rounds.items() for target, rounds in targets.items()]

    def values(self, cell: str, target: str, metric: str) -> list[float]:
        return [values[metric] for values in counted(self.of(cell, target)) if values.get(metric) is not None]

    def median(self, cell: str, target: str, metric: str) -> float | None:
        values = self.values(cell, target, metric)
        return statistics.median(values) if values else None

    def compared(
        self, cell: str, target: str, other: str, metric: str, how: Callable[[float, float], float], beside: str = ""
    ) -> float | None:
        """The median over rounds of a comparison within the round: what slows both leaves it alone. `beside` is
        the other's cell where that is another one."""
        others = {values["round"]: values.get(metric) for values in counted(self.of(beside or cell, other))}
        pairs = [(values.get(metric), others.get(values["round"])) for values in counted(self.of(cell, target))]
        results = [how(mine, theirs) for mine, theirs in pairs if mine is not None and theirs]
        if results:
            return statistics.median(results)
        mine, theirs = self.median(cell, target, metric), self.median(beside or cell, other, metric)
        return how(mine, theirs) if mine is not None and theirs else None

    def ratio(self, cell: str, target: str, other: str, metric: str, beside: str = "") -> float | None:
        return self.compared(cell, target, other, metric, lambda mine, theirs: mine / theirs, beside)

    def difference(self, cell: str, target: str, other: str, metric: str) -> float | None:
        return self.compared(cell, target, other, metric, lambda mine, theirs: mine - theirs)

    def errors(self, cell: str, target: str) -> int:
        return sum(values.get("errors", 0) for values in self.of(cell, target))

    def error_kinds(self, cell: str, target: str) -> Counter[str]:
        return sum((Counter(values.get("error_kinds", {})) for values in self.of(cell, target)), Counter())

    def spread(self, cell: str, target: str, metric: str) -> float | None:
        values = [value for value in self.values(cell, target, metric) if value]
        return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None

    def medians(self) -> dict:
        table: dict = {}
        for cell, target, rounds in self.each():
            metrics = {name for values in rounds for name, value in values.items() if isinstance(value, int | float)}
            named = {name: self.median(cell, target, name) for name in sorted(metrics - {"round"})}
            table.setdefault(cell, {})[target] = named
        return table

    def noise(self) -> str:
        """What can be said of the quietness of the run."""
        measured = [values for _, _, rounds in self.each() for values in rounds if "foreign_share" in values]
        if not measured:
            return "Nothing was measured that noise could disturb."
        foreign = [values["foreign_share"] for values in measured]
        stolen = [values["stolen_share"] for values in measured]
        loud = sum(share > QUIET_SHARE for share in foreign)
        text = (
            f"Other processes took {statistics.median(foreign):.1%} of the processors in the median cell and "
            f"{max(foreign):.0%} in the worst; the host took {statistics.median(stolen):.1%} and {max(stolen):.0%} away. "
            f"{loud} of {len(foreign)} measurements were louder than {QUIET_SHARE:.0%}"
        )
        metrics = ("cpu_us", "cpu_chunk_us")
        all_spreads = [self.spread(cell, target, metric) for cell, target, _ in self.each() for metric in metrics]
        if spreads := [spread for spread in all_spreads if spread is not None]:
            text += (
                f". Between its rounds, the CPU time of a cell differed by {statistics.median(spreads):.0%} "
                f"in the median and {max(spreads):.0%} at most, (largest - smallest) / median"
            )
        return text + "."
