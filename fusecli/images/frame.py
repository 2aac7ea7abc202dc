"""Frame: the pixels of one image and what the writer needs to put a result back beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusecli.images.metadata import Metadata


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
