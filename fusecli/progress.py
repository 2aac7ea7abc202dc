"""tqdm's progress bars, with a lock that is one of threads alone.

Its own is one of processes, too, which from Python 3.14 on takes a process more to watch, and a warning at the end.
"""

from threading import RLock

from tqdm import tqdm

__all__ = ["tqdm"]

tqdm.set_lock(RLock())
