"""Ending a run from outside."""

from __future__ import annotations

import signal
from threading import Event


class Stop(Event):
    """Set to end a run. signal: the one that did it."""

    signal: signal.Signals | None = None


class Round(Event):
    """Ends a part of a run: set by itself, or with the whole."""

    def __init__(self, whole: Event) -> None:
        super().__init__()
        self.whole = whole

    def is_set(self) -> bool:
        return super().is_set() or self.whole.is_set()
