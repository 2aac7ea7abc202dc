"""Threads that make items ahead of their use."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")

POLL = 0.2  # seconds after which a waiting thread checks whether the run is over


class Readahead:
    """Threads, each for some items; they end together."""

    def __init__(self) -> None:
        self.over = Event()
        self._threads: list[Thread] = []

    def __call__(self, items: Iterable[T], depth: int, stop: Event | None = None) -> Iterator[T]:
        """The same items, made from now on by a thread of their own, at most ``depth`` of them waiting.

        An error is raised after the items before it, as without the thread. stop: for sources that may block or go on
        forever; once it is set, iteration ends with what has come.
        """
        waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)

        def put(item: tuple[bool, Any]) -> bool:
            while not self.over.is_set():
                with suppress(queue.Full):
                    waiting.put(item, timeout=POLL)
                    return True
            return False

        def work() -> None:
            source, last = iter(items), float("inf")
            try:
                for item in source:
                    if stop is not None and stop.is_set():  # what was sent before it is still to be read
                        last = min(last, time.monotonic() + POLL)
                    if time.monotonic() > last or not put((True, item)):
                        break
                put((False, None))
            except BaseException as error:
                put((False, error))
            finally:
                if isinstance(source, Generator):
                    source.close()

        thread = Thread(target=work, daemon=True)
        thread.start()
        if stop is None:
            self._threads.append(thread)
        return self._taken(waiting, stop)

    def _taken(self, waiting: queue.Queue[tuple[bool, Any]], stop: Event | None) -> Iterator[Any]:
        while not self.over.is_set():
            try:
                more, item = waiting.get(timeout=POLL)
            except queue.Empty:
                if stop is not None and stop.is_set():
                    return
                continue
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item

    def close(self) -> None:
        """No more items. Waits for the threads; not for those with a ``stop``, whose read may block forever.

        A thread that is still inside PyAV or torch when the process exits would abort it.
        """
        self.over.set()
        for thread in self._threads:
            thread.join()
