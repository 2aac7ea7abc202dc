"""Which volumes belong together: the files of each, its series and time point, and its partner."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fusecli.errors import InputError, UsageError, itemized
from fusecli.images import dicom, dicom_series, frames, listing, nifti
from fusecli.images.decode import pixel_limit
from fusecli.images.headers import too_large
from fusecli.images.pairing import Pairing, find_pairs
from fusecli.images.volume import Volume
from fusecli.registry import Task

log = logging.getLogger("fusecli")

_Unit = tuple[Path, list[Path]]  # one volume: how messages call it, and its files


@dataclass(frozen=True)
class Choice:
    """What --series or --volume says about one side. certain: it names this side; else it is for sides with several."""

    value: str | None = None
    certain: bool = False

    def among(self, count: int) -> str | None:
        """The value, where it is meant for a side that has ``count`` to choose from."""
        return self.value if self.certain or count > 1 else None


def choices(option: str, text: str | None, task: Task) -> dict[str, Choice]:
    """Parse ``3`` or ``ct=3,mri=5``: the choice for each side. Raises UsageError where it makes no sense."""
    if text is None or "=" not in text:
        found = dict.fromkeys(task.sides, Choice(text))
    else:
        parts = [part.partition("=") for part in text.split(",")]
        if any(side not in task.sides or not value for side, _, value in parts):
            raise UsageError(f"{option} {text}: expected one value, or {task.first}=VALUE,{task.second}=VALUE")
        found = dict.fromkeys(task.sides, Choice()) | {side: Choice(value, True) for side, _, value in parts}
    if option == "--volume" and any(one.value and not one.value.isdecimal() for one in found.values()):
        raise UsageError(f"--volume {text}: expected a number, counted from 0")
    return found


class Layout(NamedTuple):
    """What a volume is like, by its headers. multi_frame: whether one DICOM file holds all slices."""

    slices: int
    color: bool = False
    multi_frame: bool = False


@dataclass(frozen=True)
class Input:
    """One volume to read. path: how messages call it. files: a NIfTI file, or DICOM files of one folder."""

    side: str
    path: Path
    files: tuple[Path, ...]
    series: Choice = Choice()
    volume: Choice = Choice()
    chosen: dicom_series.Series | None = None
    own: tuple[Path, ...] = ()  # those of the chosen series, once it is known
    max_voxels: int | None = None

    @property
    def is_nifti(self) -> bool:
        return nifti.is_nifti(self.files[0])

    def choose(self) -> dicom_series.Series:
        """The DICOM series. Raises UsageError where it is not clear which, InputError for damaged files."""
        if self.chosen is not None:
            return self.chosen
        found = dicom_series.scan(self.path, self.own or self.files)
        return dicom_series.choose(found, self.side, self.series.among(len(found.series)))

    def read(self) -> Volume:
        """The volume. Raises InputError with file and reason."""
        if self.is_nifti:
            (columns, rows, slices), count, _ = nifti.peek(self.path)
            self._check_size(columns * rows * slices)
            return nifti.read(self.path, self._index(count))
        series = self.choose()
        header = series.headers[0][1]
        self._check_size(int(header.Columns) * int(header.Rows) * series.slices)
        return dicom.read(series, self.side, self.volume.among)

    def check_volume(self) -> None:
        """Raises UsageError where there are several volumes and none is chosen, or the chosen one does not exist."""
        if self.is_nifti:
            _, count, _ = nifti.peek(self.path)
            nifti.check_choice(self.path, count, self._index(count))
        else:
            dicom.check_choice(self.choose(), self.volume.among)

    def _index(self, count: int) -> int | None:
        """Which of so many volumes of a NIfTI file."""
        index = self.volume.among(count)
        return None if index is None else int(index)

    def layout(self) -> Layout:
        """Of the chosen series, else by the first file. Raises InputError."""
        if self.is_nifti:
            (_, _, slices), _, color = nifti.peek(self.path)
            return Layout(slices, color)
        found = [self.chosen] if self.chosen else dicom_series.scan(self.path, self.files[:1]).series
        if not found:
            return Layout(len(self.files))
        slices = found[0].slices if self.chosen or found[0].is_multi_frame else len(self.files)
        return Layout(slices, found[0].is_color, found[0].is_multi_frame)

    def _check_size(self, voxels: int) -> None:
        limit = pixel_limit(self.max_voxels)
        if voxels > limit:
            raise InputError(f"{self.path}: {too_large(voxels, 'voxels', limit)}")


@dataclass(frozen=True)
class VolumePair:
    """Two volumes of one patient. name: the result's, without ending, with the mirrored sub-folder."""

    name: str
    first: Input
    second: Input

    @property
    def inputs(self) -> tuple[Input, Input]:
        return self.first, self.second

    def chosen(self) -> VolumePair:
        """The pair with its DICOM series chosen. Raises as `Input.choose`, also where --series fits neither side."""
        first, second = (one if one.is_nifti else _of_series(one, one.choose()) for one in self.inputs)
        found = [one.chosen for one in (first, second) if one.chosen]
        wanted = None if first.series.certain else first.series.value  # said of both sides: it has to fit one of them
        if found and wanted and not any(wanted == one.number or one.ends_in(wanted) for one in found):
            raise UsageError(f"--series {wanted}: neither side has a series {wanted!r}, but:{itemized(found)}")
        return replace(self, first=first, second=second)


