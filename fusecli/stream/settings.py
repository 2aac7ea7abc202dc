"""How jobs become results; see the options of `fusecli fuse` of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusecli.images.calibration import Calibration
    from fusecli.images.intensity import Intensity, Range
    from fusecli.images.pair import Pair
    from fusecli.images.rawvideo import RawFormat
    from fusecli.registry import Task


@dataclass(frozen=True)
class Settings:
    """How pairs of pictures or videos become results."""

    ranges: tuple[Intensity, Intensity] = (None, None)  # of first and second; of a video None: found in its frames
    resize: int | None = None  # which side (0, 1) is brought to the other's size; None: different sizes are an error
    align: Calibration | None = None  # brings the second, infrared, to the first's grid
    gray: bool = False  # results without colour
    bit_depth: int | None = None  # 8 or 16; None: the first input's, as far as the output's format holds it
    batch: int | None = None  # pages at once on an accelerator; None: by their size
    workers: int = 2
    max_pixels: int | None = None
    compress: bool = False
    digest: bool = False  # SHA-256 of every result, for the report
    anonymous: bool = False  # EXIF and XMP, in which a patient may be named, stay out of the results
    steady: tuple[Pair, ...] = ()  # pairs whose mean exposure every frame gets; none: each frame by itself
    raw: tuple[RawFormat | None, ...] = (None, None)  # of videos: the format of a side that is a pipe


@dataclass(frozen=True)
class VolumeSettings:
    """How pairs of volumes become results.

    reference: which side (0, 1) gives the grid and the format. colormap: name, for a gray first volume; None: gray.
    """

    task: Task
    model: str
    reference: int = 0
    window: Range | None = None
    colormap: str | None = None
    bit_depth: int | None = None
    batch: int | None = None  # slices at once on an accelerator; None: volumes.BATCH
    workers: int = 2
    compress: bool = False
    digest: bool = False
