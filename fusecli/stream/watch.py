"""Folders that cameras write into: pairs are taken as they become complete.

Memory holds as many names as the folders do, however long the run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from fusecli.errors import counted
from fusecli.images.listing import walk
from fusecli.stream.job import Job, Outcome
from fusecli.stream.plan import Naming
from fusecli.stream.run import run as run_jobs
from fusecli.stream.settings import Settings

if TYPE_CHECKING:
    from fusecli.stream.engine import Engine

log = logging.getLogger("fusecli")

POLL = 0.5  # seconds between looks; longer where a look takes more than a tenth of that
SETTLE = 1.0  # seconds without a change after which a file counts as written
PATIENCE = 10.0  # seconds without a change after which an unreadable file has failed
RECHECK = 60.0  # seconds during which a file that changes after all is fused again, without --overwrite
PARTNER = 60.0  # seconds after which a missing partner is reported
LATE = 5.0  # seconds that a pair may wait before the run says that it does not keep up
TELL = 10.0  # seconds between two messages of one kind
ROUND = 64  # pairs between two looks

State = tuple[tuple[int, int], tuple[int, int]]  # size and time of change of both files


@dataclass
class _Waiting:
    """A name that is not settled. Times are those of `time.monotonic`."""

    since: float  # when it was first seen, or last seen changing
    state: State | None = None
    tried: State | None = None  # what was handed out last
    ended: State | None = None  # what was last fused, or failed for good
    ready: float | None = None  # since when it is complete
    unread: bool = False  # whether it failed for good with a file that cannot even be opened
    told: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is to be done until its files change."""
        return self.state is not None and self.state == self.ended


