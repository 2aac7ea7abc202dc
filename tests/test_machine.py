import subprocess
import sys

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
