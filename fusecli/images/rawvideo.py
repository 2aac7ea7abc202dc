"""Raw frames through pipes: no header, one frame after the other, as ffmpeg's rawvideo."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from select import select

import numpy as np

from fusecli.errors import InputError, UsageError
from fusecli.images.video import Look, Timed

log = logging.getLogger("fusecli")

STDIN = "-"
_DEEP = {f"gray{bits}le": ("<u2", (), bits) for bits in (10, 12, 14, 16)}
_FORMATS = {"gray": ("u1", (), 8), **_DEEP, "rgb24": ("u1", (3,), 8), "bgr24": ("u1", (3,), 8)}


def is_pipe(typed: str) -> bool:
    """Whether a side is raw frames: on stdin, or through a named pipe, such as a shell makes of <(…)."""
    return typed == STDIN or Path(typed).is_fifo()


@dataclass(frozen=True)
class RawFormat:
    """What `--raw` says of the frames in a pipe. rate: frames per second; None: the other side's, frame for frame."""

    width: int
    height: int
    pix_fmt: str = "gray"
    rate: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """WIDTHxHEIGHT[,PIX_FMT][,FPS]. Raises UsageError."""
        size, *rest = text.lower().split(",")
        try:
            width, height = (int(side) for side in size.split("x"))
            pix_fmt = rest.pop(0) if rest and rest[0] in _FORMATS else "gray"
            rate = Fraction(rest.pop(0)) if rest else None
            if rest or min(width, height) < 1 or (rate is not None and rate <= 0):
                raise ValueError
        except (ValueError, ZeroDivisionError):
            raise UsageError(
                f"--raw {text}: expected WIDTHxHEIGHT[,PIX_FMT][,FPS] such as 640x512,gray16le,25; "
                f"PIX_FMT is one of {', '.join(_FORMATS)}"
            ) from None
        return cls(width, height, pix_fmt, rate)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_FORMATS[self.pix_fmt][0])

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width, *_FORMATS[self.pix_fmt][1])

    @property
    def bits(self) -> int:
        """Bits per sample: white is the greatest value of so many bits, even where a sample is stored in more."""
        return _FORMATS[self.pix_fmt][2]


def formats(raw: Sequence[str], sides: Sequence[str], typed: Sequence[str]) -> tuple[RawFormat | None, ...]:
    """The format of each side, None where it is no pipe, by what `--raw` says: FORMAT, or SIDE=FORMAT for one of them.

    Raises UsageError where a pipe has none, or one is for no pipe.
    """
    pipes = [side for side, text in zip(sides, typed, strict=True) if is_pipe(text)]
    if len(pipes) > 1 and os.path.samestat(*map(_status, typed)):  # not by name: - is /dev/stdin, too
        raise UsageError(f"{typed[0]}: one pipe cannot be both sides; make another with mkfifo, or by <(…)")
    given: dict[str, RawFormat] = {}
    for text in raw:
        side, equals, layout = text.rpartition("=")
        if equals and side not in pipes:
            raise UsageError(f"--raw {text}: there is no --{side} that is a pipe")
        if side in given:
            raise UsageError(f"--raw {text}: one for each pipe: {' '.join(f'--raw {one}=…' for one in pipes)}")
        given[side] = RawFormat.parse(layout)
    found = {side: given.get(side, given.get("")) for side in pipes}
    for side, known in found.items():
        if known is None:
            raise UsageError(
                f"--{side} is a pipe of raw frames, which do not say their size: "
                f"--raw {f'{side}=' if given else ''}WIDTHxHEIGHT[,PIX_FMT][,FPS]"
            )
    if len(pipes) == len(sides) and not any(each and each.rate for each in found.values()):
        raise UsageError("--raw: of two pipes, one at least needs a frame rate, such as 640x512,gray,25")
    return tuple(found.get(side) for side in sides)


def _status(typed: str) -> os.stat_result:
    return os.fstat(0) if typed == STDIN else os.stat(typed)


class RawPipe:
    """Frames from a pipe, with the interface of `images.video.VideoFile`. Raises InputError at a short last frame.

    place: a file descriptor, or the path of a named pipe, which is opened when the frames are asked for: that waits
    for whoever writes.
    """

    live, audio, interlaced, frames = True, False, False, 0

    def __init__(self, place: int | Path, layout: RawFormat, rate: Fraction) -> None:
        self.place, self.layout = place, layout
        self.look = Look(layout.rate or rate, 1 / (layout.rate or rate))
        self.size = (layout.height, layout.width)
        self.bits = layout.bits

    def __str__(self) -> str:
        return "stdin" if isinstance(self.place, int) else str(self.place)

    def __iter__(self) -> Iterator[Timed]:
        # Unbuffered: a waiting thread would hold a buffer's lock at exit.
        pipe = io.FileIO(self.place, closefd=not isinstance(self.place, int))
        count, white, fits = 0, 2**self.bits - 1, True
        while True:
            frame = np.empty(self.layout.shape, self.layout.dtype)
            view, filled = memoryview(frame).cast("B"), 0
            while filled < len(view):
                got = pipe.readinto(view[filled:])
                if got is None:  # whoever made the pipe set it to non-blocking, and nothing is there yet
                    select([pipe], [], [])
                elif not got:
                    break
                filled += got or 0
            if filled < len(view):
                break
            if fits and self.bits > 8 and (most := int(frame.max())) > white:
                fits = False
                log.warning(
                    "%s: frame %d holds %d, but %s ends at %d; name a --raw format of more bits, or send "
                    "little-endian samples, right-aligned",
                    *(self, count + 1, most, self.layout.pix_fmt, white),
                )
            rgb = frame[..., ::-1].copy() if self.layout.pix_fmt == "bgr24" else frame  # torch: no negative strides
            yield Timed(count / self.look.rate, rgb)
            count += 1
        if filled:
            raise InputError(
                f"{self}: ends within frame {count + 1}, after {filled} of {len(view)} bytes; the pipe broke, or its "
                f"frames are not {self.layout.width}×{self.layout.height} {self.layout.pix_fmt}, as --raw says"
            )

    def count(self) -> int:
        """0: unknown."""
        return 0

    def seconds(self) -> Fraction:
        """0: unknown."""
        return Fraction(0)


class RawWriter:
    """Write frames (uint8, H×W or H×W×3 RGB) to a pipe, unbuffered. Raises BrokenPipeError where the reader is gone."""

    def __init__(self, fileno: int) -> None:
        self._pipe = io.FileIO(fileno, "w", closefd=False)

    def write(self, time: Fraction, pixels: np.ndarray) -> None:
        """Append a frame; ``time`` has no place in the format."""
        view, written = memoryview(np.ascontiguousarray(pixels)).cast("B"), 0
        while written < len(view):
            try:
                took = self._pipe.write(view[written:])
                if took is None:  # non-blocking, and full
                    select([], [self._pipe], [])
                written += took or 0
            except OSError as error:
                if error.errno == errno.EINVAL:  # as Windows says it
                    raise BrokenPipeError(*error.args) from error
                raise
