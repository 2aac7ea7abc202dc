"""The stream itself, with a small network: batches, stops, failures, and what a plan refuses."""

import hashlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path, PureWindowsPath
from threading import Event

import cv2
import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from conftest import scene

from fusecli import registry
from fusecli.errors import InputError, OutputError, UsageError
from fusecli.images.outputs import check_files
from fusecli.images.pair import Pair
from fusecli.models.network import FusionNetwork
from fusecli.stream import run as stream
from fusecli.stream import videos, volumes
from fusecli.stream.engine import Engine
from fusecli.stream.job import Job
from fusecli.stream.plan import Naming, plan
from fusecli.stream.settings import Settings, VolumeSettings
from fusecli.stream.stop import Ended, stopping, unwind_when_stopped
from fusecli.stream.work import Work


class Local(FusionNetwork):
    """Mean of 5×5 of the brighter source. Notes the shapes it was called with."""

    halo, align = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, first, second, context=None):
        self.shapes.append(tuple(first.shape))
        return F.avg_pool2d(F.pad(torch.maximum(first, second), (2,) * 4, mode="replicate"), 5, stride=1)


class Batching(Engine):
    """An engine that wants batches as an accelerator's does, wherever the tests run."""

    batches = True


def write_pair(root: Path, name: str, images: tuple[np.ndarray, np.ndarray]) -> Job:
    for side, image in zip(("vis", "ir"), images, strict=True):
        (root / side).mkdir(exist_ok=True)
        cv2.imwrite(str(root / side / f"{name}.png"), image)
    return Job(name, root / "vis" / f"{name}.png", root / "ir" / f"{name}.png", root / "out" / f"{name}.png")


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    """Twelve pairs of three sizes, one after the other, as no batch would have them."""
    sizes = [(20, 30), (33, 17), (1, 7)]
    return [write_pair(tmp_path, f"{i:02d}", scene(i, sizes[i % 3], color=i % 2 == 0)) for i in range(12)]


def bytes_of(jobs: list[Job]) -> dict[str, bytes]:
    return {job.name: job.output.read_bytes() for job in jobs if job.output.exists()}


def test_batches_and_single_pairs_give_the_same_files(jobs):
    engine = Engine(Local(), "cpu", "fp32")
    assert all(outcome.error is None for outcome in stream.run(jobs, engine, Settings(workers=3)))
    alone = bytes_of(jobs)
    assert len(alone) == 12
    for batch in (1, 3, None):
        for job in jobs:
            job.output.unlink()
        engine = Batching(Local(), "cpu", "fp32")
        outcomes = list(stream.run(jobs, engine, Settings(workers=3, batch=batch)))
        assert sorted(outcome.job.name for outcome in outcomes) == sorted(alone)
        assert bytes_of(jobs) == alone
        assert {shape[0] for shape in engine.model.shapes} == {batch or stream.BATCH_PAIRS}  # never a part of a batch


def test_pages_of_several_files_share_batches(tmp_path):
    jobs = []
    for name, pages in (("a", 3), ("b", 2)):
        for side in ("vis", "ir"):
            stack = np.stack([scene(i, (16, 24), color=False)[side == "ir"] for i in range(pages)])
            (tmp_path / side).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / side / f"{name}.tif", stack, photometric="minisblack")
        paths = (tmp_path / side / f"{name}.tif" for side in ("vis", "ir", "out"))
        jobs.append(Job(name, *paths))
    engine = Batching(Local(), "cpu", "fp32")
    assert [outcome.error for outcome in stream.run(jobs, engine, Settings(batch=4))] == [None, None]
    assert [tifffile.imread(job.output).shape for job in jobs] == [(3, 16, 24), (2, 16, 24)]
    assert len(engine.model.shapes) == 2  # five pages, four to a batch
    engine = Engine(Local(), "cpu", "fp32")
    whole = [engine.fuse(tifffile.imread(job.first), tifffile.imread(job.second)) for job in jobs]
    for job, result in zip(jobs, whole, strict=True):
        assert np.array_equal(tifffile.imread(job.output), result)


