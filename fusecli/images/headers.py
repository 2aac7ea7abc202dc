"""What the first bytes of an image file say, without decoding it: kind, size, orientation, and whether it is whole.

Decoders disagree about truncated files (some return the top half over gray) and about EXIF; so both are settled here,
the same way for every version of OpenCV. Formats: PNG (W3C, third edition), JPEG (ITU-T T.81), WebP (RFC 9649),
BMP, and the PNM family of Netpbm. TIFF is only recognised; fusecli.images.tiff reads it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from fusecli.images import exif, metadata
from fusecli.images.metadata import NONE, Metadata


class Unreadable(ValueError):
    """Why a file is not a whole image; the caller adds the file's name."""


@dataclass(frozen=True)
class Header:
    """What is known before decoding.

    kind: name of the format. height, width: as stored. orientation: EXIF 1…8. bits: per sample, 8 or 16.
    gray: known to hold gray only, even if OpenCV gives three channels (gray with alpha, or a palette of grays).
    metadata: as stored, unchecked. white: the stored value of white, which OpenCV does not scale to 255.
    radiometric: whether there are measurements of a thermal camera beside the picture, which are not read.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1
    bits: int = 8
    gray: bool = False
    metadata: Metadata = NONE
    white: int = 255
    radiometric: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) once the orientation is applied."""
        return (self.width, self.height) if self.orientation >= exif.SIDEWAYS else (self.height, self.width)


_FLIR = b"FLIR\0"  # begins the segments (APP1) in which FLIR's cameras keep their measurements
_DJI = b"DJI"  # maker, by EXIF; its cameras keep theirs in APP3

TRUNCATED = "the file is truncated: its end is missing"
ANIMATED = "the file is an animation; split it into single frames first"


def too_large(count: int, unit: str, limit: int) -> str:
    """What is wrong with a file that has more than --max-pixels allows."""
    return f"{count:,} {unit} are more than the limit of {limit:,}; --max-pixels or FUSECLI_MAX_PIXELS raises it"


# First bytes of what people hand in by mistake, to name it in the message.
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000"),
    (b"<svg", "an SVG"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


def kind_of(data: bytes) -> str:
    """Name of the format by content, whatever the file is called. Raises Unreadable where it is none that is read."""
    head = data[:132]
    if not head:
        raise Unreadable("the file is empty")
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"P[1-6]\s", head):
        return "PNM"
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise Unreadable(f"not an image that fusecli reads: it is {name}")
    if head[128:132] == b"DICM":
        raise Unreadable("not an image that fusecli reads here: it is a DICOM file; its name should end in .dcm")
    if head[4:8] == b"ftyp":
        raise Unreadable("not an image that fusecli reads: it is HEIF, AVIF or a video")
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        raise Unreadable(f"not an image: it holds text ({head[:24].decode('utf-8', 'replace')!r} …)")
    raise Unreadable("not an image: the content is of no known format")


def parse(data: bytes) -> Header:
    """The header of a whole PNG, JPEG, WebP, BMP or PNM file; raises Unreadable with the reason."""
    kind = kind_of(data)
    try:
        return _PARSERS[kind](data)
    except (struct.error, IndexError) as error:
        raise Unreadable(TRUNCATED) from error


def _header(kind: str, size: tuple[int, int], kept: dict[str, Any], **more: Any) -> Header:
    """The header of an image of (height, width). kept: fields of its `Metadata`."""
    found = Metadata(**kept) if kept else NONE
    return Header(kind, *size, exif.orientation(found.exif), metadata=found, **more)


def _png(data: bytes) -> Header:
    width = height = bits = color = 0
    gray = is_srgb = False
    position = 8
    kept: dict[str, Any] = {}
    colors: dict[bytes, bytes] = {}
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        body, position = position + 8, position + 12 + length
        if position > len(data):
            raise Unreadable(TRUNCATED)
        if name == b"IHDR":
            width, height, bits, color = struct.unpack_from(">IIBB", data, body)
            gray = color in (0, 4)
        elif name == b"PLTE":
            table = data[body : body + length]
            gray = gray or (color == 3 and table[0::3] == table[1::3] == table[2::3])
        elif metadata.PNG_COLORS.get(name) == length:
            colors[name] = data[body : body + length]
        elif name == b"eXIf":
            kept["exif"] = data[body : body + length]
        elif name == b"iCCP" and length <= exif.LIMIT:
            kept["icc"] = metadata.profile_in(data[body : body + length])
        elif name == b"pHYs" and length == 9 and data[body + 8] == 1:  # per metre
            kept["dpi"] = tuple(0.0254 * one for one in struct.unpack_from(">II", data, body))
        elif name == b"iTXt" and data.startswith(metadata.PNG_XMP, body):
            kept["xmp"] = metadata.packet_in(data[body : body + length])
        elif name == b"acTL" and struct.unpack_from(">I", data, body)[0] > 1:
            raise Unreadable(ANIMATED)
        elif name == b"sRGB":  # as of PNGs that say nothing; gAMA and cHRM then say the same to old programs
            is_srgb = True
        elif name == b"IEND":
            if is_srgb:
                colors = {name: value for name, value in colors.items() if name == b"cICP"}
            if colors:
                kept["colors"] = tuple(colors.items())
            return _header("PNG", (height, width), kept, bits=16 if bits == 16 else 8, gray=gray)


