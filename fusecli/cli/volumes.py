"""The part of `fusecli fuse` that is for volumes: its own options, and the plan of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusecli.cli.request import Request
from fusecli.errors import UsageError
from fusecli.images.atomic import STDOUT
from fusecli.machine import cores

if TYPE_CHECKING:
    from fusecli.stream.plan import Plan
    from fusecli.stream.work import Work


@dataclass(frozen=True)
class VolumeOptions:
    """Options that only volumes have, as typed."""

    series: str | None
    volume: str | None
    window: str | None
    reference: str | None
    colormap: str | None

    @property
    def given(self) -> list[str]:
        return [f"--{name}" for name, value in asdict(self).items() if value is not None]

    def refuse(self, why: str) -> None:
        """Raises UsageError if any of them is given."""
        if self.given:
            raise UsageError(f"{', '.join(self.given)}: {why}")


def plan(request: Request, options: VolumeOptions, steady: bool) -> tuple[Plan, Work] | None:
    """The plan and how to run it; None where both sides are pictures. Raises UsageError for what makes no sense."""
    task = request.task
    if task.second != "mri":
        return None
    from fusecli.images import colormap
    from fusecli.images.frames import ENDINGS
    from fusecli.images.pairing import find_pairs
    from fusecli.images.volume import parse_window
    from fusecli.stream import volume_jobs, volume_pairs
    from fusecli.stream.settings import VolumeSettings
    from fusecli.stream.volumes import run
    from fusecli.stream.work import Work

    typed = request.typed
    pairs = volume_pairs.find(
        typed,
        task,
        request.pairing,
        series=options.series,
        volume=options.volume,
        max_voxels=request.max_pixels,
    )
    if pairs is None:
        if options.given:
            find_pairs(*typed, request.pairing, endings=ENDINGS, sides=task.sides)  # raises where nothing is there
        options.refuse("for DICOM and NIfTI volumes only, and both sides are pictures")
        return None
    if request.output == STDOUT:
        raise UsageError("-o -: is for videos, and the inputs are volumes; name a folder or a file")
    if steady:
        raise UsageError("--steady is for pictures; all slices of a volume are treated alike without it")
    if request.resize is not None:
        raise UsageError("--resize is for pictures; volumes are brought together by geometry (--reference chooses how)")
    if options.reference not in (None, *task.sides):
        raise UsageError(f"--reference {options.reference}: choose {' or '.join(task.sides)}")
    plain = task.first == "ct" or request.gray
    if options.colormap is not None and plain:
        raise UsageError("--colormap is for gray PET and SPECT, in colour (not with --color gray)")
    colors = None if plain else options.colormap or colormap.DEFAULT
    if colors is not None:
        colormap.table(colors)
    reference = task.sides.index(options.reference or task.first)
    planned = volume_jobs.plan(
        pairs,
        request.output,
        request.naming,
        inputs=request.inputs(one.path for pair in pairs for one in pair.inputs),
        reference=reference,
        color=False if request.gray else True if colors else None,  # None: as the CT
        bit_depth=request.bit_depth,
    )
    settings = VolumeSettings(
        task=task,
        model=Path(request.model).stem,
        reference=reference,
        window=None if options.window is None else parse_window(options.window),
        colormap=colors,
        bit_depth=request.bit_depth,
        batch=request.batch_size,
        workers=request.workers or cores(),
        compress=request.compress,
        digest=request.digest,
    )
    return planned, Work(run, settings)
