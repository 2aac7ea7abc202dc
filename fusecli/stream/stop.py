"""Ending a run from outside."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread

log = logging.getLogger("fusecli")

AGAIN = 1.0  # seconds within which signals count as one: timeout(1) signals the process and then its group


class Stop(Event):
    """Set to end a run. signal: the one that did it."""

    signal: signal.Signals | None = None


class Ended(SystemExit):
    """A signal ends the process, outside of what `stopping` guards; its code is that of a program so ended."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


def unwind_when_stopped() -> None:
    """Ctrl-C, SIGTERM and a lost terminal raise Ended wherever the process is, so that no half-written file stays."""
    first = -math.inf

    def on_signal(number: int, frame: object) -> None:
        nonlocal first
        if time.monotonic() - first > AGAIN:  # else it would cut the unwinding short
            first = time.monotonic()
            raise Ended(number)

    for one in heard():
        signal.signal(one, on_signal)


def heard() -> list[signal.Signals]:
    """The signals that end a run; under nohup a lost terminal does nothing, and only the main thread may listen."""
    if current_thread() is not main_thread():
        return []
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals


@contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C, SIGTERM and a lost terminal set the stop, so that what is under way is finished.

    A later one ends the process at once.
    """
    stop = Stop()
    signals = heard()
    first = 0.0

    def on_signal(number: int, frame: object) -> None:
        nonlocal first
        if stop.signal is None:
            first, stop.signal = time.monotonic(), signal.Signals(number)
            stop.set()
            said = "%s: coming to an end; once more ends at once", stop.signal.name
            Thread(target=log.info, args=said, daemon=True).start()  # the main thread may be interrupted while logging
        elif time.monotonic() - first > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # the first process of a container outlives signals without a handler

    before = [signal.signal(one, on_signal) for one in signals]
    try:
        yield stop
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)
