"""Tables of a report: terminal, CSV, LaTeX, Markdown."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fusecli.benchmark.results import DatasetResult, Report
from fusecli.benchmark.significance import SIGNIFICANT, scenes_needed
from fusecli.errors import counted

Cell = TypeVar("Cell")
MARKS = {1: "¹", 2: "²"}
LEADS = "†"
LEGEND = f"¹ best, {LEADS} best by more than chance, ² second, – no value; mean ± standard deviation over the pairs"
TEST = (
    f"{LEADS}: better than every other method: Wilcoxon signed-rank test over scenes, two-sided, p < {SIGNIFICANT} "
    "after Holm's correction over the metrics"
)
PAGE = 34  # rows of a LaTeX table that fit a page, in letters of up to 11 points
CSV_COLUMNS = ("protocol", "dataset", "pair", "method", "metric", "value")


class Score(NamedTuple):
    """What a table tells of a method and a metric. place: 1 best, 2 second, else 0; leads: best by more than chance."""

    mean: float | None
    std: float | None
    place: int
    leads: bool


def number(value: float | None) -> str:
    """Three decimals, as published tables have; – for no value."""
    return "–" if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: never -0.000


def quantity(value: float | None) -> str:
    """Three significant digits with k, M, G, T."""
    if value is None:
        return "–"
    value = float(f"{value:.3g}")  # else 999,700 would be 1e+03 k
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def marks(report: Report, dataset: DatasetResult, metric: str) -> dict[str, int]:
    """Method -> 1 for the best `compared` mean, 2 for the second; means that print alike share a mark."""
    if len(dataset.methods) < 2:
        return {}
    printed = {name: round(value, 3) for name, value in dataset.compared(metric).items() if value is not None}
    best = sorted(set(printed.values()), reverse=report.metric(metric).higher_is_better)[:2]
    return {name: 1 + best.index(value) for name, value in printed.items() if value in best}


def leaders(report: Report, dataset: DatasetResult) -> dict[str, str]:
    """Metric -> the one method that is better than every other by more than chance, also as printed."""
    found = {}
    for metric, lead in report.leads(dataset).items():
        best = [name for name, place in marks(report, dataset, metric).items() if place == 1]
        if best == [lead.method] and lead.p < SIGNIFICANT:
            found[metric] = lead.method
    return found


def about(dataset: DatasetResult) -> str:
    """What a table's rows are about: data, number of pairs."""
    return f"{dataset.name}: {counted(len(dataset.pairs), 'pair')}, {dataset.title}"


def caption(report: Report, dataset: DatasetResult) -> str:
    """What a table is about: data, number of pairs, protocol."""
    return f"{about(dataset)}; protocol {report.protocol}"


def notes(report: Report, dataset: DatasetResult) -> list[str]:
    """What the reader must know: pairs left out, what the rank is taken over, values that do not exist."""
    lines = [
        f"left out: {counted(len(names), 'pair')} that the released weights were {reason}"
        for reason, names in dataset.left_out.items()
    ]
    lines += dataset.notes
    if report.mean_ranks(dataset):
        lines.append(_rank_note(report))
    if leads := report.leads(dataset):
        most, needed = max(lead.n for lead in leads.values()), scenes_needed(len(leads))
        few = f"too few scenes ({most}) for {LEADS}, best by more than chance: that takes {needed}, or fewer metrics"
        lines.append(few if most < needed else TEST)
    lacking: dict[tuple[str, tuple[str, ...], str], list[str]] = {}  # metric, pairs without it, why -> methods
    for method in dataset.methods.values():
        for metric, reasons in method.undefined.items():
            lacking.setdefault((metric, tuple(reasons), next(iter(reasons.values()))), []).append(method.name)
    for (metric, pairs, reason), names in lacking.items():
        count = f"{len(pairs)} of {counted(len(dataset.pairs), 'pair')}"
        lines.append(f"{', '.join(names)}, {metric}: no value on {count}, e.g. {pairs[0]}: {reason}")
    if any(len(names) < len(dataset.methods) for names in lacking.values()):
        lines.append("ranks and marks compare by the pairs on which all have a value; means are over all that each has")
    return lines


def _rank_note(report: Report) -> str:
    return f"rank: mean place over {', '.join(report.ranked())} among these methods"


def headers(report: Report, dataset: DatasetResult) -> list[str]:
    """The headers of a table: method, metrics, and rank if there are ranks."""
    names = [f"{metric} {report.metric(metric).arrow}" for metric in report.metrics]
    return ["method", *names, "rank ↓"] if report.mean_ranks(dataset) else ["method", *names]


