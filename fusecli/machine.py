"""How much of this machine a process may use. Batch systems and containers lend a part of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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


@cache
def keep_freed_pages() -> None:
    """Tell glibc to reuse freed memory: else each layer's result is unmapped and its pages are faulted in again."""
    # Other C libraries have no mallopt, and no need of it; Windows has no library without a name.
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@contextmanager
def within_free_memory() -> Iterator[None]:
    """Raise MemoryError (torch: RuntimeError) for more memory than is free now; else Linux ends a process, any one."""
    most = _most_memory()
    if most is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    least = min(limit for limit in (most, *before) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (least, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _most_memory(proc: Path = Path("/proc")) -> int | None:
    """Bytes of data that this process has, and could have besides; None where Linux does not tell."""
    try:
        texts = [(proc / name).read_text(encoding="utf-8", errors="replace") for name in ("meminfo", "self/status")]
        rows = dict(line.split(":", 1) for text in texts for line in text.splitlines())
        return 1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree", "VmData"))
    except (OSError, ValueError, LookupError):
        return None


def _quota(groups: Path = GROUPS, own: Path = OWN) -> float:
    """CPU quota of the control group, in cores (cgroup v2, cpu.max); without a limit, more cores than there are."""
    least = 1e6
    try:
        inner = groups / own.read_text(encoding="ascii").rpartition("::/")[2].strip()
        for folder in (inner, *inner.parents):
            if (folder / "cpu.max").is_file():
                share, period = (folder / "cpu.max").read_text(encoding="ascii").split()
                least = least if share == "max" else min(least, int(share) / int(period))
            if folder == groups:
                break
    except (OSError, ValueError):
        pass
    return least
