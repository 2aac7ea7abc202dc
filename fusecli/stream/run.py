"""Stream pairs of files through an engine: reader threads, batches of equal size, device, writer threads.

Memory is bounded by what is under way, never by the number of files. A pair that fails costs only itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fusecli.errors import FusecliError, InputError, OutputError, counted, first_line
from fusecli.images import frames
from fusecli.images.atomic import file_hash
from fusecli.images.calibration import Calibration, reach, warp
from fusecli.images.coverage import beside_gaps, bridged, completed, within
from fusecli.images.frames import Frame
from fusecli.images.metadata import Metadata
from fusecli.images.opencv import cv2
from fusecli.images.preview import row
from fusecli.machine import out_of_memory, thread_pool, windowed
from fusecli.stream.job import Job, Outcome
from fusecli.stream.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from fusecli.stream.engine import Begun, Engine, Found

log = logging.getLogger("fusecli")

T = TypeVar("T")

AHEAD_BYTES = 2**30  # limit for decoded pairs that wait for an accelerator
STRETCHED = 0.02  # change of the aspect ratio that rounding explains; more is a distortion
BATCH_PIXELS, BATCH_PAIRS = 10**7, 32  # limits of a batch where --batch-size does not say


@dataclass
class Loaded:
    """A job whose files are in memory: pages of both sides, equal in number, each two of one size."""

    job: Job
    first: list[np.ndarray]
    second: list[np.ndarray]
    reaches: list[np.ndarray | None]  # see `reach`; None for pages that the infrared covers entirely
    levels: int | None
    metadata: list[Metadata]  # of the first
    began: float
    results: dict[int, np.ndarray] = field(default_factory=dict)  # by page
    mended: Found = field(default_factory=dict)  # of any page
    lost: bool = False  # a page failed on the device

    def add(self, index: int, result: np.ndarray, mended: Found) -> None:
        """Add the result of a page, and what was mended in it."""
        self.results[index] = result
        gather(self.mended, mended)


def run(
    jobs: Iterable[Job],
    engine: Engine,
    settings: Settings,
    *,
    preview: Container[Path] = (),
    stop: Event | None = None,
) -> Generator[Outcome, None, None]:
    """Fuse every job and yield its outcome: in the order of ``jobs`` on a CPU, nearly so on an accelerator.

    Errors of single pairs are in their outcome. preview: results whose outcomes shall carry small pictures. stop: once
    it is set, or the consumer leaves early, files under way are finished, so that none stays half written, and no more
    are begun.
    """
    stop = stop or Event()
    if settings.steady and not engine.is_steady:  # a cluster's engine does one chunk after another
        looked_at = [Job(pair.name, pair.first, pair.second, pair.first) for pair in settings.steady]
        # A pair that fails here is left out, and reported when it is fused.
        seen = (guarded(job, partial(_context, job, engine, settings)) for job in looked_at)
        engine.keep_steady(context for context in seen if not isinstance(context, Outcome | None))
    stages = _in_batches if engine.batches else _one_by_one
    with thread_pool(settings.workers) as pool:
        steps = _Steps(engine, settings, preview, stop, pool)
        yield from stages(steps, takewhile(lambda _: not stop.is_set(), jobs))


@dataclass(frozen=True)
class _Steps:
    """The steps of one job, and what they need."""

    engine: Engine
    settings: Settings
    preview: Container[Path]
    stop: Event
    pool: ThreadPoolExecutor

    def whole(self, job: Job) -> Outcome | None:
        """A job from file to file; None if the run was stopped before."""
        if self.stop.is_set():
            return None

        def act() -> Outcome:
            loaded = load(job, self.settings)
            for index, (a, b) in enumerate(zip(loaded.first, loaded.second, strict=True)):
                begun = self.engine.start(a[None], b[None], loaded.levels)
                loaded.add(index, begun.finish()[0], begun.mended[0])
            return self._written(loaded)

        return guarded(job, act)

    def load(self, job: Job) -> Loaded | Outcome | None:
        """The first step of `whole`: read a job's files."""
        return None if self.stop.is_set() else guarded(job, lambda: load(job, self.settings))

    def save(self, loaded: Loaded) -> Outcome:
        """The last step of `whole`: write the results of a job."""
        return guarded(loaded.job, lambda: self._written(loaded))

    def _written(self, loaded: Loaded) -> Outcome:
        """Write the results of a job, whole or not at all, and say what was written.

        Where they show the visible alone, it is mended, as it is in the rest of the picture.
        """
        job, first, second, reaches = loaded.job, loaded.first, loaded.second, loaded.reaches
        if "first" in loaded.mended:
            for index, share in enumerate(reaches):
                if share is not None:
                    first[index] = self.engine.mend(first[index], second[index])[0]
        results = [completed(loaded.results[index], page, reaches[index]) for index, page in enumerate(first)]
        frames.write(job.output, results, compress=self.settings.compress, metadata=loaded.metadata)
        digest = file_hash(job.output) if self.settings.digest else None
        pictures = row(first[0], within(second[0], reaches[0]), results[0]) if job.output in self.preview else None
        seconds = time.perf_counter() - loaded.began
        return Outcome(job, None, seconds, digest, pictures, mended=loaded.mended)


