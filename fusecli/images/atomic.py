"""Results appear under their names whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusecli.errors import OutputError

_serial = itertools.count()
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` (an empty folder there if ``folder``), which takes its place on success.

    It is hidden, so that no run takes it as input, and keeps the ending, by which some libraries choose the format.
    Raises OutputError with file and reason where the disk is full or writing is not permitted.
    """
    partial = path.with_name(f".{os.getpid()}-{next(_serial)}.partial{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            partial.mkdir()
        try:
            yield partial
            if folder and path.is_dir() and not path.is_symlink():
                endings = {item.suffix for item in partial.iterdir()}
                foreign = [item for item in path.iterdir() if item.is_dir() or item.suffix not in endings]
                if foreign:
                    raise OutputError(f"{path}: not replaced, since it holds more than results ({foreign[0].name})")
                old = partial.with_name(partial.name + ".old")
                os.rename(path, old)
                os.rename(partial, path)
                shutil.rmtree(old)
            else:
                os.replace(partial, path)
        except BaseException:
            if folder:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot be written: {reason}", full=error.errno in _FULL) from error