def find(
    typed: tuple[str, str],
    task: Task,
    pairing: Pairing = Pairing(),
    *,
    series: str | None = None,
    volume: str | None = None,
    max_voxels: int | None = None,
) -> list[VolumePair] | None:
    """The pairs of volumes that the two sides name; None where neither side has a volume (but pictures).

    A folder of DICOM files is one volume, the chosen series; with --recursive so is every sub-folder with such files.
    Folders are a pair if their paths below both sides are the same, or if the wildcards of two globs of folders
    (``cohort/*/CT`` and ``cohort/*/MR``) match the same. NIfTI files pair by name as pictures do. A table of the pairs
    names files, and folders that hold one volume. Raises UsageError where only one side has volumes, and for volumes
    without a partner.
    """
    serial, which = choices("--series", series, task), choices("--volume", volume, task)

    def make(side: str, path: Path, files: Sequence[Path]) -> Input:
        return Input(side, path, tuple(files), serial[side], which[side], max_voxels=max_voxels)

    if pairing.pairs_csv is not None:
        found = _listed(pairing, typed, task)
    else:
        found = [_collect(side, text, pairing.recursive) for side, text in zip(task.sides, typed, strict=True)]
    if not any(found):
        return None
    for side, text, units in zip(task.sides, typed, found, strict=True):
        if not units:
            raise UsageError(f"--{side} {text}: {_why_none(text, pairing.recursive)}")
    has_series = {
        side: not all(nifti.is_nifti(files[0]) for files in units.values())
        for side, units in zip(task.sides, found, strict=True)
    }
    _check_series(serial, has_series)
    if pairing.pair_by != "stem" and any(has_series.values()):
        raise UsageError("--pair-by matches names of NIfTI files; DICOM series pair by the names of their folders")
    files_typed = all(Path(text).is_file() for text in typed)  # a pair, whatever their names
    if pairing.pairs_csv is None and not files_typed and not any(has_series.values()):
        pairs = find_pairs(*typed, pairing, endings=nifti.ENDINGS, sides=task.sides)
        matched = [(one.name, (one.first, [one.first]), (one.second, [one.second])) for one in pairs]
    else:
        matched = _matched(found, typed, task, pairing.ignore_unmatched)
    return [VolumePair(name, make(task.first, *one), make(task.second, *other)) for name, one, other in matched]