def rows_of(
    report: Report,
    dataset: DatasetResult,
    cell: Callable[[Score], Cell],
    rank: Callable[[float], Cell],
) -> dict[str, list[Cell]]:
    """Method, best first -> what ``cell`` makes of the scores, and ``rank`` of the rank, if there are ranks."""
    ranks = report.mean_ranks(dataset)
    marked = {metric: marks(report, dataset, metric) for metric in report.metrics}
    leading = leaders(report, dataset)
    rows = {}
    for method in report.ordered(dataset):
        name = method.name
        scores = [
            Score(method.mean(one), method.std(one), marked[one].get(name, 0), leading.get(one) == name)
            for one in report.metrics
        ]
        cells = [cell(score) for score in scores]
        rows[name] = [*cells, rank(ranks[name])] if ranks else cells
    return rows


def titled(title: str | None) -> Table:
    """An empty table for the terminal, as all of the benchmark's look."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def terminal(report: Report, console: Console) -> None:
    """Print all tables, split into blocks of columns where they are wider than the console."""
    for dataset in report.datasets.values():
        console.print(_dataset_table(report, dataset, console.width))
        if costs := _cost_table(report, dataset):
            console.print(costs)
    console.print(LEGEND, style="dim")


def _dataset_table(report: Report, dataset: DatasetResult, width: int) -> RenderableType:
    rows = rows_of(report, dataset, _cell, lambda rank: Text(f"{rank:.2f}"))
    blocks: list[list[tuple[str, tuple[Text, ...]]]] = [[]]
    room = whole = width - max(map(len, rows)) - 4
    for header, cells in zip(headers(report, dataset)[1:], zip(*rows.values(), strict=True), strict=True):
        needs = max(len(header), *(cell.cell_len for cell in cells)) + 3
        if blocks[-1] and needs > room:
            blocks.append([])
            room = whole
        blocks[-1].append((header, cells))
        room -= needs
    tables: list[RenderableType] = []
    for block in blocks:
        table = titled(None if tables else caption(report, dataset))
        table.add_column("method", no_wrap=True)
        for header, _ in block:
            table.add_column(header, justify="right", no_wrap=True)
        for row in zip(rows, *(cells for _, cells in block), strict=True):
            table.add_row(*row)
        tables.append(table)
    return Group(*tables, *(Text(f"  {line}", style="dim") for line in notes(report, dataset)))


def _cell(score: Score) -> Text:
    if score.mean is None:
        return Text("–")
    style = {1: "bold green", 2: "underline"}.get(score.place, "")
    mark = LEADS if score.leads else MARKS.get(score.place, " ")
    return Text.assemble((f"{number(score.mean)}{mark}", style), (f"± {number(score.std)}", "dim"))


COST_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("parameters", lambda cost: quantity(cost["params"])),
    ("MACs", lambda cost: quantity(cost["macs"])),
    ("ms, model", lambda cost: milliseconds(cost["ms"])),
    ("ms, end to end", lambda cost: milliseconds(cost["ms_end_to_end"])),
    ("peak MB", lambda cost: milliseconds(cost["peak_mb"])),
    ("precision", lambda cost: cost["precision"] or "–"),
)


def cost_columns(report: Report, dataset: DatasetResult) -> tuple[str, list[str], dict[str, list[str]]]:
    """(title, headers, method, best first -> cells) of the table of costs; no cells if nothing was measured.

    There is a device in each row only where there are several.
    """
    costs = [method.cost for method in dataset.methods.values() if method.cost]
    if not costs:
        return "", [], {}
    devices = list(dict.fromkeys(cost["device"] for cost in costs))
    width, height = costs[0]["size"]
    columns = [*COST_COLUMNS]
    if len(devices) > 1:
        columns.append(("device", lambda cost: cost["device"]))
    cells = {one.name: [show(one.cost) for _, show in columns] for one in report.ordered(dataset) if one.cost}
    title = f"cost of one pair of {width}×{height} on {' and '.join(devices)}; median, measured in turns"
    return title, [header for header, _ in columns], cells


def _cost_table(report: Report, dataset: DatasetResult) -> Table | None:
    title, columns, cells = cost_columns(report, dataset)
    if not cells:
        return None
    table = titled(f"{dataset.name}: {title}")
    table.add_column("method", no_wrap=True)
    for header in columns:
        table.add_column(header, justify="right")
    for name, row in cells.items():
        table.add_row(name, *row)
    return table


def to_csv(report: Report) -> str:
    """Long form, a row per value: protocol, dataset, pair, method, metric, value (empty where there is none)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for dataset in report.datasets.values():
        for index, pair in enumerate(dataset.pairs):
            for method in dataset.methods.values():
                for metric in report.metrics:
                    value = method.values[metric][index]
                    shown = "" if value is None else repr(value)
                    writer.writerow((report.protocol, dataset.name, pair, method.name, metric, shown))
    return out.getvalue()


