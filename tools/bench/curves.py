"""A curve as SVG: one line over a logarithmic or a linear axis, each point with its figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 20, 40, 46, 40
_STYLE = "font-family='sans-serif' font-size='11' fill='#444'"


def curve(title: str, x_name: str, points: Sequence[tuple[float, float]], *, is_logarithmic: bool) -> str:
    """The picture; the vertical axis begins at 0."""
    xs = [math.log10(max(x, 1)) if is_logarithmic else x for x, _ in points]
    x_first, x_span = min(xs), (max(xs) - min(xs)) or 1
    y_most = max(y for _, y in points) or 1
    places = [
        (
            _LEFT + 10 + (x - x_first) / x_span * (_WIDTH - _LEFT - _RIGHT - 10),
            _HEIGHT - _BOTTOM - y / y_most * (_HEIGHT - _TOP - _BOTTOM),
        )
        for x, (_, y) in zip(xs, points, strict=True)
    ]
    base = _HEIGHT - _BOTTOM
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='white'/>",
        f"<text x='{_LEFT}' y='18' font-weight='bold' {_STYLE}>{title}</text>",
        f"<line x1='{_LEFT}' y1='{base}' x2='{_WIDTH - _RIGHT + 10}' y2='{base}' stroke='#888'/>",
        f"<text x='{_WIDTH - _RIGHT}' y='{_HEIGHT - 6}' text-anchor='end' {_STYLE}>{x_name}</text>",
        "<polyline fill='none' stroke='#1f6feb' stroke-width='2' points='"
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        + "'/>",
    ]
    for (x, y), (given, value) in zip(places, points, strict=True):
        lines += [
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#1f6feb'/>",
            f"<text x='{x:.1f}' y='{y - 7:.1f}' text-anchor='middle' {_STYLE}>{value:,.4g}</text>",
            f"<text x='{x:.1f}' y='{base + 14}' text-anchor='middle' {_STYLE}>{given:,g}</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])
