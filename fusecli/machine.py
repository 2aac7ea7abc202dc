"""How much of this machine a process may use. Batch systems and containers lend a part of it."""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNLIMITED = 1e6  # cores
# The last is oneDNN's; it lacks a descriptor where the CPU or the shapes are none that it supports.
_NO_MEMORY = re.compile("alloc|out of memory|could not create a primitive(?! descriptor)")


@cache
def cores() -> int:
    """Cores that this process may use, by its affinity (Slurm, taskset) and its quota (Docker, Kubernetes)."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(seen, round(_quota())))


@contextmanager
def thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that ends at an exception, such as a signal's, once the tasks under way are done; no more are begun."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def windowed(
    items: Iterable[Any], submit: Callable[[Any], Future[Any]], size: int | Callable[[], int]
) -> Iterator[Any]:
    """Results of submitted items in order, at most ``size`` under way. Those that are None are left out."""
    limit = size if callable(size) else lambda: size
    under_way: deque[Future[Any]] = deque()
    for item in items:
        under_way.append(submit(item))
        while len(under_way) >= limit():
            if (result := under_way.popleft().result()) is not None:
                yield result
    while under_way:
        if (result := under_way.popleft().result()) is not None:
            yield result


@cache
def keep_freed_pages() -> None:
    """Tell glibc to reuse freed memory: else each layer's result is unmapped and its pages are faulted in again."""
    # Other C libraries have no mallopt, and no need of it; Windows has no library without a name.
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that; torch and its libraries raise a RuntimeError, told by its message alone."""
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(said) is not None


def too_large_to_load(error: ImportError) -> bool:
    """Whether a library does not fit into the memory that this process may use; told by glibc's words."""
    return "failed to map segment" in str(error)


def _quota(groups: Path = GROUPS, own: Path = OWN) -> float:
    """CPU quota of the control groups that this process is in, in cores; without a limit, more than there are."""
    least = UNLIMITED
    try:
        for line in own.read_text(encoding="ascii").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            # cgroup v1 has trees, that of CPUs by this name even where it has others, too; v2 has one, for all kinds.
            root = groups / "cpu" if kinds else groups
            inner = root / path.lstrip("/")
            for folder in (inner, *inner.parents):
                least = min(least, _quota_of(folder))
                if folder == root:
                    break
    except (OSError, ValueError):
        pass
    return least


def _quota_of(group: Path) -> float:
    """The quota that is set for a group itself, as cgroup v2 spells it or v1."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        if all((group / name).is_file() for name in files):
            share, period = " ".join((group / name).read_text(encoding="ascii") for name in files).split()
            return UNLIMITED if share in ("max", "-1") else int(share) / int(period)
    return UNLIMITED
