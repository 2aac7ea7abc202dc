"""Intensity ranges: which stored values become black and white. One range per sequence, so that video does not flicker.

Percentiles interpolate linearly between order statistics of the finite values.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from fusecli.errors import InputError, UsageError
from fusecli.images.colour import warn_of_colored
from fusecli.images.decode import decode, peek
from fusecli.images.metadata import Metadata
from fusecli.images.opencv import cv2

log = logging.getLogger("fusecli")

T = TypeVar("T")

# Less is cut off at the hot end than at the cold one: people are few pixels of few frames. Over 40 frames of MSRS, the
# 99.5th percentile would cut off the top quarter of the scale, the 99.9th a tenth; dead pixels are even fewer.
PERCENTILES = (0.5, 99.9)
# A bounded sample, evenly spaced in time and in space, decides for a sequence of any length.
SAMPLE_FRAMES = 64
SAMPLE_PIXELS = 2**16
SLIVER = 0.02  # share of the common range: a frame that covers less of it is shown as almost constant
# A frame is mere noise if averages of so many pixels a side keep less than this share of its variance: of white noise
# they keep 0.016, of scenes 0.7 and more. It then becomes black, and white what is so many times its width above it.
# But if an average lies so many times white noise's spread of averages from the mean (which reaches 6), something faint
# is there, such as a person in fog, that would become black, too.
AVERAGED, STRUCTURE, QUIET, LONE = 8, 0.04, 2, 14
DARK = 1 / 16  # share of the scale: below it a visible pixel is nearly black
CAMERAS = (8, 10, 12, 14)  # bit depths of cameras whose frames are stored in 16 bits
_OF_FEWER_BITS = "%s: values up to %d in %d bits are taken for samples of %d bits"
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Range:
    """The stored values that become 0 and 1, in this order: of black-hot infrared the first is the higher one.

    eight_bit: whether 8-bit frames are mapped too, or kept as they are.
    """

    lo: float
    hi: float
    eight_bit: bool = True

    @classmethod
    def of_bits(cls, bits: int) -> Range:
        """All values of so many bits; frames of 8 are kept as they are."""
        return cls(0, 2**bits - 1, eight_bit=False)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Stored values of any type -> float32 in [0, 1], same shape. NaN becomes 0; infinities lie beyond the ends.

        Where lo == hi (a constant sequence) values up to it become 0 and values above it 1.
        """
        span = self.hi - self.lo
        exact_in_float32 = array.dtype.itemsize <= (4 if array.dtype.kind == "f" else 2)
        values = array.astype(np.float32 if exact_in_float32 else np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(values, values.dtype.type(self.lo), out=values)
            np.multiply(values, values.dtype.type(1 / (span if abs(span) > _TINY else _TINY)), out=values)
        np.clip(values, 0, 1, out=values)
        if array.dtype.kind == "f":
            np.nan_to_num(values, copy=False, nan=0.0)
        return values.astype(np.float32, copy=False)

    def apply_uint8(self, array: np.ndarray) -> np.ndarray:
        """uint8 values -> uint8, where 0…255 stands for 0…1."""
        table = np.rint(self.apply(np.arange(256, dtype=np.uint8)) * np.float32(255)).astype(np.uint8)
        return table[array]

    def invert(self, array: np.ndarray) -> np.ndarray:
        """float32 in [0, 1] -> float32 on the stored scale."""
        return array * np.float32(self.hi - self.lo) + np.float32(self.lo)


WHOLE = Range.of_bits(16)
Intensity = Range | str | None  # what a frame is read with: a range, "frame", "full", or None (all that its type holds)


def pair_ranges(
    firsts: Sequence[Path],
    seconds: Sequence[Path],
    *,
    infrared: bool,
    option: str = "auto",
    max_pixels: int | None = None,
) -> tuple[Intensity, Intensity]:
    """The ``intensity`` that ``frames.read`` takes for each side of a sequence of pairs.

    infrared: whether the seconds are infrared and ``option`` applies to them (see `sequence_range`), with a warning
    where they are no measurement; else they are treated like the firsts.
    """
    if infrared:
        warn_of_previews(seconds)
        warn_of_colored(colored(seconds, max_pixels))
    second = sequence_range(option, seconds, max_pixels) if infrared else visible_range(seconds, max_pixels)
    first = visible_range(firsts, max_pixels)
    if infrared:
        _warn_of_dark(first, firsts, max_pixels)
    return first, second


def sequence_range(option: str, paths: Sequence[Path], max_pixels: int | None = None) -> Intensity:
    """The range of ``--range`` for a whole sequence, as ``frames.read`` takes it.

    auto: the 0.5th and 99.9th percentile of an evenly spaced sample; None (unchanged) where all frames have 8 bits.
    LO,HI: these values, for 8-bit frames too; the higher one first where black is hot. frame, full: the word itself.
    The result depends on ``paths`` and their order: pass the whole sequence, even when some frames are skipped. Files
    that cannot be read are ignored here; reading them later fails with their name. Raises UsageError for other options.
    """
    option = option.strip()
    if option in ("frame", "full"):
        return option
    if option != "auto":
        given = _parse(option)
        _check_that_it_holds(given, option, paths, max_pixels)
        return given
    sample, types = _sample(paths, max_pixels, _finite_sample)
    found = _common_range(f"{paths[0]} …", [values for _, values in sample]) if sample else None
    misfit = _misfit(sample, types, found)
    if misfit:
        log.warning(
            "%s; one range does not suit both: put them in separate folders, or fuse with --range frame, one for each",
            misfit,
        )
    return found


def warn_that_kept(found: Range, frames: str, source: str = "") -> None:
    """Warn that the range of a sequence was found in its first ``frames`` and stays, since the rest was not there."""
    log.warning(
        "%s--range auto took %g,%g from the start (%s) and keeps it; --range LO,HI settles it",
        *(source and f"{source}: ", found.lo, found.hi, frames),
    )


def range_of(name: str, pages: Iterable[np.ndarray]) -> Range | None:
    """The range that auto gives for these stored frames; None where they have 8 bits or no finite value."""
    parts = [_finite_sample(page) for page in pages if page.dtype != np.uint8]
    parts = [values for values in parts if _varies(values)] or parts  # as `_sample` does for files
    return _common_range(name, parts) if any(values.size for values in parts) else None


def visible_range(paths: Sequence[Path], max_pixels: int | None = None, known: Range | None = None) -> Range | None:
    """The range of a sequence, from a sample of its frames; None for 8 bits, and for floats in [0, 1].

    For other floats it is their extremes; for integers that a camera of 8 to 14 bits may have made, all values of so
    many bits; for other uint16 the whole type; for other integers, such as CT in int16, their extremes.
    known: the range of earlier frames of the sequence, which is kept or widened.
    """
    filled = known is not None and known.hi >= WHOLE.hi
    sample, _ = _sample(paths, max_pixels, _extremes, enough=0 if filled else 2 ** max(CAMERAS))
    floats = [values for _, values in sample if values.dtype.kind == "f"]
    extremes = floats or [values for _, values in sample]
    if not extremes:
        return known
    lo, hi = min(float(values[0]) for values in extremes), max(float(values[1]) for values in extremes)
    types = {values.dtype for values in extremes}
    if (floats and lo >= 0 and hi <= 1) or (types == {np.dtype(np.uint16)} and hi == 0):
        return known
    bits = 0 if floats or lo < 0 else _camera_bits(hi, types)
    found = Range.of_bits(bits) if bits else Range(lo, hi, eight_bit=False)
    if known is not None:
        found = Range(min(found.lo, known.lo), max(found.hi, known.hi), eight_bit=False)
    if bits and found != (known or WHOLE):
        log.warning(
            _OF_FEWER_BITS + "%s; results fill all 16",
            *(f"{paths[0]} …", hi, 8 * extremes[0].itemsize, bits, " from here on" if known else ""),
        )
    elif not (bits or known):
        log.warning(
            "%s …: the extremes of its %s samples, %.10g and %.10g, become black and white%s",
            *(paths[0], extremes[0].dtype, lo, hi, ", in results of floats 0 and 1" if floats else ""),
        )
    return found


def camera_range(name: str, pages: Iterable[np.ndarray]) -> Range:
    """The range that `visible_range` would give for these uint16 frames, a sample of a video's."""
    highest = max((int(page.max()) for page in pages), default=0)
    bits = _camera_bits(highest, {np.dtype(np.uint16)}) if highest else 16
    if bits < 16:
        log.warning(_OF_FEWER_BITS, name, highest, 16, bits)
    return Range.of_bits(bits)


def _camera_bits(highest: float, types: set[np.dtype]) -> int:
    """Bit depth of the camera that made integers of these types, none negative; 0 where no camera has so many bits."""
    fitting = (bits for bits in CAMERAS if highest < 2**bits)
    return next(fitting, 16 if types == {np.dtype(np.uint16)} else 0)


def full_range(array: np.ndarray) -> Range:
    """All that the type can hold; for floats [0, 1] if the values keep to it, else their own extremes."""
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        return Range(float(limits.min), float(limits.max))
    finite = _finite(array)
    if finite.size == 0 or (finite.min() >= 0 and finite.max() <= 1):
        return Range(0.0, 1.0)
    return Range(float(finite.min()), float(finite.max()))


def frame_range(array: np.ndarray, missing: np.ndarray | None = None) -> Range:
    """Percentiles of one frame alone; of more than 8 bits, without values that mark missing or saturated pixels.

    Mere noise, as of a closed shutter, becomes black: stretched over the whole range it would cover the visible.
    missing: H×W, which pixels have no data.
    """
    sample = _finite_sample(_there(array, missing))
    if sample.size == 0:
        return full_range(array)
    found = _percentile_range(sample)
    apart = None if array.dtype == np.uint8 else set_apart(sample, found)
    found = found if apart is None else apart.others
    if _is_noise(found.apply(array)):
        return Range(found.hi, found.hi + QUIET * (found.hi - found.lo), found.eight_bit)
    return found


def _is_noise(frame: np.ndarray) -> bool:
    """Whether a gray frame, in [0, 1], shows nothing but noise."""
    height, width = (side // AVERAGED for side in frame.shape[:2])
    if frame.ndim == 3 or min(height, width) < AVERAGED:
        return False
    whole = frame[: height * AVERAGED, : width * AVERAGED]
    averages = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    spread = float(cv2.meanStdDev(whole)[1].item())
    if averages.var() >= STRUCTURE * spread**2:
        return False
    wherever = cv2.blur(whole, (AVERAGED, AVERAGED))  # else who walks would flicker, split between averages by turns
    return bool(np.abs(wherever - averages.mean()).max() < LONE / AVERAGED * spread)


def _percentile_range(
    sample: np.ndarray, percentiles: tuple[float, float] = PERCENTILES, *, eight_bit: bool = True
) -> Range:
    lo, hi = np.percentile(sample, percentiles)
    return Range(float(lo), float(hi), eight_bit)


class Apart(NamedTuple):
    """A value that apparently marks missing or saturated pixels, its share of all, and the range of the others."""

    value: float
    share: float
    others: Range


def set_apart(sample: np.ndarray, found: Range, percentiles: tuple[float, float] = PERCENTILES) -> Apart | None:
    """The value, if any, such as −9999, or 0 around warped frames in kelvin, or 65535.

    That is: many pixels of one value that lies farther from all others than these differ among themselves.
    found: the range between the ``percentiles`` of the sample.
    """
    for end, reached in ((sample.min(), found.lo), (sample.max(), found.hi)):
        rest = sample[sample != end] if reached == end else sample[:0]
        if not rest.size:
            continue
        others = _percentile_range(rest, percentiles, eight_bit=False)
        if max(others.lo - float(end), float(end) - others.hi) > others.hi - others.lo > 0:
            return Apart(float(end), 1 - rest.size / sample.size, others)
    return None


def _common_range(name: str, parts: Sequence[np.ndarray]) -> Range:
    """Percentiles of all parts together, without a value that apparently marks missing or saturated pixels."""
    sample = np.concatenate(parts)
    found = _percentile_range(sample, eight_bit=False)
    apart = set_apart(sample, found)
    if apart is None:
        return found
    value, share, others = apart
    above = value > others.hi
    log.warning(
        "%s: %.2g %% of the infrared is %.10g, far %s the rest (%.10g to %.10g), which is taken for missing%s values "
        "and left out of the intensity range; to settle it, fuse with --range LO,HI",
        *(name, 100 * share, value, "above" if above else "below", others.lo, others.hi),
        " or saturated" if above else "",
    )
    return others


def _parse(option: str) -> Range:
    try:
        lo, hi = (float(part) for part in option.split(","))
    except ValueError:
        raise UsageError(
            f"--range {option}: expected auto, frame, full or two numbers LO,HI such as 7000,9500"
        ) from None
    if not (math.isfinite(lo) and math.isfinite(hi) and lo != hi):
        raise UsageError(f"--range {option}: LO and HI must differ, and both be finite")
    return Range(lo, hi)


def _sample(
    paths: Sequence[Path],
    max_pixels: int | None,
    take: Callable[[np.ndarray], np.ndarray],
    enough: float = math.inf,
) -> tuple[list[tuple[Path, np.ndarray]], dict[str, Path]]:
    """What ``take`` keeps of evenly spaced pages of more than 8 bits; every sample type found, with its first file.

    What has no data does not count. Constant pages, such as those of a starting camera or a map tile without data,
    count only if all pages are constant.
    enough: once a uint16 value reaches this, no further uint16 files are read, which saves time.
    """
    chosen = evenly(paths, SAMPLE_FRAMES)
    per_file = max(1, SAMPLE_FRAMES // max(1, len(chosen)))
    sample: list[tuple[Path, np.ndarray]] = []
    types: dict[str, Path] = {}
    filled = enough <= 0
    for path in chosen:
        header = peek(path)
        if header is None:
            continue
        types.setdefault(header.dtype.name, path)
        deep = header.dtype == np.uint16
        if header.dtype == np.uint8 or header.dtype.kind not in "iuf" or (deep and filled):
            continue
        try:
            stored = decode(path, pages=evenly(range(header.pages), per_file), max_pixels=max_pixels)
        except InputError as error:
            log.debug("left out of the intensity range: %s", error)
            continue
        parts = [
            take(_there(page, its.missing))
            for page, its in zip(stored.pages, stored.metadata, strict=True)
            if page.dtype.kind in "iuf" and page.dtype != np.uint8
        ]
        sample += [(path, values) for values in parts if values.size]
        filled = filled or (deep and any(values.max() >= enough for values in parts if _varies(values)))
    return [(path, values) for path, values in sample if _varies(values)] or sample, types


def _varies(values: np.ndarray) -> bool:
    return bool(values.size and values.min() < values.max())


def _misfit(sample: Sequence[tuple[Path, np.ndarray]], types: dict[str, Path], common: Range | None) -> str | None:
    """Which two files of a sequence do not go with one range, and why; None where all do."""
    if len(types) > 1:
        (one, path), (other, another) = list(types.items())[:2]
        return f"{path} holds {one} samples, {another} {other}"
    if common is None or common.lo == common.hi:
        return None
    own = [_percentile_range(values[:: values.size // 4096 + 1]) for _, values in sample]
    shares = [(min(each.hi, common.hi) - max(each.lo, common.lo)) / (common.hi - common.lo) for each in own]
    widest = int(np.argmax(shares))
    slivers = [index for index, share in enumerate(shares) if share < SLIVER and index != widest]
    apart = [index for index in slivers if own[index].hi < own[widest].lo or own[index].lo > own[widest].hi]
    if not apart and 4 * len(slivers) < len(sample):  # a few are normal: the camera's shutter, or a wall nearby
        return None
    shown = ((sample[index][0], own[index]) for index in ((apart or slivers)[0], widest))
    return ", ".join(f"{path} holds values from {each.lo:g} to {each.hi:g}" for path, each in shown)


def colored(paths: Sequence[Path], max_pixels: int | None = None) -> Iterator[tuple[Path, np.ndarray]]:
    """The first, middle and last file of a sequence with what it holds, unless the header says that it is gray."""
    for path in evenly(paths, 3):
        header = peek(path)
        if header is not None and header.color:
            with suppress(InputError):  # reading it will fail by name
                yield path, decode(path, pages=[0], max_pixels=max_pixels).pages[0]


def warn_of_previews(infrared: Sequence[Path]) -> None:
    """Warn, once, if one of three files of a sequence is the preview of measurements that are not read."""
    for path in evenly(infrared, 3):
        header = peek(path)
        if header is not None and header.radiometric:
            log.warning(
                "%s is a radiometric JPEG: only its preview is used, of 8 bits in the camera's own contrast; to fuse "
                "what the camera measured, export 16-bit TIFF with the maker's software",
                path,
            )
            return


def beyond(kept: Range, path: Path, max_pixels: int | None = None) -> str:
    """On which side of the range that auto found before most of a file lies, with its values; "" where it does not."""
    try:
        sample, _ = _first_page(path, max_pixels)
    except InputError:  # reading it will fail by name
        return ""
    if not sample.size or sample.dtype == np.uint8:  # which auto leaves as they are
        return ""
    apart = set_apart(sample, _percentile_range(sample))  # most, perhaps, as around warped frames
    if apart is not None:
        sample = sample[sample != apart.value]
    middle = float(np.median(sample))
    if kept.lo <= middle <= kept.hi:
        return ""
    side, extremes = "above" if middle > kept.hi else "below", f"{sample.min():g} to {sample.max():g}"
    return f"most of it lies {side} the range of {kept.lo:g} to {kept.hi:g}: its values go from {extremes}"


def _check_that_it_holds(given: Range, option: str, paths: Sequence[Path], max_pixels: int | None) -> None:
    """Warn where no value of three sampled frames lies in the given range, as when it is meant in other units."""
    seen = []
    for path in evenly(paths, 3):
        with suppress(InputError):  # reading it will fail by name
            values, _ = _first_page(path, max_pixels)
            seen += [(float(values.min()), float(values.max()))] if values.size else []
    low, high = sorted((given.lo, given.hi))
    if seen and all(hi <= low or lo >= high for lo, hi in seen):
        lo, hi = min(one for one, _ in seen), max(one for _, one in seen)
        log.warning("--range %s holds nothing of %s …: values there go from %g to %g", option, paths[0], lo, hi)


def _warn_of_dark(found: Range | None, visible: Sequence[Path], max_pixels: int | None) -> None:
    """Warn where each of three sampled maps of more than 8 bits is nearly black, as land is beside clouds.

    Not of cameras' frames, which are so by night, and in linear samples often by day.
    """
    middles = []
    for path in evenly(visible, 3):
        header = peek(path)
        if header is None or header.dtype == np.uint8 or path.suffix.lower() not in (".tif", ".tiff"):
            continue
        with suppress(InputError):  # reading it will fail by name
            values, its = _first_page(path, max_pixels)
            scale = found or full_range(values)
            lit = values[values > values.min()] if values.size else values  # the margins of a map are not
            middles += [(float(np.median(lit)), scale)] if lit.size and its.geo else []
    if middles and all(middle < scale.lo + DARK * (scale.hi - scale.lo) for middle, scale in middles):
        middle, scale = middles[0]
        log.warning(
            "%s …: half of its values lie below %.4g, on a scale from %.10g to %.10g: unless it is night there, "
            "results show too little of it; stretch it before, as with gdal_translate -scale",
            *(visible[0], middle, scale.lo, scale.hi),
        )


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` of the items, evenly spaced, with both ends."""
    if len(items) <= limit:
        return list(items)
    last = len(items) - 1
    return [items[round(step * last / max(1, limit - 1))] for step in range(limit)]


def _first_page(path: Path, max_pixels: int | None) -> tuple[np.ndarray, Metadata]:
    """A sample of what a file's first page has, and its metadata. Raises InputError."""
    stored = decode(path, pages=[0], max_pixels=max_pixels)
    return _finite_sample(_there(stored.pages[0], stored.metadata[0].missing)), stored.metadata[0]


def _there(array: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """What is not ``missing`` (H×W): all as it is, or the rest in one row."""
    return array if missing is None else array[~missing]


def _finite_sample(array: np.ndarray) -> np.ndarray:
    """Every k-th finite value, at most SAMPLE_PIXELS of them."""
    flat = array.reshape(-1)
    return _finite(flat[:: max(1, -(-flat.size // SAMPLE_PIXELS))])


def _extremes(array: np.ndarray) -> np.ndarray:
    """The least and the greatest finite value, over all pixels, as a lamp covers few; empty where none is finite."""
    finite = _finite(array)
    return np.array([finite.min(), finite.max()]) if finite.size else finite


def _finite(array: np.ndarray) -> np.ndarray:
    return array[np.isfinite(array)] if array.dtype.kind == "f" else array
