"""Plots as SVG: ratios beside their goals, and curves of growth, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tests.bench.sides import Curve, Line

GOOD, SHORT, INK, FAINT = "#2a7f62", "#c8553d", "#222", "#bbb"
WIDTH, LABELS, ROW = 1_100, 640, 22
ACROSS, PANE_W, PANE_H = 3, 340, 230


def bars(lines: Sequence[Line]) -> str:
    """How many times its goal each row reaches: over the line at 1, or short of it."""
    shares = [max(1e-3, (line.ratio or 0.0) / line.goal) for line in lines]
    low, high = min([0.1, *shares]), max([10.0, *shares])
    room = WIDTH - LABELS - 90

    def at(share: float) -> float:
        return LABELS + room * math.log(share / low) / math.log(high / low)

    drawn = [_text(LABELS - 8, 16, "times its goal (logarithmic)", "end")]
    for place, (line, share) in enumerate(zip(lines, shares, strict=True)):
        y, x, one = 28 + place * ROW, at(share), at(1.0)
        colour = GOOD if share >= 1 else SHORT
        drawn.append(_text(LABELS - 8, y + 13, _short(f"{line.work}: {line.against.partition(':')[0]}"), "end"))
        drawn.append(f'<rect x="{min(x, one):.1f}" y="{y}" width="{abs(x - one):.1f}" height="{ROW - 6}" fill="{colour}"/>')
        drawn.append(_text(max(x, one) + 6, y + 13, f"{line.ratio:,.2f} of {line.goal:g}"))
    height = 40 + len(lines) * ROW
    drawn.append(f'<line x1="{at(1.0):.1f}" x2="{at(1.0):.1f}" y1="22" y2="{height - 8}" stroke="{INK}"/>')
    return _svg(WIDTH, height, drawn)


def curves(found: Sequence[Curve]) -> str:
    """A pane for each: the cost against the size, both logarithmic, so that a straight line is a power."""
    drawn: list[str] = []
    for place, curve in enumerate(found):
        left, top = place % ACROSS * (PANE_W + 20) + 10, place // ACROSS * (PANE_H + 20) + 10
        drawn += _pane(curve, left, top)
    return _svg(ACROSS * (PANE_W + 20), ((len(found) - 1) // ACROSS + 1) * (PANE_H + 20) + 10, drawn)


def _pane(curve: Curve, left: float, top: float) -> list[str]:
    points = [(x, y) for x, y in curve.points if x]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle = math.sqrt(max(ys) * min(ys))
    low, high = min([middle / 10, *ys]), max([middle * 10, *ys])  # two decades at least: what is flat looks flat
    inner_w, inner_h = PANE_W - 60, PANE_H - 80

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + 30 + inner_w * math.log(x / xs[0]) / math.log(xs[-1] / xs[0]),
            top + 45 + inner_h * (1 - math.log(y / low) / math.log(high / low)),
        )

    colour = GOOD if curve.within else SHORT
    drawn = [
        f'<rect x="{left}" y="{top}" width="{PANE_W}" height="{PANE_H}" fill="none" stroke="{FAINT}"/>',
        _text(left + 10, top + 18, f"{curve.work}, {curve.unit}", weight="bold"),
        _text(left + 10, top + 33, f"against {curve.against}: size^{curve.growth:.2f}, allowed {curve.bound}"),
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(x, y) for x, y in points))
    drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for x, y in points:
        px, py = at(x, y)
        drawn.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
        drawn.append(_text(px, py - 8, f"{y:,.1f}", "middle"))
        drawn.append(_text(px, top + PANE_H - 10, f"{x:,}", "middle"))
    return drawn


def _short(text: str, most: int = 96) -> str:
    text = text.replace("`", "")
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str = "start", *, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{INK}">{escape(text)}</text>'


def _svg(width: float, height: float, drawn: Sequence[str]) -> str:
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        "\n".join(
            [
                f'{begin} font-family="sans-serif" font-size="11">',
                '<rect width="100%" height="100%" fill="#fff"/>',
                *drawn,
                "</svg>",
            ]
        )
        + "\n"
    )
