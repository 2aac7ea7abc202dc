"""tqdm's progress bars, with a lock among threads alone, and what a log has in their place.

Its own lock also works across processes; from Python 3.14 on that takes a further process, and a warning at the end.
"""

import logging
import time
from contextlib import AbstractContextManager
from threading import RLock

from tqdm import tqdm

__all__ = ["SignOfLife", "above_bars", "tqdm"]

TELL_SECONDS = 60  # between signs of life

tqdm.set_lock(RLock())


class SignOfLife:
    """Whether it is time for a line in the log, where there is no bar that shows that work goes on."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def due(self) -> bool:
        """Whether the last time that it was, or the start, is long enough ago."""
        now = time.monotonic()
        due = now - self.told > TELL_SECONDS
        if due:
            self.told = now
        return due


def above_bars(log: logging.Logger) -> AbstractContextManager[None]:
    """Lets messages appear above the bars."""
    # Only where there are bars: in a notebook, where there are none, importing it warns of widgets that are missing.
    from tqdm.contrib.logging import logging_redirect_tqdm

    return logging_redirect_tqdm([log])
