"""Read and write TIFF: with tifffile, and with OpenCV for compressions that need imagecodecs in tifffile."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from tifffile import EXTRASAMPLE, PHOTOMETRIC, TIFF

from fusecli.images import exif
from fusecli.images.headers import TRUNCATED, Unreadable, too_large
from fusecli.images.metadata import Metadata, Tag, from_tiff, into_tiff
from fusecli.images.opencv import cv2

log = logging.getLogger("fusecli")
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of its remarks becomes an error below

_PRIVATE = 32768  # tags from here on are private, and not checked
_PHOTOMETRIC = 262  # tag: what values stand for
_NODATA = 42113  # GDAL's tag: the value, as text, of pixels without data
_UNREAD: dict[int, str] = {  # what pixels of other kinds are
    **dict.fromkeys((PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB), "L*a*b* colours"),
    PHOTOMETRIC.CFA: "a camera's raw values (CFA)",
    PHOTOMETRIC.LINEAR_RAW: "a camera's raw values (LinearRaw)",
    PHOTOMETRIC.LOGL: "logarithms of luminance (LogL)",
    PHOTOMETRIC.LOGLUV: "logarithms of luminance (LogLuv)",
}
_LIBTIFFS = {*range(1, 9), 32773, 32946, 34887, 34925, 50000, 50001}  # compressions that OpenCV's libtiff knows


def peek(path: Path) -> tuple[int, int, int, np.dtype, bool]:
    """(pages, height, width, sample type, whether in colour), the first page's, upright. Raises Unreadable."""
    with _open(path) as (_, pages):
        first = pages[0]
        size = first.imagelength, first.imagewidth
        height, width = size[::-1] if _orientation(first) >= exif.SIDEWAYS else size
        color = first.samplesperpixel > 2 or first.photometric == PHOTOMETRIC.PALETTE
        return len(pages), height, width, np.dtype(first.dtype or np.uint8), color


def place(path: Path) -> tuple[tuple[Tag, ...], int, int]:
    """(the first page's map tags, height, width), upright. Raises Unreadable."""
    with _open(path) as (file, pages):
        return _metadata(file, pages[0]).geo, int(pages[0].imagelength), int(pages[0].imagewidth)


def read(path: Path, pages: Sequence[int] | None, max_pixels: int) -> tuple[list[np.ndarray], list[Metadata]]:
    """Stored values, H×W or H×W×3 RGB, and metadata of each page (or of ``pages``).

    Alpha is dropped, palettes are expanded, white-is-zero is inverted; thumbnails and masks do not count as pages.
    Pixels with the value of GDAL_NODATA become NaN, or in integers the least other value; the metadata tell which.
    Raises Unreadable with the reason.
    """
    with _open(path) as (file, images):
        wanted = range(len(images)) if pages is None else [index for index in pages if index < len(images)]
        total = sum(images[index].imagelength * images[index].imagewidth for index in wanted)
        if total > max_pixels:
            raise Unreadable(too_large(total, "pixels", max_pixels))
        arrays, metadata = [], []
        masks = _masks(file) if any(_is_map(images[index]) for index in wanted) else {}
        for index in wanted:
            page = images[index]
            _check(file, page)
            array, alpha = _with_tifffile(page)
            # OpenCV applies the orientation of a TIFF by itself when it decodes from memory.
            array = _with_opencv(path, page) if array is None else exif.upright(array, _orientation(page))
            if array.ndim < 2 or sorted(array.shape[:2]) != sorted((page.imagelength, page.imagewidth)):
                raise Unreadable("the TIFF page is damaged: its data do not fill it")
            nodata = _nodata(page, array.dtype)
            missing = _missing(array, nodata)
            arrays.append(array if nodata is None or missing is None else _without(array, missing))
            if _is_map(page):
                nodata = np.nan if nodata is None and missing is not None else nodata
                hidden = _hidden(page, alpha, masks.get(page.offset))
                if hidden is not None:  # its pixels are kept as they are: what is transparent may still show the scene
                    missing, nodata = hidden if missing is None else hidden | missing, 0.0 if nodata is None else nodata
            metadata.append(replace(_metadata(file, page), missing=missing, nodata=nodata))
        return arrays, metadata


