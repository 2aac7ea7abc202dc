"""What fusing pairs of volumes will write; settled before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fusecli.errors import InputError, UsageError
from fusecli.images import frames, nifti
from fusecli.stream.job import Job, is_filled
from fusecli.stream.plan import FORMATS, VOLUMES, Naming, Plan, check_depth, format_of, settle
from fusecli.stream.volume_pairs import Input, Layout, VolumePair

log = logging.getLogger("fusecli")

MANY = 5000  # DICOM files, whose headers take some 10 s to read
_KINDS = {"nifti": "nifti", **FORMATS}  # what is written, by --format


@dataclass(frozen=True)
class VolumeJob(Job):
    """One pair of volumes to fuse. kind: what is written: nifti, dicom, or an ending of slices (.png …).

    folder: whether ``output`` is a folder of slices. color: whether the result has colour.
    """

    volumes: VolumePair
    kind: str
    folder: bool
    color: bool

    @property
    def sides(self) -> tuple[Sequence[Path], Sequence[Path]]:
        return self.volumes.first.files, self.volumes.second.files

    @property
    def result_file(self) -> Path:
        return self.output / f"0001{self.ending}" if self.folder else self.output

    @property
    def ending(self) -> str:
        """That of the slices in a folder."""
        return ".dcm" if self.kind == "dicom" else self.kind

    def is_done(self) -> bool:
        """As for any job; a folder of slices holds nothing else, and none of another format."""
        if not self.folder:
            return super().is_done()
        try:
            files = list(self.output.iterdir())
        except OSError:
            return False
        return bool(files) and all(file.suffix == self.ending and is_filled(file) for file in files)


def plan(
    pairs: list[VolumePair],
    output: Path,
    naming: Naming,
    *,
    inputs: Sequence[str] = (),
    reference: int = 0,
    color: bool | None = None,
    bit_depth: int | None = None,
) -> Plan:
    """Name every pair's result and check that writing it harms nothing.

    output: a folder, or a file for a single pair. The format may also be nifti; a picture format means a folder of
    slices. inputs: both sides as typed; nothing may be written in a folder among them. color: whether results have
    colour; None: as their first input. Raises UsageError.
    """
    single = _is_file(output)
    if single and len(pairs) > 1:
        raise UsageError(f"-o {output}: one file for {len(pairs)} pairs; name a folder")
    _tell_how_many(pairs)
    alone = len(pairs) == 1
    jobs: list[VolumeJob] = []
    for index, pair in enumerate(pairs):
        mine = naming.part is None or naming.part.takes(pair.name)  # pairs of other parts are only named, not checked
        known, layout, colored = _examined(pair, reference, color, alone, mine)
        target = pair.inputs[reference]
        kind = _kind(output if single else None, naming.file_format, target)
        _check_bits(bit_depth, kind, colored)
        one_file = kind == "nifti" or (kind == "dicom" and layout.multi_frame and not colored)
        folder = layout.slices > 1 and not one_file
        if single:
            if folder and kind != ".tif":
                raise UsageError(f"-o {output}: the result has {layout.slices} files, one per slice; name a folder")
            path, folder = output, False
        else:
            path = naming.path(output, pair.name, "" if folder else _ending(kind, target), index)
        volumes = known if alone else _without_headers(known)
        jobs.append(VolumeJob(pair.name, pair.first.path, pair.second.path, path, volumes, kind, folder, colored))
    planned = settle(jobs, output, naming, single=single, inputs=inputs, written=VOLUMES)
    if alone and planned.jobs:  # else it is not read: its result is there, or another part's
        with suppress(InputError):  # which reading will raise, and the report tell of
            for one in jobs[0].volumes.inputs:
                one.check_volume()
    return planned


def _examined(
    pair: VolumePair, reference: int, color: bool | None, alone: bool, mine: bool
) -> tuple[VolumePair, Layout, bool]:
    """The pair with its series chosen, the layout of its reference, and whether its result has colour.

    Of a pair that this run does not fuse (not ``mine``), by as few headers as will do. color: the answer, if it is
    known; None: as the first has. Raises UsageError where both sides are the same volume, and any error in the headers
    if the pair is ``alone``. Of several pairs only that one will fail, when it is read.
    """
    try:
        known = pair.chosen() if alone or mine else pair
        layout = known.inputs[reference].layout()
        colored = known.first.layout().color if color is None else color
    except (InputError, UsageError):
        if alone:
            raise
        return pair, Layout(1), False
    if mine:
        _check_two(known)
    return known, layout, colored


def _tell_how_many(pairs: Sequence[VolumePair]) -> None:
    """Log that many headers are about to be read, which takes its time."""
    count = sum(len(one.files) for pair in pairs for one in pair.inputs if not one.is_nifti)
    if count > MANY:
        log.info("reading the headers of %d DICOM files", count)


def _without_headers(pair: VolumePair) -> VolumePair:
    """The pair without its DICOM headers, which take gigabytes for a cohort; the files of its series stay known."""
    return replace(pair, first=replace(pair.first, chosen=None), second=replace(pair.second, chosen=None))


def _check_two(pair: VolumePair) -> None:
    """Raises UsageError where both sides of a pair whose series are chosen are the same volume."""
    first, second = ((one.volume, [file.resolve() for file in one.own or one.files]) for one in pair.inputs)
    if first == second:
        a, b = pair.first.side, pair.second.side
        raise UsageError(
            f"--{a} and --{b} name the same volume: {pair.first.path}; name another file or folder for one of them, or "
            f"choose among the series of one folder by --series {a}=NUMBER,{b}=NUMBER (all below it are one folder by "
            f"a glob such as 'export/**', without --recursive); volumes in a folder for each patient are told apart by "
            f"globs, as --{a} 'patients/*/{a}' --{b} 'patients/*/{b}'"
        )


def _check_bits(bit_depth: int | None, kind: str, color: bool) -> None:
    """Raises UsageError where ``--bit-depth`` asks for what such a result cannot have."""
    if kind == "dicom" and bit_depth:
        raise UsageError("--bit-depth: a DICOM result keeps its reference's; write NIfTI, PNG or TIFF for another")
    if color and bit_depth == 16:
        raise UsageError("--bit-depth 16: volumes in colour have 8 bits; --color gray gives more")
    check_depth(bit_depth, [kind] if kind.startswith(".") else [])


def _is_file(output: Path) -> bool:
    return output.name.lower().endswith((*VOLUMES, *frames.ENDINGS)) and not output.is_dir()


def _kind(file: Path | None, file_format: str, target: Input) -> str:
    """What a result is written as."""
    if file is not None:
        ending = format_of(file.suffix)
        kind = "nifti" if nifti.is_nifti(file) else "dicom" if ending == ".dcm" else ending
        if file_format != "auto" and kind != _KINDS[file_format]:
            raise UsageError(f"-o {file}: contradicts --format {file_format}; leave out one of them")
    elif file_format == "auto":
        kind = "nifti" if target.is_nifti else "dicom"
    else:
        kind = _KINDS[file_format]
    if kind == "dicom" and target.is_nifti:
        raise UsageError(
            f"{target.path}: a NIfTI volume knows no patient and no study to derive a DICOM result from; "
            "write NIfTI, or choose the DICOM side by --reference"
        )
    return kind


def _ending(kind: str, target: Input) -> str:
    if kind == "nifti":
        return ".nii" if target.path.name.lower().endswith(".nii") else ".nii.gz"
    return ".dcm" if kind == "dicom" else kind
