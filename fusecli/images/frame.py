"""Frame: the pixels of one image and what the writer needs to put a result back beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusecli.images.metadata import NONE, Metadata


@dataclass(frozen=True)
class Source:
    """Where pixels came from: a file and, for multi-page files and volumes, the index within it."""

    path: Path
    index: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.index is None else f"{self.path}[{self.index}]"


@dataclass(frozen=True)
class Origin:
    """What is needed to write a result of the same kind.

    dtype: the file's sample type (uint8, uint16, float32 …). lo, hi: the stored values that became 0 and 1.
    extra: what only the format's own writer understands (DICOM dataset, NIfTI header, TIFF page count …).
    metadata: what a picture's file says of it besides.
    """

    dtype: np.dtype
    lo: float
    hi: float
    extra: dict[str, Any] = field(default_factory=dict)
    metadata: Metadata = NONE


@dataclass
class Frame:
    """One image: H×W or H×W×3 (RGB, C-contiguous), as uint8 or as float32 in [0, 1].

    Eight-bit files stay uint8 (0…255 stands for 0…1) from reader to device: a quarter of the memory and of the bus.
    Every other sample type is float32 in [0, 1] once its intensity range is applied; ``origin`` remembers both.
    """

    pixels: np.ndarray
    source: Source
    origin: Origin

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def is_color(self) -> bool:
        return self.pixels.ndim == 3

    def as_float(self) -> np.ndarray:
        """float32 pixels in [0, 1], whatever the frame holds."""
        if self.pixels.dtype == np.uint8:
            return self.pixels.astype(np.float32) / np.float32(255)
        return self.pixels
