"""The plot: CPU time of a request and of a streamed chunk, as bars on a logarithmic scale."""

from __future__ import annotations

import math
from html import escape

from .results import Results
from .servers import PROGRAMS
from .tables import us

# Shown in this order, by what comes before the comma of its title.
SHOWN = ("nginx", "haproxy", "minimal", "mirrorgate", "pooled", "tutorial", "portkey", "litellm")
PANELS = [
    ("v1-json-64", "cpu_us", "CPU time of a JSON request, µs"),
    ("v1-stream-50", "cpu_chunk_us", "CPU time of a streamed chunk, µs"),
]
ROW, BAR, TOP, LABEL, WIDTH, GAP = 26, 16, 44, 140, 250, 70


def svg(results: Results) -> str | None:
    panels = [
        (title, {t: v for t in SHOWN if (v := results.median(cell, t, metric))}) for cell, metric, title in PANELS
    ]
    panels = [(title, values) for title, values in panels if values]
    if not panels:
        return None
    rows = max(len(values) for _, values in panels)
    width = LABEL + len(panels) * (WIDTH + GAP) + (len(panels) - 1) * LABEL
    height = TOP + rows * ROW + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">',
        "<title>CPU time of mirrorgate beside other gateways; less is better</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (title, values) in enumerate(panels):
        left = LABEL + number * (LABEL + WIDTH + GAP)
        parts += _panel(left, title, values)
    parts.append(f'<text x="10" y="{height - 10}" fill="#59636e">Less is better. The scale is logarithmic: each line is ten times the one before.</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, title: str, values: dict[str, float]) -> list[str]:
    low = 10 ** math.floor(math.log10(min(values.values())))
    high = 10 ** math.ceil(math.log10(max(values.values())))
    if low == min(values.values()):
        low /= 10

    def x(value: float) -> float:
        return WIDTH * math.log(value / low) / math.log(high / low)

    bottom = TOP + len(values) * ROW
    parts = [f'<text x="{left}" y="24" font-size="14" font-weight="600" fill="#1f2328">{escape(title)}</text>']
    power = low
    while power <= high:
        place = left + x(power)
        parts.append(f'<line x1="{place:.1f}" y1="{TOP - 8}" x2="{place:.1f}" y2="{bottom}" stroke="#d1d9e0"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 14}" text-anchor="middle" font-size="10" fill="#59636e">{power:,g}</text>')
        power *= 10
    for row, (target, value) in enumerate(values.items()):
        y = TOP + row * ROW
        own, label = target == "mirrorgate", PROGRAMS[target].title.partition(",")[0].strip("*")
        fill, weight = ("#0969da", "600") if own else ("#8c959f", "400")
        parts += [
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end" font-weight="{weight}" fill="#1f2328">{escape(label)}</text>',
            f'<rect x="{left}" y="{y}" width="{max(x(value), 1):.1f}" height="{BAR}" rx="2" fill="{fill}"/>',
            f'<text x="{left + x(value) + 6:.1f}" y="{y + 12}" font-weight="{weight}" fill="#1f2328">{us(value)}</text>',
        ]
    return parts
