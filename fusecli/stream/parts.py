"""One run in several parts, for batch systems that start the same command many times (Slurm arrays, Kubernetes)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from fusecli.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Part ``id`` (0 … count−1) of ``count``. Every pair is in exactly one, on every machine and in every run."""

    count: int
    id: int

    def takes(self, name: str) -> bool:
        """Whether the pair of that name is this part's."""
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.id


def part(num_parts: int | None, part_id: int | None) -> Part | None:
    """What ``--num-parts`` and ``--part-id`` say; None for a whole run. Raises UsageError."""
    if num_parts is None and part_id is None:
        return None
    if num_parts is None or part_id is None:
        raise UsageError("--num-parts and --part-id go together: --num-parts 8 --part-id 0 … --part-id 7")
    if not 0 <= part_id < num_parts:
        raise UsageError(
            f"--part-id {part_id}: parts are counted from 0, so the last of {num_parts} is {num_parts - 1}"
        )
    return Part(num_parts, part_id)
