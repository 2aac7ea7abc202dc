"""Stream pairs of videos through an engine: decoders, network and encoder at once, memory bounded by queues."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from shutil import disk_usage
from threading import Event

import numpy as np
import torch

from fusecli.errors import InputError, OutputError, counted
from fusecli.images import frames, intensity
from fusecli.images.atomic import STDOUT, file_hash, replacing
from fusecli.images.calibration import reach
from fusecli.images.coverage import completed, within
from fusecli.images.intensity import Range
from fusecli.images.preview import row
from fusecli.images.rawvideo import STDIN, RawPipe, RawWriter
from fusecli.images.video import Look, Timed, VideoFile, VideoWriter, odd
from fusecli.stream.engine import Engine, Found
from fusecli.stream.in_step import FramePair, InStep, Source
from fusecli.stream.job import Job, Outcome
from fusecli.stream.readahead import Readahead
from fusecli.stream.run import BATCH_PAIRS, filled, full_batch, gather, gray, guarded, of_one_size
from fusecli.stream.settings import Settings
from fusecli.stream.stop import Stop

log = logging.getLogger("fusecli")

AHEAD_BYTES = 2**28  # limit for decoded frames that wait, on each side
FIRST_FRAMES = 32  # of a pipe, which settle its intensity range
ROOM = 2**24, 32  # bytes, and more for each frame, in which the result of a pipe can be completed
LOOKS = 32  # frames between two looks at the disk
ADAPTS = 1.0  # time constant, in seconds, by which exposure follows the scene, as a camera's does: avoids flicker


def run(
    jobs: Iterable[Job],
    engine: Engine,
    settings: Settings,
    *,
    preview: Container[Path] = (),
    stop: Stop | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Generator[Outcome, None, None]:
    """Fuse every job, one after the other, and yield its outcome until ``stop`` is set.

    A stop drops the result under way, unless a side is a pipe: the pipe then ends, and what came through it is
    finished. So it is, as a failure, if either side breaks off. tick: called with frames done and frames in all (0:
    unknown).
    """
    stop = stop or Stop()
    with engine.sharing_threads(settings.workers):
        for job in jobs:
            if stop.is_set():
                break
            outcome = guarded(job, partial(_Fusion(job, engine, settings, stop, tick).run, job.output in preview))
            if outcome is None:
                break
            yield outcome


@dataclass
class _Prepared:
    """Two frames as the network takes them. context: 1×D, smoothed over time, for models that have one."""

    time: Fraction
    sides: tuple[np.ndarray, np.ndarray]
    context: torch.Tensor | None
    reach: np.ndarray | None  # of the infrared; see `calibration.reach`


_Result = tuple[_Prepared, np.ndarray]


class _Stopped(Exception):
    """The run ends before the result is whole."""


class _Over(Event):
    """Also set once no frame of the first side can come: a pipe may then stay open and silent, and nothing needs it."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def is_set(self) -> bool:
        return super().is_set() or self._stop.is_set()

    def after(self, firsts: Iterator[Timed]) -> Iterator[Timed]:
        """The same frames; then it is set."""
        yield from firsts
        self.set()


