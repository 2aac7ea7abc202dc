"""What a run will write, settled and checked before any work starts."""

from __future__ import annotations

import glob
import logging
import mimetypes
import os
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path, PurePath

from fusecli.errors import UsageError, counted
from fusecli.images import decode, frames
from fusecli.images.atomic import is_device
from fusecli.images.listing import folders_of
from fusecli.images.outputs import (
    check_files,
    check_inputs_stay,
    check_length,
    check_outside,
    check_writable,
    exists,
    identity,
    ignores_case,
    resolved,
)
from fusecli.images.pair import Pair
from fusecli.stream.job import Job
from fusecli.stream.parts import Part

log = logging.getLogger("fusecli")
SHOWN = 5
VOLUMES = (".nii", ".nii.gz", ".dcm")  # endings; named here so that no library that reads volumes is imported
_NAMELESS = (
    *VOLUMES,
    *(".nii.bz2", ".nii.zst", ".img", ".dicom", ".ima", ".mha", ".mhd", ".mgh", ".mgz", ".mnc", ".nhdr", ".nrrd"),
    *(".dng", ".npy"),
)
FORMATS = {"png": ".png", "tiff": ".tif", "tif": ".tif", "jpg": ".jpg", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True)
class Plan:
    """Jobs to do, and jobs whose output is there already (``--skip-existing``)."""

    jobs: list[Job]
    skipped: list[Job]


@dataclass(frozen=True)
class Naming:
    """How results are named and what they may replace; see the options of `fusecli fuse`.

    file_format: auto (that of the reference) or one of FORMATS. pattern: the file's name, in which {stem}, {index} and
    the names in ``fields`` stand for values. beside: other files that the run writes, by option. part: the part whose
    jobs are planned; None: all. reads: files that the run reads besides the pairs.
    """

    file_format: str = "auto"
    pattern: str = "{stem}"
    fields: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    skip_existing: bool = False
    beside: Mapping[str, Path] = field(default_factory=dict)
    part: Part | None = None
    reads: Sequence[Path] = ()

    def ending(self, reference: Path) -> str:
        """The ending of a fused picture. Raises UsageError for a format that pictures cannot have."""
        if self.file_format == "auto":
            return reference.suffix.lower()
        if self.file_format not in FORMATS:
            raise UsageError(f"--format {self.file_format}: choose auto, {', '.join(FORMATS)}")
        return FORMATS[self.file_format]

    def path(self, output: Path, pair: str, ending: str, index: int | None = None) -> Path:
        """Where in ``output`` the result of the pair of that name goes; without index there is no {index}.

        Raises UsageError for unknown values and for what is no file name.
        """
        folder, _, stem = pair.rpartition("/")
        numbered = {} if index is None else {"index": f"{index:06d}"}
        return output / folder / (_file_name(self.pattern, {**self.fields, "stem": stem, **numbered}) + ending)


def plan(pairs: list[Pair], output: Path, naming: Naming, *, inputs: Sequence[str] = ()) -> Plan:
    """Name every pair's result, in the first's format or as ``naming`` says, and check that writing it harms nothing.

    output: a folder, or for a single pair a file, told by its ending. inputs: both sides as typed; a folder among them
    is no place for results. Raises UsageError where outputs exist, coincide, lie in an input folder, or cannot be
    written.
    """
    single = output.suffix.lower() in frames.ENDINGS and not output.is_dir()
    if single and len(pairs) > 1:
        raise UsageError(f"-o {output}: one file for {len(pairs)} pairs; name a folder")
    if single and format_of(output.suffix) != format_of(naming.ending(output)):
        raise UsageError(f"-o {output}: contradicts --format {naming.file_format}; leave out one of them")
    return place(pairs, output, naming, naming.ending, single=single, inputs=inputs)


def place(
    pairs: Sequence[Pair],
    output: Path,
    naming: Naming,
    ending: Callable[[Path], str],
    *,
    single: bool,
    inputs: Sequence[str],
    written: Iterable[str] = frames.WRITES,
) -> Plan:
    """Plan the results of pairs of files, pictures or videos. ending: a result's, given the first file of its pair.

    inputs: both sides as typed. For the rest, and for what raises UsageError, see `settle`.
    """
    jobs = []
    for index, pair in enumerate(pairs):
        target = output if single else naming.path(output, pair.name, ending(pair.first), index)
        jobs.append(Job(pair.name, pair.first, pair.second, target))
    return settle(jobs, output, naming, single=single, inputs=inputs, written=written)