def _one_by_one(steps: _Steps, jobs: Iterator[Job]) -> Iterator[Outcome]:
    """On a CPU each worker takes a pair from file to file: the cores stay busy without waiting for one another."""
    with steps.engine.sharing_threads(steps.settings.workers):
        yield from windowed(jobs, lambda job: steps.pool.submit(steps.whole, job), 2 * steps.settings.workers)


def _in_batches(steps: _Steps, jobs: Iterator[Job]) -> Iterator[Outcome]:
    """On an accelerator: read ahead, group pages of equal size, keep the device busy, write behind."""
    batches = _Batches(steps)
    largest = 0  # bytes of a pair, so far

    def ahead() -> int:
        return steps.settings.workers + (min(4 * BATCH_PAIRS, AHEAD_BYTES // largest) if largest else 0)

    for item in windowed(jobs, lambda job: steps.pool.submit(steps.load, job), ahead):
        if isinstance(item, Outcome):
            yield item
            continue
        largest = max(largest, sum(page.nbytes for page in (*item.first, *item.second)))
        batches.add(item)
        while len(batches.writes) > ahead():
            yield batches.writes.popleft().result()
    batches.flush()
    while batches.writes:
        yield batches.writes.popleft().result()


class _Batches:
    """Pages that wait for others of their size, batches on the device, results on their way to files."""

    def __init__(self, steps: _Steps) -> None:
        self.steps = steps
        self.waiting: dict[tuple[Any, ...], list[tuple[Loaded, int]]] = {}  # by what pages of one batch must share
        self.running: deque[tuple[list[tuple[Loaded, int]], Begun]] = deque()
        self.writes: deque[Future[Outcome]] = deque()

    def add(self, loaded: Loaded) -> None:
        for index, (a, b) in enumerate(zip(loaded.first, loaded.second, strict=True)):
            shared = (a.shape, a.dtype.str, b.shape, b.dtype.str, loaded.levels)
            pages = self.waiting.setdefault(shared, [])
            pages.append((loaded, index))
            if len(pages) == full_batch(a.shape, self.steps.settings.batch):
                self._launch(shared)
        while len(self.waiting) > 4:  # many sizes at once: the one that waits longest goes as it is
            self._launch(next(iter(self.waiting)))

    def flush(self) -> None:
        for shared in list(self.waiting):
            self._launch(shared)
        while self.running:
            self._collect()

    def _launch(self, shared: tuple[Any, ...]) -> None:
        pages = self.waiting.pop(shared)
        stacked = filled(pages, full_batch(shared[0], self.steps.settings.batch))
        try:
            engine = self.steps.engine
            first = engine.stacked([loaded.first[index] for loaded, index in stacked])
            second = engine.stacked([loaded.second[index] for loaded, index in stacked])
            self.running.append((pages, engine.start(first, second, shared[-1])))
        except Exception as error:
            self._lose(pages, error)
        if len(self.running) > 2:
            self._collect()

    def _collect(self) -> None:
        pages, begun = self.running.popleft()
        try:
            results = begun.finish()
        except Exception as error:  # the device failed on this batch: its pairs are named
            self._lose(pages, error)
            return
        for (loaded, index), result, mended in zip(pages, results, begun.mended, strict=False):
            loaded.add(index, result, mended)
            if len(loaded.results) == len(loaded.first):
                self.writes.append(self.steps.pool.submit(self.steps.save, loaded))

    def _lose(self, pages: list[tuple[Loaded, int]], error: Exception) -> None:
        for loaded, _ in pages:
            if not loaded.lost:
                loaded.lost = True
                self.writes.append(self.steps.pool.submit(failed, loaded.job, error))


def full_batch(shape: Sequence[int], asked: int | None) -> int:
    """How many pages of this shape are computed at once: ``asked``, else by BATCH_PIXELS and BATCH_PAIRS."""
    return asked or max(1, min(BATCH_PAIRS, BATCH_PIXELS // (shape[0] * shape[1])))


def filled(batch: list[T], full: int) -> list[T]:
    """A batch, padded to ``full`` items by repeating its last one.

    Libraries choose kernels by shape, and kernels differ in the last bit: results must not depend on the batch's fill.
    """
    return batch + batch[-1:] * (full - len(batch))


def load(job: Job, settings: Settings) -> Loaded:
    """Read both frames of a job. Raises InputError for unreadable files and for pages that do not match."""
    began = time.perf_counter()
    sides = [
        # From a copy of the path: opening a Path caches its text in it, and the report holds the job's until the end.
        frames.read(Path(path), intensity=intensity, max_pixels=settings.max_pixels)
        for path, intensity in zip(job.files, settings.ranges, strict=True)
    ]
    if len(sides[0]) != len(sides[1]):
        vary = any(frame.size != side[0].size for side in sides for frame in side)
        hint = ", of several sizes: is it a thumbnail? Save the picture alone" if vary else ""
        raise InputError(f"{job.first} has {counted(len(sides[0]), 'page')}, {job.second} has {len(sides[1])}{hint}")
    first, second = ([frame.pixels for frame in side] for side in sides)
    metadata = [frame.metadata for frame in sides[0]]
    if settings.anonymous:
        metadata = [replace(each, exif=b"", xmp=b"") for each in metadata]
    reaches = []
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        missing = sides[1][index].metadata.missing
        b = b if missing is None else bridged(b, missing)
        first[index], second[index] = of_one_size(a, b, job, settings.resize, settings.align)
        reaches.append(_share(first[index], b, missing, job, settings))
        if first[index].shape != a.shape:
            metadata[index] = metadata[index].resized(a.shape[:2], first[index].shape[:2])
    if settings.gray:
        first = [gray(page) for page in first]
    return Loaded(job, first, second, reaches, _levels(sides[0][0], job.output, settings), metadata, began)


def _share(
    first: np.ndarray, second: np.ndarray, missing: np.ndarray | None, job: Job, settings: Settings
) -> np.ndarray | None:
    """What a result has of the second page, see `reach`, which lacks data in ``missing``; None: all everywhere.

    first: as `of_one_size` gives it.
    """
    share = reach(second.shape[:2], first.shape[:2], settings.align)
    if missing is None:
        return share
    gaps = beside_gaps(of_one_size(first, missing.view(np.uint8), job, settings.resize, settings.align)[1] > 0)
    return gaps if share is None else share if gaps is None else share * gaps


def _context(job: Job, engine: Engine, settings: Settings) -> Tensor | None:
    """The model's context of a job's first page; None for models without one."""
    loaded = load(job, settings)
    first, second, _ = engine.mend(loaded.first[0], loaded.second[0])
    return engine.context(first, second)


def of_one_size(
    first: np.ndarray, second: np.ndarray, job: Job, resize: int | None, align: Calibration | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Both pages on one grid: the second moved as ``align`` says, or the one that ``resize`` names (0, 1) resized.

    Raises InputError where sizes differ and neither is given.
    """
    if align is not None:
        return first, warp(second, first.shape[:2], align)
    if first.shape[:2] == second.shape[:2]:
        return first, second
    if resize is None:
        sizes = f"{first.shape[1]}×{first.shape[0]} and {second.shape[1]}×{second.shape[0]}"
        what_to_do = "--resize brings one to the other, --align also moves it"
        if first.shape[:2] == second.shape[1::-1]:
            what_to_do = "turn one of them, or remove the tag that turned it (EXIF orientation, rotation)"
        raise InputError(f"{job.first} and {job.second}: sizes differ ({sizes}); {what_to_do}")
    if resize == 0:
        return _resize(first, second.shape[:2]), second
    return first, _resize(second, first.shape[:2])


def gather(known: Found, found: Found) -> None:
    """Add what was found in one page or frame to what is known of all."""
    for side, names in found.items():
        known.setdefault(side, set()).update(names)


def guarded(job: Job, act: Callable[[], T]) -> T | Outcome:
    """What ``act`` returns, or the outcome that says why it failed."""
    try:
        return act()
    except Exception as error:
        return failed(job, error)


def _levels(frame: Frame, output: Path, settings: Settings) -> int | None:
    """The result's levels, 255, 65535 or None (float): by --bit-depth, else as the first input's samples.

    If the output's format holds less than the input has, the most that it holds.
    """
    if settings.bit_depth:
        return 2**settings.bit_depth - 1
    holds = frames.WRITES.get(output.suffix.lower(), ())
    if frame.dtype.kind == "f" and "float32" in holds:
        return None
    return 65535 if frame.dtype.itemsize > 1 and "uint16" in holds else 255


def _resize(page: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = page.shape[:2]
    if not 1 - STRETCHED < height * size[1] / (width * size[0]) < 1 + STRETCHED:
        _tell_stretched(width, height, size[1], size[0])
    shrinking = size[0] * size[1] < height * width
    return cv2.resize(page, size[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


@cache
def _tell_stretched(*sizes: int) -> None:
    """Warn once for each pair of sizes."""
    log.warning(
        "--resize stretches %d×%d to %d×%d, which has another shape; crop one side before, or --align cameras", *sizes
    )


def gray(page: np.ndarray) -> np.ndarray:
    """Luma of a colour page; gray as it is."""
    return cv2.cvtColor(page, cv2.COLOR_RGB2GRAY) if page.ndim == 3 else page


def failed(job: Job, error: Exception) -> Outcome:
    """The outcome of a job that met an error; a full disk is fatal."""
    if out_of_memory(error):
        return Outcome(job, error=f"out of memory ({first_line(error)}); --workers 1 and a small --tile need least")
    reason = str(error) if isinstance(error, FusecliError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OutputError) and error.full:
        return Outcome(job, error=f"{reason}; free some and go on with --skip-existing", fatal=True)
    return Outcome(job, error=reason)
