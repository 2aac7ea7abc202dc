"""Atomic writing: a result appears under its name complete or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from fusecli.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
ABANDONED = 86400.0  # seconds without a change, by which it is told where there are no locks
STDOUT = Path("-")
_OPEN = ("/dev/fd/", "/dev/std", "/proc/")  # what stands for a process's open files; /dev/shm holds true ones
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (an empty folder if ``folder``), which replaces ``path`` on success.

    It is hidden, so that no run takes it as input, and keeps the file ending, by which some libraries choose the
    format. Its name is random and it is created exclusively, so that in a shared folder such as /tmp nobody can plant a
    link in its place. A device or a pipe is written to directly. Raises OutputError with file and reason where the disk
    is full or writing is not permitted.
    """
    with explained(path):
        if is_device(path):
            yield path
            return
    with explained(path), _made(path, folder) as partial:
        try:
            yield partial
            if not folder:
                os.replace(partial, path)
            else:
                if path.is_symlink():  # no folder can be renamed onto one
                    path.unlink()
                _put_folder(partial, path)
        except BaseException:
            if folder:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
            raise


def _put_folder(partial: Path, path: Path) -> None:
    """Rename a folder, in place of one that is there or that another run puts there at the same time."""
    endings = {item.suffix for item in partial.iterdir()}
    old = partial.with_name(partial.name + ".old")
    while True:
        with suppress(FileNotFoundError):  # there is none, or another run has just taken it away
            foreign = [item for item in path.iterdir() if item.is_dir() or item.suffix not in endings]
            if foreign:
                raise OutputError(f"{path}: not replaced, since it holds more than results ({foreign[0].name})")
            os.rename(path, old)
        placed = _rename_folder(partial, path)
        shutil.rmtree(old, ignore_errors=True)  # another run may be sweeping it already
        if placed:
            return


def _rename_folder(folder: Path, target: Path) -> bool:
    """Whether the target was free. Raises OSError for all else that prevents it."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def numbered(folder: Path, count: int, ending: str) -> Iterator[Path]:
    """Paths for ``count`` slices in a folder: 0001.png …, zero-padded so that names sort in slice order."""
    digits = max(4, len(str(count)))
    return (folder / f"{number:0{digits}d}{ending}" for number in range(1, count + 1))


@contextmanager
def _made(path: Path, folder: bool) -> Iterator[Path]:
    """A new temporary file or folder for ``path``, locked for as long as it is worked on."""
    ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}{PARTIAL}{ending}")
        if folder:
            partial.mkdir()
        else:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
        with ExitStack() as held:
            ours = False  # where another run swept it before it was locked
            with suppress(FileNotFoundError):
                ours = held.enter_context(locked(partial)) and partial.exists()
            if ours:
                yield partial
                return


@contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Lock a file or folder, at most until this process ends; yields False where another run holds the lock.

    Yields True where locks are not supported. Raises OSError where ``place`` cannot be opened.
    """
    if fcntl is None:
        yield True
        return
    access = os.O_RDONLY if place.is_dir() else os.O_WRONLY  # NFS locks only files opened for writing
    descriptor = os.open(place, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # or a file system without locks
            free = not isinstance(error, BlockingIOError)
        yield free
    finally:
        os.close(descriptor)


@contextmanager
def by_turns(path: Path) -> Iterator[None]:
    """Let one process at a time make ``path``; those that waited may find it already made.

    Raises OSError where nothing can be written there. Does not wait where locks are not supported.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Raise OutputError with file and reason for an OSError, save where the reader of a pipe is gone."""
    try:
        yield
    except BrokenPipeError:  # as `head` closes it early
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot be written: {reason}", full=error.errno in _FULL) from error


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A file for UTF-8 text, whole or not at all; - is standard output. Raises OutputError.

    Characters that are not valid Unicode, as in some file names, are written as backslash escapes.
    """
    if path == STDOUT:  # not reopened: that would truncate a file that it is redirected to
        with explained("standard output"):
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
            yield sys.stdout
            sys.stdout.flush()
    else:
        with replacing(path) as place, place.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, whole or not at all; see `replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write text as a file of its own, or to standard output; see `text_file`."""
    with text_file(path) as file:
        file.write(text)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        with each.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def is_device(path: Path) -> bool:
    """Whether this is a device, a pipe or the like, to be written to and never replaced, such as /dev/stdout."""
    if not path.exists():  # as most results: one look
        return False
    # Not told by what it is not, which holds for a folder that another run replaces meanwhile, too.
    special = path.is_char_device() or path.is_fifo() or path.is_block_device() or path.is_socket()
    return special or (path.is_file() and str(path).startswith(_OPEN))


def sweep(paths: Iterable[Path]) -> int:
    """Remove temporary files that killed runs left beside ``paths`` and return their number; those in use stay."""
    prefixes: dict[Path, set[str]] = defaultdict(set)
    for path in paths:
        prefixes[path.parent].add(_prefix(path))
    found = 0
    for folder, known in prefixes.items():
        leftovers = [path for path in folder.glob(f".*{PARTIAL}*") if path.name.partition("-")[0] + "-" in known]
        for path in leftovers:
            with suppress(OSError), locked(path) as free:  # another user's, or a link that someone else made, stays
                if not free or (fcntl is None and time.time() - path.stat().st_mtime < ABANDONED):
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                found += 1
    return found


def _prefix(path: Path) -> str:
    """Prefix of the names of a path's temporary files; a hash, so that it stays short if the path's name is long."""
    return f".{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}-"
