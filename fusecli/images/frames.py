"""Read PNG, TIFF, JPEG, BMP, WebP and PNM files into Frames, and write results in these formats."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusecli.errors import FusecliError
from fusecli.images import png
from fusecli.images.atomic import write_bytes
from fusecli.images.decode import decode
from fusecli.images.intensity import Intensity, Range, frame_range, full_range
from fusecli.images.metadata import NONE, Metadata, into_jpeg, into_png, into_webp
from fusecli.images.opencv import cv2

log = logging.getLogger("fusecli")

# What each ending can hold. A file's content decides how it is read, its ending how it is written.
WRITES: dict[str, tuple[str, ...]] = {
    ".png": ("uint8", "uint16"),
    ".tif": ("uint8", "uint16", "float32"),
    ".tiff": ("uint8", "uint16", "float32"),
    ".jpg": ("uint8",),
    ".jpeg": ("uint8",),
    ".bmp": ("uint8",),
    ".webp": ("uint8",),
    ".pgm": ("uint8", "uint16"),
    ".ppm": ("uint8", "uint16"),
    ".pnm": ("uint8", "uint16"),
}
ENDINGS: frozenset[str] = frozenset(WRITES)
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # longest side that the encoders take
_ADD = {".png": into_png, ".jpg": into_jpeg, ".jpeg": into_jpeg, ".webp": into_webp}


@dataclass
class Frame:
    """One image: H×W or H×W×3 (RGB, C-contiguous), as uint8 or as float32 in [0, 1].

    Eight-bit files stay uint8 (0…255 stands for 0…1) from reader to device: a quarter of the memory and of the bus.
    Every other sample type is float32 in [0, 1] once its intensity range is applied.
    dtype: the file's own sample type (uint8, uint16, float32 …).
    """

    pixels: np.ndarray
    dtype: np.dtype
    metadata: Metadata

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read(
    path: Path,
    *,
    intensity: Intensity = None,
    max_pixels: int | None = None,
    pages: Sequence[int] | None = None,
) -> list[Frame]:
    """One Frame per page, or per index in ``pages``; upright by EXIF, gray or RGB as the file has it.

    Alpha is dropped, not composited: transparent pixels still show the scene. Palettes become RGB, or gray where all
    their entries are gray. RGB with three equal channels stays RGB, so that a result keeps the file's layout.

    intensity: a Range; "frame" for each frame's own percentiles; "full" or None for all that the sample type holds
    (floats: [0, 1], or the frame's own extremes where values lie outside it).
    max_pixels: limit on the pixels of all pages asked for, checked before decoding.
        Default: FUSECLI_MAX_PIXELS, else 2**29.

    Raises InputError with file and reason: not an image, truncated, damaged, animated, too large, unreadable.
    """
    stored = decode(path, pages=pages, max_pixels=max_pixels)
    if any(array.dtype.kind == "f" and not np.isfinite(array).any() for array in stored.pages):
        log.warning("%s: holds no finite value, only NaN or missing data", path)
    return [
        Frame(shown(array, intensity, metadata.missing), array.dtype, metadata)
        for array, metadata in zip(stored.pages, stored.metadata, strict=True)
    ]


def write(
    path: Path, frames: Sequence[np.ndarray], *, compress: bool = False, metadata: Sequence[Metadata] | None = None
) -> None:
    """Write pages (uint8, uint16 or float32; H×W or H×W×3 RGB) in the format of the ending, whole or not at all.

    The file appears under its name only once it is complete; on any failure the temporary file is removed. Parent
    folders are made. Only TIFF holds several pages or floats; WRITES says what else fits. JPEG is quality 95 without
    chroma subsampling, WebP is lossless and has no gray. compress: smaller PNG and TIFF files, which take several times
    as long. metadata: that of each page's reference; what a result cannot take over is left out.

    Raises FusecliError with file and reason: a type that the format cannot hold; OutputError: full disk, no permission.
    """
    frames = [np.ascontiguousarray(frame) for frame in frames]
    ending = path.suffix.lower()
    holds = WRITES.get(ending)
    if holds is None:
        raise FusecliError(f"{path}: fusecli does not write {ending or 'files without an ending'}; {', '.join(WRITES)}")
    for frame in frames:
        if frame.dtype.name not in holds:
            raise FusecliError(f"{path}: {ending} cannot hold {frame.dtype.name} samples; write .tif instead")
        longest = max(frame.shape[:2])
        if longest > _LONGEST.get(ending, longest):
            raise FusecliError(
                f"{path}: {ending} holds at most {_LONGEST[ending]} pixels a side, not {longest}; write .png or .tif "
                "instead"
            )
    if len(frames) != 1 and ending not in (".tif", ".tiff"):
        raise FusecliError(f"{path}: {ending} holds one page, not {len(frames)}; write .tif instead")
    metadata = [
        each if each is NONE else each.fitted(frame.shape[0], frame.shape[1], frame.ndim == 3)
        for frame, each in zip(frames, metadata or [NONE] * len(frames), strict=True)
    ]
    write_bytes(path, _encode(path, frames, metadata, ending, compress))


def shown(array: np.ndarray, intensity: Intensity, missing: np.ndarray | None = None) -> np.ndarray:
    """Stored values as the network takes them: uint8, or float32 in [0, 1]. missing: H×W, where there are none."""
    if intensity == "frame":
        values = frame_range(array, missing)
    elif isinstance(intensity, Range) and (intensity.eight_bit or array.dtype != np.uint8):
        values = intensity
    elif intensity in (None, "full") or isinstance(intensity, Range):
        values = full_range(array)
    else:
        raise ValueError(f"intensity {intensity!r}: expected a Range, 'frame', 'full' or None")
    if array.dtype != np.uint8:
        return values.apply(array)
    return array if (values.lo, values.hi) == (0.0, 255.0) else values.apply_uint8(array)


def _fast_png() -> list[int]:
    """OpenCV options that halve the time of its own level 1 at the same size: gray and colour, 8 and 16 bits."""
    options = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older versions use this filter anyway where no level is given
        options += [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    return options


def _encode(
    path: Path, pages: list[np.ndarray], metadata: list[Metadata], ending: str, compress: bool
) -> bytes | memoryview:
    if ending in (".tif", ".tiff"):
        from fusecli.images import tiff

        return tiff.encode(pages, metadata, compress=compress)
    data = _encode_still(path, pages[0], ending, compress)
    if metadata[0] is NONE or ending not in _ADD:
        return data
    return _ADD[ending](data, metadata[0])


def _encode_still(path: Path, image: np.ndarray, ending: str, compress: bool) -> bytes | memoryview:
    color = image.ndim == 3
    if ending == ".png" and not compress and (data := png.encode(image)) is not None:
        return data
    if ending == ".png":
        options = [cv2.IMWRITE_PNG_COMPRESSION, 6] if compress else _fast_png()
    elif ending in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    elif ending == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100: lossless
    else:
        options = []
    if ending == ".ppm" and not color:  # a PPM holds colour only
        image, color = np.stack([image] * 3, -1), True
    try:
        done, array = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if color else image, options)
    except cv2.error as error:
        raise FusecliError(f"{path}: cannot be encoded: {error}") from error
    if not done:
        raise FusecliError(f"{path}: cannot be encoded as {ending}")
    return array.data