def settle(
    jobs: Sequence[Job],
    output: Path,
    naming: Naming,
    *,
    single: bool,
    inputs: Sequence[str],
    written: Iterable[str] = frames.WRITES,
) -> Plan:
    """Check that writing the results of ``jobs`` harms nothing.

    single: ``output`` is the file itself. inputs: both sides as typed, and other folders in which no folder of results
    may lie. Where all are files the result is likely meant to be one: a new folder may be results.v2 then, but not
    one.xyz. written: the endings that ``output`` could have as a file, for a message. Names are checked in all jobs,
    existing files only in this part's own jobs, since other parts may be running. Raises UsageError.
    """
    beside, replaces = naming.beside, naming.overwrite or naming.skip_existing
    if not single:
        _check_globs(output, inputs, jobs)
    files = all(Path(typed).is_file() for typed in inputs)
    if not single and not output.is_dir() and (_is_medium(output.name) or (files and output.suffix[1:].isalpha())):
        known = ", ".join(written)
        raise UsageError(f"-o {output}: files of this kind are not written here; name a folder, or a file in {known}")
    _check_distinct(jobs, output.parent if single else output, beside)
    mine = jobs if naming.part is None else [job for job in jobs if naming.part.takes(job.name)]
    existing = [job for job in mine if exists(job.output)]
    pipe = next((job.output for job in existing if not single and is_device(job.output)), None)
    if pipe is not None:  # which writing would wait for, perhaps for ever
        raise UsageError(f"-o {output}: {pipe} is a pipe or device, where a result would go; remove it")
    _check_folders_hold_no_input(existing, jobs)
    sources = chain(naming.reads, (path for job in jobs for path in chain(*job.sides)))  # other parts' too
    check_inputs_stay([*(("-o", job.output) for job in existing), *beside.items()], sources)
    if single:
        if naming.pattern != "{stem}":
            raise UsageError(f"-o {output} names the result, and so does --name {naming.pattern}: leave out one")
        check_length(output)
    else:
        check_outside("-o", output, inputs)
    if existing and not replaces:
        shown = _some(job.output for job in existing)
        raise UsageError(
            f"results exist already for {len(existing)} of {counted(len(mine), 'pair')} ({shown}); "
            "--overwrite or --skip-existing"
        )
    sheet = beside.get("--preview")  # its name is not the user's choice, so it may be another program's
    if sheet is not None and exists(sheet) and not replaces:
        raise UsageError(f"--preview: {sheet} exists already; --overwrite or --skip-existing replace it")
    skipped = [job for job in existing if job.is_done()] if not naming.overwrite else []
    if not skipped or len(skipped) < len(mine):  # where all is done, the disk may be read-only by now
        check_writable("-o", output.parent if single else output)
    check_files(beside)
    left = {id(job) for job in skipped}
    return Plan([job for job in mine if id(job) not in left], skipped)


def _check_globs(output: Path, inputs: Sequence[str], jobs: Sequence[Job]) -> None:
    """Raises UsageError where a glob among ``inputs`` would match results in the folder ``output`` in the next run."""
    for side, typed in enumerate(inputs[:2]):
        if Path(typed).exists():  # which is no glob
            continue
        folders = {path.parent for job in jobs for path in job.sides[side]}
        inside = exists(output) and identity(output) in map(identity, folders)
        if inside or _would_find(typed, output, (job.result_file for job in jobs)):
            raise UsageError(f"-o {output}: {typed} would find the results as inputs; choose another folder")


def check_depth(bits: int | None, endings: Iterable[str]) -> None:
    """Raises UsageError where ``--bit-depth`` asks for more than pictures of these endings hold."""
    shallow = [ending for ending in sorted(set(endings)) if "uint16" not in frames.WRITES[ending]]
    if bits == 16 and shallow:
        raise UsageError(f"--bit-depth 16: {shallow[0]} files hold 8 bits; choose --format png or tiff")


def check_color(jobs: Iterable[Job], gray: bool) -> None:
    """Raises UsageError where a result of a colour image would go into a format that holds gray alone."""
    for job in jobs:
        if job.output.suffix.lower() == ".pgm" and job.first.suffix.lower() != ".pgm" and not gray:
            found = decode.peek(job.first)
            if found and found.color:
                raise UsageError(f"{job.output}: PGM holds no colour; write .ppm or .png, or add --color gray")


