"""The machine-readable account of a run (``--report``, ``--json``)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusecli import __version__
from fusecli.stream.run import Job, Outcome


class Report:
    """Collects outcomes; one JSON object at the end, also of an interrupted run."""

    def __init__(self, options: dict[str, Any], model: dict[str, Any], device: str, precision: str) -> None:
        self.began = time.time()
        self.head = {
            "fusecli": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": device,
            "precision": precision,
            "model": model,
            "options": options,
        }
        self.pairs: list[dict[str, Any]] = []

    def skipped(self, jobs: Sequence[Job]) -> None:
        """Pairs whose output was there already."""
        for job in jobs:
            self.pairs.append({**_files(job), "status": "skipped"})

    def add(self, outcome: Outcome) -> None:
        """A pair that was done or failed."""
        status = "failed" if outcome.error else "done"
        entry: dict[str, Any] = {**_files(outcome.job), "status": status}
        entry["seconds"] = round(outcome.seconds, 4)
        if outcome.error:
            entry["error"] = outcome.error
        else:
            entry["sha256"] = outcome.sha256
        self.pairs.append(entry)

    def count(self, status: str) -> int:
        """How many pairs are ``done``, ``failed`` or ``skipped``."""
        return sum(pair["status"] == status for pair in self.pairs)

    def summary(self, interrupted: bool = False) -> dict[str, Any]:
        """Totals of the run."""
        seconds = time.time() - self.began
        done = self.count("done")
        return {
            "pairs": len(self.pairs),
            "done": done,
            "failed": self.count("failed"),
            "skipped": self.count("skipped"),
            "interrupted": interrupted,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(done / seconds, 2) if seconds else 0.0,
        }

    def write(self, path: Path, interrupted: bool = False) -> None:
        """Write the whole report, or leave an old one as it is."""
        partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        account = {**self.head, "totals": self.summary(interrupted), "pairs": self.pairs}
        partial.write_text(json.dumps(account, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)


def _files(job: Job) -> dict[str, str]:
    return {"name": job.name, "first": str(job.first), "second": str(job.second), "output": str(job.output)}
