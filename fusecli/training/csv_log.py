"""A run's log: a CSV row for each validation, whose first columns are ``step`` and ``loss``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from fusecli.images.atomic import explained, write_bytes


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, after a header where the file has none for these columns. Raises OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with explained(path), path.open("a+", newline="", encoding="utf-8", errors="backslashreplace") as file:
        file.seek(0)
        headed = list(row) in csv.reader(file)  # else it is new, or of a run with other validation sets
        writer = csv.DictWriter(file, row)
        if not headed:
            writer.writeheader()
        writer.writerow(row)


def forget_later(path: Path, step: int) -> None:
    """Cut the rows after ``step``, which will come again, and a row that a full disk left unfinished."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:  # none, or the first row tells what is wrong with it
        return
    if not lines or not lines[0].startswith(b"step,loss,"):  # somebody else's
        return
    kept = [line for line in lines if line.endswith(b"\n") and not _step_of(line) > step]
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _step_of(row: bytes) -> int:
    """The step of a row; 0 for a header."""
    first = row.partition(b",")[0]
    return int(first) if first.isdigit() else 0
