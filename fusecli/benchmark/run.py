"""Measure methods on pairs: what the cache knows is not computed again, the rest runs on all cores."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusecli import metrics
from fusecli.benchmark.cache import Cache
from fusecli.benchmark.datasets import PairSet
from fusecli.benchmark.methods import Method, digest_of
from fusecli.benchmark.results import DAMAGED, DatasetResult, MethodResult, Report
from fusecli.errors import OutputError, UsageError
from fusecli.images import frames
from fusecli.images.atomic import file_hash
from fusecli.images.decode import peek
from fusecli.images.intensity import Intensity, pair_ranges
from fusecli.images.opencv import cv2
from fusecli.images.outputs import check_writable
from fusecli.images.pair import Pair
from fusecli.machine import thread_pool

Progress = Callable[[], object]  # called after each method's result of a pair
Row = dict[str, Any]  # metric -> value, or the reason why there is none
Rows = dict[tuple[str, str], tuple[str, Row]]  # (method, pair) -> key in the cache, and what is known


@dataclass
class Job:
    """A data set with its methods, ready to run: the methods are checked, ranges and hashes are known."""

    pair_set: PairSet
    methods: list[Method]
    ranges: tuple[Intensity, Intensity]
    hashes: dict[str, str]
    degraded: bool = False  # whether methods get damaged inputs; metrics always compare with the clean ones

    def key(self, pair: Pair) -> str:
        """The part of every cache key that stands for a pair: its files, and how they are read and damaged."""
        return Cache.key(digest_of("images"), self.hashes[pair.name])

    def inputs(self, pair: Pair, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images that methods get: the sources, or their luma, damaged in a way that the pair's name determines."""
        if not self.degraded:
            return first, second
        from fusecli.training.degrade import degrade_pair

        return degrade_pair(first, second, self.pair_set.task.sides, pair.name)[:2]

    def files(self) -> Iterator[Path]:
        """All files that are read."""
        for pair in self.pair_set.pairs:
            yield from pair.files
        for method in self.methods:
            yield from method.files()

    def read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Both sources as `fusecli fuse` reads them: uint8, or float32 in [0, 1]. Raises UsageError if sizes differ."""
        sides = []
        for path, intensity in zip(pair.files, self.ranges, strict=True):
            pages = frames.read(path, intensity=intensity)
            if len(pages) != 1:
                raise UsageError(f"{path}: holds {len(pages)} pages; the benchmark measures single images")
            sides.append(pages[0])
        if sides[0].size != sides[1].size:
            both = zip(pair.files, sides, strict=True)
            shapes = " and ".join(f"{path} has {side.size[1]}×{side.size[0]}" for path, side in both)
            raise UsageError(f"pair {pair.name}: {shapes} pixels; both sides of a pair must have one size")
        return sides[0].pixels, sides[1].pixels


def prepare(pair_set: PairSet, methods: list[Method], workers: int, draws: int = 0, option: str = "auto") -> Job:
    """Check everything that can be checked before work starts. Raises UsageError with names.

    draws: in how many ways each pair is damaged; from the second on it is called draw2/NAME …; 0: not at all.
    option: ``--range``, see `pair_ranges`.
    """
    sources = pair_set.pairs
    again = [replace(pair, name=f"draw{draw}/{pair.name}") for draw in range(2, draws + 1) for pair in sources]
    pair_set.pairs = [*sources, *again]
    if clash := {pair.name for pair in sources} & {pair.name for pair in again}:
        raise UsageError(f"{min(clash)} is a pair, and what a draw would be called; rename its folder")
    faults = []
    for method in methods:
        try:
            method.check(pair_set.name, pair_set.pairs)
        except UsageError as error:  # all are named at once, so that they can be mended at once
            faults.append(str(error))
    if faults:
        raise UsageError("\n".join(faults))
    ranges = pair_ranges(
        [pair.first for pair in sources],
        [pair.second for pair in sources],
        infrared=pair_set.task.second == "ir",
        option=option,
    )
    with thread_pool(workers) as pool:
        digests = list(pool.map(lambda pair: file_hash(pair.first) + file_hash(pair.second), sources))
    hashes = {
        pair.name: Cache.key(digest, *ranges, *(("degraded 1", pair.name) if draws else ()))
        for pair, digest in zip(pair_set.pairs, digests * max(draws, 1), strict=True)
    }
    if draws:
        ways = f", each pair in {draws} ways" if draws > 1 else ""
        pair_set.notes.append(f"{DAMAGED} (luma alone, by fixed seeds{ways}); results compared with the clean sources")
        if folders := [method.name for method in methods if method.kind == "folder"]:
            pair_set.notes.append(
                f"{', '.join(folders)}: as found, which compares only if made of these damaged inputs (--save-degraded)"
            )
    return Job(pair_set, methods, ranges, hashes, draws > 0)


def save_inputs(jobs: list[Job], folder: Path, workers: int) -> None:
    """Write what the methods get as ``folder/<data set>/<side>/<pair>.png``, for other programs to fuse.

    Raises UsageError where the folder cannot be written to or holds something.
    """
    check_writable("--save-degraded", folder)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--save-degraded {folder}: holds something already; name a new folder")

    def save(job: Job, pair: Pair) -> None:
        sides = job.pair_set.task.sides
        for side, pixels in zip(sides, job.inputs(pair, *job.read(pair)), strict=True):
            frames.write(folder / job.pair_set.name / side / f"{pair.name}.png", [pixels])

    every = [(job, pair) for job in jobs for pair in job.pair_set.pairs]
    with thread_pool(workers) as pool:
        deque(pool.map(save, *zip(*every, strict=True)), maxlen=0)  # consumed, so that errors are raised


def run(
    jobs: list[Job],
    protocol: str,
    names: list[str],
    *,
    cache: Cache,
    workers: int,
    speed: bool = True,
    progress: Progress = lambda: None,
) -> Report:
    """Values of every metric, method and pair.

    Raises UsageError for weights that cannot be loaded, before anything is measured, and for sources that cannot be
    read or differ in size.
    """
    cv2.setNumThreads(1)  # pairs run side by side instead
    known = [_cached_rows(job, protocol, cache, workers) for job in jobs]
    for job, rows in zip(jobs, known, strict=True):
        for method in job.methods:  # so that weights which cannot be loaded are reported before anything is measured
            if not all(rows[method.name, pair.name][1].keys() >= set(names) for pair in job.pair_set.pairs):
                method.load()
    report = Report(protocol, names, {})
    for job, rows in zip(jobs, known, strict=True):
        if protocol == "tang":
            job.pair_set.notes += _unequal_layouts(job)
        _complete(job, protocol, names, rows, cache, workers, progress)
        report.datasets[job.pair_set.name] = _result(job, names, rows)
    if speed:
        for job in jobs:
            _add_costs(job, report.datasets[job.pair_set.name], cache)
    return report


def _unequal_layouts(job: Job) -> list[str]:
    """A note if some methods' results are gray files where others' have colour channels, were these three equal ones.

    Protocol tang truncates the luma of colour, mostly by a level, not that of gray: the same picture scores otherwise.
    """

    def like(method: Method, pair: Pair) -> Path | None:
        return None if job.degraded and method.kind != "folder" else method.like(pair)  # damaged sources are gray

    def gray(file: Path | None) -> bool:
        header = None if file is None else peek(file)
        return file is None or (header is not None and not header.color)

    names: dict[str, None] = {}
    for pair in job.pair_set.pairs:
        files = {method.name: like(method, pair) for method in job.methods}
        if len({*files.values()}) == 1:  # the usual case, without a look into any file
            continue
        layouts = {file: gray(file) for file in {*files.values()}}
        if not all(layouts.values()):
            names |= dict.fromkeys(name for name, file in files.items() if layouts[file])
    if not names:
        return []
    return [
        f"{', '.join(names)}: gray beside colour files of others: tang cuts the luma of colour down by up to a level, "
        "which moves scores a little, but can move ranks; save all in one way"
    ]


def _cached_rows(job: Job, protocol: str, cache: Cache, workers: int) -> Rows:
    def look_up(method: Method, pair: Pair) -> tuple[str, Row]:
        key = Cache.key("values", metrics.VERSION, protocol, method.identity(pair), job.key(pair))
        return key, cache.read_json(key)

    both = [(method, pair) for method in job.methods for pair in job.pair_set.pairs]
    with thread_pool(workers) as pool:
        found = pool.map(look_up, *zip(*both, strict=True))
        return {(method.name, pair.name): kept for (method, pair), kept in zip(both, found, strict=True)}


def _complete(
    job: Job, protocol: str, names: list[str], rows: Rows, cache: Cache, workers: int, progress: Progress
) -> None:
    """Measure the values that ``rows`` lacks, and add them to it and to the cache."""

    def complete(pair: Pair) -> None:
        sources = inputs = None
        for method in job.methods:
            key, row = rows[method.name, pair.name]
            missing = [name for name in names if name not in row]
            if missing:
                sources = sources or job.read(pair)
                inputs = inputs or job.inputs(pair, *sources)
                fused = method.fuse(pair, *inputs)
                labels = (str(pair.first), str(pair.second), f"{method.name}'s result of {pair.name}")
                trio = metrics.prepare(protocol, *sources, fused, labels)
                for name in missing:
                    try:
                        row[name] = metrics.measure(protocol, name, trio)
                    except metrics.MetricError as error:
                        row[name] = str(error)
                cache.write_json(key, row)
            progress()

    with thread_pool(workers) as pool:
        for task in as_completed([pool.submit(complete, pair) for pair in job.pair_set.pairs]):
            task.result()


def _result(job: Job, names: list[str], rows: Rows) -> DatasetResult:
    found, pairs = job.pair_set, job.pair_set.pairs
    methods = {}
    for method in job.methods:
        values: dict[str, list[float | None]] = {name: [] for name in names}
        undefined: dict[str, dict[str, str]] = {}
        for pair in pairs:
            _, row = rows[method.name, pair.name]
            for name in names:
                value = row[name]
                if isinstance(value, str):
                    undefined.setdefault(name, {})[pair.name] = value
                values[name].append(None if isinstance(value, str) else value)
        methods[method.name] = MethodResult(method.name, method.kind, method.title, values, undefined)
    fingerprint = hashlib.sha256("".join(job.hashes[pair.name] for pair in pairs).encode()).hexdigest()
    return DatasetResult(
        found.name,
        found.title,
        found.task.name,
        [pair.name for pair in pairs],
        methods,
        fingerprint[:16],
        found.left_out,
        found.notes,
    )


def _add_costs(job: Job, result: DatasetResult, cache: Cache) -> None:
    """Add costs on the pair of median size, from the cache if this machine has measured all of them before."""
    from fusecli.benchmark import cost  # late, since it imports torch

    by_size = sorted(job.pair_set.pairs, key=lambda pair: (_area(pair), pair.name))
    pair = by_size[len(by_size) // 2]
    header = peek(pair.first)
    methods = [method for method in job.methods if method.kind != "folder"]
    keys = {
        method.name: Cache.key("cost", cost.VERSION, cost.machine(), method.identity(pair), header, pair.first.suffix)
        for method in methods
    }
    known = {name: cache.read_json(key) for name, key in keys.items()}
    if not all(known.values()):  # measure all of them anew: only times taken in turns are comparable
        try:
            known = cost.measure(methods, pair, job.read)
        except (OSError, OutputError) as error:  # no place for temporary files; scores, which took longer, are kept
            result.notes.append(f"times and memory could not be measured: {error}")
            return
        for name, values in known.items():
            cache.write_json(keys[name], values)
    for name, values in known.items():
        result.methods[name].cost = values


def _area(pair: Pair) -> int:
    header = peek(pair.first)
    return header.height * header.width if header else 0
