"""The machine-readable account of a run (``--report``, ``--json``)."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusecli import __version__
from fusecli.images.atomic import replacing
from fusecli.stream.engine import Engine
from fusecli.stream.run import Job, Outcome


class Report:
    """Collects outcomes; one JSON object at the end, also of an interrupted run.

    keep: how many pairs are listed, the last ones; the totals are of all. None: every one.
    """

    def __init__(self, options: dict[str, Any], model: dict[str, Any], engine: Engine, keep: int | None = None) -> None:
        self.began = time.time()
        self.device, self.precision = str(engine.device), str(engine.precision).removeprefix("torch.")
        self.head = {
            "fusecli": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": self.device,
            "precision": self.precision,
            "model": model,
            "options": options,
            "tile": engine.tile,
            "tile_overlap": engine.overlap,
        }
        self.pairs: deque[dict[str, Any]] = deque(maxlen=keep)
        self.counts = Counter[str]()
        self.summary: dict[str, Any] = {}

    def skipped(self, jobs: Sequence[Job]) -> None:
        """Pairs whose output was there already."""
        for job in jobs:
            self._append({**_files(job), "status": "skipped"})

    def add(self, outcome: Outcome) -> None:
        """A pair that was done or failed."""
        status = "failed" if outcome.error else "done"
        entry: dict[str, Any] = {**_files(outcome.job), "status": status}
        entry["seconds"] = round(outcome.seconds, 4)
        if outcome.error:
            entry["error"] = outcome.error
        else:
            entry["sha256"] = outcome.sha256
        entry.update(outcome.details)
        self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        self.pairs.append(entry)
        self.counts[entry["status"]] += 1

    def count(self, status: str) -> int:
        """How many pairs are ``done``, ``failed`` or ``skipped``."""
        return self.counts[status]

    def close(self, left: int = 0, interrupted: bool = False) -> None:
        """The run is over. left: pairs that were not begun, since it was stopped or met what would stop them too."""
        seconds = time.time() - self.began
        self.summary = {
            "pairs": self.counts.total() + left,
            "done": self.counts["done"],
            "failed": self.counts["failed"],
            "skipped": self.counts["skipped"],
            "left": left,
            "interrupted": interrupted,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(self.counts["done"] / seconds, 2) if seconds else 0.0,
        }

    def write(self, path: Path) -> None:
        """Write the whole report, pairs by name, or leave an old one as it is. Raises OutputError."""
        account = {**self.head, "totals": self.summary, "pairs": sorted(self.pairs, key=lambda pair: pair["name"])}
        with replacing(path) as partial:
            partial.write_text(json.dumps(account, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(job: Job) -> dict[str, str]:
    return {"name": job.name, "first": str(job.first), "second": str(job.second), "output": str(job.output)}
