"""Stream pairs of files through an engine: reader threads, batches of equal size, device, writer threads.

Memory is bounded by the number of pairs under way, never by the number of files. A pair that fails costs only itself.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusecli.errors import FusecliError, InputError, OutputError
from fusecli.images import frames
from fusecli.images.frame import Frame
from fusecli.images.intensity import Range
from fusecli.images.opencv import cv2
from fusecli.stream.engine import Engine


@dataclass(frozen=True)
class Job:
    """One pair to fuse and the file that its result goes to."""

    name: str
    first: Path
    second: Path
    output: Path


@dataclass(frozen=True)
class Settings:
    """How pairs become results; see the options of `fusecli fuse` of the same names."""

    ranges: tuple[Range | str | None, Range | str | None] = (None, None)  # of first and second
    resize: int | None = None  # which side (0, 1) is brought to the other's size; None: different sizes are an error
    color: bool | None = None  # False: gray results
    bit_depth: int | None = None  # 8 or 16; None: the first input's
    batch: int = 8
    workers: int = 2
    max_pixels: int | None = None
    compress: bool = False
    digest: bool = False  # SHA-256 of every result, for the report


@dataclass
class Outcome:
    """What became of a job."""

    job: Job
    error: str | None = None
    seconds: float = 0.0
    sha256: str | None = None
    size: tuple[int, int] | None = None
    preview: tuple[np.ndarray, np.ndarray, np.ndarray] | None = field(default=None, repr=False)


@dataclass
class Loaded:
    """A job whose files are in memory: pages of both sides, equal in number and size."""

    job: Job
    first: list[np.ndarray]
    second: list[np.ndarray]
    levels: int | None
    began: float


def run(
    jobs: Iterable[Job], engine: Engine, settings: Settings, *, preview: Callable[[Job], bool] | None = None
) -> Generator[Outcome, None, None]:
    """Fuse every job and yield its outcome, in the order of ``jobs``.

    Errors of single pairs are in their outcome. When the consumer stops early (or is interrupted), work that has begun
    is finished, so that no half-written file stays, and nothing more is begun.
    """
    stages = _one_by_one if not engine.batches else _in_batches
    with _Pool(settings.workers) as pool:
        yield from stages(iter(jobs), engine, settings, preview or (lambda job: False), pool)


class _Pool(ThreadPoolExecutor):
    """Threads that drop what has not begun when the run is left early."""

    def __exit__(self, *exception: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _one_by_one(
    jobs: Iterator[Job], engine: Engine, settings: Settings, preview: Callable[[Job], bool], pool: _Pool
) -> Iterator[Outcome]:
    """On a CPU each worker takes a pair from file to file: the cores stay busy without waiting for one another."""

    def whole(job: Job) -> Outcome:
        def act() -> Outcome:
            loaded = load(job, settings)
            results = [
                engine.fuse(a[None], b[None], loaded.levels)[0]
                for a, b in zip(loaded.first, loaded.second, strict=True)
            ]
            return save(loaded, results, settings, preview(job))

        return guarded(job, act)

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.workers))
    try:
        yield from windowed(jobs, lambda job: pool.submit(whole, job), 2 * settings.workers)
    finally:
        torch.set_num_threads(threads)


def _in_batches(
    jobs: Iterator[Job], engine: Engine, settings: Settings, preview: Callable[[Job], bool], pool: _Pool
) -> Iterator[Outcome]:
    """On an accelerator: read ahead, group pages of equal size, keep the device busy, write behind."""
    ahead = settings.workers + 2 * settings.batch
    reads = windowed(jobs, lambda job: pool.submit(_guarded_load, job, settings), ahead)
    running: deque[tuple[list[Loaded], Callable[[], list[list[np.ndarray]]]]] = deque()
    writes: deque[Future[Outcome]] = deque()
    group: list[Loaded] = []

    def kind(item: Loaded) -> tuple:
        return item.first[0].shape, item.first[0].dtype, item.second[0].shape, item.second[0].dtype, item.levels

    def launch() -> None:
        if group:
            running.append((list(group), _start(engine, group)))
            group.clear()

    def collect() -> None:
        items, finish = running.popleft()
        try:
            results = finish()
        except Exception as error:  # the device failed on this batch; its pairs are named
            writes.extend(_done(Outcome(item.job, error=_reason(error))) for item in items)
            return
        for item, pages in zip(items, results, strict=True):
            act = partial(save, item, pages, settings, preview(item.job))
            writes.append(pool.submit(guarded, item.job, act))

    for item in reads:
        if isinstance(item, Outcome):
            writes.append(_done(item))
            continue
        if group and (kind(group[0]) != kind(item) or len(group) >= settings.batch):
            launch()
        group.append(item)
        if len(running) >= 2:
            collect()
        while len(writes) > ahead:
            yield writes.popleft().result()
    launch()
    while running:
        collect()
    while writes:
        yield writes.popleft().result()


def _start(engine: Engine, items: list[Loaded]) -> Callable[[], list[list[np.ndarray]]]:
    first = np.stack([page for item in items for page in item.first])
    second = np.stack([page for item in items for page in item.second])
    finish = engine.start(first, second, items[0].levels)

    def results() -> list[list[np.ndarray]]:
        pages = iter(finish())
        return [[next(pages) for _ in item.first] for item in items]

    return results


def windowed(jobs: Iterator[Any], submit: Callable[[Any], Future], size: int) -> Iterator:
    """Results of submitted jobs in order, at most ``size`` under way."""
    under_way: deque[Future] = deque()
    for job in jobs:
        under_way.append(submit(job))
        if len(under_way) >= size:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def load(job: Job, settings: Settings) -> Loaded:
    """Read both files of a job. Raises InputError for unreadable files and for pages that do not match."""
    began = time.perf_counter()
    sides = [
        frames.read(path, intensity=intensity, max_pixels=settings.max_pixels)
        for path, intensity in zip((job.first, job.second), settings.ranges, strict=True)
    ]
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{job.first} has {len(sides[0])} pages, {job.second} has {len(sides[1])}")
    first, second = ([frame.pixels for frame in side] for side in sides)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.shape[:2] != b.shape[:2]:
            if settings.resize is None:
                sizes = f"{a.shape[1]}×{a.shape[0]} and {b.shape[1]}×{b.shape[0]}"
                raise InputError(
                    f"{job.first} and {job.second}: sizes differ ({sizes}); --resize brings one to the other"
                )
            if settings.resize == 0:
                first[index] = _resize(a, b.shape[:2])
            else:
                second[index] = _resize(b, a.shape[:2])
    if settings.color is False:
        first = [_gray(page) for page in first]
    return Loaded(job, first, second, _levels(sides[0][0], settings), began)


def save(loaded: Loaded, results: list[np.ndarray], settings: Settings, preview: bool) -> Outcome:
    """Write the results of a job (atomically) and say what was written."""
    job = loaded.job
    frames.write(job.output, results, compress=settings.compress)
    digest = hashlib.sha256(job.output.read_bytes()).hexdigest() if settings.digest else None
    shown = (loaded.first[0], loaded.second[0], results[0]) if preview else None
    return Outcome(job, None, time.perf_counter() - loaded.began, digest, results[0].shape[:2], shown)


def _levels(frame: Frame, settings: Settings) -> int | None:
    """255, 65535 or None (float) for the result: what --bit-depth says, else as the first input's samples."""
    if settings.bit_depth:
        return 2**settings.bit_depth - 1
    dtype = np.dtype(frame.origin.dtype)
    if dtype.kind == "f":
        return None
    return 255 if dtype.itemsize == 1 else 65535


def _resize(page: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinking = size[0] * size[1] < page.shape[0] * page.shape[1]
    return cv2.resize(page, size[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def _gray(page: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(page, cv2.COLOR_RGB2GRAY) if page.ndim == 3 else page


def _guarded_load(job: Job, settings: Settings) -> Loaded | Outcome:
    try:
        return load(job, settings)
    except Exception as error:
        return Outcome(job, error=_reason(error))


def guarded(job: Job, act: Callable[[], Outcome]) -> Outcome:
    """The outcome of ``act``, also where it fails. Raises FusecliError on a full disk, where the next would fail."""
    try:
        return act()
    except Exception as error:
        if isinstance(error, OutputError) and error.full:  # so for the next pair too
            raise FusecliError(f"{error}; free some and go on with --skip-existing") from error
        return Outcome(job, error=_reason(error))


def _done(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, FusecliError) else f"{type(error).__name__}: {error}"
