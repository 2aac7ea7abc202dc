"""The part of `fusecli fuse` that is for videos and for raw frames through pipes: the plan of a run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Generator, Iterator, Sequence
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


def plan(request: Request, options: FrameOptions, raw: Sequence[str], hidden: bool) -> tuple[Plan, Work] | None:
    """The plan and how to run it; None where both sides are pictures. Raises UsageError for what makes no sense."""
    from fusecli.images import frames
    from fusecli.images.colour import warn_of_colored
    from fusecli.images.headers import too_large
    from fusecli.images.intensity import sequence_range
    from fusecli.images.rawvideo import formats, is_pipe
    from fusecli.images.video import ENDINGS, pyav

    task, output = request.task, request.output
    typed = request.typed
    for side, text in zip(task.sides, typed, strict=True):
        if re.match(r"[a-z]+://", text):
            raise UsageError(f"--{side} {text}: streams are not opened; pipe them in as raw frames by --raw")
    moving = [is_pipe(text) or is_video(text, request.pairing.recursive) for text in typed]
    to_video = output == STDOUT or (output.suffix.lower() in ENDINGS and not output.is_dir())
    if any(moving) or to_video:
        for side, text in zip(task.sides, typed, strict=True):
            if Path(text).is_file() and Path(text).suffix.lower() not in ENDINGS | frames.ENDINGS:
                raise UsageError(
                    f"--{side} {text}: no ending of a video or picture that fusecli reads; put a video into MP4, for "
                    f"example with ffmpeg -i {shlex.quote(text)} -c copy {shlex.quote(Path(text).stem)}.mp4"
                )
    if not any(moving):
        if to_video:
            raise UsageError(f"-o {output}: is for videos, and the inputs are pictures; name a folder")
        return None
    if not all(moving):
        still, other = task.sides[moving.index(False)], typed[moving.index(True)]
        what = "raw video, since it comes through a pipe" if is_pipe(other) else "a video"
        raise UsageError(f"--{still} {request.sides[still]}: the other side is {what}; both must be, or both pictures")
    _refuse(request, options)
    layouts = formats(raw, task.sides, typed)
    for layout in filter(None, layouts):
        pixels, size = layout.width * layout.height, f"{layout.width}x{layout.height}"
        if pixels > request.max_pixels:
            raise UsageError(f"--raw {size}: {too_large(pixels, 'pixels a frame', request.max_pixels)}")
    files = [text for text, layout in zip(typed, layouts, strict=True) if layout is None]
    if files or output != STDOUT:
        pyav()

    from fusecli.stream.work import Work

    planned = _named(request, files, single=to_video)
    if layouts[1] is None:
        warn_of_colored(image for job in planned.jobs[:1] for image in _some_frames(job.second, request.max_pixels))
    settings = request.settings((None, sequence_range(options.range, [])), options.calibration())
    return planned, Work(partial(_run, hidden), replace(settings, raw=layouts), divisible=False)


def _refuse(request: Request, options: FrameOptions) -> None:
    """Raises UsageError for sides and options that videos are not for."""
    naming = request.naming
    if request.task.second != "ir":
        raise UsageError("videos are for --ir with --vis")
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


def _named(request: Request, files: Sequence[str], *, single: bool) -> Plan:
    """Every pair with the name of its result. Raises UsageError.

    files: the sides that are no pipe. single: the output is the one result, or stdout.
    """
    from fusecli.images.outputs import check_files
    from fusecli.images.pair import Pair
    from fusecli.images.pairing import find_pairs
    from fusecli.images.video import ENDINGS, WRITES
    from fusecli.stream.job import Job
    from fusecli.stream.plan import Plan, place

    typed, output, naming, pairing = request.typed, request.output, request.naming, request.pairing
    piped = len(files) < len(typed)
    if piped:
        for option, given in (("--pairs", pairing.pairs_csv is not None), ("--pair-by", pairing.pair_by != "stem")):
            if given:
                raise UsageError(f"{option}: frames in a pipe pair with what the other side is")
        for file in map(Path, files):
            if not file.is_file():
                what = "not a file" if file.exists() else "no such file"
                raise UsageError(f"{file}: {what}; beside frames in a pipe the other side is one video, or a pipe")
        if not files and not single:
            raise UsageError(f"-o {output}: two pipes have no name for the result; name a file, such as fused.mp4")
        named = Path(files[0]) if files else output
        pairs = [Pair(named.stem, Path(typed[0]), Path(typed[1]))]
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

    inputs = () if piped else request.inputs(path for pair in pairs for path in pair.files)
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
