"""What bench/run and bench/growth have in common: their options, the rounds, and where the results go."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from . import programs
from .cells import Cell, Round, Settings
from .results import Results

GROWTH = "# Growth"


def options(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="one short round of fewer sizes, for development")
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 3, or 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="how long a load is measured (default: 2, or 0.7 with --quick)")
    parser.add_argument("--binary", type=Path, help="measure this one and skip the build")
    parser.add_argument("--output", type=Path, default=programs.BENCH, help="folder for the results")
    return parser


def settings(arguments: argparse.Namespace, targets: list[str]) -> Settings:
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    measured = arguments.seconds or (0.7 if arguments.quick else 2)
    binary = arguments.binary or programs.ROOT / "target/dist/mirrorgate"
    return Settings(binary.resolve(), targets, arguments.quick, round(measured * 1000))


def prepare(arguments: argparse.Namespace) -> None:
    """Builds what is measured, and makes sure that what is started is stopped, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    programs.raise_limits()
    if arguments.binary is None:
        programs.build_product()
    programs.build_own()
    arguments.output.mkdir(parents=True, exist_ok=True)


def measure(settings: Settings, chosen: list[Cell], rounds: int, results: Results) -> None:
    for number in range(rounds):
        with Round(settings) as round:
            for cell in chosen:
                targets = [target for target in cell.targets if target in settings.targets]
                # Another one begins each time, so that none is always the first after a pause.
                first = number % len(targets)
                for target in targets[first:] + targets[:first]:
                    print(f"round {number + 1} of {rounds}: {cell.name}, {target}", file=sys.stderr, flush=True)
                    results.add(cell.name, target, number, cell.run(round, target))


def write_part(path: Path, lines: list[str], is_growth: bool) -> None:
    """Writes one of the two parts of RESULTS.md, and leaves the other."""
    before, heading, after = path.read_text().partition(GROWTH) if path.exists() else ("", "", "")
    text = "\n".join(lines) + "\n"
    if is_growth:
        path.write_text((before.rstrip() + "\n\n" if before.strip() else "") + text)
    else:
        path.write_text(text + ("\n" + heading + after if heading else ""))