class _Fusion:
    """One pair."""

    def __init__(
        self, job: Job, engine: Engine, settings: Settings, stop: Stop, tick: Callable[[int, int], None]
    ) -> None:
        self.job, self.engine, self.settings, self.stop, self.tick = job, engine, settings, stop, tick
        self.piped = job.output == STDOUT
        self.readahead = Readahead()
        self.mended: Found = {}
        self.broken: InputError | OutputError | None = None
        self.place: Path | None = None  # the file under way
        self.count = 0  # frames written

    def run(self, preview: bool) -> Outcome | None:
        """Fuse and write; None where the run was stopped before the end."""
        began = time.perf_counter()
        first, second = self._open()
        of_one_size(np.zeros(first.size), np.zeros(second.size), self.job, self.settings.resize, self.settings.align)
        live = first.live or second.live
        over = _Over(self.stop)
        one, other = self._ahead(first, self.stop), self._ahead(second, over)
        if live:
            one, other = self._kept(self._with_room(one)), self._kept(other)
        steps = InStep(first, second, over.after(one), other)
        pictures = None
        try:
            with ExitStack() as stack:
                pool = stack.enter_context(ThreadPoolExecutor(self.settings.workers))
                stack.callback(self.readahead.close)  # before the pool ends, which these threads give work
                writer: VideoWriter | RawWriter | None = None
                self.place = None if self.piped else stack.enter_context(replacing(self.job.output))
                for results in self.readahead(self._fused(steps, pool), 2 * self.settings.workers):
                    for item, result in results():
                        if self.stop.is_set() and not live:
                            raise _Stopped
                        if writer is None:
                            writer = self._writer(stack, steps.look, result)
                        writer.write(item.time, result)
                        # At powers of two: the last one is in the second half.
                        if preview and self.count & (self.count - 1) == 0:
                            pictures = row(item.sides[0], within(item.sides[1], item.reach), result)
                        self.count += 1
                        self.tick(self.count, first.frames)
                if not self.count:
                    none = self.broken or InputError(f"{first} and {second}: no frame came")
                    raise _Stopped if self.stop.is_set() else none
        except _Stopped:
            return None
        except BrokenPipeError:
            self.stop.signal = getattr(signal, "SIGPIPE", signal.SIGTERM)
            self.stop.set()
            return None
        if not isinstance(self.broken, OutputError):  # no side is shorter
            steps.tell()
        seconds = time.perf_counter() - began
        rate = steps.look.rate
        log.info(
            "%s: %s, %s fps, in %.1f s (%.1f frames/s)",
            *("stdout" if self.piped else self.job.output, counted(self.count, "frame"), _decimal(rate)),
            *(seconds, self.count / seconds),
        )
        digest = file_hash(self.job.output) if self.settings.digest and not self.piped else None
        details = {"frames": self.count, "fps": round(float(rate), 3)}
        # A stop ends the pipe's other end, too, wherever it is.
        error = None if self.stop.is_set() or not self.broken else f"{self.broken}; what came before is fused"
        return Outcome(self.job, error, seconds, digest, pictures, mended=self.mended, details=details)

    def _open(self) -> tuple[Source, Source]:
        """Open both sides and log what is done about their sound and their frame rates."""
        settings = self.settings
        paths, colors = (self.job.first, self.job.second), (not settings.gray, False)
        opened = [  # a video file is opened; of a pipe its format is what there is so far
            layout or VideoFile(path, color=color, max_pixels=settings.max_pixels)
            for path, layout, color in zip(paths, settings.raw, colors, strict=True)
        ]
        rate = next(rate for each in opened if (rate := each.look.rate if isinstance(each, VideoFile) else each.rate))
        first, second = (
            each
            if isinstance(each, VideoFile)
            else RawPipe(sys.stdin.fileno() if path == Path(STDIN) else path, each, rate)
            for path, each in zip(paths, opened, strict=True)
        )
        for side in (first, second):
            if side.audio:
                log.info("%s: its sound is left out", side)
            if side.interlaced:
                log.warning(
                    "%s: is interlaced, so what moves will have combs; deinterlace it first, for example with ffmpeg "
                    "-vf bwdif",
                    side,
                )
        if first.look.rate != second.look.rate:
            log.info(
                "%s has %s fps, %s has %s: each frame of the first gets the one of the second that is nearest in time",
                *(first, _decimal(first.look.rate), second, _decimal(second.look.rate)),
            )
        return first, second

    def _ahead(self, side: Source, stop: Event) -> Iterator[Timed]:
        """Frames of a side, decoded by a thread of its own; ``stop`` ends a pipe."""
        height, width = side.size
        depth = max(2, min(2 * BATCH_PAIRS, AHEAD_BYTES // (3 * height * width)))
        return self.readahead(side, depth, stop if side.live else None)

    def _kept(self, ahead: Iterator[Timed]) -> Iterator[Timed]:
        """The frames until a side breaks off, or the disk is almost full: those of a pipe cannot be read again.

        Where it breaks off beyond what the other side lasts, that is never met, and costs nothing.
        """
        try:
            yield from ahead
        except (InputError, OutputError) as error:
            self.broken = error

    def _with_room(self, firsts: Iterator[Timed]) -> Iterator[Timed]:
        """The same frames. Raises OutputError where the disk hardly has room for a few more and the end of the file."""
        for count, timed in enumerate(firsts):
            if self.place is not None and count % LOOKS == 0:
                folder, each = self.job.output.parent, self.place.stat().st_size / max(1, self.count)
                coming = count - self.count + 2 * LOOKS  # frames: under way, and until the next look
                disk = disk_usage(folder)
                # Some network drives say 0 of both. A frame may be twice as large as those so far.
                if disk.total and disk.free < ROOM[0] + ROOM[1] * count + 2 * each * coming:
                    raise OutputError(f"{folder}: the disk is almost full")
            yield timed

    def _fused(self, steps: InStep, pool: ThreadPoolExecutor) -> Iterator[Callable[[], list[_Result]]]:
        """Functions, in order, each of which waits for some results and returns them."""
        prepared = self._prepared(steps)
        for item in prepared:
            if not self.engine.batches:
                yield pool.submit(self._fuse, item).result
                continue
            full = full_batch(item.sides[0].shape, self.settings.batch)
            batch = [item, *itertools.islice(prepared, full - 1)]
            yield self._start(batch, full)

    def _fuse(self, item: _Prepared) -> list[_Result]:
        return self._start([item], 1)()

    def _start(self, batch: list[_Prepared], full: int) -> Callable[[], list[_Result]]:
        """Begin a batch, padded to ``full``; the function returned waits for its results."""
        stacked = filled(batch, full)
        first, second = (self.engine.stacked([item.sides[index] for item in stacked]) for index in (0, 1))
        contexts = [item.context for item in stacked if item.context is not None]
        begun = self.engine.start(first, second, 255, torch.cat(contexts) if contexts else None, mended=True)

        def results() -> list[_Result]:
            found = zip(batch, begun.finish(), strict=False)
            return [(item, completed(result, item.sides[0], item.reach)) for item, result in found]

        return results

    def _prepared(self, steps: InStep) -> Iterator[_Prepared]:
        """Bring both frames of a pair to one size and prepare them for the network; ADAPTS smooths the exposure."""
        first, second = steps.sources
        visible = _visible_range(first)
        infrared, pairs = self._infrared_range(second, iter(steps))
        shape, exposure, before = None, None, Fraction(0)
        share = reach(second.size, first.size, self.settings.align)
        for at, a, b in pairs:
            shape = shape or (a.shape, b.shape)
            if (a.shape, b.shape) != shape:
                which = first if a.shape != shape[0] else second
                raise InputError(f"{which}: its frames change their size at {float(at):.1f} s; cut it there")
            a, b = of_one_size(a, b, self.job, self.settings.resize, self.settings.align)
            a, b = frames.shown(a, visible), frames.shown(b, infrared)
            a, b, mended = self.engine.mend(a, b)
            gather(self.mended, mended)
            context = self.engine.context(a, b)
            if context is not None:
                follows = 1 - math.exp(min(0.0, float(before - at)) / ADAPTS)  # times may go back a little
                exposure = context if exposure is None else torch.lerp(exposure, context, follows)
                before = at
            yield _Prepared(at, (gray(a) if self.settings.gray else a, b), exposure, share)

    def _infrared_range(self, side: Source, pairs: Iterator[FramePair]) -> tuple[Range | str, Iterator[FramePair]]:
        """The range for the whole infrared video, and all pairs again: a pipe's first ones are read to find it."""
        range_ = self.settings.ranges[1]
        if range_ is None and side.bits > 8:
            if isinstance(side, VideoFile):
                range_ = intensity.range_of(str(side), side.sample(intensity.SAMPLE_FRAMES))
            else:
                head = list(itertools.islice(pairs, FIRST_FRAMES))
                pairs = itertools.chain(head, pairs)
                range_ = intensity.range_of(str(side), (pixels for _, _, pixels in head))
                if range_ is not None:
                    intensity.warn_that_kept(range_, counted(len(head), "frame"), str(side))
        return Range.of_bits(side.bits) if range_ is None or range_ == "full" else range_, pairs

    def _writer(self, stack: ExitStack, look: Look, result: np.ndarray) -> VideoWriter | RawWriter:
        height, width = result.shape[:2]
        if self.place is None:
            kind = "rgb24" if result.ndim == 3 else "gray"
            log.info("stdout: -f rawvideo -pix_fmt %s -s %dx%d -r %s", kind, width, height, look.rate)
            return RawWriter(sys.stdout.fileno())
        if odd((height, width)):
            log.warning(
                "%s: %d×%d needs 4:4:4 colour, which some players do not know; even sizes are 4:2:0",
                *(self.job.output, width, height),
            )
        return stack.enter_context(VideoWriter(self.place, look, (height, width)))


def _visible_range(side: Source) -> Range:
    """The range that holds for the whole of the visible."""
    if isinstance(side, VideoFile) and side.bits == 16:
        return intensity.camera_range(str(side), side.sample(intensity.SAMPLE_FRAMES))
    return Range.of_bits(side.bits)


def _decimal(rate: Fraction) -> str:
    return f"{float(rate):.6g}"
