"""Two videos side by side: which frame of one belongs to which of the other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fusecli.errors import counted
from fusecli.images.rawvideo import RawPipe
from fusecli.images.video import Timed, VideoFile

log = logging.getLogger("fusecli")

Source = VideoFile | RawPipe
FramePair = tuple[Fraction, np.ndarray, np.ndarray]  # time, and the frames that belong together

STALE = Fraction(1)  # seconds between two paired frames; more is a gap in one of the videos


class InStep:
    """Pairs each frame of the first side with the frame of the second that is nearest in time.

    With a pipe that has no frame rate, frames are paired by count. Ends with the shorter side; `tell` says so.
    """

    def __init__(self, first: Source, second: Source, firsts: Iterable[Timed], seconds: Iterable[Timed]) -> None:
        self.sources = first, second
        self.firsts, self.seconds = iter(firsts), iter(seconds)
        pipe = next((side for side in self.sources if isinstance(side, RawPipe)), None)
        self.frame_by_frame = pipe is not None and pipe.layout.rate is None
        self.look = first.look
        if isinstance(first, RawPipe) and self.frame_by_frame:
            self.look = replace(second.look, aspect=None)
        self.count = 0
        self.ended: int | None = None  # the side that was shorter
        self.stale, self.gap = 0, Fraction(0)  # frames of the first far from any of the second: how many; when first

    def __iter__(self) -> Iterator[FramePair]:
        return self._by_count() if self.frame_by_frame else self._by_time()

    def _by_count(self) -> Iterator[FramePair]:
        own = 1 if isinstance(self.sources[0], RawPipe) else 0  # the side that has times
        for first in self.firsts:
            second = next(self.seconds, None)
            if second is None:
                self.ended = 1
                return
            self.count += 1
            yield (first, second)[own].time, first.pixels, second.pixels
        self.ended = None if next(self.seconds, None) is None else 0

    def _by_time(self) -> Iterator[FramePair]:
        frame, other_frame = (1 / side.look.rate for side in self.sources)
        now, after = next(self.seconds, None), next(self.seconds, None)
        last = Fraction(0)
        for first in self.firsts:
            if now is None:
                self.ended = 1
                return
            while after is not None and after.time - first.time < first.time - now.time:
                now, after = after, next(self.seconds, None)
            # the last one is shown for as long as a frame lasts
            if after is None and first.time >= now.time + other_frame - frame / 2:
                self.ended = 1
                return
            self.count += 1
            last = first.time
            if abs(first.time - now.time) > max(STALE, other_frame):
                self.gap = self.gap if self.stale else first.time
                self.stale += 1
            yield first.time, first.pixels, now.pixels
        latest = next(self.seconds, after)
        if latest is not None and latest.time >= last + frame + other_frame / 2:
            self.ended = 0

    def tell(self) -> None:
        """Warn where one side went on, or had a gap."""
        if self.stale:
            log.warning(
                "%s has gaps: %s of %s, the first at %.1f s, got one that is more than a second away",
                *(self.sources[1], counted(self.stale, "frame"), self.sources[0], self.gap),
            )
        if self.ended is None:
            return
        ended, longer = self.sources[self.ended], self.sources[1 - self.ended]
        total = longer.count()
        log.warning(
            "%s is shorter than %s: the result ends with it, after %s%s",
            *(ended, longer, self._long(self.sources[0], self.count)),
            f"; {longer} has {self._long(longer, total)}" if total else "",
        )

    def _long(self, side: Source, count: int) -> str:
        """How long so many frames last, which of two frame rates compares what their numbers do not."""
        return counted(count, "frame") if self.frame_by_frame else f"{float(count / side.look.rate):.1f} s"
