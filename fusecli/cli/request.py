"""What `fusecli fuse` was asked for, as the plans for pictures, volumes, videos and watched folders take it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusecli import registry
from fusecli.machine import cores

if TYPE_CHECKING:
    from fusecli.images.calibration import Calibration
    from fusecli.images.intensity import Intensity
    from fusecli.images.pairing import Pairing
    from fusecli.stream.plan import Naming
    from fusecli.stream.settings import Settings


@dataclass(frozen=True)
class Request:
    """What `fusecli fuse` was asked for, where that is the same for every kind of input."""

    task: registry.Task
    sides: dict[str, str]
    output: Path
    model: str
    pairing: Pairing
    naming: Naming
    resize: str | None
    gray: bool
    bit_depth: int | None
    batch_size: int | None
    workers: int | None
    max_pixels: int
    compress: bool
    digest: bool
    check_engine: Callable[[], object]  # raises UsageError for a model, device or precision not available here

    @property
    def typed(self) -> tuple[str, str]:
        """Both sides as they were typed, in the task's order."""
        return self.sides[self.task.first], self.sides[self.task.second]

    def inputs(self, files: Iterable[Path]) -> tuple[str, ...]:
        """What no result may lie in, or be found by: both sides as typed.

        With --pairs these only say where its paths start, perhaps in a folder that holds everything; then the folders
        of the ``files`` that it lists.
        """
        if self.pairing.pairs_csv is None:
            return self.typed
        return tuple({str(file if file.is_dir() else file.parent): None for file in files})

    def settings(self, ranges: tuple[Intensity, Intensity], align: Calibration | None) -> Settings:
        """How pictures and videos become results."""
        from fusecli.stream.settings import Settings

        return Settings(
            ranges=ranges,
            resize=None if self.resize is None else self.task.sides.index(self.resize),
            align=align,
            gray=self.gray,
            bit_depth=self.bit_depth,
            batch=self.batch_size,
            workers=self.workers or cores(),
            max_pixels=self.max_pixels,
            compress=self.compress,
            digest=self.digest,
            anonymous=self.task.second == "mri",
        )


@dataclass(frozen=True)
class FrameOptions:
    """Options that only frames of cameras have, as typed: ``--range``, ``--steady`` and ``--align``."""

    range: str
    steady: bool
    align: Path | None

    def ranges(self, request: Request, firsts: list[Path], seconds: list[Path]) -> tuple[Intensity, Intensity]:
        """The intensity ranges of a sequence, the same for all its frames. Raises UsageError."""
        from fusecli.images import intensity

        infrared = request.task.second == "ir"
        return intensity.pair_ranges(
            firsts, seconds, infrared=infrared, option=self.range, max_pixels=request.max_pixels
        )

    def calibration(self) -> Calibration | None:
        """The calibration that ``--align`` names, if any. Raises UsageError."""
        from fusecli.images.calibration import Calibration

        return None if self.align is None else Calibration.read(self.align)
