"""A pair to fuse, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusecli.images.pair import Pair

if TYPE_CHECKING:
    import numpy as np

    from fusecli.stream.engine import Found


@dataclass(frozen=True)
class Job(Pair):
    """A pair to fuse and the file that its result goes to."""

    output: Path

    @property
    def sides(self) -> tuple[Sequence[Path], Sequence[Path]]:
        """The files that are read of either side."""
        return (self.first,), (self.second,)

    @property
    def result_file(self) -> Path:
        """The result, or of a folder of slices the first."""
        return self.output

    def is_done(self) -> bool:
        """Whether there is a result. Empty files, as aborted copies and repaired disks leave them, are none.

        Nor is a folder in its place, or a path that cannot be read; writing to it will say why.
        """
        return is_filled(self.output)


def is_filled(path: Path) -> bool:
    """Whether this is a file that holds something."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


@dataclass
class Outcome:
    """What became of a job. fatal: the next jobs would fail in the same way, so no more are begun."""

    job: Job
    error: str | None = None
    seconds: float = 0.0
    sha256: str | None = None
    preview: Sequence[np.ndarray] | None = field(default=None, repr=False)
    fatal: bool = False
    mended: Found = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)  # what else the report shall say
