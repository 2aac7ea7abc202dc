"""Fast PNG encoding: rows as differences from the row above, deflated by igzip (`pip install 'fusecli[fast]'`).

Six times as fast as OpenCV, at the file size of its level 1; and the GIL is released, so that threads run in parallel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this processor
    isal_zlib = None  # type: ignore[assignment]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK = 2**19  # bytes filtered and deflated at a time: few enough to stay in the CPU's cache
UP = 2  # filter type of a row: differences from the row above


def encode(image: np.ndarray) -> bytes | None:
    """A PNG of H×W or H×W×3 RGB, uint8 or uint16, contiguous; None without igzip."""
    if isal_zlib is None:
        return None
    height, width = image.shape[:2]
    color = 2 if image.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, color, 0, 0, 0)
    parts = (chunk(b"IDAT", part) for part in _deflated(image) if part)
    return b"".join((SIGNATURE, chunk(b"IHDR", header), *parts, chunk(b"IEND", b"")))


def chunk(name: bytes, body: bytes) -> bytes:
    """Length, name, body, checksum (ISO/IEC 15948, 5.3)."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _deflated(image: np.ndarray) -> Iterator[bytes]:
    rows = image.astype(image.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(len(image), -1)
    count = min(max(1, BLOCK // rows.shape[1]), len(rows))
    filtered = np.empty((count, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = UP
    above = np.zeros_like(rows[0])
    encoder = isal_zlib.compressobj(level=1)
    for start in range(0, len(rows), count):
        block = rows[start : start + count]
        out = filtered[: len(block), 1:]
        np.subtract(block[0], above, out=out[0])
        np.subtract(block[1:], block[:-1], out=out[1:])
        above = block[-1]
        yield encoder.compress(filtered[: len(block)])
    yield encoder.flush()
