"""What a command will write, checked before any work: it can be written, harms no input and is no input by itself."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from fusecli.errors import UsageError
from fusecli.images.atomic import STDOUT, is_device
from fusecli.images.listing import folders_of


def check_files(files: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Check that files, by option, can be written, are not the same, and none of the inputs. Raises UsageError."""
    seen: dict[str, str] = {}
    for option, path in files.items():
        check_length(path)
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a folder; name a file")
        if is_device(path):
            continue
        other = seen.setdefault(os.path.abspath(path), option)
        if other != option:
            raise UsageError(f"{option} {path}: {other} would be written there too")
        if path != STDOUT:
            check_writable(option, path.parent)
    check_inputs_stay(files.items(), inputs)


def check_outside(option: str, path: Path, inputs: Iterable[str]) -> None:
    """Raises UsageError where what is written would lie in a folder among the inputs, or one that they match."""
    if path == STDOUT:
        return
    target = resolved(path)
    around = {identity(place) for place in (target, *target.parents) if exists(place)}  # names may differ: out, Out
    for folder in (each for typed in inputs for each in (Path(typed), *folders_of(typed))):
        if os.path.isdir(folder) and identity(folder) in around:
            raise UsageError(f"{option} {path}: lies in the input folder {folder}; choose a folder beside it")


def check_writable(option: str, folder: Path) -> None:
    """Try to write in the folder, or to make it, and leave nothing behind. Raises UsageError that names ``option``."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        if there == folder:
            with tempfile.TemporaryFile(dir=folder):
                pass
        else:  # in a folder of its own: to make and remove ``folder`` could disturb another run that uses it
            with tempfile.TemporaryDirectory(prefix=".", dir=there) as trial:
                Path(trial, folder.relative_to(there)).mkdir(parents=True)
    except OSError as error:
        broken = os.path.islink(folder) and not os.path.exists(folder)
        reason = f"a link to {os.readlink(folder)}, which is not there" if broken else error.strerror or error
        raise UsageError(f"{option} {folder}: cannot write here ({reason})") from error


def check_inputs_stay(written: Iterable[tuple[str, Path]], inputs: Iterable[Path]) -> None:
    """Raises UsageError where a file to be written, by option, is one of the inputs."""
    existing = [(option, path) for option, path in written if path != STDOUT and path.exists()]
    if not existing:  # what does not exist is no input
        return
    sources = {identity(path) for path in inputs if path != STDOUT}  # as an input - is stdin
    for option, path in existing:
        if identity(path) in sources:
            raise UsageError(f"{option} {path}: this is an input; choose another output")


def resolved(path: Path) -> Path:
    """`Path.resolve`, which until Python 3.13 raises RuntimeError for a link that leads to itself."""
    return Path(os.path.realpath(path))


def check_length(path: Path) -> None:
    """Raises OSError for a name that is too long; from Python 3.14 on `is_dir` no longer does."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise


def exists(path: Path) -> bool:
    """`Path.exists`, which raises OSError for some paths."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, say: writing it will fail, and cost that pair alone
        return False


def ignores_case(folder: Path) -> bool:
    """Whether names that differ in case only are one file in a folder; one yet to be made will be as those above it."""
    there = next(place for place in (folder, *folder.parents) if os.path.isdir(place))
    with suppress(OSError), tempfile.NamedTemporaryFile(prefix=".a", dir=there) as trial:
        return os.path.exists(os.path.join(there, os.path.basename(trial.name).upper()))
    return False  # nothing can be written there, which is told later


def identity(path: Path) -> tuple[int, int]:
    """What is the same for all names of a file or folder."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
