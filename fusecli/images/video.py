"""Read frames with their times from video files, and write them. Needs PyAV (extra ``video``)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fusecli.errors import InputError, counted
from fusecli.extras import need
from fusecli.images.decode import pixel_limit
from fusecli.images.headers import too_large

log = logging.getLogger("fusecli")

WRITES = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".avi": "avi"}  # ending -> FFmpeg's name of the container
ENDINGS = frozenset({*WRITES, ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp"})

# Visually lossless, and fast compared with the network. The bytes that x264 writes depend on the number of threads, and
# on the processor unless it may not choose its fastest code, which also gives the same frames other bytes at times.
X264 = {"crf": "18", "preset": "veryfast", "x264-params": "cpu-independent=1"}
X264_THREADS = 4
# AVCOL_SPC_* of YUV matrices that swscale knows -> its own number.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT709, _BT601, _UNSPECIFIED = 1, 6, 2
_HD_LINES = 720  # from here on, video that does not name its matrix is BT.709, below BT.601
_LIMITED = 1  # AVCOL_RANGE_MPEG
# BILINEAR, FULL_CHR_H_INT, FULL_CHR_H_INP and ACCURATE_RND of libswscale, which PyAV names only from 18 on.
_EXACT = 0x2 | 0x2000 | 0x4000 | 0x40000
_FEW = 8  # times as many frames as are sampled: shorter videos are decoded whole
_SHORT = Fraction(1, 2)  # seconds that may be missing at the end before a file counts as truncated
_BACK = Fraction(1, 2)  # seconds by which times go back where recordings are joined; less is a camera's inaccuracy


@dataclass(frozen=True)
class Timed:
    """A frame: H×W or H×W×3 RGB, uint8 (gray also uint16), upright; seconds since the first one."""

    time: Fraction
    pixels: np.ndarray


@dataclass(frozen=True)
class Look:
    """What a result takes over besides pixels. rate: mean frames per second. time_base: step of the times, seconds.

    aspect: of a pixel. matrix, primaries, transfer: as ITU-T H.273 numbers them.
    """

    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None = None
    matrix: int = _UNSPECIFIED
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED


class VideoFile:
    """The frames of a video file, in order of time; may be iterated more than once.

    Rotation metadata is applied. color False: luma alone. Gray of 9 to 16 bits stays as stored (``bits``); all else is
    8-bit. look, size (height, width), frames (0 where the header does not say), audio, interlaced: from the header and
    first frame.
    Raises InputError with file and reason: not a video, no frame, too large, damaged; at the end: truncated.
    """

    live = False

    def __init__(self, path: Path, *, color: bool = True, max_pixels: int | None = None) -> None:
        self.path = path
        self._color = color
        with self._opened() as (container, stream):
            limit = pixel_limit(max_pixels)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > limit:
                raise InputError(f"{path}: {too_large(width * height, 'pixels a frame', limit)}")
            # An MP4's index says where every frame lies.
            ends = [entry.pos + entry.size for entry in list(getattr(stream, "index_entries", ()))[-100:]]
            if "mp4" in container.format.name and max(ends, default=0) > path.stat().st_size:
                raise InputError(
                    f"{path}: its index names frames that are not there: it is truncated, or still being written; copy "
                    "it once more, or cut it to what is whole, for example with ffmpeg -c copy"
                )
            self.audio = bool(container.streams.audio)
            rate = _exactly(stream.average_rate or stream.guessed_rate or Fraction(25))
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise InputError(f"{path}: holds no frame that can be decoded; it is truncated or damaged")
            self.interlaced = bool(first.interlaced_frame)
            self._start = Fraction(0) if first.pts is None else first.pts * _exactly(first.time_base)
            self.frames = stream.frames or round(float(self._declared(container, stream) * rate))
            context = stream.codec_context
            aspect = _exactly(stream.sample_aspect_ratio) if stream.sample_aspect_ratio else None
            if aspect and first.rotation % 180:
                aspect = 1 / aspect
            self.look = Look(
                rate,
                _exactly(stream.time_base),
                aspect,
                _matrix(first),
                int(context.color_primaries),
                int(context.color_trc),
            )
            pixels = self._upright(first)
        self.size: tuple[int, int] = pixels.shape[:2]
        self.bits = 8 if pixels.dtype == np.uint8 else first.format.components[0].bits

    def __str__(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Timed]:
        with self._opened() as (container, stream):
            start: Fraction | None = None
            count = damaged = 0
            time = lasts = back = Fraction(0)
            is_avi = "avi" in container.format.name
            for frame in self._decoded(container, stream):
                after = time + 1 / self.look.rate if count else time
                # AVI stores frames in the order of decoding: its dts are sound, and what FFmpeg makes its pts is not.
                ticks = frame.dts if is_avi else frame.pts
                stamp = (start or 0) + after if ticks is None else ticks * frame.time_base
                start = stamp if start is None else start
                if stamp - start < time - _BACK:
                    start, back = stamp - after, back or after
                time, lasts = stamp - start, (frame.duration or 0) * frame.time_base
                count += 1
                damaged += frame.is_corrupt
                yield Timed(time, self._upright(frame))
            end, promised = time + max(lasts, 1 / self.look.rate), self._declared(container, stream)
            if is_avi:  # truncation loses its index; its header also counts dropped frames
                promised = stream.frames / self.look.rate
            elif "matroska" not in container.format.name:
                promised = Fraction(0)
            if end < promised - _SHORT:
                raise InputError(
                    f"{self.path}: ends after {counted(count, 'frame')} ({float(end):.1f} s) of "
                    f"{float(promised):.1f} s: it is truncated or damaged; cut it to what is whole, for example "
                    "with ffmpeg -c copy"
                )
        if damaged:
            log.warning("%s: damaged: %d of %s", self.path, damaged, counted(count, "frame"))
        if back:
            log.warning("%s: its times begin anew at %.1f s, as where files are joined; they go on", self.path, back)

    def sample(self, count: int) -> Iterator[np.ndarray]:
        """Pixels of about ``count`` frames over the whole length: the key frames before evenly spaced times.

        Of short videos, where key frames are few, every so many frames.
        """
        with self._opened() as (container, stream):
            if 0 < self.frames <= _FEW * count:
                every = -(-self.frames // count)
                yield from (self._upright(frame) for frame in islice(self._decoded(container, stream), 0, None, every))
                return
            length = float(self._declared(container, stream))
            before: int | None = None
            for step in range(count):
                with suppress(pyav().FFmpegError):  # not seekable there
                    container.seek(round(1e6 * (float(self._start) + length * step / max(1, count - 1))))
                frame = next(self._decoded(container, stream), None)
                if frame is not None and frame.pts != before:
                    before = frame.pts
                    yield self._upright(frame)

    def count(self) -> int:
        """How many frames there are; may read through the file without decoding it."""
        with self._opened() as (container, stream):
            if stream.frames:
                return stream.frames
            with suppress(pyav().FFmpegError):
                return sum(1 for packet in container.demux(stream) if packet.size)
        return 0

    def seconds(self) -> Fraction:
        """How long it lasts; frames that a camera dropped still count in the rate that the header says."""
        with self._opened() as (container, stream):
            declared = self._declared(container, stream)
        return declared or self.count() / self.look.rate

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its video stream."""
        av = pyav()
        # Tags that are no UTF-8 are an error before PyAV 19, which has no such option.
        more = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        try:
            # The whitelist keeps playlists from opening URLs.
            container = av.open(f"file:{self.path}", options={"protocol_whitelist": "file"}, **more)
        except av.FFmpegError as error:
            reason = error.strerror or error
            if isinstance(error, ValueError) and _is_mp4(self.path):  # written last, so that a power cut leaves none
                reason = "its index (moov) is missing or damaged: the recording goes on, or it or a copy was cut off"
            raise InputError(f"{self.path}: cannot be read as a video: {reason}") from error
        with container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise InputError(f"{self.path}: holds no video that can be decoded")
            stream.thread_type = "AUTO"
            yield container, stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        av, count = pyav(), 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                for frame in packet.decode():
                    count += 1
                    yield frame
            except av.FFmpegError as error:
                if isinstance(error, EOFError):
                    return
                if isinstance(error, MemoryError):
                    raise InputError(f"{self.path}: too large for this machine's memory") from error
                if count:  # before the first whole frame there may be parts of those that were cut off
                    raise InputError(
                        f"{self.path}: cannot be decoded after frame {count}: {error.strerror or error}; "
                        "it is truncated or damaged"
                    ) from error
                if not isinstance(error, ValueError):
                    raise InputError(f"{self.path}: cannot be decoded: {error.strerror or error}") from error

    def _upright(self, frame: Any) -> np.ndarray:
        name = frame.format.name
        if name.startswith("gray") and frame.format.components[0].bits > 8:
            pixels = frame.to_ndarray()
            if pixels.dtype != np.uint16:
                raise InputError(f"{self.path}: {name} frames are not supported; convert them to gray16le")
        elif self._color and not name.startswith(("gray", "ya", "mono")):
            pixels = frame.to_ndarray(format="rgb24", src_colorspace=_MATRICES[_matrix(frame)], interpolation=_EXACT)
        elif name == "gray":
            pixels = frame.to_ndarray()
        else:
            pixels = frame.to_ndarray(format="gray", interpolation=_EXACT, dst_color_range=2)  # 0…255
        turns = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 else pixels

    def _declared(self, container: Any, stream: Any) -> Fraction:
        """Seconds from the first frame on that the header promises; 0 where it does not say."""
        if stream.duration and stream.start_time is not None:
            return stream.duration * stream.time_base
        end = Fraction(0)
        if container.duration and len(container.streams) == 1:
            end = Fraction(container.duration, 10**6)
        else:
            with suppress(KeyError, ValueError):  # Matroska: 00:01:02.345000000
                hours, minutes, seconds = stream.metadata["DURATION"].split(":")
                end = 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
        # Matroska says when it ends: a recording's segment begins where the one before ended, others after their sound.
        return max(end - self._start, Fraction(0))