def test_files_of_unlike_numbers_of_pages_are_named(tmp_path):
    job = Job("a", tmp_path / "v.tif", tmp_path / "i.tif", tmp_path / "o.tif")
    for path, pages in ((job.first, 3), (job.second, 1)):
        tifffile.imwrite(path, np.zeros((pages, 16, 24), np.uint8), photometric="minisblack")
    (outcome,) = stream.run([job], Engine(Local(), "cpu"), Settings())
    assert outcome.error == f"{job.first} has 3 pages, {job.second} has 1"
    with tifffile.TiffWriter(job.first) as file:  # a thumbnail that is not marked as one
        for size in ((16, 24), (4, 6)):
            file.write(np.zeros(size, np.uint8))
    (outcome,) = stream.run([job], Engine(Local(), "cpu"), Settings())
    assert outcome.error.endswith("has 1, of several sizes: is it a thumbnail? Save the picture alone")


def test_a_batch_is_bounded_by_its_pixels_and_its_pairs():
    shapes = ((20, 30), (1000, 2000, 3), (9000, 9000))
    assert [stream.full_batch(shape, None) for shape in shapes] == [stream.BATCH_PAIRS, 5, 1]


def test_a_batch_that_the_device_refuses_costs_its_own_pairs(jobs):
    class Moody(Local):
        def forward(self, first, second, context=None):
            if first.shape[-1] == 17:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().forward(first, second)

    outcomes = list(stream.run(jobs, Batching(Moody(), "cpu", "fp32"), Settings(batch=2)))
    failed = {outcome.job.name: outcome.error for outcome in outcomes if outcome.error}
    assert sorted(failed) == [f"{i:02d}" for i in range(12) if i % 3 == 1]
    assert all("illegal memory access" in reason for reason in failed.values())
    assert len(bytes_of(jobs)) == 8


def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch):
    """As timeout(1) sends it; 2 of 5 such runs left no report. A later one ends the process."""
    killed = []
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with stopping() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM
        monkeypatch.setattr("fusecli.stream.stop.AGAIN", -1.0)
        monkeypatch.setattr("fusecli.stream.stop.os.kill", lambda *sent: killed.append(sent))
        monkeypatch.setattr("fusecli.stream.stop.os._exit", killed.append)  # a container's first process outlives that
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert killed == [(os.getpid(), signal.SIGTERM), 128 + signal.SIGTERM]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_unwinding_is_not_cut_short_by_the_same_signal_once_more(monkeypatch):
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in signals]
    cleaned = []

    def unwound():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    try:
        unwind_when_stopped()
        for again in (1.0, -1.0):  # the latter: as if it came later, which ends the unwinding, too
            monkeypatch.setattr("fusecli.stream.stop.AGAIN", again)
            with pytest.raises(Ended) as ended:
                unwound()
            assert (ended.value.code, cleaned) == (143, [True])
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize("engine_class", [Engine, Batching])
def test_a_stopped_run_tells_of_every_file_it_wrote(jobs, engine_class):
    stop = Event()
    told = []
    for outcome in stream.run(jobs, engine_class(Local(), "cpu"), Settings(workers=1, batch=1), stop=stop):
        told.append(outcome.job.name)
        stop.set()
    assert told
    assert sorted(told) == sorted(bytes_of(jobs))
    if engine_class is Engine:
        assert len(told) <= 3


@pytest.mark.parametrize("engine_class", [Engine, Batching])
def test_a_consumer_that_leaves_finds_whole_files_only(jobs, engine_class):
    outcomes = stream.run(jobs, engine_class(Local(), "cpu"), Settings(workers=2, batch=2))
    next(outcomes)
    outcomes.close()
    written = list(jobs[0].output.parent.iterdir())
    assert all(cv2.imread(str(path)) is not None and not path.name.startswith(".") for path in written)


