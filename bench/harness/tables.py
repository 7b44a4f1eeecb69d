"""Tables in Markdown, and how figures are written in them; an absent one is blank."""

from __future__ import annotations


def table(header: list[str], rows: list[list[str]], others: str = "---:") -> list[str]:
    """The first column is one of words; the others are figures, unless told otherwise."""
    rule = ["---"] + [others] * (len(header) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in [header, rule, *rows]]


def fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def us(value: float | None) -> str:
    return fixed(value, 1 if value is not None and value < 1000 else 0)


def ms(value: float | None) -> str:
    """Of microseconds."""
    return "" if value is None else fixed(value / 1e3, 2 if abs(value) < 10_000 else 1)


def rounded(value: float | None) -> str:
    """Of milliseconds, or of megabytes."""
    return fixed(value, 1 if value is not None and value < 100 else 0)


def whole(value: float | None) -> str:
    return fixed(value, 0)


def stretch(value: float | None) -> str:
    return fixed(value, 3)


def times(value: float | None) -> str:
    return "" if value is None else f"{fixed(value, 2 if value < 10 else 0)}x"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def tenths(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
