"""Two videos side by side: which frame of one belongs to which of the other."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from statistics import median_high

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
        self.count, self.last = 0, Fraction(0)  # frames paired so far, and the time of the last one
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
        ahead: Fraction | float = -math.inf
        if isinstance(self.sources[1], RawPipe):  # its rate is constant: a frame that cannot be the nearest may be late
            ahead = min(other_frame, 2 * other_frame - frame) / 2
        now, after, more = next(self.seconds, None), None, True
        steps = deque([other_frame], 9)  # the mean, then the last ones: it says nothing where a clock was set
        for first in self.firsts:
            if now is None:
                self.ended = 1
                return
            while more and first.time - now.time >= ahead:
                after = after or next(self.seconds, None)
                more = after is not None
                if after is None or after.time - first.time >= first.time - now.time:
                    break
                steps.append(after.time - now.time)
                now, after = after, None
            # the last one is shown for as long as a frame lasts
            if not more and first.time >= now.time + other_frame - frame / 2:
                self.ended = 1
                return
            self.count += 1
            self.last = first.time
            far = abs(first.time - now.time)
            if far > STALE and far > median_high(steps):
                self.gap = self.gap if self.stale else first.time
                self.stale += 1
            yield first.time, first.pixels, now.pixels
        *_, latest = None, *islice(chain([after] if after else [], self.seconds), 2)
        if latest is not None and latest.time >= self.last + frame + other_frame / 2:
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
        if self.frame_by_frame:
            lasted, whole = (counted(count, "frame") if count else "" for count in (self.count, longer.count()))
        else:  # two frame rates: numbers of frames would not compare
            times = self.last + 1 / self.sources[0].look.rate, longer.seconds()
            lasted, whole = (f"{float(time):.1f} s" if time else "" for time in times)
        log.warning(
            "%s is shorter than %s: the result ends with it, after %s%s",
            *(ended, longer, lasted, f"; {longer} has {whole}" if whole else ""),
        )
