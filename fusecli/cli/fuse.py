"""`fusecli fuse`: whole directories of registered pairs into fused images."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusecli import registry
from fusecli.cli import options
from fusecli.errors import EXIT_NOTHING_DONE, EXIT_PARTIAL, UsageError

if TYPE_CHECKING:
    from fusecli.images.intensity import Range
    from fusecli.stream.report import Report

log = logging.getLogger("fusecli")

PREVIEWED = 8
INPUT = "Folder, file or glob of {}."


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
    jpg = "jpg"


def fuse(
    ir: Annotated[str | None, typer.Option(help=INPUT.format("infrared frames"))] = None,
    vis: Annotated[str | None, typer.Option(help=INPUT.format("visible frames"))] = None,
    ct: Annotated[str | None, typer.Option(help=INPUT.format("CT slices"))] = None,
    pet: Annotated[str | None, typer.Option(help=INPUT.format("PET slices"))] = None,
    spect: Annotated[str | None, typer.Option(help=INPUT.format("SPECT slices"))] = None,
    mri: Annotated[str | None, typer.Option(help=INPUT.format("MRI slices"))] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results, or a file for a single pair.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Released model (see `fusecli models`) or a weight file.")
    ] = registry.DEFAULT_MODEL,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, help="Pairs at once on a GPU. Default: by their size.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Threads that read and write. Default: one per core.")
    ] = None,
    tile: Annotated[str, typer.Option("--tile", "-t", help="auto, 0 (never) or pixels.")] = "auto",
    tile_overlap: Annotated[str, typer.Option(help="auto (what the model sees) or pixels.")] = "auto",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Sub-folders too, mirrored below -o.")] = False,
    pair_by: Annotated[str, typer.Option(help="stem, or a pattern per side as 'ir=*_IR,vis=*_RGB'.")] = "stem",
    pairs: Annotated[
        Path | None, typer.Option(help="CSV of explicit pairs: a column per side, and name (optional).")
    ] = None,
    ignore_unmatched: Annotated[bool, typer.Option(help="Fuse what has a partner; warn about the rest.")] = False,
    range_: Annotated[
        str,
        typer.Option("--range", help="Infrared intensity: auto (percentiles of the sequence), frame, full or LO,HI."),
    ] = "auto",
    resize: Annotated[
        str | None, typer.Option(help="Side to bring to the other's size, such as ir. Default: other sizes are errors.")
    ] = None,
    color: Annotated[Color, typer.Option(help="auto, gray or ycbcr (luma fused, Cb and Cr kept).")] = Color.auto,
    bit_depth: Annotated[BitDepth, typer.Option(help="keep (as the reference), 8 or 16.")] = BitDepth.keep,
    file_format: Annotated[
        Format, typer.Option("--format", help="auto (as the reference), png, tiff or jpg.")
    ] = Format.auto,
    compress: Annotated[bool, typer.Option(help="Smaller PNG and TIFF files, written several times slower.")] = False,
    name: Annotated[str, typer.Option(help="File names: {stem}, {index}, {task}, {model}.")] = "{stem}",
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    skip_existing: Annotated[bool, typer.Option(help="Leave results that exist; go on with the others.")] = False,
    fail_fast: Annotated[bool, typer.Option(help="Stop at the first pair that fails.")] = False,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Refuse larger images before they are decoded. Default: 2^29.")
    ] = None,
    preview: Annotated[bool, typer.Option(help="Write preview.png: sources beside results.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a JSON report to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More messages, and tracebacks.")] = False,
    log_format: Annotated[str, typer.Option(help="text or json (messages on stderr).")] = "text",
) -> None:
    """Fuse pairs of registered images.

    fusecli fuse --ir thermal/ --vis camera/ -o fused/

    Exit codes: 0 all done, 1 nothing could be done, 2 usage, 8 some pairs failed.
    """
    options.set_up_logging(log_format, quiet=quiet, verbose=verbose)
    settings_given = {
        key: value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
        for key, value in locals().items()
    }
    given = {"ir": ir, "vis": vis, "ct": ct, "pet": pet, "spect": spect, "mri": mri}
    sides = {side: value for side, value in given.items() if value is not None}
    task = registry.task_of(set(sides))
    if task is None:
        valid = ", ".join(f"--{t.first} with --{t.second}" for t in registry.TASKS.values())
        raise UsageError(f"give exactly one pair of modalities: {valid}")
    if output is None:
        raise UsageError("name the output: -o FOLDER")
    if resize is not None and resize not in task.sides:
        raise UsageError(f"--resize {resize}: choose {' or '.join(task.sides)}")
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other")

    from fusecli.images import frames, pairing

    found = pairing.find_pairs(
        sides[task.first],
        sides[task.second],
        endings=frames.ENDINGS,
        recursive=recursive,
        pair_by=pair_by,
        pairs_csv=pairs,
        sides=task.sides,
        ignore_unmatched=ignore_unmatched,
    )
    from fusecli.stream.plan import plan

    planned = plan(
        found,
        output,
        file_format=file_format.value,
        pattern=name,
        fields={"task": task.name, "model": Path(model).stem},
        overwrite=overwrite,
        skip_existing=skip_existing,
    )

    from fusecli.models import checkpoint
    from fusecli.stream import run as stream
    from fusecli.stream.engine import Engine
    from fusecli.stream.report import Report

    engine = Engine(checkpoint.load(model, task.name), device, precision, tile, tile_overlap)
    settings = stream.Settings(
        ranges=_ranges(range_, found, task),
        resize=None if resize is None else task.sides.index(resize),
        color=False if color is Color.gray else None,
        bit_depth=None if bit_depth is BitDepth.keep else int(bit_depth.value),
        batch=batch_size or 8,
        workers=workers or os.cpu_count() or 1,
        max_pixels=max_pixels,
        compress=compress,
        digest=report is not None,
    )
    account = Report(settings_given, {"name": model}, str(engine.device), str(engine.precision).removeprefix("torch."))
    account.skipped(planned.skipped)
    shown = {job.output for job in planned.jobs[:: max(1, len(planned.jobs) // PREVIEWED)][:PREVIEWED]}
    rows: list[tuple[Any, ...]] = []
    stopped: BaseException | None = None
    outcomes = stream.run(planned.jobs, engine, settings, preview=lambda job: preview and job.output in shown)
    try:
        with _sigterm_interrupts(), _progress(len(planned.jobs), quiet) as bar:
            for outcome in outcomes:
                account.add(outcome)
                bar.update()
                if outcome.preview:
                    rows.append(outcome.preview)
                if outcome.error:
                    log.error("%s: %s", outcome.job.name, outcome.error)
                    if fail_fast:
                        break
    except BaseException as error:  # the report of an interrupted run is what one needs to go on
        stopped = error
    finally:
        outcomes.close()
    if rows and not output.suffix:
        from fusecli.images.preview import contact_sheet

        contact_sheet(rows, output / "preview.png")
    _close(account, report, as_json, interrupted=stopped is not None)
    if stopped is not None:
        raise stopped
    failed, done = account.count("failed"), account.count("done") + account.count("skipped")
    if failed:
        raise typer.Exit(EXIT_PARTIAL if done else EXIT_NOTHING_DONE)


def _ranges(option: str, pairs: list, task: registry.Task) -> tuple[Range | str | None, Range | str | None]:
    """Intensity of first and second side: --range goes to the infrared, the same for every frame of the sequence."""
    from fusecli.images import intensity

    firsts, seconds = [pair.first for pair in pairs], [pair.second for pair in pairs]
    if task.second != "ir":
        return intensity.visible_range(firsts), intensity.visible_range(seconds)
    infrared = option if option in ("frame", "full") else intensity.sequence_range(option, seconds)
    return intensity.visible_range(firsts), infrared


def _close(account: Report, report: Path | None, as_json: bool, *, interrupted: bool) -> None:
    summary = account.summary(interrupted)
    if report is not None:
        account.write(report, interrupted)
    if as_json:
        typer.echo(json.dumps(summary))
    counts = ", ".join(f"{summary[key]} {key}" for key in ("done", "failed", "skipped") if summary[key])
    log.info("%s in %.1f s (%.1f pairs/s)", counts or "nothing done", summary["seconds"], summary["pairs_per_second"])
    failures = [pair for pair in account.pairs if pair["status"] == "failed"]
    if len(failures) > 1:
        log.error(
            "failed: %s", ", ".join(pair["name"] for pair in failures[:20]) + (" …" if len(failures) > 20 else "")
        )


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    hidden = quiet or not sys.stderr.isatty()
    with tqdm(total=total, unit="pair", disable=hidden, file=sys.stderr) as bar:
        if hidden:
            yield bar
        else:
            with logging_redirect_tqdm([log]):
                yield bar


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: pairs under way are finished, then the report is written."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
