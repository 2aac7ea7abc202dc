"""Descriptions as JSON lines: one record per pair, appended as they are made, so that an unfinished run can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images.atomic import explained, locked
from fusecli.text.events import Event, severity_vector, types_for


@dataclass(frozen=True)
class Description:
    """What is wrong with a pair: events, and one sentence per side (first and second, in the order of ``sides``)."""

    sides: tuple[str, str]
    events: tuple[Event, ...]
    sentences: Mapping[str, str]

    @property
    def severities(self) -> list[float]:
        """fusecli.text.events.severity_vector of the events."""
        return severity_vector(self.events, self.sides)

    def record(self, name: str, first: str, second: str, backend: str) -> dict[str, Any]:
        """The JSON record of this description; ``first`` and ``second`` are the files it was made from."""
        return {
            "name": name,
            "first": first,
            "second": second,
            "events": [asdict(item) for item in self.events],
            "sentences": {side: self.sentences[side] for side in self.sides},
            "backend": backend,
        }

    @classmethod
    def from_record(cls, record: object) -> Description:
        """The inverse of ``record``; raises ValueError that says what is missing or wrong."""
        if not isinstance(record, dict):
            raise ValueError("a record must be a JSON object")
        sentences = record.get("sentences")
        if not isinstance(sentences, dict) or (task := registry.task_of(set(sentences))) is None:
            pairs = ", ".join(" and ".join(each.sides) for each in registry.TASKS.values())
            raise ValueError(f"'sentences' must map two sides to text: {pairs}")
        if not all(isinstance(text, str) and text.strip() for text in sentences.values()):
            raise ValueError("a sentence is empty or no text")
        if not isinstance(record.get("events"), list):
            raise ValueError("'events' must be a list")
        events = tuple(_event(item, task.sides) for item in record["events"])
        return cls(task.sides, events, sentences)  # whatever their order in the file: some programs sort keys


def _event(item: object, sides: tuple[str, str]) -> Event:
    if not isinstance(item, dict):
        raise ValueError("an event must be an object of type, side and severity")
    type_, side, severity = (item.get(key) for key in ("type", "side", "severity"))
    if type_ not in types_for(sides):
        raise ValueError(f"event type {type_!r} is none of: {', '.join(types_for(sides))}")
    if side not in sides:
        raise ValueError(f"event side {side!r} is neither {sides[0]} nor {sides[1]}")
    if isinstance(severity, bool) or not isinstance(severity, (int, float)) or not 0 <= severity <= 1:
        raise ValueError(f"event severity {severity!r} is no number from 0 to 1")
    return Event(str(type_), str(side), float(severity))


def load(path: Path) -> dict[str, Description]:
    """Read a JSON-lines file: pair name -> Description. UsageError names the file and the line of the first fault."""
    return {name: description for name, (description, _) in _read(path).items()}


def _read(path: Path) -> dict[str, tuple[Description, str]]:
    """Like `load`, with the path of the pair's first file for each; empty where the record names none."""
    found: dict[str, tuple[Description, str]] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            description = Description.from_record(record)
            name = record.get("name")
            if not isinstance(name, str) or not name:
                raise ValueError("'name' is missing")
            if name in lines:
                raise ValueError(f"pair {name!r} was already described in line {lines[name]}")
        except (ValueError, RecursionError) as error:  # json.JSONDecodeError is a ValueError
            raise UsageError(
                f"{path}, line {number}: {error}. Mend or delete the line; 'fusecli annotate' makes it again."
            ) from error
        found[name] = description, str(record.get("first") or "")
        lines[name] = number
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file by a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}. Make it with 'fusecli annotate'.") from error


class Appender:
    """Appends records to a JSON-lines file, each flushed when written.

    ``done`` holds what was there before, with the first file of each. ``anew`` empties the file at the first record.
    Otherwise a last line that an interrupted run left unfinished is cut off (``repaired``); any other fault in the file
    is a UsageError, and so is another run that is writing it. Raises OutputError where the file cannot be written.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        self.path = path
        self.done: dict[str, tuple[Description, str]] = {}
        self.repaired = False
        self._stale = anew
        with explained(path), contextlib.ExitStack() as opened:  # closes again what is open if the rest fails
            path.parent.mkdir(parents=True, exist_ok=True)
            # Bytes of a file's name that are no Unicode are written as \udcff and the like, which is valid JSON.
            self._file = opened.enter_context(path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n"))
            if not opened.enter_context(locked(path.resolve())):
                raise UsageError(f"{path}: another run is writing there; wait until it ends, or name another file")
            if not anew:
                self.repaired = _cut_torn_line(path)
                self.done = _read(path)
            self._opened = opened.pop_all()

    def write(self, record: Mapping[str, Any]) -> None:
        with explained(self.path):
            if self._stale:
                self._file.truncate(0)
                self._stale = False
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # `write` has reported it already
            self._file.close()  # while the lock is held, since it writes what `write` could not
        self._opened.close()


def _cut_torn_line(path: Path) -> bool:
    """Cut off an incomplete last record, and return whether there was one; only complete ones end with a line break."""
    data = path.read_bytes()
    if not data or data.endswith(b"\n"):
        return False
    whole, _, tail = data.rpartition(b"\n")
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        os.truncate(path, len(whole) + 1 if whole else 0)
        return True
    with path.open("ab") as file:  # complete but for its line break, as editors leave it
        file.write(b"\n")
    return False
