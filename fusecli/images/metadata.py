"""What a result takes over from its reference besides pixels: EXIF, colour profile, XMP, resolution, map coordinates.

Encoders are given only pixels, so that the fastest one can be used; metadata is then inserted into the encoded bytes.
Metadata that is damaged, too large, or untrue of the result is left out, and never makes a result fail.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from fusecli.images import exif, png
from fusecli.images.opencv import cv2

JPEG_ICC = b"ICC_PROFILE\0"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP = b"XML:com.adobe.xmp\0"
PNG_COLORS = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32}  # chunks that say what values mean where no profile does; lengths

_SEGMENT = 65533  # bytes of a JPEG segment
_DPI = (0.1, 1e7)  # the plausible range, which every format can hold
_TURNED = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8]")

_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP, _ICC = 282, 283, 296, 700, 34675  # tags of TIFF
SCALE, TIES, TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735  # GeoTIFF
_RPC = 50844  # satellites': polynomials from the ground to pixels, scaled by the tag's first values
_GEO = (SCALE, TIES, TRANSFORMATION, _KEYS, 34736, 34737, _RPC)
RASTER_TYPE, POINT = 1025, 2  # GeoTIFF key: whether a pixel's coordinates mean its corner or (a point) its centre

Tag = tuple["int | str", int, int, bytes, bool]  # as `tifffile.TiffWriter.write` takes them


@dataclass(frozen=True)
class Metadata:
    """What a file holds besides pixels, as it is stored; `fitted` makes it true of a result.

    exif: a TIFF-shaped block. icc: a colour profile. xmp: a packet. dpi: pixels per inch, across and down.
    geo: tags that place the pixels on a map. colors: chunks of a PNG (see PNG_COLORS), which other formats lack.
    missing: H×W, which pixels have no data; None where all have. nodata: the value that stands for them in the file;
    None where none is named.
    """

    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    geo: tuple[Tag, ...] = ()
    colors: tuple[tuple[bytes, bytes], ...] = ()
    missing: np.ndarray | None = field(default=None, compare=False)
    nodata: float | None = None

    def turned(self, orientation: int) -> Metadata:
        """The same for pixels that were turned upright, EXIF orientation 1…8."""
        dpi = self.dpi[::-1] if self.dpi and orientation >= exif.SIDEWAYS else self.dpi
        return self if orientation == 1 else replace(self, dpi=dpi, geo=())

    def resized(self, before: tuple[int, int], after: tuple[int, int]) -> Metadata:
        """The same for a resized image. before, after: its height and width."""
        geo, missing = _regridded(self.geo, before[1] / after[1], before[0] / after[0]), self.missing
        if missing is not None:
            missing = cv2.resize(missing.view(np.uint8), after[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
        return replace(self, dpi=None, geo=geo, missing=missing)

    def fitted(self, height: int, width: int, color: bool) -> Metadata:
        """What is true of an upright result of that size, gray or RGB, and neither damaged nor too large."""
        return Metadata(
            exif.fitted(self.exif, height, width),
            _profile(self.icc, b"RGB " if color else b"GRAY"),
            _TURNED.sub(rb"\g<1>1", self.xmp) if len(self.xmp) <= exif.LIMIT else b"",
            self.dpi if self.dpi and all(_DPI[0] <= one <= _DPI[1] for one in self.dpi) else None,
            self.geo,
            self.colors,
            self.missing,
            self.nodata,
        )


NONE = Metadata()


def into_png(data: bytes | memoryview, metadata: Metadata) -> bytes | memoryview:
    """An encoded PNG with metadata added. Here and in the functions below ``metadata`` must be fitted."""
    chunks = b"".join(png.chunk(*each) for each in metadata.colors)
    if metadata.icc:
        chunks += png.chunk(b"iCCP", b"ICC profile\0\0" + _deflated(metadata.icc))
    if metadata.dpi:
        chunks += png.chunk(b"pHYs", struct.pack(">IIB", *(round(one / 0.0254) for one in metadata.dpi), 1))
    if metadata.exif:
        chunks += png.chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += png.chunk(b"iTXt", PNG_XMP + bytes(4) + metadata.xmp)
    return b"".join((data[:33], chunks, data[33:])) if chunks else data  # behind the header chunk


def into_jpeg(data: bytes | memoryview, metadata: Metadata) -> bytes | memoryview:
    """An encoded JPEG with metadata. EXIF and XMP that one segment cannot hold are left out."""
    size = _SEGMENT - len(JPEG_ICC) - 2
    pieces = [metadata.icc[start : start + size] for start in range(0, len(metadata.icc), size)]
    segments = _jpeg_segment(0xE1, exif.PREFIX, metadata.exif) + _jpeg_segment(0xE1, JPEG_XMP, metadata.xmp)
    for number, piece in enumerate(pieces, 1):
        segments += _jpeg_segment(0xE2, JPEG_ICC + bytes((number, len(pieces))), piece)
    density = bytes(data[13:18])  # in the JFIF segment, which comes first and ends at 20
    dpi = [round(one) for one in metadata.dpi or ()]
    if dpi and 1 <= min(dpi) <= max(dpi) < 2**16:
        density = struct.pack(">BHH", 1, *dpi)
    elif not segments:
        return data
    return b"".join((data[:13], density, data[18:20], segments, data[20:]))


def into_webp(data: bytes | memoryview, metadata: Metadata) -> bytes | memoryview:
    """An encoded lossless WebP with metadata. It has no gray, hence no profile of gray."""
    icc = metadata.icc if metadata.icc[16:20] == b"RGB " else b""
    flags = 0x20 * bool(icc) | 0x08 * bool(metadata.exif) | 0x04 * bool(metadata.xmp)
    if not flags:
        return data
    (packed,) = struct.unpack_from("<I", data, 21)
    size = packed & 0x3FFF | (packed >> 14 & 0x3FFF) << 24  # width − 1 and height − 1, of 14 bits in VP8L, 24 in VP8X
    head = _webp_chunk(b"VP8X", struct.pack("<I", flags) + size.to_bytes(6, "little")) + _webp_chunk(b"ICCP", icc)
    tail = _webp_chunk(b"EXIF", metadata.exif) + _webp_chunk(b"XMP ", metadata.xmp)
    total = len(head) + len(data) - 8 + len(tail)
    return b"".join((b"RIFF", struct.pack("<I", total), b"WEBP", head, data[12:], tail))


def into_tiff(metadata: Metadata, position: int) -> tuple[bytes, list[Tag]]:
    """Directories to be stored at ``position`` of a little-endian TIFF, and the tags of their page."""
    directories, tags = b"", list(metadata.geo)
    if metadata.exif:
        try:
            directories, fields = exif.laid_out(*exif.fields_of(metadata.exif), position)
            tags += [(exif.POINTERS.get(code, code), *field, True) for code, field in fields.items()]
        except (struct.error, ValueError):
            pass  # `fitted` did not check the values
    if metadata.icc:
        tags.append((_ICC, 7, len(metadata.icc), metadata.icc, True))
    if metadata.xmp:
        tags.append((_XMP, 1, len(metadata.xmp), metadata.xmp, True))
    return directories, tags


def from_tiff(read: exif.Read, order: str, start: int, big: bool) -> Metadata:
    """Metadata of a TIFF page; empty where it is damaged. For the parameters see `exif.tree`."""
    own = (*_GEO, _X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP, _ICC)
    try:
        fields, below = exif.tree(read, order, start, (*exif.PLAIN, *own), big)
        taken = {code: fields.pop(code) for code in own if code in fields}
        block = exif.block_of(fields, below)
    except Exception:  # damage raises errors of many types, and only metadata is lost
        return NONE
    icc, xmp = (taken[code][2] if code in taken else b"" for code in (_ICC, _XMP))
    geo = tuple((code, *taken[code], True) for code in _GEO if code in taken)
    return Metadata(block, icc, xmp, _tiff_dpi(taken), geo)


@lru_cache(maxsize=8)  # a camera writes the same profile into all its frames
def profile_in(chunk: bytes) -> bytes:
    """The profile in a PNG's iCCP chunk of at most LIMIT bytes; empty where it is damaged or too large."""
    _, _, rest = chunk.partition(b"\0")
    return _inflated(rest[1:])


