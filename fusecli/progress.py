"""tqdm's progress bars, with a lock among threads alone.

Its own lock also works across processes; from Python 3.14 on that takes a further process, and a warning at the end.
"""

from threading import RLock

from tqdm import tqdm

__all__ = ["tqdm"]

tqdm.set_lock(RLock())