def _is_medium(name: str) -> bool:
    """Whether a file of that name would be a picture, a video or a volume, of whatever format.

    Python knows the media types of most of them, and those in _NAMELESS have none.
    """
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith(("image/", "video/", "audio/")) or name.lower().endswith(_NAMELESS)


def format_of(ending: str) -> str:
    """The one ending that stands for its format: .tif for .tiff, .jpg for .jpeg."""
    return FORMATS.get(ending.lower()[1:], ending.lower())


def _file_name(pattern: str, values: dict[str, str]) -> str:
    """The file name that ``--name`` gives. Raises UsageError for unknown values and for what is no file name."""
    try:
        parts = [(name, spec or how) for _, name, spec, how in string.Formatter().parse(pattern) if name is not None]
        unknown = {name for name, _ in parts} - set(values)
        if unknown:
            raise UsageError(f"--name {pattern}: unknown {{{min(unknown)}}}; known: {', '.join(sorted(values))}")
        if any(formatted for _, formatted in parts):
            raise UsageError(f"--name {pattern}: write values without a format; {{index}} has six digits by itself")
        name = pattern.format_map(values)
    except ValueError as error:
        raise UsageError(f"--name {pattern}: {error}") from error
    ending = next((one for one in (*VOLUMES, *frames.ENDINGS) if pattern.lower().endswith(one)), None)
    if ending:
        raise UsageError(f"--name {pattern}: leave out {ending}; endings go by --format, or by the input's")
    if not name or name == ".." or PurePath(name).name != name or "\0" in name:
        raise UsageError(f"--name {pattern}: gives {name!r}, which is not a file name")
    return name


def _check_distinct(jobs: Sequence[Job], root: Path, beside: Mapping[str, Path]) -> None:
    seen: dict[Path, Job] = {}
    folded: dict[str, Job] = {}
    alike: list[Job] = []  # to another one's, but for case
    for job in jobs:
        if job.output in seen:
            raise UsageError(
                f"{seen[job.output].first} and {job.first} would both be written to {job.output}; "
                "--name tells them apart, for example by {index}"
            )
        seen[job.output] = job
        if folded.setdefault(str(job.output).casefold(), job) is not job:
            alike.append(job)
    if alike and ignores_case(root):
        one, other = folded[str(alike[0].output).casefold()].output, alike[0].output
        raise UsageError(f"{one} and {other} would be one file, since case does not count there; choose another folder")
    if alike:
        message = "results whose names differ from another one's in case only, one file on some systems: %d"
        log.warning(message, len(alike))
    if not beside:
        return
    places = {os.path.abspath(path): job for path, job in seen.items()}
    folders = {Path(os.path.abspath(folder)) for folder in {root, *(path.parent for path in seen)}}
    for option, path in beside.items():
        place = os.path.abspath(path)
        clash = places.get(place)
        if clash is not None:
            raise UsageError(f"{option} {path}: would also be the result of {clash.first}; --name tells them apart")
        if not path.is_dir() and any(folder.is_relative_to(place) for folder in folders):
            raise UsageError(f"{option} {path}: results go into a folder of this name; name another file")


def _check_folders_hold_no_input(existing: Iterable[Job], jobs: Iterable[Job]) -> None:
    """Raises UsageError where an output folder that exists, to be replaced or taken for a result, holds inputs."""
    folders = [job.output for job in existing if job.output.is_dir()]
    if not folders:
        return
    sources = {folder.resolve() for folder in {path.parent for job in jobs for path in chain(*job.sides)}}
    held = sources.union(*(source.parents for source in sources))
    for folder in folders:
        if folder.resolve() in held:
            raise UsageError(f"-o {folder}: holds inputs; choose another output, or another --name")


def _would_find(typed: str, output: Path, results: Iterable[Path]) -> bool:
    """Whether a glob would match results: they lie below its fixed part, and match the rest, or what follows ``**``."""
    pattern = Path(os.path.join(typed, "*") if folders_of(typed) else typed)
    parts = pattern.parts
    head = Path(*takewhile(lambda part: not glob.has_magic(part), parts)).resolve()
    if not resolved(output).is_relative_to(head):
        return False
    tail = os.path.abspath(pattern)
    if "**" in parts:
        tail = os.path.join("*", *parts[len(parts) - parts[::-1].index("**") :])
    return any(Path(os.path.abspath(path)).match(tail) for path in results)


def _some(paths: Iterable[Path]) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
