import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from fusecli import machine


@pytest.mark.skipif(sys.platform != "linux", reason="no affinity")
def test_a_process_that_is_lent_one_core_knows_it():
    lend = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"{lend}; from fusecli.machine import cores; print(cores())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 1e6),
        ({"": "max 100000"}, 1e6),
        ({"": "200000 100000"}, 2),  # in a container, whose group looks like the root
        ({"slice": "350000 100000", "slice/job": "max 100000"}, 3.5),
        ({"slice": "350000 100000", "slice/job": "150000 100000"}, 1.5),
        ({"slice/job": "nonsense"}, 1e6),
    ],
)
def test_the_least_quota_of_all_groups_above_counts(tmp_path, limits, expected):
    own = tmp_path / "own"
    own.write_text("0::/slice/job\n")
    (tmp_path / "slice" / "job").mkdir(parents=True)
    for group, limit in limits.items():
        (tmp_path / group / "cpu.max").write_text(limit)
    assert machine._quota(tmp_path, own) == expected


def test_every_module_can_be_imported_without_what_only_unix_has():
    code = """
        import builtins, importlib, os, pkgutil
        imported = builtins.__import__

        def without(name, scope=None, *more, **named):
            ours = str((scope or {}).get("__name__")).startswith("fusecli")
            if ours and name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
                raise ModuleNotFoundError(name)
            return imported(name, scope, *more, **named)

        builtins.__import__ = without
        vars(os).pop("sched_getaffinity", None)
        import fusecli
        for module in pkgutil.walk_packages(fusecli.__path__, "fusecli."):
            if module.name != "fusecli.__main__":
                importlib.import_module(module.name)
        from fusecli.machine import cores
        print(cores())
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) >= 1


def test_a_pool_ends_at_an_exception_without_the_tasks_that_wait():
    """As at a signal: `benchmark` of 100,000 pairs looked all of them up before it ended."""
    with suppress(KeyboardInterrupt), machine.thread_pool(1) as pool:
        tasks = [pool.submit(time.sleep, 0.02) for _ in range(500)]
        raise KeyboardInterrupt
    assert sum(task.cancelled() for task in tasks) > 400


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"": -1}, 1e6),
        ({"": 200000}, 2),  # in a container, whose group looks like the root
        ({"": -1, "docker": 350000, "docker/0a1b": -1}, 3.5),
        ({"docker/0a1b": 50000}, 0.5),
    ],
)
@pytest.mark.parametrize("kinds", ["cpu,cpuacct", "cpuacct,cpu", "cpu"])  # the kernel's order need not be the folder's
def test_quotas_of_cgroup_v1_count_too(tmp_path, kinds, quotas, expected):
    own = tmp_path / "own"
    own.write_text(f"5:memory:/docker/0a1b\n4:{kinds}:/docker/0a1b\n1:name=systemd:/docker/0a1b\n0::/docker/0a1b\n")
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    for group, quota in quotas.items():
        folder = tmp_path / "cpu,cpuacct" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine._quota(tmp_path, own) == expected
