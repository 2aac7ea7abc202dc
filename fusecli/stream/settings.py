"""How jobs become results, by kind; see the options of `fusecli fuse` of the same names."""

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
    """How pairs become results; see the options of `fusecli fuse` of the same names."""

    ranges: tuple[Intensity, Intensity] = (None, None)  # of first and second
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


@dataclass(frozen=True)
class VideoSettings:
    """How videos become results; see the options of `fusecli fuse` of the same names.

    infrared: ``--range`` as typed, or the Range that it names. raw: layout of the side that is a pipe.
    """

    infrared: Range | str
    raw: RawFormat | None = None
    resize: int | None = None
    align: Calibration | None = None
    gray: bool = False
    batch: int | None = None
    workers: int = 2
    max_pixels: int | None = None
    digest: bool = False


@dataclass(frozen=True)
class VolumeSettings:
    """How volumes become results; see the options of `fusecli fuse` of the same names.

    reference: which side (0, 1) gives the grid and the format. colormap: name, for a gray first volume; None: gray.
    """

    task: Task
    model: str
    reference: int = 0
    window: Range | None = None
    colormap: str | None = None
    bit_depth: int | None = None
    batch: int = 8
    workers: int = 2
    compress: bool = False
    digest: bool = False
