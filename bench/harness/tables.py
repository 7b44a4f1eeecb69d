"""Tables in Markdown, and how figures are written in them; an absent one is blank."""

from __future__ import annotations

import math
from collections.abc import Callable

Form = Callable[[float | None], str]


def table(header: list[str], rows: list[list[str]], others: str = "---:") -> list[str]:
    """The first column is one of words; the others are figures, unless told otherwise."""
    rule = ["---"] + [others] * (len(header) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in [header, rule, *rows]]


def form(digits: int, large: float = math.inf, fewer: int = 0, scale: float = 1.0, unit: str = "") -> Form:
    """With so many digits, and fewer of what is large."""

    def written(value: float | None) -> str:
        if value is None:
            return ""
        value *= scale
        return f"{value:,.{digits if abs(value) < large else fewer}f}{unit}"

    return written


us = form(1, large=1000)
# Of microseconds.
ms = form(2, large=10, fewer=1, scale=1e-3)
# Of milliseconds, or of megabytes.
rounded = form(1, large=100)
whole = form(0)
stretch = form(3)
times = form(2, large=10, unit="x")
percent = form(0, scale=100, unit="%")
tenths = form(1, scale=100, unit="%")
