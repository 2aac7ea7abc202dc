"""Charts of the page as inline SVG, drawn without a library."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import numpy as np

from fusecli.benchmark.report import milliseconds, number
from fusecli.benchmark.results import DatasetResult, MethodResult, Report
from fusecli.errors import counted

# Distinct for most eyes, legible on white and on black (Okabe and Ito's colours, darkened where they were too light).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#cc79a7", "#56a0d3", "#8c6bb1", "#7f7f7f", "#a65628", "#4d9221")


def colors(dataset: DatasetResult) -> dict[str, str]:
    """Method -> colour, the same in every chart of a data set."""
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(dataset.methods)}


def distribution(report: Report, dataset: DatasetResult, metric: str) -> str:
    """Every pair's value of one metric, a row per method: dots, quartiles as a box, the median as a line."""
    methods = report.ordered(dataset)
    values = [value for method in methods for value in method.known(metric)]
    if not values:
        return ""
    tint = colors(dataset)
    left, right, row, top = 92, 300, 20, 22
    lo, hi = _span(values)
    bottom = top + row * len(methods)

    def x(value: float) -> float:
        return left + (value - lo) / (hi - lo) * (right - left)

    parts = [f'<text class="h" x="0" y="12">{escape(metric)} {report.metric(metric).arrow}</text>']
    for tick in _ticks(lo, hi, 4):
        parts.append(f'<line class="g" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top - 4}" y2="{bottom}"/>')
        parts.append(f'<text class="t" x="{x(tick):.1f}" y="{bottom + 13}" text-anchor="middle">{tick:g}</text>')
    for index, method in enumerate(methods):
        middle = top + row * index + row / 2
        parts.append(f'<text class="l" x="{left - 6}" y="{middle + 4}" text-anchor="end">{_short(method.name)}</text>')
        if method.known(metric):
            parts.append(_row(dataset, method, metric, middle, x, tint[method.name]))
        else:
            parts.append(f'<text class="t" x="{left}" y="{middle + 4}">no value</text>')
    label = f"Distribution of {metric} over {counted(len(dataset.pairs), 'pair')}"
    return _svg(right + 8, bottom + 20, label, parts)


def _row(
    dataset: DatasetResult, method: MethodResult, metric: str, middle: float, x: Callable[[float], float], color: str
) -> str:
    """One method's values at the height ``middle``; ``x`` places a value."""
    low, median, high = np.percentile(method.known(metric), (25, 50, 75))
    parts = [
        f'<rect x="{x(low):.1f}" y="{middle - 6:.1f}" width="{max(x(high) - x(low), 0.5):.1f}" height="12" '
        f'fill="{color}" opacity="0.22"/>'
    ]
    for index, (pair, value) in enumerate(zip(dataset.pairs, method.values[metric], strict=True)):
        if value is not None:
            offset = ((index * 7) % 5 - 2) * 1.6  # fixed jitter, so that dots do not hide one another
            parts.append(
                f'<circle cx="{x(value):.1f}" cy="{middle + offset:.1f}" r="2" fill="{color}" opacity="0.7">'
                f"<title>{escape(method.name)}, {escape(pair)}: {number(value)}</title></circle>"
            )
    parts.append(
        f'<line x1="{x(median):.1f}" x2="{x(median):.1f}" y1="{middle - 8}" y2="{middle + 8}" stroke="{color}" '
        'stroke-width="2.5"/>'
    )
    return "".join(parts)


def quality_against_time(report: Report, dataset: DatasetResult) -> str:
    """Mean rank, best on top, against milliseconds per pair end to end, logarithmic. Empty without times or ranks."""
    ranks = report.mean_ranks(dataset)
    points = [
        (float(method.cost["ms_end_to_end"]), ranks[name], name)
        for name, method in dataset.methods.items()
        if method.cost and method.cost.get("ms_end_to_end") and name in ranks
    ]
    if not points:
        return ""
    tint = colors(dataset)
    left, right, top, bottom = 46, 560, 16, 270
    times = [math.log10(point[0]) for point in points]
    lo, hi = min(times) - 0.12, max(times) + 0.12
    if hi - lo < 0.6:
        lo, hi = (lo + hi) / 2 - 0.3, (lo + hi) / 2 + 0.3
    best, worst = _span([point[1] for point in points])

    def x(value: float) -> float:
        return left + (math.log10(value) - lo) / (hi - lo) * (right - left)

    def y(value: float) -> float:
        return top + (value - best) / (worst - best) * (bottom - top)

    parts = [f'<rect class="f" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>']
    for power in range(math.floor(lo), math.ceil(hi) + 1):
        for factor in (1, 2, 5):
            tick = factor * 10.0**power
            if lo <= math.log10(tick) <= hi:
                parts.append(f'<line class="g" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>')
                label = milliseconds(tick)
                parts.append(f'<text class="t" x="{x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
    for tick in _ticks(best, worst, 6):
        parts.append(f'<line class="g" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="t" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text class="t" x="{right}" y="{bottom + 30}" text-anchor="end">ms per pair, files to file →</text>')
    parts.append(f'<text class="t" x="{left + 6}" y="{top + 14}">↑ better: mean rank</text>')
    last = -math.inf
    for time, rank, name in sorted(points, key=lambda point: point[1]):
        last = max(y(rank), last + 13)  # labels never overlap
        flip = x(time) > right - 100
        parts.append(
            f'<circle cx="{x(time):.1f}" cy="{y(rank):.1f}" r="5" fill="{tint[name]}">'
            f"<title>{escape(name)}: {milliseconds(time)} ms, mean rank {rank:.2f}</title></circle>"
        )
        parts.append(
            f'<text class="l" x="{x(time) + (-9 if flip else 9):.1f}" y="{last + 4:.1f}" '
            f'text-anchor="{"end" if flip else "start"}">{escape(name)}</text>'
        )
    return _svg(right + 10, bottom + 36, "Mean rank against milliseconds per pair", parts)


def _svg(width: float, height: float, label: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _short(name: str) -> str:
    return escape(name if len(name) <= 14 else name[:13] + "…")


def _span(values: list[float]) -> tuple[float, float]:
    """The lowest and the highest value with a margin; never an empty interval."""
    lo, hi = min(values), max(values)
    margin = (hi - lo) * 0.06 or abs(hi) * 0.05 or 0.5
    return lo - margin, hi + margin


def _ticks(lo: float, hi: float, count: int) -> list[float]:
    """Round numbers within lo…hi, about ``count`` of them."""
    raw = (hi - lo) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(lo / step)
    return [float(f"{index * step:.6g}") for index in range(first, math.floor(hi / step) + 1)]
