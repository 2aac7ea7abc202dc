"""The machine-readable account of a run (``--report``, ``--json``)."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fusecli import __version__
from fusecli.images.atomic import text_file
from fusecli.stream.job import Job, Outcome

if TYPE_CHECKING:
    from fusecli.stream.cluster import Node
    from fusecli.stream.engine import Engine


class Entry(NamedTuple):
    """What became of a pair, in few bytes: a run of a million pairs holds a million of these."""

    job: Job
    status: str
    seconds: float | None = None
    sha256: bytes | None = None
    more: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The pair as the report lists it."""
        job = self.job
        entry: dict[str, Any] = {"name": job.name, "first": str(job.first), "second": str(job.second)}
        entry |= {"output": str(job.output), "status": self.status}
        if self.seconds is not None:
            entry["seconds"] = round(self.seconds, 4)
        if self.status == "done":
            entry["sha256"] = self.sha256.hex() if self.sha256 else None
        return entry | (self.more or {})


class Report:
    """Collects outcomes and writes one JSON object at the end, also for an interrupted run.

    engine: what computes; None for a run without work that only counts. keep: how many pairs are listed (the last ones;
    None: all). Totals always count every pair.
    """

    def __init__(
        self, options: dict[str, Any], model: str, engine: Engine | Node | None, keep: int | None = None
    ) -> None:
        self.began = time.monotonic()  # the wall clock may be set during the run
        self.head = {} if engine is None else _head(options, model, engine)
        self.pairs: deque[Entry] = deque(maxlen=keep)
        self.counts = Counter[str]()  # of pairs by status: done, failed, skipped or left
        self.mended = Counter[tuple[str, str]]()  # number of pairs by side and fault that was mended in it
        self.summary: dict[str, Any] = {}

    def skipped(self, jobs: Sequence[Job]) -> None:
        """Pairs whose output was there already."""
        for job in jobs:
            self._append(Entry(job, "skipped"))

    def add(self, outcome: Outcome) -> None:
        """A pair that was done or failed."""
        digest = bytes.fromhex(outcome.sha256) if outcome.sha256 else None
        more = ({"error": outcome.error} if outcome.error else {}) | outcome.details
        if outcome.mended:
            more["mended"] = {side: sorted(names) for side, names in outcome.mended.items()}
        self.mended.update((side, name) for side, names in outcome.mended.items() for name in names)
        status = "failed" if outcome.error else "done"
        self._append(Entry(outcome.job, status, outcome.seconds, digest, more or None))

    def _append(self, entry: Entry) -> None:
        self.pairs.append(entry)
        self.counts[entry.status] += 1

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of ``jobs`` (without the skipped) that have no outcome yet; for reports that keep every pair."""
        if self.counts["done"] + self.counts["failed"] == len(jobs):  # the usual case: spares a set of a million paths
            return []
        settled = {entry.job.output for entry in self.pairs}
        return [job for job in jobs if job.output not in settled]

    def close(self, left: Sequence[Job] = (), interrupted: bool = False) -> None:
        """Sum up at the end of the run. left: pairs not begun, since it was stopped or met a fatal error."""
        for job in left:
            self._append(Entry(job, "left"))
        seconds = time.monotonic() - self.began
        self.summary = {
            "pairs": self.counts.total(),
            **{status: self.counts[status] for status in ("done", "failed", "skipped", "left")},
            "interrupted": interrupted,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(self.counts["done"] / seconds, 2) if seconds else 0.0,
        }

    def write(self, path: Path) -> None:
        """Write the report, pairs sorted by name, whole or not at all; see `text_file`. Raises OutputError."""
        head = _json({**self.head, "totals": self.summary, "pairs": []})
        before, after = head[: -len("]\n}")], "\n ]\n}\n" if self.pairs else "]\n}\n"
        with text_file(path) as file:
            file.write(before)
            for index, entry in enumerate(sorted(self.pairs, key=lambda entry: entry.job.name)):  # one at a time
                file.write((",\n  " if index else "\n  ") + _json(entry.as_json()).replace("\n", "\n  "))
            file.write(after)


def _head(options: dict[str, Any], model: str, engine: Engine | Node) -> dict[str, Any]:
    """What the report says of the run; at its start, since a device that runs out of memory gets smaller tiles."""
    import torch

    return {
        "fusecli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": str(engine.device),
        "precision": engine.precision,
        "engine": engine.runtime,
        "model": {"name": model},
        "options": options,
        "tile": engine.tile,
        "tile_overlap": engine.overlap,
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