@pytest.mark.parametrize("engine_class", [Engine, Batching])
def test_pairs_under_way_are_bounded(jobs, engine_class, monkeypatch):
    """However many jobs there are, reading stays close to writing."""
    begun = most = 0

    def jobs_without_end():
        nonlocal begun
        while True:
            begun += 1
            yield jobs[(begun % 4) * 3]

    monkeypatch.setattr(stream, "AHEAD_BYTES", 5000)  # room for two pairs of these
    endless = stream.run(jobs_without_end(), engine_class(Local(), "cpu"), Settings(workers=2, batch=2))
    for done, _ in enumerate(endless, 1):
        most = max(most, begun - done)
        if done > 60:
            break
    assert most <= 16


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        (stream.run, Settings),
        (volumes.run, partial(VolumeSettings, registry.TASKS["pet-mri"], "average")),
        (videos.run, Settings),
    ],
    ids=["pictures", "volumes", "videos"],
)
@pytest.mark.parametrize(
    ("threads", "workers", "share"),
    [(64, 2, 1), (64, 1, 2), (1, 1, 1), (2, 8, 1)],
)
def test_workers_share_the_cores_that_are_lent(run, settings, threads, workers, share, monkeypatch):
    monkeypatch.setattr("fusecli.stream.engine.cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    engines = Engine(Local(), "cpu", "fp32"), Batching(Local(), "cpu", "fp32")
    for engine, expected in zip(engines, ([share, threads], []), strict=True):
        given = []
        monkeypatch.setattr(torch, "set_num_threads", given.append)
        assert not list(run([], engine, settings(workers=workers)))
        assert given == expected


def test_a_full_disk_ends_the_run(jobs, monkeypatch):
    def full(path, *_, **__):
        raise OutputError(f"{path}: cannot be written: No space left on device", full=True)

    monkeypatch.setattr(stream.frames, "write", full)
    stop = Event()
    work = Work(stream.run, Settings(workers=1))
    outcomes = list(work(jobs, Engine(Local(), "cpu", "fp32"), preview=(), stop=stop))
    assert stop.is_set()
    assert 1 <= len(outcomes) <= 3  # of twelve: those that were under way
    assert all("go on with --skip-existing" in outcome.error for outcome in outcomes)


def test_what_carries_pairs_to_the_engine_imports_no_torch_itself():
    """So that the plan of a run without work imports none."""
    script = "import sys; from fusecli.stream import run, volumes, watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_one_engine_settles_the_exposure_of_a_sequence_once(jobs, monkeypatch):
    """A worker of a cluster gets chunk after chunk, and each looked at the whole sequence anew."""
    read, load = [], stream.load
    monkeypatch.setattr(stream, "load", lambda job, settings: read.append(job.name) or load(job, settings))
    engine, settings = Engine(Local(), "cpu", "fp32"), Settings(workers=1, steady=tuple(jobs[:2]))
    for chunk in (jobs[2:4], jobs[4:6]):
        assert all(outcome.error is None for outcome in stream.run(chunk, engine, settings))
    assert read == [job.name for job in jobs[:6]]


def test_digest_and_preview_are_of_what_was_written(jobs):
    settings = Settings(digest=True)
    for outcome in stream.run(jobs, Engine(Local(), "cpu"), settings, preview=[jobs[0].output]):
        assert outcome.sha256 == hashlib.sha256(outcome.job.output.read_bytes()).hexdigest()
        assert (outcome.preview is None) == (outcome.job is not jobs[0])
    assert outcome.seconds > 0


def test_a_named_format_takes_the_depth_it_can_hold(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (8, 9), dtype=np.uint16)
    job = write_pair(tmp_path, "a", (deep, deep))
    tifffile.imwrite(tmp_path / "float.tif", deep.astype(np.float32) / 65535)
    for first, ending, dtype in (
        (job.first, ".png", np.uint16),
        (job.first, ".jpg", np.uint8),
        (tmp_path / "float.tif", ".tif", np.float32),
        (tmp_path / "float.tif", ".png", np.uint16),
    ):
        target = Job("a", first, job.second, tmp_path / "out" / f"a{ending}")
        (outcome,) = stream.run([target], Engine(Local(), "cpu"), Settings())
        assert outcome.error is None
        assert cv2.imread(str(target.output), cv2.IMREAD_UNCHANGED).dtype == dtype


def planned(pairs, output, inputs=(), **naming):
    return [job.output for job in plan(pairs, output, Naming(**naming), inputs=inputs).jobs]


def test_what_is_made_smaller_skips_no_pixel(tmp_path):
    """Else fine patterns would come out as coarse ones."""
    job, small = Job("a", tmp_path, tmp_path, tmp_path), np.zeros((16, 20), np.uint8)
    lines = np.tile(np.uint8([0, 0, 200, 0]), (64, 20))
    color = np.dstack([small] * 3)
    (_, second), (first, _) = stream.of_one_size(small, lines, job, 1), stream.of_one_size(lines, color, job, 0)
    for made in (first, second):
        np.testing.assert_array_equal(made, np.full_like(small, 50))


def test_a_side_that_lies_on_its_side_is_no_case_for_resize():
    job = Job("a", Path("v"), Path("i"), Path("o"))
    for shape, advice in (((40, 30), "turn one of them"), ((15, 20), "--resize brings")):
        with pytest.raises(InputError, match=advice):
            stream.of_one_size(np.zeros((30, 40)), np.zeros(shape), job, None)


def test_plan_names_results_in_the_reference_s_format(tmp_path):
    pairs = [
        Pair("night/a", Path("v/night/a.TIFF"), Path("i/night/a.png")),
        Pair("b", Path("v/b.jpg"), Path("i/b.png")),
    ]
    assert planned(pairs, tmp_path) == [tmp_path / "night/a.tiff", tmp_path / "b.jpg"]
    assert planned(pairs, tmp_path, file_format="png", pattern="{index}-{stem}") == [
        tmp_path / "night/000000-a.png",
        tmp_path / "000001-b.png",
    ]
    for pattern in ("{stem}/x", "..", "{stem", "{stem.__class__}", ""):
        with pytest.raises(UsageError, match="--name"):
            planned(pairs, tmp_path, pattern=pattern)


@pytest.mark.parametrize("name", [r"..\x", r"a\b", "C:x", "c:"])
def test_a_name_that_leads_elsewhere_on_windows(tmp_path, monkeypatch, name):
    monkeypatch.setattr("fusecli.stream.plan.PurePath", PureWindowsPath)
    with pytest.raises(UsageError, match="is not a file name"):
        planned([Pair("a", Path("v/a.png"), Path("i/a.png"))], tmp_path, pattern=name)


def test_explicit_files_may_have_their_result_beside_them_folders_may_not(jobs, tmp_path):
    vis, ir = tmp_path / "vis", tmp_path / "ir"
    pair = [Pair("00", jobs[0].first, jobs[0].second)]
    one = (str(jobs[0].first), str(jobs[0].second))
    for name in ("fused.png", "fused.tiff", "fused.tif", "fused.JPEG"):
        assert planned(pair, vis / name, inputs=one) == [vis / name]
    assert planned(pair, vis / "fused.tiff", inputs=one, file_format="tiff") == [vis / "fused.tiff"]
    with pytest.raises(UsageError, match="contradicts --format png"):
        planned(pair, vis / "fused.tiff", inputs=one, file_format="png")
    assert planned(pair, vis, inputs=one, pattern="{stem}_fused") == [vis / "00_fused.png"]
    assert planned(pair, vis / "fused", inputs=(f"{vis}/*.png", f"{ir}/*.png")) == [vis / "fused" / "00.png"]
    for typed in ((str(vis), str(ir)), (f"{vis}/*.png", f"{ir}/*.png")):
        with pytest.raises(UsageError, match="input"):
            planned(pair, vis, inputs=typed, pattern="{stem}_fused")


def test_reports_and_sheets_take_no_input_s_place(jobs, tmp_path):
    pair = [Pair("preview", jobs[0].first, jobs[0].second)]
    with pytest.raises(UsageError, match="--report"):
        planned(pair, tmp_path / "out", beside={"--report": jobs[0].second})
    with pytest.raises(UsageError, match="--preview"):
        planned(pair, tmp_path / "out", beside={"--preview": tmp_path / "out" / "preview.png"})
    with pytest.raises(UsageError, match="--report"):
        planned(pair, tmp_path / "out", beside={"--report": jobs[0].second / "below" / "a.json"})
    pair.append(Pair("night/a", jobs[1].first, jobs[1].second))
    with pytest.raises(UsageError, match=r"--report .*night: results go into a folder of this name"):
        planned(pair, tmp_path / "out", beside={"--report": tmp_path / "out" / "night"})


def test_devices_may_be_written_to_by_several():
    check_files({"--report": Path(os.devnull), "--timings": Path(os.devnull)})


def test_links_to_an_input_are_seen_through(jobs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00.png").hardlink_to(jobs[0].first)
    with pytest.raises(UsageError, match="this is an input"):
        planned([Pair("00", jobs[0].first, jobs[0].second)], tmp_path / "out", overwrite=True)


def test_outputs_alike_but_for_case_are_warned_of(jobs, tmp_path, caplog):
    pairs = [Pair(name, jobs[0].first, jobs[0].second) for name in ("a", "A")]
    assert len(planned(pairs, tmp_path / "out")) == 2
    assert "case" in caplog.text