def encode(pages: Sequence[np.ndarray], metadata: Sequence[Metadata], *, compress: bool) -> bytes:
    """A TIFF of uint8, uint16 or float32 pages, H×W or H×W×3; deflate, with predictor for integers, if ``compress``.

    metadata: of each page, fitted.
    """
    buffer = BytesIO()
    big = sum(page.nbytes for page in pages) > 2**32 - 2**25
    with tifffile.TiffWriter(buffer, bigtiff=big, byteorder="<") as file:
        for page, its in zip(pages, metadata, strict=True):
            handle = file.filehandle
            handle.write(bytes(handle.tell() % 2))
            directories, tags = into_tiff(replace(its, exif=b"") if big else its, handle.tell())
            if its.missing is not None and its.nodata is not None:
                page, nodata = _with_nodata(page, its.missing, its.nodata)
                text = f"{nodata:.17g}\0".encode()
                tags.append((_NODATA, 2, len(text), text, True))
            handle.write(directories)  # in front of the page, whose tags point there
            file.write(
                page,
                photometric="rgb" if page.ndim == 3 else "minisblack",
                compression="zlib" if compress else None,
                predictor=True if compress and page.dtype.kind == "u" else None,
                metadata=None,
                software="fusecli",
                resolution=its.dpi,
                extratags=tags,
            )
    return buffer.getvalue()  # not a view, with which Python 3.12.1 crashes where it outlives an error


@contextmanager
def _open(path: Path) -> Iterator[tuple[tifffile.TiffFile, list[tifffile.TiffPage]]]:
    """The file and those of its pages that are images."""
    try:
        with tifffile.TiffFile(path) as file:
            pages = list(_in_turn(file.pages))
            pages = [page for page in pages if not page.subfiletype & 0b101] or pages  # bit 0: thumbnail, bit 2: mask
            if not pages:
                raise Unreadable(TRUNCATED)
            _check_stack(file, pages)
            yield file, pages
    except (Unreadable, OSError, MemoryError):
        raise
    except Exception as error:  # on damaged tags tifffile raises anything
        raise Unreadable(f"the TIFF is damaged or cut off ({error})") from error


def _in_turn(pages: tifffile.TiffPages) -> Iterator[tifffile.TiffPage]:
    """Each page once. A damaged file may name an earlier page as the next one, and tifffile would go round for ever."""
    seen = set()
    for page in pages:
        if page.offset in seen:
            raise Unreadable("the TIFF is damaged: its pages go round in a circle")
        seen.add(page.offset)
        whole = page.aspage()
        if _PHOTOMETRIC not in whole.tags:  # as GDAL and libtiff have it, while tifffile would take 0 for white
            whole.photometric = PHOTOMETRIC.RGB if whole.samplesperpixel > 2 else PHOTOMETRIC.MINISBLACK
        yield whole


