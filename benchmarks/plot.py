"""Bar charts as SVG, written by hand: one for light pages, one for dark ones."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import attrs

__all__ = ["THEMES", "Bar", "bar_chart"]


@attrs.frozen
class Theme:
    text: str
    faint: str
    bars: tuple[str, ...]


THEMES = {
    "light": Theme("#1f2328", "#d1d9e0", ("#0550ae", "#54a3ff", "#b6d7ff", "#8c959f")),
    "dark": Theme("#e6edf3", "#3d444d", ("#79c0ff", "#2f81f7", "#1a4a8a", "#6e7681")),
}


@attrs.frozen
class Bar:
    """One row of the chart: a value for each of the series, with its spread (lowest, highest)."""

    name: str
    values: tuple[float, ...]
    spreads: tuple[tuple[float, float], ...]


_LEFT, _WIDTH, _BAR, _GAP, _TOP = 250, 820, 13, 12, 64


def bar_chart(title: str, series: Sequence[str], bars: Sequence[Bar], theme: Theme, unit: str = "") -> str:
    """The chart as the text of an SVG file; the longest bar fills the width."""
    scale = (_WIDTH - _LEFT - 70) / max(high for bar in bars for _, high in bar.spreads)
    row = len(series) * _BAR + _GAP
    height = _TOP + row * len(bars) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"'
        f' height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="{theme.text}"'
        ' role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="8" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for number, name in enumerate(series):
        x = _LEFT + 140 * number
        lines.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{theme.bars[number]}"/>')
        lines.append(f'<text x="{x + 18}" y="44">{escape(name)}</text>')
    lines.append(
        f'<line x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP - 6}" y2="{height - 8}" stroke="{theme.faint}"/>'
    )
    for at, bar in enumerate(bars):
        top = _TOP + at * row
        middle = top + len(series) * _BAR / 2 + 4
        lines.append(f'<text x="{_LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(bar.name)}</text>')
        for number, (value, (low, high)) in enumerate(zip(bar.values, bar.spreads, strict=True)):
            y: float = top + number * _BAR
            width = value * scale
            fill = theme.bars[number]
            lines.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{fill}"/>')
            whisker = y + (_BAR - 2) / 2
            lines.append(
                f'<line x1="{_LEFT + low * scale:.1f}" x2="{_LEFT + high * scale:.1f}" y1="{whisker}"'
                f' y2="{whisker}" stroke="{theme.text}" stroke-opacity="0.6"/>'
            )
            end = _LEFT + max(width, high * scale) + 5
            lines.append(f'<text x="{end:.1f}" y="{y + _BAR - 3}" font-size="10">{value:.3g}{unit}</text>')
    return "\n".join([*lines, "</svg>", ""])
