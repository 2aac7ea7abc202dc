"""`--cluster`: Ray runs the pairs, whatever becomes of its workers. Skipped where Ray is not installed."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from conftest import contents, wait_for_results

from fusecli.errors import Stopped, UsageError
from fusecli.stream import cluster
from fusecli.stream import run as stream
from fusecli.stream.job import Job
from fusecli.stream.settings import Settings
from fusecli.stream.stop import Ended
from fusecli.stream.work import EngineSpec, Work

ray = pytest.importorskip("ray")


SIDES = ("fuse", "--ir", "ir", "--vis", "vis")


def workers_in(folder: Path) -> list[int]:
    """Processes of Ray that fuse in that folder: no others are touched."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").resolve() == folder.resolve():
                found += [int(process.name)] * (process / "cmdline").read_bytes().startswith(b"ray::_fuse")
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers through /proc")
def test_a_killed_worker_costs_nothing(pairs, fusecli, monkeypatch):
    """Two workers on this machine, one killed in the middle; relative paths, one bad pair, report and preview."""
    root = pairs(150, size=(96, 128))
    (root / "vis" / "140.png").write_bytes(b"\x89PNG broken")
    monkeypatch.chdir(root)
    assert fusecli(*SIDES, "-o", "local")[0] == 8
    command = [sys.executable, "-m", "fusecli", *SIDES, "-o", "out"]
    command += ["--cluster", "auto", "-j", "1", "--report", "report.json"]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_results(process, root / "out", 12, seconds=240)  # Ray takes long to start where others are at work
    killed = workers_in(root)
    assert killed
    os.kill(killed[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 8, err
    assert "Traceback" not in err
    assert contents(root / "out") == contents(root / "local")
    report = json.loads((root / "report.json").read_text())
    assert (report["totals"]["done"], report["totals"]["failed"]) == (149, 1)
    assert [pair["name"] for pair in report["pairs"]] == [f"{i:03d}" for i in range(150)]
    assert [pair["name"] for pair in report["pairs"] if pair["status"] == "failed"] == ["140"]
    assert workers_in(root) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer_is_told_soon(pairs, fusecli, monkeypatch, address):
    monkeypatch.chdir(pairs(1))
    began = time.monotonic()
    code, _, err = fusecli(*SIDES, "-o", "out", "--cluster", address)
    assert code == 2, err
    assert f"--cluster {address}: cannot be joined" in err
    assert not Path("out").exists()
    assert time.monotonic() - began < 100


@pytest.fixture(scope="module")
def session():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def deadly(jobs, engine, settings, *, preview, stop):
    """Fuses, and takes its worker down at the pair called 003."""
    for job in jobs:
        if job.name == "003":
            os._exit(1)
        yield from stream.run([job], engine, settings, preview=preview)


def test_a_pair_that_kills_every_worker_costs_itself(pairs, session, monkeypatch):
    root = pairs(32, size=(24, 32))
    jobs = [
        Job(name, root / "vis" / f"{name}.png", root / "ir" / f"{name}.png", root / "out" / f"{name}.png")
        for name in (f"{i:03d}" for i in range(32))
    ]
    (root / "out").mkdir()
    monkeypatch.setattr(cluster, "RETRIES", 0)
    spec, work = EngineSpec("nano", "ir-vis"), Work(deadly, Settings())
    with cluster.connect("auto", spec, work, jobs, root / "out") as joined:
        outcomes = list(joined.run(jobs, preview=[root / "out" / "005.png"], stop=Event()))
    assert sorted(outcome.job.name for outcome in outcomes) == [job.name for job in jobs]
    assert {outcome.job.name: outcome.error for outcome in outcomes if outcome.error}.keys() == {"003"}
    assert [outcome.job.name for outcome in outcomes if outcome.preview] == ["005"]
    assert len(contents(root / "out")) == 31  # neither the probe nor a temporary file is left


def test_what_every_worker_has_to_say_is_told_once(caplog):
    answers = SimpleNamespace(get=lambda _: ([], [(logging.WARNING, "--resize stretches"), (logging.WARNING, "other")]))
    joined = cluster.Cluster(answers, None, 2, {}, None, 1)
    for _ in range(2):
        joined._outcomes(None, [], deque())
    assert caplog.messages == ["--resize stretches", "other"]


def test_storage_that_workers_do_not_see_is_refused(pairs, session, monkeypatch):
    root = pairs(1)
    (root / "out").mkdir()
    job = Job("000", root / "vis" / "000.png", root / "ir" / "000.png", root / "out" / "000.png")
    spec, work = EngineSpec("nano", "ir-vis"), Work(stream.run, Settings())
    own = cluster.Session  # a worker that looks at another disk finds another file there, or none
    for lacking in ({"token": "another"}, {"probe": root / "nowhere"}, {"inputs": (root / "elsewhere.png",)}):
        monkeypatch.setattr(cluster, "Session", lambda *values, lacking=lacking: replace(own(*values), **lacking))
        with (
            pytest.raises(UsageError, match=r"does not see .* storage that all machines share"),
            cluster.connect("auto", spec, work, [job], root / "out"),
        ):
            pass
    assert contents(root / "out") == {}


def test_sigterm_while_a_cluster_is_joined(pairs, session, monkeypatch):
    root = pairs(1)
    monkeypatch.setattr(cluster, "_check", lambda *_: sys.exit(15))  # as Ray's handler of the signal
    spec, work = EngineSpec("nano", "ir-vis"), Work(stream.run, Settings())
    with pytest.raises(Stopped, match="stopped by SIGTERM") as stopped, cluster.connect("auto", spec, work, [], root):
        pass
    assert stopped.value.exit_code == 143
    assert not list(root.glob(".*.probe"))


def test_any_signal_while_a_cluster_is_joined_is_told_by_its_name(pairs, session, monkeypatch):
    root = pairs(1)

    def interrupted(*_):
        raise Ended(signal.SIGINT)

    monkeypatch.setattr(cluster, "_check", interrupted)
    spec, work = EngineSpec("nano", "ir-vis"), Work(stream.run, Settings())
    with pytest.raises(Ended) as ended, cluster.connect("auto", spec, work, [], root):
        pass
    assert ended.value.signal == signal.SIGINT
    assert not list(root.glob(".*.probe"))


def test_devices_are_left_to_ray():
    spec, work = EngineSpec("nano", "ir-vis", device="cuda:1"), Work(stream.run, Settings())
    with pytest.raises(UsageError, match="Ray chooses"), cluster.connect("auto", spec, work, [], Path()):
        pass
