"""Ending a run from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set the stop, so that what is under way is finished; a second one ends the process at once."""
    stop = Stop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal(number: int, frame: object) -> None:
        stop.signal = signal.Signals(number)
        stop.set()
        for one in signals:
            signal.signal(one, signal.SIG_DFL)

    before = [signal.signal(one, on_signal) for one in signals]
    try:
        yield stop
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)
