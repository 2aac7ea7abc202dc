"""`fusecli fuse --watch`: folders that cameras write into."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fusecli.cli.request import FrameOptions, Request
from fusecli.cli.videos import is_video
from fusecli.errors import UsageError, counted

if TYPE_CHECKING:
    from fusecli.images.calibration import Calibration
    from fusecli.images.intensity import Intensity, Range
    from fusecli.stream.job import Job
    from fusecli.stream.plan import Plan
    from fusecli.stream.settings import Settings
    from fusecli.stream.work import Work

log = logging.getLogger("fusecli")

KEPT = 1000  # how many of the last pairs the report lists, since a run may take days
DRIFTS = 10  # how often drift is told: frames at the end of the range are beyond it by turns, which would fill logs


def plan(request: Request, options: FrameOptions) -> tuple[Plan, Work]:
    """What is done already, and how to fuse what comes. Raises UsageError for what makes no sense."""
    from fusecli.images import frames, pairing
    from fusecli.images.atomic import sweep
    from fusecli.stream import watch
    from fusecli.stream.plan import Plan, settle
    from fusecli.stream.work import Work

    naming, output = request.naming, request.output
    typed = request.typed
    _refuse(request, options)
    settle([], output, naming, single=False, inputs=typed)

    patterns = pairing.patterns(request.pairing.pair_by, request.task.sides)
    if patterns[0] == patterns[1] and os.path.samefile(*typed):
        raise UsageError(f"both sides are {typed[0]}; tell them apart by --pair-by")
    watcher = watch.Watcher(
        folders=(Path(typed[0]), Path(typed[1])),
        keys=[partial(pairing.key_of, pattern=pattern, endings=frames.ENDINGS) for pattern in patterns],
        output=output,
        naming=naming,
        recursive=request.pairing.recursive,
    )
    try:
        sweep(job.output for job in watcher.pairs())
        skipped = watcher.existing()
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be listed: {error.strerror}") from error
    settings = partial(_settings, request, options, options.calibration(), _Drift(request.max_pixels))
    return Plan([], skipped), Work(partial(watch.run, watcher), settings, divisible=False, left=watcher.left)


def _refuse(request: Request, options: FrameOptions) -> None:
    """Raises UsageError for inputs and options that --watch is not for."""
    from fusecli.images import frames
    from fusecli.images.outputs import check_outside
    from fusecli.stream.plan import check_depth

    task, naming, output = request.task, request.naming, request.output
    if task.second != "ir":
        raise UsageError("--watch is for --ir with --vis")
    for side, folder in zip(task.sides, request.typed, strict=True):
        if not os.path.isdir(folder):  # Path takes "" for this folder
            raise UsageError(f"--{side} {folder}: --watch needs a folder")
        if is_video(folder, request.pairing.recursive):
            raise UsageError(f"--{side} {folder}: holds videos, and --watch is for pictures")
    for option, given in (
        ("--pairs", request.pairing.pairs_csv is not None),
        ("--preview", "--preview" in naming.beside),
        ("--steady", options.steady),
        ("--num-parts", naming.part is not None),
        ("--name with {index}", "{index" in naming.pattern),
    ):
        if given:
            raise UsageError(f"{option}: needs to know all pairs beforehand, and --watch does not")
    if "{stem" not in naming.pattern:
        raise UsageError(f"--name {naming.pattern}: gives one name to many pairs; --watch needs {{stem}} in it")
    if output.is_file() or output.suffix.lower() in frames.ENDINGS:
        raise UsageError(f"-o {output}: --watch needs a folder")
    check_depth(request.bit_depth, [naming.ending(Path("a.png"))])
    options.ranges(request, [], [])  # raises now if --range makes no sense
    naming.path(output, "0", "")  # raises now if --name gives no file name
    for option, path in naming.beside.items():  # among the inputs it could replace a frame, or be taken for one
        check_outside(option, path, request.typed)


@dataclass
class _Drift:
    """Tells when infrared frames begin to lie beyond the range that was settled, as where a camera warms up."""

    max_pixels: int | None
    goes_on: bool = False
    told: int = 0

    def look_at(self, kept: Range, latest: Path) -> None:
        from fusecli.images.intensity import beyond

        where = beyond(kept, latest, self.max_pixels)
        if where and not self.goes_on and self.told < DRIFTS:
            self.told += 1
            log.warning("%s: %s; --range frame follows a camera that drifts, --range LO,HI settles it", latest, where)
        self.goes_on = bool(where)


def _settings(
    request: Request,
    options: FrameOptions,
    calibration: Calibration | None,
    drift: _Drift,
    jobs: list[Job],
    before: Settings | None,
) -> Settings:
    """The settings that cli/pictures.py makes from a whole sequence, here from the first pairs that are ready.

    The visible range is widened later, as when day follows night, since no option sets it. The infrared range is found
    anew as long as its frames had one value only, as those of a camera that is starting.
    """
    from fusecli.images import intensity

    firsts, seconds = [job.first for job in jobs], [job.second for job in jobs]
    if before is not None:
        visible, infrared = before.ranges
        assert not isinstance(visible, str)
        if isinstance(infrared, intensity.Range) and infrared.lo == infrared.hi:
            infrared = options.ranges(request, [], seconds)[1]
            _tell_range(options, infrared, len(jobs))
        elif isinstance(infrared, intensity.Range) and options.range == "auto":
            drift.look_at(infrared, seconds[-1])
        return replace(before, ranges=(intensity.visible_range(firsts, request.max_pixels, visible), infrared))
    ranges = options.ranges(request, firsts, seconds)
    _tell_range(options, ranges[1], len(jobs))
    return request.settings(ranges, calibration)


def _tell_range(options: FrameOptions, infrared: Intensity, count: int) -> None:
    from fusecli.images.intensity import Range, warn_that_kept

    if options.range == "auto" and isinstance(infrared, Range) and infrared.lo < infrared.hi:
        warn_that_kept(infrared, counted(count, "infrared frame"))