def _check_stack(file: tifffile.TiffFile, pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse ImageJ's stacks of more than 4 GB: one page, whose pixels are followed by those of all other images."""
    images, page = (file.imagej_metadata or {}).get("images", 1), pages[0]
    if len(pages) > 1 or images <= page.samplesperpixel:
        return
    if page.dataoffsets[0] + images * sum(page.databytecounts) <= file.filehandle.size:  # else taken from a stack
        raise Unreadable(f"an ImageJ stack of {images} images in one page; save it as an image sequence")


def _check(file: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Refuse what would be decoded to something wrong: tags or data that are missing, or lie beyond the file's end.

    tifffile drops a tag whose value is missing, and takes its default: floats would be read as integers. Strips that
    were never written, as those of a program that was stopped, it makes black.
    """
    if page.imagelength < 1 or page.imagewidth < 1:
        raise Unreadable("the TIFF page has no pixels")
    if page.samplesperpixel > 4:
        raise Unreadable(
            f"the TIFF page has {page.samplesperpixel} samples per pixel; one to four are read: save those "
            "for red, green and blue alone, as with gdal_translate -b"
        )
    if page.dtype is not None and page.dtype.kind == "c":
        raise Unreadable("the TIFF holds complex numbers, which are no picture; save their magnitude")
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    empty = sum(start == 0 or (count == 0 and not page.is_contiguous) for start, count in parts)
    if empty and not _is_map(page):  # in which GDAL leaves out what has no data
        raise Unreadable(f"the TIFF page is damaged: {empty} of its {len(parts)} strips or tiles are empty")
    ends = [start + count for start, count in parts]
    counter, entry, inline = ("Q", "HHQQ", 8) if file.is_bigtiff else ("H", "HHII", 4)
    handle, order = file.filehandle, file.byteorder
    handle.seek(page.offset)
    (count,) = struct.unpack(order + counter, handle.read(struct.calcsize(order + counter)))
    table = handle.read(count * struct.calcsize(order + entry))
    for code, kind, number, offset in struct.iter_unpack(order + entry, table):
        size = number * struct.calcsize(TIFF.DATA_FORMATS.get(kind, ""))
        if size > inline and code < _PRIVATE:
            ends.append(offset + size)
    if max(ends, default=0) > handle.size:
        raise Unreadable(TRUNCATED)


def _is_map(page: tifffile.TiffPage) -> bool:
    return page.is_geotiff or page.is_gdal or _NODATA in page.tags


def _metadata(file: tifffile.TiffFile, page: tifffile.TiffPage) -> Metadata:
    def read(position: int, size: int) -> bytes:
        file.filehandle.seek(position)
        return file.filehandle.read(size)

    return from_tiff(read, file.byteorder, page.offset, file.is_bigtiff).turned(_orientation(page))


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(274, default=1)
    return value if value in range(1, 9) else 1


def _with_tifffile(page: tifffile.TiffPage) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The page's values, or None where OpenCV has to try; its alpha, if any."""
    alpha = None
    kind = page.photometric
    unread = _UNREAD.get(kind)
    if kind == PHOTOMETRIC.SEPARATED and page.bitspersample > 8:
        unread = f"CMYK colours of {page.bitspersample} bits"
    if unread:
        raise Unreadable(f"the TIFF holds {unread}, which are not read; save it as gray or RGB")
    if kind not in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE) and not (
        kind == PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.JPEG  # decoded to RGB
    ):
        return None, None
    if page.axes not in ("YX", "YXS", "SYX"):
        raise Unreadable(f"the TIFF page has axes {page.axes}; one plane, gray or RGB, is needed")
    try:
        array = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            array = np.moveaxis(array, 0, -1)
        if array.ndim == 3:
            if page.extrasamples and page.extrasamples[-1] in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA):
                alpha = array[..., -1]
            elif array.shape[2] in (2, 4) and page.extrasamples:  # OpenCV marks no alpha, nor anything else
                _tell_bands(array.shape[2])
            array = array[..., 0] if array.shape[2] < 3 else array[..., :3]
        if kind == PHOTOMETRIC.PALETTE:
            table = np.asarray(page.colormap)
            table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
            array = array.view(np.uint8) if array.dtype == bool else array  # numpy would select by booleans
            gray = (table == table[:1]).all()
            array = table[0][array] if gray else np.moveaxis(table[:, array], 0, -1)
        elif page.bitspersample < 8:
            array = array.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
    except Exception:  # a compression without its codec, or damaged data: OpenCV decides which
        return None, None
    if kind == PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
        array = array.dtype.type(2 ** max(8, page.bitspersample) - 1) - array  # fewer than 8 were scaled to 8 above
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)), alpha


@cache
def _tell_bands(bands: int) -> None:
    """Once for each number, as all files of a sequence have it."""
    log.warning(
        "TIFF with %d bands, none of them marked as alpha: the first %s; to use others, save them alone, as with "
        "gdal_translate -b",
        *(bands, "is used" if bands == 2 else "three are taken for red, green and blue"),
    )


def _masks(file: tifffile.TiffFile) -> dict[int, tifffile.TiffPage]:
    """The masks of images, by these images' offsets: a mask follows its image, and has its size."""
    found: dict[int, tifffile.TiffPage] = {}
    image = None
    for page in _in_turn(file.pages):
        if not page.subfiletype & 0b101:
            image = page
        elif image is not None and page.subfiletype == 4 and page.shape == (image.imagelength, image.imagewidth):
            found.setdefault(image.offset, page)
    return found


