"""The part of `fusecli fuse` that is for pictures, and for folders that are still empty: the plan of a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusecli.cli.request import FrameOptions, Request
from fusecli.images.atomic import STDOUT
from fusecli.machine import cores

if TYPE_CHECKING:
    from fusecli.stream.plan import Plan
    from fusecli.stream.work import Work

log = logging.getLogger("fusecli")

SAMPLED = 16  # pairs, evenly spread, that settle the exposure of a sequence


def plan(request: Request, options: FrameOptions) -> tuple[Plan, Work]:
    """The plan and how to run it. Raises UsageError for what makes no sense."""
    from fusecli.images.frames import ENDINGS
    from fusecli.images.intensity import evenly
    from fusecli.images.pairing import NoPair, find_pairs
    from fusecli.images.places import warn_of_places
    from fusecli.stream import plan as planning
    from fusecli.stream.run import run
    from fusecli.stream.work import Work

    try:
        pairs = find_pairs(*request.typed, request.pairing, endings=ENDINGS, sides=request.task.sides)
    except NoPair as error:
        if request.naming.skip_existing and request.pairing.ignore_unmatched:  # the next run may find partners
            return _nothing(request, str(error))
        raise
    firsts, seconds = [pair.first for pair in pairs], [pair.second for pair in pairs]
    planned = planning.plan(pairs, request.output, request.naming, inputs=request.inputs((*firsts, *seconds)))
    planning.check_depth(request.bit_depth, (job.output.suffix.lower() for job in planned.jobs))
    planning.check_color(planned.jobs, request.gray)
    if planned.jobs:
        request.check_engine()  # before frames are looked at, which may take long
    if options.align is None:
        warn_of_places(pairs)
    # from all pairs, so that every frame of the sequence gets the same range whatever is left to do
    ranges = options.ranges(request, firsts, seconds)
    settings = replace(
        request.settings(ranges, options.calibration()),
        workers=request.workers or max(1, min(cores(), len(planned.jobs))),
        steady=tuple(evenly(pairs, SAMPLED)) if options.steady else (),
    )
    return planned, Work(run, settings)


def none_yet(request: Request) -> tuple[Plan, Work] | None:
    """An empty plan if a run that will be repeated starts before its inputs are there; None if there is something.

    --ignore-unmatched and --skip-existing mark such runs. With --ignore-unmatched one empty folder is enough, else both
    must be empty. Not with --pairs, which may list files elsewhere.
    """
    from fusecli.images.listing import is_empty

    typed, output, naming = request.sides.values(), request.output, request.naming
    unmatched = request.pairing.ignore_unmatched
    repeated = (unmatched or naming.skip_existing) and output != STDOUT and request.pairing.pairs_csv is None
    if not repeated or not all(Path(folder).is_dir() for folder in typed):
        return None
    empty = [folder for folder in typed if is_empty(folder)]
    if len(empty) < (1 if unmatched else 2):
        return None
    return _nothing(request, f"no file in {' and '.join(dict.fromkeys(empty))}")


def _nothing(request: Request, reason: str) -> tuple[Plan, Work]:
    from fusecli.stream.plan import settle
    from fusecli.stream.run import run
    from fusecli.stream.settings import Settings
    from fusecli.stream.work import Work

    log.warning("nothing to fuse yet: %s", reason)
    output = request.output
    single = bool(output.suffix) and not output.is_dir()
    planned = settle([], output, request.naming, single=single, inputs=request.typed)
    return planned, Work(run, Settings())