def packet_in(chunk: bytes) -> bytes:
    """The XMP in a PNG's iTXt chunk, compressed or not; empty where it is damaged or too large."""
    compressed, rest = chunk[len(PNG_XMP) :][:1], chunk[len(PNG_XMP) + 2 :]
    text = rest.split(b"\0", 2)[-1]  # after the language tag and the translated keyword
    return _inflated(text) if compressed == b"\1" else text


def _inflated(data: bytes) -> bytes:
    decoder = zlib.decompressobj()
    try:
        found = decoder.decompress(data, exif.LIMIT)
    except zlib.error:
        return b""
    return found if decoder.eof else b""


@lru_cache(maxsize=8)
def _deflated(profile: bytes) -> bytes:
    return zlib.compress(profile)


def _profile(icc: bytes, space: bytes) -> bytes:
    size = int.from_bytes(icc[:4], "big")
    whole = 128 <= size <= min(len(icc), exif.LIMIT) and icc[36:40] == b"acsp"
    return icc[:size] if whole and icc[16:20] == space else b""


def map_keys(geo: tuple[Tag, ...]) -> dict[int, int]:
    """The keys of a GeoTIFF whose values are numbers. Raises struct.error where they are damaged."""
    data = next((data for code, _, _, data, _ in geo if code == _KEYS), b"")
    return {key: value for key, place, _, value in struct.iter_unpack("<4H", data) if not place}


