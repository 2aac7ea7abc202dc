"""The report as one page: tables, charts, and a viewer of the worst and best pairs. Needs no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fusecli import __version__
from fusecli.benchmark import charts
from fusecli.benchmark.cache import Cache
from fusecli.benchmark.report import LEADS, Score, caption, cost_columns, notes, number, rows_of
from fusecli.benchmark.results import DatasetResult, MethodResult, Report
from fusecli.benchmark.run import Job
from fusecli.images import colour
from fusecli.images.atomic import write_text
from fusecli.images.opencv import cv2
from fusecli.images.preview import encoded

TEMPLATE = Path(__file__).with_name("page.html")
SIDE = 800  # longer images are scaled down to this many pixels
QUALITY = 82
SHOWN_METRICS = ("VIF", "Qabf", "SSIM")
VERSION = 3


@dataclass(frozen=True)
class Case:
    """A pair to look at. images: (name, WebP, caption), inputs first. look: (x, y) of the zoomed crop, 0…1."""

    pair: str
    label: str
    look: tuple[float, float]
    images: list[tuple[str, bytes, str]]


def pick_cases(report: Report, jobs: list[Job], count: int, cache: Cache) -> dict[str, list[Case]]:
    """The ``count`` worst and best pairs of each data set, worst first, with all images."""
    return {job.pair_set.name: _cases(report, job, count, cache) for job in jobs} if count else {}


def judged(dataset: DatasetResult) -> MethodResult:
    """The method whose worst and best pairs are shown: the first that is no classical rule, if there is one."""
    methods = list(dataset.methods.values())
    return next((method for method in methods if method.kind != "classical"), methods[0])


def standing(report: Report, dataset: DatasetResult, method: MethodResult) -> np.ndarray:
    """How well ``method`` does on each pair: its distance to the mean of all methods there, in standard deviations,
    summed over the ranked metrics. With one method alone the distance is to its own mean over the pairs."""
    scores = np.zeros(len(dataset.pairs))
    for metric in report.ranked() or report.metrics:
        table = np.array([other.values[metric] for other in dataset.methods.values()], float)  # None becomes NaN
        own = np.array(method.values[metric], float)
        if np.isnan(own).all():
            continue
        # nanmean would warn of pairs on which no method has a value
        usual = np.ma.masked_invalid(table).mean(axis=0).filled(np.nan) if len(table) > 1 else np.nanmean(own)
        spread = np.nanstd(table - usual)
        if spread > 0:
            sign = 1 if report.metric(metric).higher_is_better else -1
            scores += np.nan_to_num(sign * (own - usual) / spread)
    return scores


def _cases(report: Report, job: Job, count: int, cache: Cache) -> list[Case]:
    dataset = report.datasets[job.pair_set.name]
    order = np.argsort(standing(report, dataset, judged(dataset)), kind="stable").tolist()
    shown = order[:count] + order[-count:] if len(order) > 2 * count else order
    words = ("worst" if place < len(shown) / 2 else "best" for place in range(len(shown)))
    return [_case(report, job, index, word, cache) for index, word in zip(shown, words, strict=True)]


def _case(report: Report, job: Job, index: int, word: str, cache: Cache) -> Case:
    dataset = report.datasets[job.pair_set.name]
    pair = job.pair_set.pairs[index]
    key = job.key(pair)  # differs between clean and damaged inputs
    read = lru_cache(lambda: job.read(pair))
    given = lru_cache(lambda: job.inputs(pair, *read()))
    images = []
    for side, name in enumerate(job.pair_set.task.sides):
        data = _cached(cache, ("source", side, key), lambda side=side: given()[side])
        images.append((name, data, ""))
    for method in job.methods:
        data = _cached(cache, ("result", method.identity(pair), key), lambda one=method: one.fuse(pair, *given()))
        shown = [metric for metric in SHOWN_METRICS if metric in report.metrics] or report.metrics[:3]
        values = dataset.methods[method.name].values
        images.append((method.name, data, "  ".join(f"{metric} {number(values[metric][index])}" for metric in shown)))
    look = cache.read_json(Cache.key("look", VERSION, key))
    if not look:
        look = {"at": _busiest(*read())}
        cache.write_json(Cache.key("look", VERSION, key), look)
    return Case(pair.name, word, tuple(look["at"]), images)


def _cached(cache: Cache, parts: tuple[object, ...], make: Callable[..., np.ndarray]) -> bytes:
    key = Cache.key("image", VERSION, *parts)
    data = cache.read(key, "webp")
    if data is None:
        data = encoded(make(), SIDE, ".webp", [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
        cache.write(key, "webp", data)
    return data


def _busiest(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Where both sources have most contrast, (x, y) in 0…1: the crop that a reader would look at first."""
    height, width = first.shape[:2]
    window = (max(1, width // 8) | 1, max(1, height // 8) | 1)
    together = np.ones((height, width))
    for side in (first, second):
        luma = colour.luma(side).astype(np.float64)
        luma -= luma.mean()
        mean, square = (cv2.blur(part, window, borderType=cv2.BORDER_REFLECT_101) for part in (luma, luma * luma))
        together *= np.maximum(square - mean**2, 0)
    row, column = np.unravel_index(int(together.argmax()), together.shape)
    return float((column + 0.5) / width), float((row + 0.5) / height)


def write(path: Path, report: Report, cases: dict[str, list[Case]]) -> None:
    """Write the page: one HTML file that shows everything without a network."""
    body = [
        "<header><h1>Image fusion benchmark</h1>",
        f'<p class="soft">fusecli {escape(__version__)}, protocol <b>{escape(report.protocol)}</b>: the same metric '
        "name means other numbers under another protocol. Arrows say where better lies. "
        f"Cells are mean ± standard deviation over the pairs; green is best ({LEADS} by more than chance), underlined "
        "second.</p>",
    ]
    if len(report.datasets) > 1:
        links = (f'<a href="#{escape(name)}">{escape(name)}</a>' for name in report.datasets)
        body.append(f"<nav>{''.join(links)}</nav>")
    body.append("</header>")
    for dataset in report.datasets.values():
        body += _section(report, dataset, cases.get(dataset.name, []))
    page = TEMPLATE.read_text(encoding="utf-8")
    embedded = {name: [_case_json(case) for case in listed] for name, listed in cases.items()}
    for mark, text in (
        ("@TITLE@", f"Image fusion benchmark: {', '.join(map(escape, report.datasets))}"),
        ("@BODY@", "\n".join(body)),
        ("@CASES@", json.dumps(embedded, ensure_ascii=False).replace("<", "\\u003c")),
    ):
        page = page.replace(mark, text, 1)
    write_text(path, page)


def _case_json(case: Case) -> dict[str, Any]:
    images = [
        {"name": name, "caption": text, "url": "data:image/webp;base64," + base64.b64encode(data).decode()}
        for name, data, text in case.images
    ]
    return {"pair": case.pair, "look": case.look, "images": images}


def _section(report: Report, dataset: DatasetResult, cases: list[Case]) -> list[str]:
    parts = [
        f'<section id="{escape(dataset.name)}"><h2>{escape(caption(report, dataset))}</h2>',
        '<ul class="notes">',
        *(f"<li>{escape(line)}</li>" for line in notes(report, dataset)),
        "</ul>",
        _table(report, dataset),
    ]
    if scatter := charts.quality_against_time(report, dataset):
        scatter = f"<div><h3>Quality against time</h3>{scatter}</div>"
    parts.append(f'<div class="side">{scatter}{_costs(report, dataset)}</div>')
    drawn = (charts.distribution(report, dataset, metric) for metric in report.metrics)
    parts += [
        "<h3>Distributions: a dot per pair, box from quartile to quartile, line at the median</h3>",
        f'<div class="charts">{"".join(drawn)}</div>',
    ]
    if cases:
        parts.append(_viewer(dataset, cases))
    return [*parts, "</section>"]


def _name(dataset: DatasetResult, name: str) -> str:
    color, title = charts.colors(dataset)[name], escape(dataset.methods[name].title)
    return f'<td title="{title}"><span class="swatch" style="background:{color}"></span>{escape(name)}</td>'


def _table(report: Report, dataset: DatasetResult) -> str:
    def cell(score: Score) -> str:
        if score.mean is None:
            return "<td>–</td>"
        css = f' class="p{score.place}"' if score.place else ""
        mark = f"<i>{LEADS}</i>" if score.leads else ""  # takes no width, so that digits stand below each other
        shown = f"<b>{number(score.mean)}</b>{mark} <small>± {number(score.std)}</small>"
        return f'<td{css} data-value="{score.mean!r}">{shown}</td>'

    head = []
    for name in report.metrics:
        metric = report.metric(name)
        better = "higher" if metric.higher_is_better else "lower"
        button = f"<button>{escape(name)} {metric.arrow}</button>"
        head.append(f'<th data-better="{better}" title="{escape(metric.title)}">{button}</th>')
    if report.mean_ranks(dataset):
        head.append('<th data-better="lower"><button>rank ↓</button></th>')
    rows = rows_of(report, dataset, cell, lambda rank: f'<td data-value="{rank!r}">{rank:.2f}</td>')
    body = (f"<tr>{_name(dataset, name)}{''.join(cells)}</tr>" for name, cells in rows.items())
    return (
        f'<div class="wide"><table class="sortable"><thead><tr><th>method</th>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _costs(report: Report, dataset: DatasetResult) -> str:
    title, columns, cells = cost_columns(report, dataset)
    if not cells:
        return ""
    head = "".join(f"<th>{escape(header)}</th>" for header in ("method", *columns))
    rows = [
        f"<tr>{_name(dataset, name)}{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for name, row in cells.items()
    ]
    return (
        f"<div><h3>{escape(title[0].upper() + title[1:])}</h3>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></div>'
    )


def _viewer(dataset: DatasetResult, cases: list[Case]) -> str:
    options = "".join(
        f'<option value="{index}">{case.label}: {escape(case.pair)}</option>' for index, case in enumerate(cases)
    )
    return (
        f"<h3>Worst and best pairs of {escape(judged(dataset).name)}, worst first</h3>"
        '<p class="soft">Worst is where the method stands lowest against the others. Move over an image to move the '
        "crop in all of them; a click holds it.</p>"
        f'<div class="viewer" data-dataset="{escape(dataset.name)}"><div class="bar">'
        f'<button class="back" aria-label="previous pair">←</button><select aria-label="pair">{options}</select>'
        '<button class="next" aria-label="next pair">→</button>'
        '<label>zoom <input type="range" min="1" max="8" step="0.5" value="3"></label></div>'
        '<div class="grid"></div></div>'
    )
