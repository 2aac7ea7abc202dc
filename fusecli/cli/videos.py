"""The part of `fusecli fuse` that is for videos and for raw frames through pipes: the plan of a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusecli.cli.request import FrameOptions, Request
from fusecli.errors import InputError, UsageError
from fusecli.images.atomic import STDOUT

if TYPE_CHECKING:
    import numpy as np

    from fusecli.stream.job import Outcome
    from fusecli.stream.plan import Plan
    from fusecli.stream.work import Work


def plan(request: Request, options: FrameOptions, raw: str | None, hidden: bool) -> tuple[Plan, Work] | None:
    """The plan and how to run it; None where both sides are pictures. Raises UsageError for what makes no sense."""
    from fusecli.images.colour import warn_of_colored
    from fusecli.images.headers import too_large
    from fusecli.images.intensity import sequence_range
    from fusecli.images.rawvideo import PIPE, RawFormat
    from fusecli.images.video import ENDINGS, pyav

    task, output = request.task, request.output
    typed = request.typed
    for side, text in zip(task.sides, typed, strict=True):
        if re.match(r"[a-z]+://", text):
            raise UsageError(f"--{side} {text}: streams are not opened; pipe one side in as raw frames by --raw")
    moving = [text == PIPE or is_video(text, request.pairing.recursive) for text in typed]
    to_video = output == STDOUT or (output.suffix.lower() in ENDINGS and not output.is_dir())
    if not any(moving):
        if to_video:
            raise UsageError(f"-o {output}: is for videos, and the inputs are pictures; name a folder")
        return None
    if not all(moving):
        still = task.sides[moving.index(False)]
        raise UsageError(f"--{still} {request.sides[still]}: the other side is a video; both must be")
    _refuse(request, options, raw)
    layout = None if raw is None else RawFormat.parse(raw)
    pixels = 0 if layout is None else layout.width * layout.height
    if pixels > request.max_pixels:
        raise UsageError(f"--raw {raw}: {too_large(pixels, 'pixels a frame', request.max_pixels)}")
    pyav()

    from fusecli.stream.work import Work

    planned = _named(request, single=to_video)
    if typed[1] != PIPE:
        warn_of_colored(image for job in planned.jobs[:1] for image in _some_frames(job.second, request.max_pixels))
    settings = request.settings((None, sequence_range(options.range, [])), options.calibration())
    return planned, Work(partial(_run, hidden), replace(settings, raw=layout), divisible=False)


def _refuse(request: Request, options: FrameOptions, raw: str | None) -> None:
    """Raises UsageError for sides and options that videos are not for."""
    from fusecli.images.rawvideo import PIPE

    typed, naming = request.typed, request.naming
    if request.task.second != "ir":
        raise UsageError("videos are for --ir with --vis")
    if typed == (PIPE, PIPE):
        raise UsageError("only one side can be - (stdin)")
    if PIPE in typed and raw is None:
        raise UsageError("- is raw frames on stdin, which do not say their size: --raw WIDTHxHEIGHT[,PIX_FMT][,FPS]")
    given = [
        option
        for option, is_given in (
            ("--format", naming.file_format != "auto"),
            ("--bit-depth 16", request.bit_depth == 16),
            ("--compress", request.compress),
            ("--preview", request.output == STDOUT and "--preview" in naming.beside),
            ("--steady", options.steady),
        )
        if is_given
    ]
    if given:
        why = (
            "exposure is steady by itself" if given == ["--steady"] else "the ending of -o names the format, of 8 bits"
        )
        raise UsageError(f"{', '.join(given)}: not for videos: {why}")


def _run(hidden: bool, *what: Any, **how: Any) -> Generator[Outcome, None, None]:
    """`stream.videos.run` with a bar of frames."""
    from fusecli.progress import tqdm
    from fusecli.stream import videos

    with tqdm(unit="frame", leave=False, disable=hidden, file=sys.stderr) as bar:

        def tick(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield from videos.run(*what, **how, tick=tick)


def _named(request: Request, *, single: bool) -> Plan:
    """Every pair with the name of its result. single: the output is the one result, or stdout. Raises UsageError."""
    from fusecli.images.outputs import check_files
    from fusecli.images.pair import Pair
    from fusecli.images.pairing import find_pairs
    from fusecli.images.rawvideo import PIPE
    from fusecli.images.video import ENDINGS, WRITES
    from fusecli.stream.job import Job
    from fusecli.stream.plan import Plan, place

    typed, output, naming, pairing = request.typed, request.output, request.naming, request.pairing
    if PIPE in typed:
        for option, given in (("--pairs", pairing.pairs_csv is not None), ("--pair-by", pairing.pair_by != "stem")):
            if given:
                raise UsageError(f"{option}: frames on stdin pair with the one video that the other side is")
        file = Path(typed[typed[0] == PIPE])
        if not file.is_file():
            what = "not a regular file" if file.exists() else "no such file"
            raise UsageError(f"{file}: {what}; beside frames on stdin the other side is one video")
        pairs = [Pair(file.stem, Path(typed[0]), Path(typed[1]))]
    else:
        pairs = find_pairs(*typed, pairing, endings=ENDINGS, sides=request.task.sides)
    if single and len(pairs) > 1:
        raise UsageError(f"-o {output}: one result for {len(pairs)} pairs; name a folder")
    if output == STDOUT:
        check_files(naming.beside, chain(naming.reads, (path for pair in pairs for path in pair.files)))
        return Plan([Job(pair.name, pair.first, pair.second, output) for pair in pairs], [])
    if single and output.suffix.lower() not in WRITES:
        raise UsageError(f"-o {output}: fusecli writes {', '.join(WRITES)}")

    def ending(first: Path) -> str:
        own = first.suffix.lower()
        return own if own in WRITES else ".mp4"

    inputs = () if PIPE in typed else request.inputs(path for pair in pairs for path in pair.files)
    return place(pairs, output, naming, ending, single=single, inputs=inputs, written=WRITES)


def _some_frames(path: Path, max_pixels: int) -> Iterator[tuple[Path, np.ndarray]]:
    """A few frames of a video, in colour."""
    from fusecli.images.video import VideoFile

    with suppress(InputError):  # an unreadable video is reported when it is fused
        for image in VideoFile(path, max_pixels=max_pixels).sample(3):
            yield path, image


def is_video(typed: str, recursive: bool) -> bool:
    """Whether a side consists of videos: a file by its ending, a folder or glob if it has videos and no pictures."""
    from fusecli.images import frames, listing
    from fusecli.images.video import ENDINGS

    folder, ending = Path(typed).is_dir(), Path(typed).suffix.lower()
    if not folder and (ending in ENDINGS or ending in frames.ENDINGS):
        return ending in ENDINGS
    found = False
    with suppress(OSError):  # pairing names what cannot be listed
        for _, path in listing.files_of(typed, recursive):
            if path.suffix.lower() in frames.ENDINGS:
                return False
            found = found or path.suffix.lower() in ENDINGS
    return found