@dataclass
class Watcher:
    """Finds the pairs in two folders that are ready to be fused.

    keys: for each folder, a file's name with its sub-folder -> its pair's name; None for files that belong to no pair.
    output: the folder of the results. A file is complete if it has not changed for SETTLE seconds, or at once where it
    was moved here. If it then cannot be read it is tried again when it changes, and a last time when it has not changed
    for PATIENCE seconds; one that could not even be opened also when it can be. With --overwrite a pair is fused anew
    whenever its files change; without, only until it has a result and RECHECK seconds have passed without a change.
    """

    folders: tuple[Path, Path]
    keys: Sequence[Callable[[str], str | None]]
    output: Path
    naming: Naming
    recursive: bool = False
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    _told: dict[str, float] = field(default_factory=dict)
    _lost: list[str] = field(default_factory=list)  # pairs removed before they were fused, not told yet

    def existing(self) -> list[Job]:
        """Pairs whose result is there before the start; they are settled. Raises OSError."""
        found = [] if self.naming.overwrite else [job for job in self.pairs() if job.is_done()]
        self.settled.update(job.name for job in found)
        return found

    def pairs(self) -> list[Job]:
        """Pairs that are there now, complete or not. Raises OSError."""
        first, second = self._listed()
        return [self._job(name, first, second) for name in sorted(first.keys() & second.keys())]

    def left(self) -> list[Job]:
        """Pairs that are there now, complete or not, and not finished; none where a folder cannot be listed."""
        try:
            pairs = self.pairs()
        except OSError:
            return []
        done = (name for name, entry in self.waiting.items() if entry.done)
        through = self.settled.union(done)
        return [job for job in pairs if job.name not in through and (self.naming.overwrite or not job.is_done())]

    def poll(self) -> list[Job]:
        """Pairs that are ready, those that wait longest first, at most ROUND of them."""
        try:
            first, second = self._listed()
        except OSError as error:
            self._tell("folder", "%s: cannot be listed (%s); looking again", error.filename, error.strerror)
            return []
        now = time.monotonic()
        there = first.keys() | second.keys()
        self.settled &= there
        gone = {name: self.waiting.pop(name) for name in self.waiting.keys() - there}
        self._lost += [name for name, entry in gone.items() if entry.state and not entry.done]
        self._tell_lost()
        ready = self._ready(first, second, now)
        self._tell_partnerless(first, second, PARTNER)
        if len(ready) > 1 and now - ready[0][0] > LATE:
            self._tell("late", "not keeping up: %d wait, the first for %.0f s", len(ready), now - ready[0][0])
        jobs = (self._job(name, first, second) for _, name in ready[:ROUND])
        return [job for job in jobs if self._hand_out(job)]

    def is_final(self, outcome: Outcome) -> bool:
        """Whether an outcome is final: a failure is not while the files may still be arriving."""
        entry = self.waiting.get(outcome.job.name)
        if entry is None:
            return True
        if outcome.error and not outcome.fatal and time.monotonic() - entry.since < PATIENCE:
            log.debug("%s: not yet: %s", outcome.job.name, outcome.error)
            return False
        entry.ended = entry.tried
        entry.unread = bool(outcome.error) and not _can_be_opened(outcome.job.files)
        return True

    def close(self) -> None:
        """Warn of lost pairs that are not told yet, and of files whose partner the run ends too early to wait for."""
        self._told.clear()
        self._tell_lost()
        with suppress(OSError):
            first, second = self._listed()
            self._tell_partnerless(first, second, SETTLE)

    def _ready(self, first: dict[str, Path], second: dict[str, Path], now: float) -> list[tuple[float, str]]:
        """(since when, name) of the pairs that are ready, sorted; pairs that are through are settled."""
        ready = []
        for name in (first.keys() | second.keys()) - self.settled:
            entry = self.waiting.setdefault(name, _Waiting(now))
            if name not in first or name not in second:
                continue
            if self._is_ready(entry, first[name], second[name], now):
                ready.append((entry.ready or now, name))
            elif (
                not self.naming.overwrite
                and entry.done
                and now - entry.since > RECHECK
                and self._job(name, first, second).is_done()  # a pair that failed may be sent again
            ):
                self._settle(name)
        return sorted(ready)

    def _tell_lost(self) -> None:
        """Warn of the pairs that were removed before they were fused; of all since the last such warning together."""
        if self._lost:
            message, number = "gone before fused: %s, such as %s", counted(len(self._lost), "pair")
            if self._tell("gone", message, number, min(self._lost)):
                self._lost.clear()

    def _tell_partnerless(self, first: dict[str, Path], second: dict[str, Path], seconds: float) -> None:
        """Warn of the files whose partner has not come in that time; once of each, of many together."""
        now = time.monotonic()
        lonely = {}  # the file -> what waits for its partner
        for name in first.keys() ^ second.keys():
            entry = self.waiting.get(name)
            if entry and now - entry.since > seconds and not (entry.told or entry.done):
                lonely[first.get(name) or second[name]] = entry
        if lonely:
            waited = now - max(entry.since for entry in lonely.values())
            message, number = "no partner has come in %.0f s for %s, such as %s", counted(len(lonely), "file")
            if self._tell("partner", message, waited, number, min(lonely)):
                for entry in lonely.values():
                    entry.told = True

    def _hand_out(self, job: Job) -> bool:
        """Whether a ready job is to be done now; it is not where a result is there that may not be replaced."""
        entry = self.waiting[job.name]
        if not (self.naming.overwrite or entry.ended) and job.is_done():
            self._tell("exists", "%s exists and is left alone; --overwrite replaces such results", job.output)
            self._settle(job.name)
            return False
        entry.tried, entry.ready = entry.state, None
        return True

    def _settle(self, name: str) -> None:
        self.settled.add(name)
        del self.waiting[name]

    def _is_ready(self, entry: _Waiting, first: Path, second: Path, now: float) -> bool:
        try:
            statuses = [os.stat(first), os.stat(second)]
        except OSError:  # gone since it was listed
            return False
        one, other = ((status.st_size, status.st_mtime_ns) for status in statuses)
        if (one, other) != entry.state:
            is_new = entry.state is None
            entry.state, entry.since, entry.ready = (one, other), now, None
            if not (is_new and all(_was_moved_here(status) for status in statuses)):
                return False
        elif entry.state == entry.tried:
            if entry.done and not (entry.unread and _can_be_opened((first, second))):
                return False
            if not entry.done and now - entry.since < PATIENCE:
                return False
        elif now - entry.since < SETTLE and entry.ready is None:
            return False
        entry.ready = entry.ready or now
        return True

    def _listed(self) -> list[dict[str, Path]]:
        sides: list[dict[str, Path]] = []
        for folder, key in zip(self.folders, self.keys, strict=True):
            side: dict[str, Path] = {}
            for relative, name, location in walk(str(folder), self.recursive):
                found, path = key(relative + name), Path(location)
                if found is not None and side.setdefault(found, path) is not path:
                    self._tell("twice", "%s: left alone, since %s has the same name", path, side[found])
            sides.append(side)
        return sides

    def _job(self, name: str, first: dict[str, Path], second: dict[str, Path]) -> Job:
        result = self.naming.path(self.output, name, self.naming.ending(first[name]))
        return Job(name, first[name], second[name], result)

    def _tell(self, kind: str, message: str, *values: object) -> bool:
        """Whether this warning is given: of each kind at most one every TELL seconds."""
        now = time.monotonic()
        if now - self._told.get(kind, -TELL) < TELL:
            return False
        self._told[kind] = now
        log.warning(message, *values)
        return True


def run(
    watcher: Watcher,
    jobs: Iterable[Job],
    engine: Engine,
    settings: Callable[[list[Job], Settings | None], Settings],
    *,
    preview: Container[Path] = (),
    stop: Event,
) -> Generator[Outcome, None, None]:
    """Fuse what becomes ready and yield the outcomes, until ``stop`` is set.

    jobs: those known beforehand, always none. settings: makes the settings from the pairs found and from those settled
    before. They are settled once one of these pairs is fused, since unreadable files tell nothing.
    """
    log.info("watching %s and %s; Ctrl-C or SIGTERM ends", *watcher.folders)
    settled: Settings | None = None
    while not stop.is_set():
        began = time.monotonic()
        found = watcher.poll()
        if not found:
            stop.wait(max(POLL, 10 * (time.monotonic() - began)))
            continue
        latest = settings(found, settled)
        for outcome in run_jobs(found, engine, latest, preview=preview, stop=stop):
            if outcome.error is None:
                settled = latest
            if watcher.is_final(outcome):
                yield outcome
    watcher.close()


def _can_be_opened(paths: Iterable[Path]) -> bool:
    """Whether these files can be: permissions, or a share that is back, change nothing else about them."""
    try:
        for path in paths:
            path.open("rb").close()
    except OSError:
        return False
    return True


def _was_moved_here(status: os.stat_result) -> bool:
    """Whether a file seen for the first time is complete: older than SETTLE, or renamed, which changes ctime alone."""
    written = status.st_mtime_ns
    return time.time_ns() - written > SETTLE * 1e9 or (os.name == "posix" and status.st_ctime_ns > written)
