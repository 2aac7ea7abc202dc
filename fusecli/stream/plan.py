"""What a run will write, settled and checked before any work starts."""

from __future__ import annotations

import logging
import os
import string
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusecli.errors import UsageError
from fusecli.images import frames
from fusecli.images.pairing import Pair
from fusecli.stream.run import Job

log = logging.getLogger("fusecli")
SHOWN = 5
FORMATS = {"png": ".png", "tiff": ".tif", "jpg": ".jpg"}


@dataclass(frozen=True)
class Plan:
    """Jobs to do, and jobs whose output is there already (``--skip-existing``)."""

    jobs: list[Job]
    skipped: list[Job]


def plan(
    pairs: list[Pair],
    output: Path,
    *,
    reference: int = 0,
    file_format: str = "auto",
    pattern: str = "{stem}",
    fields: dict[str, str] | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Plan:
    """Name every pair's result and check that writing it harms nothing.

    output: a folder, or a file for a single pair (a path with an image's ending that is no folder). file_format: auto
    (the reference's own), png, tiff or jpg. pattern: the file's name; {stem}, {index} and ``fields`` stand for values.
    Raises UsageError where outputs exist, coincide, lie in an input folder, or cannot be written.
    """
    if file_format != "auto" and file_format not in FORMATS:
        raise UsageError(f"--format {file_format}: choose auto, {', '.join(FORMATS)}")
    single = output.suffix.lower() in frames.ENDINGS and not output.is_dir()
    if single and len(pairs) > 1:
        raise UsageError(f"-o {output}: one file for {len(pairs)} pairs; name a folder")
    jobs = []
    for index, pair in enumerate(pairs):
        if single:
            target = output
        else:
            source = (pair.first, pair.second)[reference]
            ending = FORMATS.get(file_format) or source.suffix.lower()
            folder, _, stem = pair.name.rpartition("/")
            target = (
                output
                / folder
                / (result_name(pattern, {**(fields or {}), "stem": stem, "index": f"{index:06d}"}) + ending)
            )
        jobs.append(Job(pair.name, pair.first, pair.second, target))
    guarded = {path.resolve().parent for job in jobs for path in (job.first, job.second)}
    return settle(jobs, output, single=single, guarded=guarded, overwrite=overwrite, skip_existing=skip_existing)


def settle(
    jobs: Sequence[Job], output: Path, *, single: bool, guarded: Iterable[Path], overwrite: bool, skip_existing: bool
) -> Plan:
    """The plan of named jobs. guarded: input folders, in which no folder of results may lie. Raises UsageError."""
    _check_distinct(jobs)
    _check_apart_from_inputs(jobs, output, () if single else guarded)
    existing = [job for job in jobs if job.output.exists()]
    if existing and not overwrite and not skip_existing:
        shown = _some(job.output for job in existing)
        raise UsageError(
            f"{len(existing)} of {len(jobs)} outputs exist already ({shown}); --overwrite or --skip-existing"
        )
    _check_writable(output.parent if single else output)
    skipped = existing if skip_existing and not overwrite else []
    left = {id(job) for job in skipped}
    return Plan([job for job in jobs if id(job) not in left], skipped)


def result_name(pattern: str, values: dict[str, str]) -> str:
    """The file name that ``--name`` gives. Raises UsageError where it is none."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
        unknown = names - set(values)
        if unknown:
            raise UsageError(f"--name {pattern}: unknown {{{min(unknown)}}}; known: {', '.join(sorted(values))}")
        name = pattern.format_map(values)
    except ValueError as error:
        raise UsageError(f"--name {pattern}: {error}") from error
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise UsageError(f"--name {pattern}: gives {name!r}, which is not a file name")
    return name


def _check_distinct(jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    folded: dict[str, Job] = {}
    for job in jobs:
        if job.output in seen:
            raise UsageError(f"{seen[job.output].first} and {job.first} would both be written to {job.output}")
        seen[job.output] = job
        other = folded.setdefault(str(job.output).casefold(), job)
        if other is not job:
            log.warning("%s and %s differ in case only: one file on some systems", other.output, job.output)


def _check_apart_from_inputs(jobs: Sequence[Job], folder: Path, guarded: Iterable[Path]) -> None:
    """No input may be overwritten, and no result may lie where the next run would take it for an input."""
    inputs = {path.resolve() for job in jobs for path in (job.first, job.second)}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(f"-o {job.output}: this is an input; choose another output")
    target = folder.resolve()
    for parent in guarded:
        if target == parent or parent in target.parents:
            raise UsageError(f"-o {folder}: lies in the input folder {parent}; choose a folder beside it")


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"-o {folder}: cannot write here ({error.strerror or error})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o {folder}: cannot write here (permission denied)")


def _some(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