def _hidden(page: tifffile.TiffPage, alpha: np.ndarray | None, mask: tifffile.TiffPage | None) -> np.ndarray | None:
    """H×W, where a map's alpha or mask says that nothing is; None where it does nowhere."""
    found = None
    if alpha is not None:
        found = alpha <= alpha.max() / 2  # lossy compression makes values beside 0
    elif mask is not None:
        with suppress(Exception):  # a compression without its codec, or damage: the picture is whole without
            found = mask.asarray(maxworkers=1) == 0
    if found is None or not found.any():
        return None
    return exif.upright(found, _orientation(page))


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> float | None:
    """The value, as pixels of ``dtype`` hold it, that GDAL_NODATA names; None without it, or of a palette's index."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        return None
    try:
        value = float(page.tags.valueof(_NODATA))
    except (TypeError, ValueError):
        return None
    if page.photometric == PHOTOMETRIC.MINISWHITE and dtype.kind == "u":
        value = 2**page.bitspersample - 1 - value  # inverted, as the values are by now
    # As GDAL has it: a value beyond the type, such as the lowest of 64 bits, is the type's own.
    if dtype.kind == "f" and not np.isinf(value):
        value = float(np.clip(value, np.finfo(dtype).min, np.finfo(dtype).max))
    return value


def _missing(array: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """H×W, which pixels have no data: the value ``nodata``, or NaN; None where all have."""
    is_float = array.dtype.kind == "f"
    if nodata is None and not is_float:
        return None
    value = np.nan if nodata is None else nodata
    found = np.ones(array.shape[:2], bool)
    for plane in [array] if array.ndim == 2 else np.moveaxis(array, -1, 0):  # one by one, which takes less memory
        found &= (plane == value) | np.isnan(plane) if is_float else plane == value
    return found if found.any() else None


def _without(array: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Replace pixels without data, at the edges of maps: they would stretch the intensity range, which 8 bits lack."""
    if array.itemsize == 1 or (missing.all() and array.dtype.kind != "f"):
        return array
    array = array.copy()
    array[missing] = np.nan if array.dtype.kind == "f" else array[~missing].min()
    return array


def _with_nodata(page: np.ndarray, missing: np.ndarray, nodata: float) -> tuple[np.ndarray, float]:
    """A result whose missing pixels, and no others, have the value ``nodata``, or the like that its type has, or 0."""
    dtype = page.dtype
    if dtype.kind == "f":
        value = dtype.type(np.clip(nodata, np.finfo(dtype).min, np.finfo(dtype).max))
        beside = np.nextafter(value, dtype.type(0.5))
    else:
        value = dtype.type(nodata if nodata.is_integer() and 0 <= nodata <= np.iinfo(dtype).max else 0)
        beside = value - 1 if value else value + 1
    page = page.copy()
    for row in page:  # a map's comparison at once would take as much memory as it does
        row[row == value] = beside
    page[missing] = value
    return page, float(value)


def _with_opencv(path: Path, page: tifffile.TiffPage) -> np.ndarray:
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    done = False
    arrays: Sequence[np.ndarray] = ()
    if _is_for_opencv(page):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        with suppress(cv2.error):
            done, arrays = cv2.imdecodemulti(data, flags, range=(page.index, page.index + 1))
    if not done or not arrays:
        kind, how = (getattr(tag, "name", str(tag)) for tag in (page.photometric, page.compression))
        raise Unreadable(
            f"the TIFF page cannot be decoded ({kind}, compression {how}, {page.bitspersample} bits): "
            "it is damaged, or needs more codecs: pip install 'fusecli[tiff]'"
        )
    array = arrays[0]
    if page.bitspersample in (10, 12, 14):  # OpenCV scales these to 16
        array = array >> (16 - page.bitspersample)
    if page.photometric == PHOTOMETRIC.MINISWHITE and array.dtype == np.uint16:  # OpenCV inverts 8 bits alone
        array = np.uint16(2**page.bitspersample - 1) - array
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if array.ndim == 3 else array


def _is_for_opencv(page: tifffile.TiffPage) -> bool:
    """Whether OpenCV decodes such a page correctly; others silently become black, noise or values of fewer bits."""
    several, eight_bit = page.samplesperpixel > 1, page.bitspersample == 8
    planes = several and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    if page.compression not in _LIBTIFFS or (planes and not eight_bit):
        return False
    gray = page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
    return not (several and gray) or (page.samplesperpixel == 2 and eight_bit and not (planes or page.is_tiled))
