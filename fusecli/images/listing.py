"""The files of folders and globs, with the sub-folders that their results mirror, and the stems of their names."""

from __future__ import annotations

import errno
import glob
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

log = logging.getLogger("fusecli")


def files_of(typed: str, recursive: bool = False) -> Iterator[tuple[str, Path]]:
    """(name with the mirrored sub-folder, path) of the files of a folder or a glob, see `walk` and `matching`."""
    found = walk(typed, recursive) if os.path.isdir(typed) else matching(typed, recursive, [])
    for relative, name, location in found:
        yield relative + name, Path(location)


@cache
def folders_of(typed: str) -> tuple[Path, ...]:
    """The folders that a glob matches, if it matches only folders.

    Looked up once in a run, which asks several times: it takes seconds where many folders lie on a network.
    """
    if os.path.exists(typed):
        return ()
    found = []
    for name in glob.iglob(typed, recursive=True):
        if not os.path.isdir(name):
            return ()  # at once: there may be many files
        found.append(Path(name))
    return tuple(sorted(found))


def leaves_open_folders(typed: str) -> bool:
    """Whether a glob of files leaves open only their folders, as ``*/ct.nii.gz`` does."""
    folder, name = os.path.split(typed)
    return glob.has_magic(folder) and not glob.has_magic(name) and not os.path.exists(typed) and not folders_of(typed)


def is_empty(folder: str) -> bool:
    """Whether a folder, with its sub-folders, holds no file yet and no broken link."""
    try:
        broken: list[str] = []
        return next(walk(folder, True, broken), None) is None and not broken
    except OSError:  # reported when the folder is read
        return False


def stem_of(name: str, endings: Collection[str]) -> str | None:
    """The name without its ending; None where the ending is none of ``endings`` (of which .nii.gz may be one)."""
    dot = name.rfind(".")
    if dot <= 0:
        return name if "" in endings else None
    double = name.rfind(".", 1, dot)
    if double > 0 and name[double:].lower() in endings:
        return name[:double]
    return name[:dot] if name[dot:].lower() in endings else None


def middle_of(stem: str, pattern: tuple[str, str]) -> str:
    """The part of a stem that the star of a pattern (before it, after it) matches; empty where this does not fit.

    A question mark in the pattern is any character, as in names with times, which differ between two cameras.
    """
    before, after = pattern
    end = len(stem) - len(after)
    fits = _is_alike(stem[: len(before)], before) and _is_alike(stem[max(end, 0) :], after)
    return stem[len(before) : end] if fits else ""


def _is_alike(text: str, pattern: str) -> bool:
    if "?" not in pattern:
        return text == pattern
    return len(text) == len(pattern) and all(known in ("?", own) for own, known in zip(text, pattern, strict=True))


def walk(
    folder: str,
    recursive: bool,
    broken: list[str] | None = None,
    relative: str = "",
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, str, str]]:
    """(sub-folder with slash, name, location) of all files of a folder that are not hidden. Raises OSError.

    Links to a parent are not followed. broken: a list to which broken links are appended. relative, above: the path
    from the first folder to this one, and the folders on it.
    """
    try:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in above:
            return
        with os.scandir(folder) as entries:
            listing = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except (FileNotFoundError, PermissionError) as error:
        if not relative:
            raise
        if isinstance(error, PermissionError):  # `os.access` does not foresee it of a Windows drive's own folders
            _tell_closed(folder)
        return  # else it is gone since its parent was listed, such as the oldest day's
    for entry in listing:
        try:
            is_file, is_folder = entry.is_file(), entry.is_dir()
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link to itself
                continue
            raise
        if is_file:
            yield relative, entry.name, entry.path
        elif recursive and is_folder:
            if os.access(entry.path, os.R_OK | os.X_OK):
                yield from walk(entry.path, recursive, broken, f"{relative}{entry.name}/", above | {identity})
            else:  # such as lost+found of a disk
                _tell_closed(entry.path)
        elif broken is not None and not is_folder and entry.is_symlink():
            broken.append(entry.path)


@cache
def _tell_closed(folder: str) -> None:
    """Once for each folder: --watch looks twice a second."""
    reason = "no permission"
    try:
        os.stat(folder)
    except PermissionError:
        pass
    except FileNotFoundError:  # gone since its parent was listed
        return
    except OSError as error:  # a path that is too long, a lost share
        reason = error.strerror or str(error)
    log.warning("%s: cannot be listed: %s", folder, reason)


def matching(pattern: str, recursive: bool, broken: list[str]) -> Iterator[tuple[str, str, str]]:
    """As `walk`, for the files that match a glob, or that lie in the folders if it matches only folders.

    The sub-folder keeps those parts of a path that wildcards matched.
    """
    parts = Path(pattern).parts
    matched = folders_of(pattern)
    for folder in matched:
        yield from walk(str(folder), recursive, broken, _kept(parts, folder.parts))
    for location in [] if matched else sorted(glob.glob(pattern, recursive=True)):
        if os.path.isfile(location):
            *folders, name = Path(location).parts
            yield _kept(parts[:-1], folders), name, location
        elif os.path.islink(location) and not os.path.exists(location):
            broken.append(location)


def _kept(pattern: Sequence[str], folders: Sequence[str]) -> str:
    """Those of the folders, each with a slash, that wildcards matched, which ``**`` does to any number of them."""
    deep = [index for index, part in enumerate(pattern) if part == "**"]
    head, tail = (deep[0], len(pattern) - 1 - deep[-1]) if deep else (len(pattern), 0)
    matched = [*pattern[:head], *["**"] * (len(folders) - head - tail), *pattern[len(pattern) - tail :]]
    return "".join(f"{folder}/" for folder, part in zip(folders, matched, strict=False) if glob.has_magic(part))


def reads(endings: Collection[str]) -> str:
    """The part of a message that says which files are taken."""
    return f"fusecli reads {' '.join(sorted(ending for ending in endings if ending))} here"