def _jpeg(data: bytes) -> Header:
    height = width = 0
    gray = radiometric = False
    position = 2
    kept: dict[str, Any] = {}
    profile: dict[int, bytes] = {}  # by segment
    while True:
        position = data.find(b"\xff", position)  # decoders skip stray bytes between segments, so this does too
        if position < 0:
            raise Unreadable(TRUNCATED)
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # no segment follows
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body, end = position + 4, position + 2 + length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from(">HHB", data, body + 1)
            gray = channels == 1
        elif marker == 0xE0 and data.startswith(b"JFIF\0", body):
            unit, *density = struct.unpack_from(">BHH", data, body + 7)
            if unit in (1, 2):  # per inch, per cm
                kept["dpi"] = tuple((1.0, 2.54)[unit - 1] * one for one in density)
        elif marker == 0xE1 and data.startswith(exif.PREFIX, body):
            kept["exif"] = data[body + len(exif.PREFIX) : end]
        elif marker == 0xE1 and data.startswith(metadata.JPEG_XMP, body):
            kept["xmp"] = data[body + len(metadata.JPEG_XMP) : end]
        elif (marker == 0xE1 and data.startswith(_FLIR, body)) or (marker == 0xE3 and _DJI in kept.get("exif", b"")):
            radiometric = True
        elif marker == 0xE2 and data.startswith(metadata.JPEG_ICC, body):
            profile[data[body + len(metadata.JPEG_ICC)]] = data[body + len(metadata.JPEG_ICC) + 2 : end]
        elif marker == 0xDA:  # entropy-coded data follow, where FF D9 can only be the end of the image
            if data.rfind(b"\xff\xd9", body) < 0:
                raise Unreadable(TRUNCATED)
            if profile:
                kept["icc"] = b"".join(profile[number] for number in sorted(profile))
            return _header("JPEG", (height, width), kept, gray=gray, radiometric=radiometric)
        position = end


def _webp(data: bytes) -> Header:
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise Unreadable(TRUNCATED)
    size: tuple[int, int] | None = None
    position = 12
    kept: dict[str, Any] = {}
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        body, position = position + 8, position + 8 + length + length % 2
        if name == b"VP8X":
            if data[body] & 0x02:
                raise Unreadable(ANIMATED)
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (body + 4, body + 7))
            size = size or (height, width)
        elif name == b"VP8 ":
            width, height = struct.unpack_from("<HH", data, body + 6)
            size = size or (height & 0x3FFF, width & 0x3FFF)
        elif name == b"VP8L":
            (packed,) = struct.unpack_from("<I", data, body + 1)
            size = size or ((packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1)
        elif name in (b"EXIF", b"ICCP", b"XMP "):
            kept[{b"EXIF": "exif", b"ICCP": "icc", b"XMP ": "xmp"}[name]] = data[body : body + length]
    if size is None:
        raise Unreadable("the WebP holds no image")
    return _header("WebP", size, kept)


def _bmp(data: bytes) -> Header:
    start, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: rows run from the top
    if compression in (0, 3) and start + (width * depth + 31) // 32 * 4 * height > len(data):
        raise Unreadable(TRUNCATED)
    # OpenCV ignores the colour masks in a header this short: GIMP's red would be read as green.
    if compression == 3 and depth == 32 and header < 56 and struct.unpack_from("<III", data, 54) != _BGR:
        raise Unreadable("the BMP holds its colours in an unusual order; save it with 24 bits, or as PNG")
    return Header("BMP", height, width)


_BGR = (0xFF0000, 0xFF00, 0xFF)  # masks of red, green and blue

_PNM_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*(\d+)")


def _pnm(data: bytes) -> Header:
    digit, position, numbers = data[1] - ord("0"), 2, []
    for _ in range(2 if digit in (1, 4) else 3):
        token = _PNM_TOKEN.match(data, position)
        if token is None:
            raise Unreadable(TRUNCATED)
        numbers.append(int(token[1]))
        position = token.end()
    width, height, top = (*numbers, 1)[:3]
    row = {4: (width + 7) // 8, 5: width, 6: 3 * width}.get(digit, 0) * (2 if top > 255 else 1)
    end = position + 1 + row * height
    if end > len(data):
        raise Unreadable(TRUNCATED)
    if row and re.match(rb"P[4-6]\s", data[end : end + 3]):
        raise Unreadable("the file holds several images, one behind the other; split it into single frames first")
    # 16-bit values are kept as counts, and OpenCV itself scales values written as text.
    white = top if digit in (5, 6) and 0 < top < 255 else 255
    return Header("PNM", height, width, bits=16 if top > 255 else 8, gray=digit not in (3, 6), white=white)


_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_PARSERS = {"PNG": _png, "JPEG": _jpeg, "WebP": _webp, "BMP": _bmp, "PNM": _pnm}