def to_markdown(report: Report) -> str:
    """A section per data set; best bold, second underlined."""

    def cell(score: Score) -> str:
        if score.mean is None:
            return "–"
        emphasis = {1: "**{}**", 2: "<u>{}</u>"}.get(score.place, "{}")
        return f"{emphasis.format(number(score.mean))}{LEADS * score.leads} ± {number(score.std)}"

    lines = []
    for dataset in report.datasets.values():
        lines += [f"## {caption(report, dataset)}", ""]
        header = headers(report, dataset)
        lines += ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
        for name, cells in rows_of(report, dataset, cell, "{:.2f}".format).items():
            lines.append("| " + " | ".join([re.sub(r"([\\`*<|])", r"\\\1", name), *cells]) + " |")
        lines += ["", *(f"- {line}" for line in notes(report, dataset)), ""]
    lines.append("Mean ± standard deviation over the pairs; bold is best, underlined second.")
    return "\n".join(lines) + "\n"


def to_latex(report: Report) -> str:
    """Means as papers print them: metrics as columns, a block per data set, a table per page.

    Best bold, second underlined. No wider than the page: deviations would make most tables too small to read.
    """
    pages: list[list[DatasetResult]] = [[]]
    for dataset in report.datasets.values():
        if pages[-1] and sum(len(other.methods) + 1 for other in [*pages[-1], dataset]) > PAGE:
            pages.append([])
        pages[-1].append(dataset)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}; in one of two columns: table, not table*, and \\columnwidth",
        *(line for page in pages for line in _latex_table(report, page)),
    ]
    return "\n".join(lines) + "\n"


def _latex_table(report: Report, datasets: list[DatasetResult]) -> list[str]:
    header = max((headers(report, dataset) for dataset in datasets), key=len)  # with ranks, where one has them
    said = [f"means over the pairs; protocol {report.protocol}", "bold: best; underlined: second"]
    if any(leaders(report, dataset) for dataset in datasets):
        said.append(TEST)
    if any(report.mean_ranks(dataset) for dataset in datasets):
        said.append(_rank_note(report))
    lines = [
        "\\begin{table*}",
        "\\centering",
        "\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{' '.join(f'{_latex(line[0].upper() + line[1:])}.' for line in said)}}}",
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "\\toprule",
        " & ".join(_latex(cell) for cell in header) + " \\\\",
    ]
    for dataset in datasets:
        block = f"\\multicolumn{{{len(header)}}}{{l}}{{\\textit{{{_latex(about(dataset))}}}}} \\\\"
        lines += ["\\midrule", block]
        for name, cells in rows_of(report, dataset, _latex_cell, "{:.2f}".format).items():
            row = [_latex(name), *cells, *["--"] * (len(header) - 1 - len(cells))]
            lines.append(" & ".join(row) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}", "\\end{table*}"]
    for dataset in datasets:
        further = [line for line in notes(report, dataset) if line not in (*said, TEST)]
        lines += [f"% {dataset.name}: {' '.join(line.split())}" for line in further]
    return lines


def _latex_cell(score: Score) -> str:
    """The mark of a lead takes no width, so that digits stand below each other."""
    emphasis = {1: "\\textbf{{{}}}", 2: "\\underline{{{}}}"}.get(score.place, "{}")
    shown = "--" if score.mean is None else number(score.mean).replace("-", "$-$")
    return emphasis.format(shown) + "\\rlap{$^\\dagger$}" * score.leads


def _greek(letter: str) -> str:
    """A letter as pdfLaTeX takes it, which refuses the character itself."""
    name = unicodedata.name(letter).replace("LAMDA", "LAMBDA").split()[-1]
    return f"$\\{name.lower() if letter.islower() else name.capitalize()}$"


_LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "_&%#${}"},
        **{mark: f"{{{mark}}}" for mark in "[*"},  # a row that starts with one would be taken for an option of \\
        "\\": "\\textbackslash{}",
        "^": "\\textasciicircum{}",
        "~": "\\textasciitilde{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        "↑": "$\\uparrow$",
        "↓": "$\\downarrow$",
        "–": "\\textendash{}",
        LEADS: "$\\dagger$",
        **{letter: _greek(letter) for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"},
    }
)


def _latex(text: str) -> str:
    return text.translate(_LATEX).replace("--", "-{}-")  # else hyphens of an option's name would become a dash
