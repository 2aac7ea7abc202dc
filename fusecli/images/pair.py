"""Two files of one scene."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Two files of one scene. name: the result's, without ending: posix, with the mirrored sub-folder (night/0001)."""

    name: str
    first: Path
    second: Path

    @property
    def files(self) -> tuple[Path, Path]:
        return self.first, self.second


def same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file."""
    with suppress(OSError):  # not there, or gone since it was listed: then its pair will fail by name
        return os.path.samefile(first, second)
    return False
