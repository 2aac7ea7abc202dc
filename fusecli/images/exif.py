"""EXIF blocks: read, adapted to a fused picture, and converted between TIFF directories and self-contained blocks.

A block is shaped like a TIFF file: a header, and directories of fields that hold their values' offsets in the block.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container

import numpy as np

PREFIX = b"Exif\0\0"  # of a block in a JPEG
LIMIT = 2**20  # bytes of a block, or of a directory's values: far more than cameras write
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
POINTERS = {34665: "ExifTag", 34853: "GPSTag"}  # tags that point to sub-directories, with tifffile's names
SIDEWAYS = 5  # orientations from here on swap height and width
PLAIN = (271, 272, 306, 315, 33432)  # maker, model, time, artist, copyright

_ORIENTATION, _EXIF, _WIDTH, _HEIGHT = 274, 34665, 40962, 40963
_LEFT = (37500, 40965)  # left out: makers' notes, whose offsets hold only in their original file; interoperability
_FIELDS = 512  # most in a directory
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # bytes, by type
_RATIONALS = (5, 10)  # types of two units

Field = tuple[int, int, bytes]  # type, count, value in little-endian order
Fields = dict[int, Field]  # by tag
Read = Callable[[int, int], bytes]  # (position, size) -> bytes


def fitted(block: bytes, height: int, width: int) -> bytes:
    """The block adapted to an upright picture of that size; empty where it is damaged or too large.

    The thumbnail is unlinked, since it shows the reference. Values are changed in place, since makers' notes hold
    offsets in the block.
    """
    block = block.removeprefix(PREFIX)  # some programs write it into other formats than JPEG, too
    order = ORDERS.get(block[:4])
    if order is None or len(block) > LIMIT:
        return b""
    changed = bytearray(block)
    try:
        entries, end = _entries(block, order, 4)
        struct.pack_into(order + "I", changed, end, 0)  # the offset of the thumbnail's directory
        if (pointer := dict(entries).get(_EXIF)) is not None:
            entries += _entries(block, order, pointer + 8)[0]
        for tag, at in entries:
            if tag == _ORIENTATION:
                struct.pack_into(order + "HIHH", changed, at + 2, 3, 1, 1, 0)
            elif tag in (_WIDTH, _HEIGHT):
                struct.pack_into(order + "HII", changed, at + 2, 4, 1, width if tag == _WIDTH else height)
    except (struct.error, ValueError):
        return b""
    return bytes(changed)


def orientation(block: bytes) -> int:
    """The block's tag 274, 1…8; 1 where it is absent or damaged."""
    block = block.removeprefix(PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Stored rows and columns turned as an orientation, 1…8, says."""
    if orientation >= SIDEWAYS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def fields_of(block: bytes) -> tuple[Fields, dict[int, Fields]]:
    """What `tree` finds in a block that `fitted` let pass. Raises struct.error or ValueError where it is damaged."""
    order = ORDERS[block[:4]]
    (start,) = struct.unpack_from(order + "I", block, 4)
    return tree(lambda at, size: block[at : at + size], order, start, PLAIN)


def tree(
    read: Read, order: str, start: int, codes: tuple[int, ...], big: bool = False
) -> tuple[Fields, dict[int, Fields]]:
    """Fields of a TIFF directory with tags in ``codes``, and all fields of its EXIF and GPS sub-directories, by tag.

    order: < or >. start: where the directory begins. big: whether it is a BigTIFF's. Where it is damaged, raises
    struct.error, ValueError, or what ``read`` raises.
    """
    fields = _directory(read, order, start, (*codes, *POINTERS), big)
    below = {}
    for code in POINTERS:
        if code in fields:
            place = int.from_bytes(fields.pop(code)[2], "little")
            found = _directory(read, order, place, range(2**16), big)
            below[code] = {tag: field for tag, field in found.items() if tag not in _LEFT}
    return fields, below


def block_of(fields: Fields, below: dict[int, Fields]) -> bytes:
    """A block of what `tree` found; empty where that is nothing."""
    if not fields and not below:
        return b""
    data, fields = laid_out(fields, below, 8)
    start = 8 + len(data)
    return b"II*\0" + struct.pack("<I", start) + data + _packed(fields, start)


def laid_out(fields: Fields, below: dict[int, Fields], position: int) -> tuple[bytes, Fields]:
    """The sub-directories ``below`` as bytes to be stored at ``position``, and ``fields`` with pointers to them."""
    data = b""
    for code, directory in below.items():
        fields = {**fields, code: (4, 1, struct.pack("<I", position + len(data)))}
        data += _packed(directory, position + len(data))
    return data, fields


def _entries(block: bytes, order: str, pointer: int) -> tuple[list[tuple[int, int]], int]:
    """Tags and offsets of a directory's entries, and where they end. pointer: where the directory's offset stands."""
    (start,) = struct.unpack_from(order + "I", block, pointer)
    (count,) = struct.unpack_from(order + "H", block, start)
    _check(count)
    end = start + 2 + 12 * count
    return [(*struct.unpack_from(order + "H", block, at), at) for at in range(start + 2, end, 12)], end


def _check(count: int) -> None:
    if count > _FIELDS:
        raise ValueError("more fields than cameras write")


def _directory(read: Read, order: str, start: int, codes: Container[int], big: bool) -> Fields:
    counter, entry, offset, inline = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    counter, entry, offset = order + counter, order + entry, order + offset
    (count,) = struct.unpack(counter, read(start, struct.calcsize(counter)))
    _check(count)
    table = read(start + struct.calcsize(counter), count * struct.calcsize(entry))
    fields, left = {}, LIMIT
    for code, kind, number, value in struct.iter_unpack(entry, table):
        if code not in codes:
            continue
        unit = _UNITS.get(kind, 0)
        size = number * unit * (2 if kind in _RATIONALS else 1)
        if not 0 < size <= left:
            continue
        left -= size
        (place,) = struct.unpack(offset, value)
        raw = value[:size] if size <= inline else read(place, size)
        if len(raw) != size:
            raise ValueError("a value lies beyond the end")
        swapped = raw if order == "<" else np.frombuffer(raw, f">u{unit}").byteswap().tobytes()
        fields[code] = kind, number, swapped
    return fields


def _packed(fields: Fields, position: int) -> bytes:
    """A directory to be stored at ``position``, followed by its longer values."""
    entries, values = b"", b""
    position += 2 + 12 * len(fields) + 4
    for code, (kind, number, raw) in sorted(fields.items()):
        place = struct.pack("<I", position + len(values)) if len(raw) > 4 else raw
        entries += struct.pack("<HHI4s", code, kind, number, place)
        if len(raw) > 4:
            values += raw + bytes(len(raw) % 2)
    return struct.pack("<H", len(fields)) + entries + bytes(4) + values
