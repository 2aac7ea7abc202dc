"""`fusecli fuse`: whole directories of registered pairs into fused images."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import cache, partial
from itertools import chain
from pathlib import Path
from signal import Signals
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from fusecli import registry
from fusecli.cli import messages, options, pictures, videos, volumes, watch
from fusecli.cli.request import FrameOptions, Request
from fusecli.errors import EXIT_NOTHING_DONE, EXIT_PARTIAL, OutputError, UsageError, counted
from fusecli.images.atomic import STDOUT, sweep, write_text
from fusecli.stream.stop import stopping

if TYPE_CHECKING:
    import numpy as np

    from fusecli.stream.cluster import Node
    from fusecli.stream.engine import Engine
    from fusecli.stream.job import Job, Outcome
    from fusecli.stream.report import Report
    from fusecli.stream.work import EngineSpec, Work

log = logging.getLogger("fusecli")

PREVIEWED = 8


class Color(str, Enum):
    auto = "auto"
    gray = "gray"
    ycbcr = "ycbcr"


class BitDepth(str, Enum):
    keep = "keep"
    eight = "8"
    sixteen = "16"


class Format(str, Enum):
    auto = "auto"
    png = "png"
    tiff = "tiff"
    tif = "tif"
    jpg = "jpg"
    jpeg = "jpeg"
    webp = "webp"
    nifti = "nifti"


class Fuse(options.Command):
    """The command, with its many options under headings."""

    panels: ClassVar = {
        "Sources": (
            *("ir", "vis", "ct", "pet", "spect", "mri", "recursive", "pair_by", "pairs", "ignore_unmatched"),
            *("raw", "watching", "max_pixels"),
        ),
        "Results": (
            *("output", "name", "overwrite", "skip_existing", "color", "bit_depth", "file_format", "compress"),
            "preview",
        ),
        "Fusion": ("model", "look", "range_", "steady", "resize", "align"),
        "Volumes": ("series", "volume", "window", "reference", "colormap"),
        "Machines": (
            *("device", "precision", "engine", "batch_size", "workers", "tile", "tile_overlap"),
            *("num_parts", "part_id", "cluster", "fail_fast"),
        ),
        "Messages": ("report", "as_json", "quiet", "verbose", "log_format"),
    }


def fuse(
    ir: Annotated[str | None, options.side("infrared frames, or video")] = None,
    vis: Annotated[str | None, options.side("visible frames, or video")] = None,
    ct: Annotated[str | None, options.side("CT: slices, DICOM, NIfTI")] = None,
    pet: Annotated[str | None, options.side("PET: slices, DICOM, NIfTI")] = None,
    spect: Annotated[str | None, options.side("SPECT: slices, DICOM, NIfTI")] = None,
    mri: Annotated[str | None, options.side("MRI: slices, DICOM, NIfTI")] = None,
    output: Annotated[
        Path | None, options.output("Folder of the results; a file for a single pair; - for raw video.")
    ] = None,
    model: options.Model = registry.DEFAULT_MODEL,
    look: options.Look = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    engine: Annotated[
        str, typer.Option(help="What computes the network: auto (torch), torch, onnxruntime or openvino.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, help="Pairs at once on a GPU. Default: by their size.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Threads that read and write. Default: one per core.")
    ] = None,
    tile: Annotated[
        str, typer.Option("--tile", "-t", help="Side of the tiles of large frames: auto, 0 (never) or pixels.")
    ] = "auto",
    tile_overlap: Annotated[
        str, typer.Option(help="What tiles share: auto (as far as the model sees) or pixels.")
    ] = "auto",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Sub-folders too, mirrored below -o.")] = False,
    pair_by: options.PairBy = "stem",
    pairs: options.Pairs = None,
    ignore_unmatched: options.IgnoreUnmatched = False,
    range_: options.Range = "auto",
    steady: Annotated[
        bool, typer.Option("--steady", help="One exposure for a whole sequence of pictures, as for a film.")
    ] = False,
    resize: Annotated[
        str | None,
        typer.Option(help="Side to bring to the other's size, such as ir. Default: different sizes are an error."),
    ] = None,
    align: Annotated[
        Path | None, options.place("Calibration that `fusecli align` wrote: the infrared is moved onto the visible.")
    ] = None,
    color: Annotated[
        Color,
        typer.Option(
            metavar="<str>", case_sensitive=False, help="auto or ycbcr (luma fused, Cb and Cr kept), or gray."
        ),
    ] = Color.auto,
    bit_depth: Annotated[
        BitDepth, typer.Option(metavar="<str>", help="keep (as the visible, CT, PET or SPECT file), 8 or 16.")
    ] = BitDepth.keep,
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="<str>",
            case_sensitive=False,
            help="auto (as the visible, CT, PET or SPECT file), png, tiff, jpg, webp, or nifti for volumes.",
        ),
    ] = Format.auto,
    series: Annotated[
        str | None, typer.Option(help="DICOM series by number or UID, where a folder has several: 3, or ct=3,mri=5.")
    ] = None,
    volume: Annotated[
        str | None, typer.Option(help="Volume of several (4D, echoes, phases), from 0: 2, or pet=2,mri=0.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="CENTER,WIDTH of CT, PET or SPECT volumes. Default: CT: the file's, else 40,80; others: auto."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Side whose grid and format volumes get, such as mri. Default: the first.")
    ] = None,
    colormap: Annotated[
        str | None, typer.Option(help="Colours of gray PET and SPECT volumes: hot (default), pet, jet, viridis …")
    ] = None,
    raw: Annotated[
        list[str],
        typer.Option(
            metavar="<str>",
            help="Frames in a pipe, named or stdin (-): WxH[,PIX_FMT][,FPS], such as 640x512,gray16le,25; with two "
            "pipes --raw ir=WxH --raw vis=WxH.",
        ),
    ] = [],  # noqa: B006  # never changed
    compress: Annotated[bool, typer.Option(help="Smaller PNG and TIFF files, written several times slower.")] = False,
    name: Annotated[str, typer.Option(help="Names of the results, of {stem}, {index}, {task}, {model}.")] = "{stem}",
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    skip_existing: Annotated[bool, typer.Option(help="Leave results that exist, whatever options made them.")] = False,
    watching: Annotated[
        bool,
        typer.Option(
            "--watch", help="Fuse what infrared and visible cameras write into the folders, until SIGTERM or Ctrl-C."
        ),
    ] = False,
    fail_fast: options.FailFast = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Refuse larger images before they are decoded. Default: $FUSECLI_MAX_PIXELS, else 2^29."
        ),
    ] = None,
    num_parts: Annotated[
        int | None, typer.Option(min=1, help="Fuse one part of N only, as one task of a Slurm array or an indexed job.")
    ] = None,
    part_id: Annotated[
        int | None, typer.Option(min=0, help="Which part, from 0; pairs belong to parts by a hash of their names.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Fuse on a Ray cluster with shared storage: HOST:PORT of its head, or auto.")
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(help="Contact sheet of up to 8 pairs: preview.png in -o, or NAME-preview.png beside one result."),
    ] = False,
    report: Annotated[Path | None, options.place("Write a JSON report to this file; - for stdout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON on stdout.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_format: options.LogFormat = "text",
) -> None:
    """Fuse pairs of registered images.

    fusecli fuse --ir thermal/ --vis camera/ -o fused/

    Give -o and two sides: --ir and --vis, or --mri and one of --ct, --pet, --spect.

    Exit codes: 0 all done, 1 every pair failed, 2 refused before any work, 8 some pairs failed, 130, 143 and 129
    interrupted.
    """
    given = _as_given(locals())
    messages.set_up(log_format, quiet=quiet, verbose=verbose)
    task, sides = options.task_of(ir=ir, vis=vis, ct=ct, pet=pet, spect=spect, mri=mri)
    if output is None:
        raise UsageError("name the output: -o FOLDER")
    of_volumes = volumes.VolumeOptions(series, volume, window, reference, colormap)
    if task.second != "mri":
        of_volumes.refuse("for DICOM and NIfTI volumes only")
    _refuse_contradictions(task, sides, given)

    options.sleep_when_waiting()
    from fusecli.images.decode import pixel_limit
    from fusecli.images.pairing import Pairing
    from fusecli.stream.parts import part
    from fusecli.stream.plan import Naming
    from fusecli.stream.work import EngineSpec

    mine = part(num_parts, part_id)
    if mine and preview:
        raise UsageError("--preview shows a whole run; leave it out with --num-parts")
    sheet = _sheet(output) if preview else None
    spec = EngineSpec(
        model=model,
        task=task.name,
        look=options.look_of(look),
        device=device,
        precision=precision,
        tile=tile,
        overlap=tile_overlap,
        runtime=engine,
    )
    built = cache(spec.build)
    weights = None if registry.released_path(model, task.name) else Path(model)
    request = Request(
        task=task,
        sides=sides,
        output=output,
        model=model,
        pairing=Pairing(recursive=recursive, pair_by=pair_by, pairs_csv=pairs, ignore_unmatched=ignore_unmatched),
        naming=Naming(
            file_format=file_format.value,
            pattern=name,
            fields={"task": task.name, "model": Path(model).stem},
            overwrite=overwrite,
            skip_existing=skip_existing,
            beside={option: path for option, path in (("--report", report), ("--preview", sheet)) if path},
            part=mine,
            reads=[path for path in (pairs, align, weights) if path and path.is_file()],
        ),
        resize=resize,
        gray=color is Color.gray,
        bit_depth=None if bit_depth is BitDepth.keep else int(bit_depth.value),
        batch_size=batch_size,
        workers=workers,
        max_pixels=pixel_limit(max_pixels),  # here, so that a bad value in the environment is told once
        compress=compress,
        digest=report is not None,
        check_engine=built if cluster is None else lambda: None,
    )
    of_frames = FrameOptions(range_, steady, align)
    hidden = messages.without_bars(quiet, log_format)
    planned, work = (
        (watching and watch.plan(request, of_frames))
        or pictures.none_yet(request)
        or volumes.plan(request, of_volumes, steady)
        or videos.plan(request, of_frames, raw, hidden)
        or pictures.plan(request, of_frames)
    )
    if cluster is not None and not work.divisible:
        raise UsageError("--cluster divides pictures and volumes among machines; videos and --watch are for one")

    from fusecli.images.intensity import evenly
    from fusecli.stream.report import Report

    results = (job.output for job in chain(planned.jobs, planned.skipped))  # a killed run may have been replacing some
    sweep(path for path in chain(results, request.naming.beside.values()) if path != STDOUT)
    shown = {job.output for job in evenly(planned.jobs, PREVIEWED)} if preview else set()
    with (
        _machines(cluster, spec, built, work, planned.jobs, request) as (machine, outcomes),
        stopping() as stop,
        _progress(len(planned.jobs) or None, hidden) as bar,
    ):
        account = Report(given, model, machine, keep=watch.KEPT if watching else None)
        account.skipped(planned.skipped)
        coming = outcomes(preview=shown, stop=stop)
        rows = _followed(coming, account, len(planned.jobs), bar, stop if fail_fast else None)
    left = account.missing(planned.jobs) if work.left is None else work.left()
    account.close(left, interrupted=stop.signal is not None)
    whole = True  # whether all files beside the results could be written
    if report is not None:
        whole = _written(partial(account.write, report))
    if as_json:
        whole = _written(partial(write_text, STDOUT, json.dumps(account.summary) + "\n")) and whole
    _tell(account, task)
    if left:
        _tell_left(left, stop.signal, output, watching=watching)
    if left and stop.signal is not None and not watching:  # a stop is how --watch ends
        raise typer.Exit(128 + stop.signal)
    if sheet is not None and not rows:
        log.warning("--preview: nothing was fused now, so %s was not written", sheet)
    elif sheet is not None:
        from fusecli.images.preview import contact_sheet

        whole = _written(partial(contact_sheet, rows, sheet)) and whole
    if account.counts["failed"] or not whole:
        raise typer.Exit(EXIT_PARTIAL if account.counts["done"] + account.counts["skipped"] else EXIT_NOTHING_DONE)


def _refuse_contradictions(task: registry.Task, sides: dict[str, str], given: dict[str, Any]) -> None:
    """Raises UsageError for options (as typed, see `_as_given`) that do not go with the task or with one another."""
    if given["resize"] is not None and given["resize"] not in task.sides:
        raise UsageError(f"--resize {given['resize']}: choose {' or '.join(task.sides)}")
    if given["align"] is not None and (task.second != "ir" or given["resize"] is not None):
        raise UsageError("--align is for infrared with visible frames, and in place of --resize")
    if given["range"] != "auto" and task.second != "ir":
        raise UsageError("--range is for infrared; of volumes --window says what is shown")
    if given["raw"]:
        from fusecli.images.rawvideo import is_pipe

        if not any(map(is_pipe, sides.values())):
            raise UsageError(f"--raw {given['raw'][0]}: is for pipes; name the side that comes through stdin by -")
    streams = {"-o -": given["output"] == "-", "--report -": given["report"] == "-", "--json": given["json"]}
    if sum(streams.values()) > 1:
        raise UsageError(f"{' and '.join(name for name, used in streams.items() if used)} would both write to stdout")
    if given["overwrite"] and given["skip_existing"]:
        raise UsageError("--overwrite and --skip-existing exclude each other")
    if given["skip_existing"] and "{index" in given["name"]:
        raise UsageError("--skip-existing: cannot tell what {index} was given to before; name results by {stem}")


def _followed(
    outcomes: Iterable[Outcome], account: Report, total: int, bar: Any, at_failure: Event | None
) -> list[Sequence[np.ndarray]]:
    """Add outcomes to the account and log them as they come; returns the small pictures that they carry.

    total: pairs to do, 0 if unknown. at_failure: set once a pair has failed.
    """
    from fusecli.progress import SignOfLife

    rows = []
    advised = ""
    sign = SignOfLife()
    for outcome in outcomes:
        account.add(outcome)
        bar.update()
        if total and bar.disable and sign.due():
            log.info("%d of %d", account.counts["done"] + account.counts["failed"], total)
        if outcome.preview:
            rows.append(outcome.preview)
        if outcome.error:
            what, _, advice = outcome.error.partition("; ")
            log.error("%s: %s", outcome.job.name, what if advice == advised else outcome.error)
            advised = advice
            if at_failure is not None:
                at_failure.set()
    return rows


def _written(write: Callable[[], None]) -> bool:
    """Whether ``write`` succeeded. If not, the reason is logged; the results of the run are there all the same."""
    try:
        write()
    except OutputError as error:
        log.error("%s", error)
        return False
    return True


def _as_given(values: dict[str, Any]) -> dict[str, Any]:
    """Options as the user spells them, with values that JSON holds."""
    spelled = {"range_": "range", "file_format": "format", "as_json": "json", "watching": "watch"}
    return {spelled.get(key, key): str(value) if isinstance(value, Path) else value for key, value in values.items()}


@contextmanager
def _machines(
    cluster: str | None,
    spec: EngineSpec,
    built: Callable[[], Engine],
    work: Work,
    jobs: Sequence[Job],
    request: Request,
) -> Iterator[tuple[Engine | Node | None, Callable[..., Iterator[Outcome]]]]:
    """What computes, this machine or a cluster, and the function that starts the run.

    Nothing where neither jobs nor a report need it: such runs, which may be started every minute, import no torch.
    """
    if not jobs and work.left is None and "--report" not in request.naming.beside:
        spec.check()  # what is mistyped is told before the first pair comes
        yield None, lambda **how: iter(())
        return
    if cluster is None:
        yield built(), partial(work, jobs, built())
        return
    from fusecli.stream.cluster import connect

    folder = request.output if request.output.is_dir() else request.output.parent
    with connect(cluster, spec, work, jobs, folder, workers=request.workers) as joined:
        yield joined.node, partial(joined.run, jobs)


def _sheet(output: Path) -> Path:
    """Where the contact sheet goes: into the folder of results, or beside the one result."""
    from fusecli.images import frames, nifti, video
    from fusecli.images.listing import stem_of

    stem = stem_of(output.name, (*nifti.ENDINGS, *frames.ENDINGS, *video.WRITES, ".dcm"))
    if stem is None or output.is_dir():
        return output / "preview.png"
    return output.with_name(f"{stem}-preview.png")


def _tell(account: Report, task: registry.Task) -> None:
    totals = account.summary
    counts = ", ".join(f"{totals[key]} {key}" for key in ("done", "failed", "skipped", "left") if totals[key])
    speed = f" ({totals['pairs_per_second']:.1f} pairs/s)" if totals["done"] else ""
    log.info("%s in %.1f s%s", counts or "nothing to do", totals["seconds"], speed)
    for (side, fault), count in sorted(account.mended.items()):
        log.info("%s taken out of the %s side of %s", fault, getattr(task, side), counted(count, "pair"))
    failures = [pair.job.name for pair in account.pairs if pair.status == "failed"]
    if len(failures) > 1:
        log.error("failed: %s", ", ".join(failures[:20]) + (" …" if len(failures) > 20 else ""))


def _tell_left(left: Sequence[Job], signal: Signals | None, output: Path, *, watching: bool) -> None:
    """Say what a run that a signal ended has left; one that ended at a failure has told that."""
    count = counted(len(left), "pair")
    if watching:
        log.warning("%s left, which --watch finds again, for example %s", count, left[0].name)
    elif signal is not None:
        hint = "" if output == STDOUT else "; go on with --skip-existing"
        log.error("stopped by %s: %s left%s", signal.name, count, hint)


@contextmanager
def _progress(total: int | None, hidden: bool) -> Iterator[Any]:
    from fusecli.progress import above_bars, tqdm

    with (
        tqdm(total=total, unit="pair", disable=hidden, file=sys.stderr) as bar,
        nullcontext() if hidden else above_bars(log),
    ):
        yield bar