def _check_series(chosen: Mapping[str, Choice], has: Mapping[str, bool]) -> None:
    """Raises UsageError where --series names a side without DICOM, or where neither side has DICOM."""
    for side, choice in chosen.items():
        if choice.value is not None and not (has[side] if choice.certain else any(has.values())):
            where = f"--{side} is none" if choice.certain else "neither side is"
            raise UsageError(f"--series is for DICOM, and {where}")


def _matched(
    found: Sequence[Mapping[str, list[Path]]], typed: tuple[str, str], task: Task, ignore_unmatched: bool
) -> list[tuple[str, _Unit, _Unit]]:
    """Volumes with the same name on both sides, or the only one of each. Raises UsageError for those left over."""
    first, second = (
        {key: (_called(text, files), files) for key, files in units.items()}
        for text, units in zip(typed, found, strict=True)
    )
    if len(first) == len(second) == 1:
        ((key, one),), ((namesake, other),) = first.items(), second.items()
        if key != namesake and all(listing.folders_of(text) for text in typed):  # perhaps of two patients
            log.warning("%s and %s are a pair as the only ones, though wildcards differ", one[0], other[0])
        return [(key or _stem(one[0]), one, other)]
    first, second = _by_folder(first, second), _by_folder(second, first)
    common = first.keys() & second.keys()
    lonely = [
        f"--{side} {units[key][0]}"
        for side, units in zip(task.sides, (first, second), strict=True)
        for key in sorted(units.keys() - common)
    ]
    if lonely:
        message = f"volumes without partner of the same name:{itemized(lonely)}"
        if not ignore_unmatched or not common:
            raise UsageError(
                f"{message}\nAdd the missing ones, or go on without these by --ignore-unmatched. Folders pair by their "
                f"path below both sides, or by what the wildcards of globs stand for (as */{task.first} and "
                f"*/{task.second}); --pairs matches volumes wherever they lie."
            )
        log.warning("%s", message)
    return [(key or _stem(Path(typed[0])), first[key], second[key]) for key in sorted(common)]


def _by_folder(units: Mapping[str, _Unit], others: Collection[str]) -> dict[str, _Unit]:
    """The volumes; a file that is alone in its folder gets the folder's name where the other side has such a volume."""
    held = Counter(key.rpartition("/")[0] for key in units)
    found = {}
    for key, unit in units.items():
        folder = key.rpartition("/")[0]
        found[folder if key not in others and folder in others and held[folder] == 1 else key] = unit
    return found


def _listed(pairing: Pairing, typed: tuple[str, str], task: Task) -> list[dict[str, list[Path]]]:
    """As `_collect` for both sides: the volumes that a table lists, by pair name; empty if it lists none."""
    volumes = (*nifti.ENDINGS, *dicom_series.ENDINGS)
    listed = partial(find_pairs, *typed, pairing, folders=True, sides=task.sides)
    pairs = listed(endings=(*volumes, *frames.ENDINGS))
    found: list[dict[str, list[Path]]] = [{}, {}]
    paths = [path for pair in pairs for path in pair.files]
    if not any(path.is_dir() or path.name.lower().endswith(volumes) for path in paths):
        return found
    for pair in listed(endings=volumes):
        for side, path, units in zip(task.sides, pair.files, found, strict=True):
            held = list(_collect(side, str(path), False).values())
            if len(held) != 1:
                what = f"holds {len(held) or 'no'} volumes; name a file, or a folder of one"
                raise UsageError(f"--pairs {pairing.pairs_csv}: {path} {what}")
            units[pair.name] = held[0]
    return found