class VideoWriter:
    """Write frames (uint8, H×W or H×W×3 RGB, all of one size) as H.264 to ``path``, in the container of its ending.

    Chroma is 4:2:0, which every player supports, or 4:4:4 where a side is odd, which 4:2:0 cannot hold. Times are kept,
    except in AVI, which has a constant rate. Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, look: Look, size: tuple[int, int]) -> None:
        av = pyav()
        self._counts = path.suffix.lower() == ".avi"
        self._base = 1 / look.rate if self._counts else look.time_base
        self._pts = -1
        height, width = size
        self._matrix = _of_size(height) if look.matrix not in _MATRICES else look.matrix
        options = {"fflags": "+bitexact"}  # no random identifiers: same frames, same bytes
        if path.suffix.lower() in (".mp4", ".mov"):
            options["movflags"] = "+faststart"
        try:
            self._container = av.open(f"file:{path}", "w", format=WRITES[path.suffix.lower()], options=options)
            rate = look.rate.limit_denominator(100_000)
            self._stream = self._container.add_stream("libx264", rate=rate, options=dict(X264))
        except av.FFmpegError as error:
            raise _as_os_error(error) from error
        context = self._stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = "yuv444p" if odd(size) else "yuv420p"
        context.time_base = self._base
        context.thread_count = X264_THREADS
        context.color_range, context.colorspace = _LIMITED, self._matrix
        context.color_primaries, context.color_trc = look.primaries, look.transfer
        if self._counts:
            context.max_b_frames = 0  # AVI stores no times by which to order them
        if look.aspect:
            context.sample_aspect_ratio = look.aspect

    def write(self, time: Fraction, pixels: np.ndarray) -> None:
        """Append a frame. time: in seconds, later than that of the one before."""
        av = pyav()
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.ndim == 3 else "gray")
        frame = frame.reformat(
            format=self._stream.codec_context.pix_fmt,
            dst_colorspace=_MATRICES[self._matrix],
            dst_color_range=_LIMITED,
            interpolation=_EXACT,
        )
        self._pts = max(self._pts + 1, 0 if self._counts else round(time / self._base))
        frame.pts, frame.time_base = self._pts, self._base
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise _as_os_error(error) from error

    def close(self) -> None:
        """Finish the file."""
        av = pyav()
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except av.FFmpegError as error:
            raise _as_os_error(error) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(pyav().FFmpegError):
                self._container.close()


def odd(size: tuple[int, int]) -> bool:
    """Whether 4:2:0 cannot hold frames of this size."""
    return bool(size[0] % 2 or size[1] % 2)


def _exactly(rational: Any) -> Fraction:
    """A Fraction from any rational, also from the type of its own that PyAV has from 19 on."""
    return Fraction(rational.numerator, rational.denominator)


def _is_mp4(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(8)[4:] == b"ftyp"
    return False


def _matrix(frame: Any) -> int:
    number = int(frame.colorspace)
    return number if number in _MATRICES else _of_size(min(frame.height, frame.width))


def _of_size(lines: int) -> int:
    return _BT709 if lines >= _HD_LINES else _BT601


def _as_os_error(error: Any) -> OSError:
    """An OSError with the system's own errno, as `images.atomic.replacing` expects it."""
    number = error.errno or 0
    return OSError(number, os.strerror(number) if 0 < number < 200 else error.strerror or str(error))


def pyav() -> Any:
    """The library. Raises UsageError where it is missing."""
    return need("av", "videos need PyAV", "fusecli[video]")
