"""What moved between two reports of one protocol, with a paired test per metric."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from fusecli import registry
from fusecli.benchmark.report import number, titled
from fusecli.benchmark.results import DatasetResult, Report
from fusecli.benchmark.significance import SIGNIFICANT, holm, over_scenes, scenes_needed, wilcoxon
from fusecli.errors import UsageError


@dataclass(frozen=True)
class Move:
    """A metric's mean before and after on ``n`` scenes that both reports have; ``p`` is corrected over all moves.

    side: to which the scenes' differences lean, see `wilcoxon`.
    """

    dataset: str
    method: str
    metric: registry.Metric
    before: float
    after: float
    n: int
    p: float
    side: int

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> str:
        if self.p >= SIGNIFICANT:
            return "same"
        if self.change * self.side <= 0:  # most scenes moved one way, a few others far enough to take the mean along
            return "mixed"
        return "better" if (self.change > 0) == self.metric.higher_is_better else "worse"


def compare(before: Report, after: Report, methods: list[str] | None = None) -> tuple[list[Move], list[str]]:
    """(moves, remarks) of every data set, method and metric that both reports have.

    Raises UsageError if protocols differ, or nothing is in both.
    """
    if before.protocol != after.protocol:
        raise UsageError(
            f"the reports follow different protocols ({before.protocol} and {after.protocol}): their values share "
            "names, not meaning"
        )
    remarks: list[str] = []
    moves: list[Move] = []
    for name in {**before.datasets, **after.datasets}:
        old, new = before.datasets.get(name), after.datasets.get(name)
        shared, told = _shared(old, new)
        remarks += [f"{name}: {remark}" for remark in told]
        if old and new and shared:
            metrics = [before.metric(metric) for metric in before.metrics if metric in after.metrics]
            moves += _moves(old, new, shared, metrics, methods)
    if methods:
        known = {key for report in (before, after) for dataset in report.datasets.values() for key in dataset.methods}
        for name in methods:
            if name not in known:
                raise UsageError(registry.unknown("method", name, sorted(known)))
    if not moves:
        raise UsageError("nothing to compare: no data set, method and metric is in both reports\n" + "\n".join(remarks))
    most, needed = max(move.n for move in moves), scenes_needed(len(moves))
    if most < needed:
        remarks.append(
            f"too few scenes ({most} at most) for any p < {SIGNIFICANT}: that takes {needed}, or fewer comparisons"
        )
    corrected = holm([move.p for move in moves])
    return [replace(move, p=p) for move, p in zip(moves, corrected, strict=True)], remarks


def _shared(old: DatasetResult | None, new: DatasetResult | None) -> tuple[list[str], list[str]]:
    """(the pairs that both results of a data set have, what the reader must know of them)."""
    if old is None or new is None:
        return [], [f"only in the {'second' if old is None else 'first'} report"]
    there = set(new.pairs)
    shared = [pair for pair in old.pairs if pair in there]
    if not shared:
        return [], ["no pair in common"]
    remarks = []
    if old.damaged != new.damaged:
        remarks.append(f"inputs are damaged (--degraded) in the {'first' if old.damaged else 'second'} report alone")
    if len(shared) < max(len(old.pairs), len(new.pairs)):
        remarks.append(f"{len(old.pairs)} and {len(new.pairs)} pairs; compared on the {len(shared)} in both")
    elif old.fingerprint != new.fingerprint and not remarks:
        remarks.append("the images differ between the reports (same names, other contents)")
    return shared, remarks


def _moves(
    old: DatasetResult,
    new: DatasetResult,
    pairs: list[str],
    metrics: list[registry.Metric],
    methods: list[str] | None,
) -> Iterator[Move]:
    """The moves of all methods (or of these ``methods``) that both results have, p not yet corrected."""
    for key in old.methods:
        if key not in new.methods or (methods and key not in methods):
            continue
        for metric in metrics:
            values = (dict(zip(one.pairs, one.methods[key].values[metric.name], strict=True)) for one in (old, new))
            before, after = over_scenes(pairs, *([column[pair] for pair in pairs] for column in values)).T
            if len(before):
                means = float(before.mean()), float(after.mean())
                yield Move(old.name, key, metric, *means, len(before), *wilcoxon(after - before))


@dataclass(frozen=True)
class Gate:
    """A bound on a mean: a floor where higher is better, a ceiling where lower is."""

    metric: registry.Metric
    bound: float

    def fails(self, value: float) -> bool:
        return value < self.bound if self.metric.higher_is_better else value > self.bound


def gates(texts: list[str], protocol: str, measured: list[str]) -> list[Gate]:
    """Gates from METRIC=VALUE. Raises UsageError for a metric that is unknown or was not measured, or no number."""
    found = []
    metrics = {name.lower(): metric for name, metric in registry.METRICS[protocol].items()}
    for text in texts:
        name, _, value = text.partition("=")
        metric = metrics.get(name.strip().lower())
        if metric is None:
            raise UsageError(f"--fail-below {text}: {registry.unknown('metric', name, registry.METRICS[protocol])}")
        if metric.name not in measured:
            raise UsageError(f"--fail-below {text}: {metric.name} was not measured; add it to --metrics")
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if math.isnan(bound):
            raise UsageError(f"--fail-below {text}: expected METRIC=VALUE, such as VIF=0.65")
        found.append(Gate(metric, bound))
    return found


def failures(report: Report, wanted: list[Gate], methods: list[str] | None = None) -> list[str]:
    """A line for every mean that fails its gate. Classical rules are judged only if named, or if nothing else is."""
    lines = []
    for dataset in report.datasets.values():
        judged = [method for name, method in dataset.methods.items() if not methods or name in methods]
        if not methods:
            judged = [method for method in judged if method.kind != "classical"] or judged
        for gate in wanted:
            word = "below" if gate.metric.higher_is_better else "above"
            for method in judged:
                mean = method.mean(gate.metric.name)
                if mean is None:
                    lines.append(f"{dataset.name}, {method.name}: {gate.metric.name} has no value")
                elif gate.fails(mean):
                    lines.append(
                        f"{dataset.name}, {method.name}: {gate.metric.name} {number(mean)} is {word} {gate.bound:g}"
                    )
    return lines


def show(moves: list[Move], remarks: list[str], protocol: str, console: Console) -> None:
    """Print a table of moves per data set."""
    styles = {"better": "green", "worse": "red", "mixed": "yellow", "same": "dim"}
    for dataset in dict.fromkeys(move.dataset for move in moves):
        table = titled(f"{dataset}; protocol {protocol}")
        for header in ("method", "metric", "before", "after", "change", "n", "p", ""):
            table.add_column(header, justify="left" if header in ("method", "metric", "") else "right", no_wrap=True)
        for move in moves:
            if move.dataset == dataset:
                table.add_row(
                    move.method,
                    f"{move.metric.name} {move.metric.arrow}",
                    number(move.before),
                    number(move.after),
                    f"{move.change:+.3f}",
                    str(move.n),
                    f"{move.p:.3g}",
                    Text(move.verdict, style=styles[move.verdict]),
                )
        console.print(table)
    for remark in remarks:
        console.print(f"  {remark}", style="dim")
    console.print(
        f"p: Wilcoxon signed-rank test over scenes, two-sided, Holm-corrected for {len(moves)} comparisons; "
        f"better or worse means p < {SIGNIFICANT}; mixed: so, but the mean moved against most scenes",
        style="dim",
    )
