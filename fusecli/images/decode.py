"""Decode a file to its stored values: H×W or H×W×3 RGB, upright, in its own sample type, before any intensity range."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusecli.errors import InputError, UsageError
from fusecli.images import exif, headers
from fusecli.images.headers import Unreadable
from fusecli.images.metadata import Metadata
from fusecli.images.opencv import cv2
from fusecli.machine import cores

MANY_CORES = 4  # with at least as many OpenCV is faster: kornia holds the GIL, so that its threads wait for one another
kornia: Any = None
if cores() < MANY_CORES:
    with suppress(ImportError):
        import kornia_rs.io as kornia  # decodes gray and RGB PNG about three times as fast as OpenCV, identically

_PALETTE = 3  # colour type of PNG

MAX_PIXELS = 2**29  # of all pages of a file together: 1.6 GB as 8-bit colour


@dataclass(frozen=True)
class Stored:
    """What a file holds. pages: its pages, or those asked for. metadata: of each of these."""

    pages: list[np.ndarray]
    metadata: list[Metadata]


@dataclass(frozen=True)
class Peek:
    """Number of pages of a file, and of its first page: upright size, sample type, whether it may be in colour.

    radiometric: see `headers.Header`.
    """

    pages: int
    height: int
    width: int
    dtype: np.dtype
    color: bool
    radiometric: bool = False


def pixel_limit(asked: int | None) -> int:
    """The limit on pixels per file: as ``asked``, else of FUSECLI_MAX_PIXELS, else MAX_PIXELS. Raises UsageError."""
    if asked is not None:
        return asked
    value = os.environ.get("FUSECLI_MAX_PIXELS")
    try:
        return int(float(value)) if value else MAX_PIXELS
    except (ValueError, OverflowError):
        raise UsageError(f"FUSECLI_MAX_PIXELS={value}: expected a number of pixels, such as 1e9") from None


def decode(path: Path, *, pages: Sequence[int] | None = None, max_pixels: int | None = None) -> Stored:
    """Stored values of every page, or of ``pages`` only. InputError names the file and the reason."""
    limit = pixel_limit(max_pixels)
    try:
        with path.open("rb") as file:
            if headers.kind_of(file.read(132)) == "TIFF":
                from fusecli.images import tiff

                return Stored(*tiff.read(path, pages, limit))
            file.seek(0)
            data = file.read()
        array, found = _decode_still(data, limit)
        wanted = pages is None or 0 in pages
        return Stored([array], [found]) if wanted else Stored([], [])
    except Unreadable as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        raise InputError(f"{path}: too large for this machine's memory") from error


def peek(path: Path) -> Peek | None:
    """What the header says; None where the file is no whole image."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
            if headers.kind_of(head) == "TIFF":
                from fusecli.images import tiff

                return Peek(*tiff.peek(path))
            header = headers.parse(head + file.read())  # not mmap: a file that shrinks would kill the process
            dtype = np.dtype(np.uint16 if header.bits == 16 else np.uint8)
            return Peek(1, *header.size, dtype, not header.gray, header.radiometric)
    except (Unreadable, OSError, ValueError):
        return None


def _decode_still(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    header = headers.parse(data)
    if header.height < 1 or header.width < 1:
        raise Unreadable("the image has no pixels")
    if header.height * header.width > max_pixels:
        raise Unreadable(headers.too_large(header.height * header.width, "pixels", max_pixels))
    array = _decode_plain_png(data, header) if header.kind == "PNG" and kornia is not None else None
    array = _decode_any(data, header) if array is None else array
    return exif.upright(array, header.orientation), header.metadata.turned(header.orientation)


def _decode_plain_png(data: bytes, header: headers.Header) -> np.ndarray | None:
    """H×W or H×W×3 RGB; None where the PNG is damaged, or has alpha, a palette or fewer than 8 bits."""
    if data[25] == _PALETTE:  # kornia would return the indices of a gray palette as values
        return None
    read = kornia.decode_image_png_u16 if header.bits == 16 else kornia.decode_image_png_u8
    try:
        array = read(data, (header.height, header.width), "mono" if header.gray else "rgb")
    except Exception:  # kornia has no exception type of its own; OpenCV decides whether the file is damaged
        return None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # from Rust, not an Exception: out of memory
            raise MemoryError from error
        raise
    return array[..., 0] if header.gray else array


def _decode_any(data: bytes, header: headers.Header) -> np.ndarray:
    # Gray stays gray, 16 bits stay 16, alpha is dropped, palettes are expanded.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    if header.kind == "PNM":
        data += b"\n"  # OpenCV reads past the last number of a file in text form
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        array = None
    if array is None or array.shape[:2] != (header.height, header.width):
        raise Unreadable(f"the {header.kind} cannot be decoded: it is damaged, or of a variety that OpenCV lacks")
    if header.white < 255:
        scale = np.rint(np.arange(256) * 255 / header.white).clip(max=255).astype(np.uint8)
        array = scale[array]
    if array.ndim == 3:
        array = np.ascontiguousarray(array[..., 0]) if header.gray else cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
    return array