def _regridded(geo: tuple[Tag, ...], across: float, down: float) -> tuple[Tag, ...]:
    """Map tags for pixels ``across`` times as wide and ``down`` times as high; none where they are damaged."""
    step, found = np.array([across, down]), []
    try:
        centre = 0.5 if map_keys(geo).get(RASTER_TYPE) == POINT else 0.0
        for code, kind, count, data, once in geo:
            if code in (SCALE, TIES, TRANSFORMATION, _RPC):
                values = np.frombuffer(data, "<f8").copy()
                if code == SCALE:
                    values[:2] *= step
                elif code == _RPC:  # lines first; whole numbers are the centres of pixels
                    values[2:4] = (values[2:4] + 0.5) / step[::-1] - 0.5
                    values[7:9] /= step[::-1]
                elif code == TIES:
                    pixels = values.reshape(-1, 6)[:, :2]
                    pixels[:] = (pixels + centre) / step - centre
                else:
                    matrix = values.reshape(4, 4)
                    matrix[:, 3] += matrix[:, :2] @ (centre * (step - 1))
                    matrix[:, :2] *= step
                data = values.tobytes()
            found.append((code, kind, count, data, once))
    except (struct.error, ValueError):
        return ()
    return tuple(found)


def _jpeg_segment(marker: int, prefix: bytes, body: bytes) -> bytes:
    size = len(prefix) + len(body)
    return struct.pack(">BBH", 0xFF, marker, size + 2) + prefix + body if body and size <= _SEGMENT else b""


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) if body else b""


def _tiff_dpi(fields: exif.Fields) -> tuple[float, float] | None:
    try:
        _, _, unit = fields.get(_UNIT, (3, 1, b"\2\0"))
        scale = {b"\2\0": 1.0, b"\3\0": 2.54}[unit]  # inch, cm
        (a, b), (c, d) = (struct.unpack("<II", fields[code][2]) for code in (_X_RESOLUTION, _Y_RESOLUTION))
        return scale * a / b, scale * c / d
    except (KeyError, struct.error, ZeroDivisionError):
        return None