def _collect(side: str, typed: str, recursive: bool) -> dict[str, list[Path]]:
    """Volumes below what was typed: name within it -> files. Several NIfTI files are several volumes.

    Raises UsageError where two have one name, and where a folder holds both kinds.
    """
    path = Path(typed)
    within: dict[Path, str] = {}  # the files of a glob, which are one series if they are DICOM -> the matched folders
    if path.is_dir() or listing.folders_of(typed):
        folders = _folders(side, typed, recursive)
    else:
        within = {file: name.rpartition("/")[0] for name, file in listing.files_of(typed)}
        folders = {"": [path] if path.is_file() else list(within)}
    by_folder = listing.leaves_open_folders(typed)
    units: dict[str, list[Path]] = {}
    for relative, files in folders.items():
        images, series = _kinds(side, files)
        for file in images:
            folder = within.get(file, relative)
            name = folder if folder and by_folder else f"{folder}/{_stem(file)}".lstrip("/")
            if name in units:
                raise UsageError(
                    f"--{side}: {units[name][0]} and {file} have the same name, so that no one can tell which to pair; "
                    "name one of them"
                )
            units[name] = [file]
        if series:
            units[relative] = series
    return units


def _why_none(typed: str, recursive: bool) -> str:
    """Why there is no volume on a side, where the other has one."""
    path = Path(typed)
    folders = [path] if path.is_dir() else listing.folders_of(typed)
    if not recursive and any(entry.is_dir() for folder in folders for entry in folder.iterdir()):
        where = "this folder itself" if path.is_dir() else "these folders themselves"
        return f"no volume lies in {where}; --recursive takes the sub-folders too"
    if path.suffix.lower() == ".hdr" and path.exists():
        return f"is a header alone; name the file of the voxels, {path.with_suffix(nifti.PAIR)}"
    if path.exists() or glob.glob(typed):
        return "the other side is a volume, this is none (DICOM, or NIfTI as .nii, .nii.gz, or .img beside .hdr)"
    return "no such file or folder"


def _kinds(side: str, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The NIfTI files and the DICOM files of one place; see `_collect`."""
    images: list[Path] = []
    series: list[Path] = []
    for file in files:
        if nifti.is_nifti(file):
            images.append(file)
        elif file.suffix.lower() not in frames.ENDINGS and dicom_series.is_dicom(file):
            series.append(file)
    if images and series:
        raise UsageError(
            f"--{side}: holds DICOM ({series[0]}) and NIfTI ({images[0]}); name the file, or the DICOM files by a glob"
        )
    return images, series


def _folders(side: str, typed: str, recursive: bool) -> dict[str, list[Path]]:
    """Files by folder, named by its path below what was typed, or for a glob by what the wildcards match.

    A disk, which is a folder with an index (DICOMDIR), is one place with all below it, unless that is ``recursive``.
    """
    if not typed:
        raise UsageError(f"--{side}: names nothing; write . for this folder")
    found: dict[str, list[Path]] = {}
    disks: dict[str, Path] = {}
    try:
        for name, path in listing.files_of(typed, recursive):
            folder = name.rpartition("/")[0]
            if not _is_index(path):
                found.setdefault(folder, []).append(path)
            elif not recursive:
                disks[folder] = path.parent
        for folder, disk in disks.items():
            found[folder] = [path for _, path in listing.files_of(str(disk), recursive=True) if not _is_index(path)]
    except OSError as error:
        raise UsageError(f"--{side} {error.filename}: cannot be listed: {error.strerror}") from error
    return found


def _is_index(path: Path) -> bool:
    """Whether a file is the index of a disk, which is DICOM and no image."""
    return path.name.upper() == "DICOMDIR"


def _called(typed: str, files: Sequence[Path]) -> Path:
    """A volume's path for messages: its only file, unless that is DICOM in a typed folder; else its files' folder."""
    whole = Path(typed).is_dir() and not nifti.is_nifti(files[0])
    return Path(os.path.commonpath({file.parent for file in files})) if whole or len(files) > 1 else files[0]


def _stem(path: Path) -> str:
    """The name of a file without its ending, or of a folder."""
    if path.is_dir():
        return path.resolve().name
    # not path.stem: a file named by a UID has dots but no ending
    return listing.stem_of(path.name, (*nifti.ENDINGS, *dicom_series.ENDINGS)) or path.name


def _of_series(volume: Input, series: dicom_series.Series) -> Input:
    return replace(volume, chosen=series, own=tuple(series.files))
