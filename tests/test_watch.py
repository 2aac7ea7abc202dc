"""--watch: folders that cameras write into, until a signal ends the run."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import command, scene, until

from fusecli.cli.watch import DRIFTS, _Drift
from fusecli.images.intensity import Range
from fusecli.stream import watch
from fusecli.stream.job import Job, Outcome
from fusecli.stream.plan import Naming


@pytest.fixture
def settled(monkeypatch):
    """Wait until a pair has failed or been fused for good."""
    through, is_final = set(), watch.Watcher.is_final

    def seen(watcher, outcome):
        final = is_final(watcher, outcome)
        through.update([outcome.job.name] * final)
        return final

    monkeypatch.setattr(watch.Watcher, "is_final", seen)
    return lambda name: until(lambda: name in through, f"the end of {name}")


@pytest.fixture
def watched(tmp_path, average, fusecli, monkeypatch):
    """Watch tmp_path/ir and tmp_path/vis while ``act`` runs in a thread, then stop: (code, report, stderr)."""
    monkeypatch.setattr(watch, "POLL", 0.05)
    monkeypatch.setattr(watch, "SETTLE", 0.4)
    for side in ("vis", "ir"):
        (tmp_path / side).mkdir()

    def call(act, *more):
        trouble, over = [], threading.Event()
        before = signal.getsignal(signal.SIGTERM)

        def acting():
            while signal.getsignal(signal.SIGTERM) is before:  # else it would end pytest
                if over.wait(0.02):
                    return
            try:
                act()
            except BaseException as error:
                trouble.append(error)
            finally:
                if not over.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
        report = tmp_path / "report.json"
        options = ("-o", tmp_path / "out", "-m", average, "--range", "full", "--report", report)
        thread = threading.Thread(target=acting)
        thread.start()
        code, _, err = fusecli("fuse", *sides, *options, "--watch", *more)
        over.set()
        thread.join()
        assert not trouble, (trouble, err)
        return code, json.loads(report.read_text()), err

    return call


def put(folder, name, image):
    """As a careful camera does: written elsewhere, then renamed into the folder."""
    hidden = folder / f".{name}"
    hidden.write_bytes(cv2.imencode(".png", image)[1])
    time.sleep(0.02)  # by the clock of the file system, later
    hidden.rename(folder / name)


def put_pair(root, index, size=(48, 64)):
    for side, image in zip(("vis", "ir"), scene(index, size), strict=True):
        put(root / side, f"{index:03d}.png", image)


def clear(root):
    """Remove all pairs, as where a folder is rotated."""
    for side in ("ir", "vis"):
        shutil.rmtree(root / side)
        (root / side).mkdir()


def wait_for(path):
    until(path.exists, path.name)


def test_what_comes_is_fused_as_a_plain_run_would(tmp_path, watched, fusecli, average):
    def act():
        for index in range(3):
            put_pair(tmp_path, index)
            wait_for(tmp_path / "out" / f"{index:03d}.png")

    code, report, err = watched(act)
    assert code == 0, err
    assert {pair["name"]: pair["status"] for pair in report["pairs"]} == dict.fromkeys(("000", "001", "002"), "done")
    sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
    assert fusecli("fuse", *sides, "-o", tmp_path / "plain", "-m", average, "--range", "full")[0] == 0
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_a_file_that_grows_is_taken_when_it_is_whole(tmp_path, watched):
    vis, ir = scene(0, (200, 300))
    whole = cv2.imencode(".png", vis)[1].tobytes()

    def act():
        put(tmp_path / "ir", "a.png", ir)
        with (tmp_path / "vis" / "a.png").open("wb") as file:
            for start in range(0, len(whole), len(whole) // 6 + 1):
                file.write(whole[start : start + len(whole) // 6 + 1])
                file.flush()
                time.sleep(0.15)
        assert not (tmp_path / "out" / "a.png").exists()
        wait_for(tmp_path / "out" / "a.png")

    code, report, err = watched(act)
    assert code == 0, err
    assert report["totals"]["done"] == 1
    assert cv2.imread(str(tmp_path / "out" / "a.png")).shape == vis.shape


def test_results_that_are_there_are_kept_and_new_ones_added(tmp_path, watched):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000.png").write_bytes(b"kept")
    put_pair(tmp_path, 0)

    def act():
        put_pair(tmp_path, 1)
        wait_for(tmp_path / "out" / "001.png")

    code, report, err = watched(act)
    assert code == 0, err
    assert (report["totals"]["skipped"], report["totals"]["done"]) == (1, 1)
    assert (tmp_path / "out" / "000.png").read_bytes() == b"kept"


def test_an_empty_file_is_no_result(tmp_path, watched):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000.png").touch()

    def act():
        put_pair(tmp_path, 0)
        until(lambda: (tmp_path / "out" / "000.png").stat().st_size, "a result")

    code, report, err = watched(act)
    assert code == 0, err
    assert report["totals"]["done"] == 1


def test_what_is_written_again_is_fused_again_if_results_may_be_replaced(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(watch, "RECHECK", 0.1)

    def act():
        put_pair(tmp_path, 0)
        wait_for(tmp_path / "out" / "000.png")
        before = (tmp_path / "out" / "000.png").read_bytes()
        time.sleep(1)  # long done
        put(tmp_path / "vis", "000.png", scene(5)[0])
        until(lambda: (tmp_path / "out" / "000.png").read_bytes() != before, "another result")
        (tmp_path / "vis" / "000.png").unlink()
        time.sleep(0.3)

    monkeypatch.setattr(watch, "PARTNER", 0.1)
    code, report, err = watched(act, "--overwrite")
    assert code == 0, err
    assert (report["totals"]["done"], report["totals"]["left"]) == (2, 0)
    assert "partner" not in err


def test_what_failed_is_fused_once_it_is_written_again(tmp_path, watched, settled, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    monkeypatch.setattr(watch, "RECHECK", 0.2)

    def act():
        put_pair(tmp_path, 0)
        (tmp_path / "vis" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        settled("000")
        time.sleep(0.4)  # for good
        put(tmp_path / "vis", "000.png", scene(0)[0])
        wait_for(tmp_path / "out" / "000.png")

    _, report, err = watched(act)
    assert [pair["status"] for pair in report["pairs"]] == ["failed", "done"], err


def test_a_damaged_file_fails_alone_once_it_changes_no_more(tmp_path, watched, settled, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.8)

    def act():
        put_pair(tmp_path, 0)
        (tmp_path / "vis" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        put_pair(tmp_path, 1)
        wait_for(tmp_path / "out" / "001.png")
        settled("000")

    code, report, err = watched(act)
    assert code == 8, err
    assert {pair["name"]: pair["status"] for pair in report["pairs"]} == {"000": "failed", "001": "done"}


def test_the_infrared_range_is_settled_by_the_first_pair_that_can_be_read(tmp_path, watched, settled, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    vis, ir = scene(0, color=False)

    def act():
        put(tmp_path / "ir", "000.png", ir)
        (tmp_path / "ir" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        put(tmp_path / "vis", "000.png", vis)
        settled("000")
        for name, frame in (("001", ir), ("002", ir // 2)):
            put(tmp_path / "ir", f"{name}.png", np.uint16(27000) + frame)
            put(tmp_path / "vis", f"{name}.png", vis)
            wait_for(tmp_path / "out" / f"{name}.png")

    code, report, err = watched(act, "--range", "auto")
    assert {pair["name"]: pair["status"] for pair in report["pairs"]} == {"000": "failed", "001": "done", "002": "done"}
    assert code == 8
    assert err.count("--range auto took 270") == 1
    first, second = (np.ptp(cv2.imread(str(tmp_path / "out" / f"00{index}.png"), -1) - vis / 2) for index in (1, 2))
    assert first > 100  # of 125, half of the infrared
    assert second < 0.6 * first


def test_infrared_that_drifts_out_of_its_range_is_said_once_each_time(tmp_path, watched):
    """As a camera that warms up does: results were white for days, and the log told nothing."""
    vis, ir = scene(0, color=False)
    shifts = {"000": 0, "001": 50, "002": 900, "003": 1200, "004": 0, "005": -900}

    def act():
        for name, shift in shifts.items():
            put(tmp_path / "ir", f"{name}.png", (27000 + shift + ir.astype(int)).astype(np.uint16))
            put(tmp_path / "vis", f"{name}.png", vis)
            wait_for(tmp_path / "out" / f"{name}.png")

    code, _, err = watched(act, "--range", "auto")
    assert code == 0, err
    told = re.findall(r"(\d+).png: most of it lies (above|below) the range of 270.* --range frame follows", err)
    assert told == [("002", "above"), ("005", "below")]


def test_infrared_at_the_end_of_its_range_does_not_fill_the_log(tmp_path, caplog):
    """A run may take days, at 30 frames a second."""
    drift, paths = _Drift(None), [tmp_path / "in.png", tmp_path / "above.png"]
    for path, value in zip(paths, (27100, 27300), strict=True):
        put(tmp_path, path.name, np.full((8, 8), value, np.uint16))
    for path in paths * 50:
        drift.look_at(Range(27000, 27200), path)
    assert caplog.text.count("above.png: most of it lies above") == DRIFTS


def test_an_infrared_frame_of_one_value_settles_no_range(tmp_path, watched):
    """As the first of a camera that starts: all that came after it was white, for days."""
    vis, ir = scene(0, color=False)

    def act():
        for name, frame in (("000", np.zeros_like(ir, np.uint16)), ("001", np.uint16(27000) + ir)):
            put(tmp_path / "ir", f"{name}.png", frame)
            put(tmp_path / "vis", f"{name}.png", vis)
            wait_for(tmp_path / "out" / f"{name}.png")

    code, _, err = watched(act, "--range", "auto")
    assert code == 0
    assert re.findall(r"--range auto took 270.* from the start \((.*)\)", err) == ["1 infrared frame"]
    assert np.ptp(cv2.imread(str(tmp_path / "out" / "001.png"), -1) - vis / 2) > 100


def test_the_visible_range_grows_from_night_to_day(tmp_path, watched):
    ramp = np.tile(np.linspace(0, 1, 64), (48, 1))

    def act():
        for name, most in (("dusk", 9000), ("noon", 60000), ("stars", 3000)):
            put(tmp_path / "ir", f"{name}.png", np.zeros((48, 64), np.uint8))
            put(tmp_path / "vis", f"{name}.png", np.uint16(ramp * most))
            wait_for(tmp_path / "out" / f"{name}.png")

    code, _, err = watched(act)
    assert code == 0, err
    assert err.count("taken for samples of") == 2
    assert "noon.png …: values up to 60000 in 16 bits are taken for samples of 16 bits from here on" in err
    for name, white in (("dusk", 9000 / 16383), ("noon", 60000 / 65535), ("stars", 3000 / 65535)):
        result = cv2.imread(str(tmp_path / "out" / f"{name}.png"), -1)[24] / 65535
        np.testing.assert_allclose(result, ramp[24] * white / 2, atol=0.01)


def test_pairs_that_wait_when_it_is_stopped_are_named(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(watch, "SETTLE", 1000)  # what is written in place is never ready here

    def act():
        put_pair(tmp_path, 0)
        wait_for(tmp_path / "out" / "000.png")
        for side, image in zip(("vis", "ir"), scene(1), strict=True):
            cv2.imwrite(str(tmp_path / side / "001.png"), image)
        time.sleep(0.3)

    code, report, err = watched(act)
    assert code == 0, err  # a stop is how such a run ends
    assert report["totals"]["left"] == 1
    assert {pair["name"]: pair["status"] for pair in report["pairs"]} == {"000": "done", "001": "left"}
    assert "1 pair left, which --watch finds again, for example 001" in err


def test_a_partner_that_does_not_come_is_reported_once(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(watch, "PARTNER", 0.2)

    def act():
        put(tmp_path / "vis", "alone.png", scene(0)[0])
        time.sleep(1.0)

    code, _, err = watched(act)
    assert code == 0
    assert err.count("alone.png") == 1
    assert "no partner has come in 0 s for 1 file, such as " in err


def watching(folder: Path) -> watch.Watcher:
    """A watcher of two empty folders."""
    for side in ("ir", "vis"):
        (folder / side).mkdir()
    return watch.Watcher((folder / "ir", folder / "vis"), (lambda name: Path(name).stem,) * 2, folder / "out", Naming())


def test_partners_that_do_not_come_are_reported_together(tmp_path, monkeypatch, caplog):
    """A camera that drops every tenth frame does not fill the log."""
    for waited in ("PARTNER", "SETTLE"):
        monkeypatch.setattr(watch, waited, -1.0)
    watcher = watching(tmp_path)
    for index in range(4):
        put(tmp_path / "ir", f"{index}.png", scene(0)[1])
        watcher.poll()
    watcher.close()
    watcher.close()
    said = [record.getMessage().partition("for ")[2] for record in caplog.records]
    assert said == [f"1 file, such as {tmp_path}/ir/0.png", f"3 files, such as {tmp_path}/ir/1.png"]


def test_files_without_a_partner_are_named_where_the_run_ends_early(tmp_path, watched):
    def act():
        put(tmp_path / "vis", "cam_000.png", scene(0)[0])
        put(tmp_path / "ir", "therm_000.png", scene(0)[1])
        time.sleep(1.2)

    code, _, err = watched(act)
    assert code == 0
    assert re.search(r"no partner has come in [1-9] s for 2 files, such as .*therm_000\.png", err)  # as long as it was


def test_the_pairs_that_wait_longest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "ROUND", 2)
    watcher = watching(tmp_path)
    past = time.time() - 3600
    for index in (3, 1, 2):
        put_pair(tmp_path, index)
        for side in ("ir", "vis"):
            os.utime(tmp_path / side / f"{index:03d}.png", (past, past))
    first, second = watcher.poll(), watcher.poll()
    assert [len(first), len(second)] == [2, 1]
    assert {job.name for job in [*first, *second]} == {"001", "002", "003"}
    assert all(isinstance(job, Job) for job in first)
    assert watcher.poll() == []


def test_pairs_that_are_removed_before_they_were_fused_are_said(tmp_path, caplog):
    """As by a camera that keeps so many files, or where the folder is rotated; those that were fused may go."""
    watcher = watching(tmp_path)
    for index in (1, 2, 3):
        put_pair(tmp_path, index)
    put(tmp_path / "vis", "004.png", scene(4)[0])
    jobs = watcher.poll()
    assert watcher.is_final(Outcome(jobs[0]))
    clear(tmp_path)
    assert watcher.poll() == []
    assert [record.getMessage() for record in caplog.records] == ["gone before fused: 2 pairs, such as 002"]


def test_every_pair_that_is_lost_is_counted(tmp_path, caplog):
    """A camera that removes one each second is told of every ten seconds, and at the end: none goes unsaid."""
    watcher = watching(tmp_path)
    for index in (1, 2, 3):
        put_pair(tmp_path, index)
        watcher.poll()
        for side in ("ir", "vis"):
            (tmp_path / side / f"{index:03d}.png").unlink()
        watcher.poll()
    watcher.close()
    assert [record.getMessage() for record in caplog.records] == [
        "gone before fused: 1 pair, such as 001",
        "gone before fused: 2 pairs, such as 002",
    ]


def test_what_was_fused_once_and_changed_is_lost_where_it_is_removed_before_it_was_fused_again(tmp_path, caplog):
    watcher = watching(tmp_path)
    watcher.naming = Naming(overwrite=True)
    for index in (1, 2):
        put_pair(tmp_path, index)
    assert all(watcher.is_final(Outcome(job)) for job in watcher.poll())
    put_pair(tmp_path, 2, (50, 60))
    assert watcher.poll() == []  # it may go on changing
    clear(tmp_path)
    assert watcher.poll() == []
    assert [record.getMessage() for record in caplog.records] == ["gone before fused: 1 pair, such as 002"]


def test_what_was_fused_once_and_is_then_damaged_fails_in_the_end(tmp_path, monkeypatch):
    """A copy over it that stalls for longer than SETTLE: nothing was said of it, and it was not tried again."""
    monkeypatch.setattr(watch, "SETTLE", 0)
    watcher = watching(tmp_path)
    put_pair(tmp_path, 1)
    (job,) = watcher.poll()
    assert watcher.is_final(Outcome(job))
    job.output.parent.mkdir()
    job.output.write_bytes(b"fused")
    put_pair(tmp_path, 1, (50, 60))
    assert watcher.poll() == []
    assert watcher.poll() == [job]
    assert not watcher.is_final(Outcome(job, "half a file"))
    assert watcher.poll() == []
    monkeypatch.setattr(watch, "PATIENCE", 0)
    assert watcher.poll() == [job]
    assert watcher.is_final(Outcome(job, "half a file"))
    assert watcher.poll() == []


def test_what_could_not_be_opened_is_tried_again_once_it_can_be(tmp_path, monkeypatch):
    """As where permissions are mended, or a share is back: neither size nor time of the file change."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    watcher = watching(tmp_path)
    for index in (1, 2):
        put_pair(tmp_path, index)
    jobs, openly = watcher.poll(), Path.open

    def closed(path: Path, *how: str):
        if path == tmp_path / "ir" / "002.png":
            raise PermissionError(13, "Permission denied", str(path))
        return openly(path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", closed)
        assert all(watcher.is_final(Outcome(job, "cannot be read")) for job in jobs)
        assert watcher.poll() == []
    assert watcher.poll() == jobs[1:]
    assert watcher.is_final(Outcome(jobs[1], "damaged besides"))
    assert watcher.poll() == []


def test_nothing_is_settled_or_run_while_nothing_comes(monkeypatch):
    """And the folders are not looked at without a pause."""
    looks, stop = [], threading.Event()

    class Quiet:
        folders = ("ir", "vis")

        def poll(self):
            looks.append(time.monotonic())
            if len(looks) == 3:
                stop.set()
            return []

        def close(self):
            pass

    monkeypatch.setattr(watch, "POLL", 0.05)
    assert list(watch.run(Quiet(), [], None, lambda *known: pytest.fail("nothing came"), stop=stop)) == []
    assert looks[2] - looks[0] >= 0.1


def test_a_result_that_was_left_alone_stays_so(tmp_path, caplog):
    """Whatever becomes of its sources, and whatever cannot be looked at is no result."""
    for side in ("ir", "vis", "out"):
        (tmp_path / side).mkdir()
    put_pair(tmp_path, 0)
    (tmp_path / "out" / "000_fused.png").write_bytes(b"kept")
    long = "x" * 250  # its result's name would be too long
    for side in ("ir", "vis"):
        shutil.copy(tmp_path / side / "000.png", tmp_path / side / f"{long}.png")
        for path in (tmp_path / side).iterdir():
            os.utime(path, (time.time() - 9, time.time() - 9))
    watcher = watch.Watcher(
        (tmp_path / "ir", tmp_path / "vis"),
        (lambda name: Path(name).stem,) * 2,
        tmp_path / "out",
        Naming(pattern="{stem}_fused"),
    )
    assert [job.name for job in watcher.poll()] == [long]
    assert f"{tmp_path / 'out' / '000_fused.png'} exists and is left alone; --overwrite replaces" in caplog.text
    put_pair(tmp_path, 0, (50, 60))
    for path in (tmp_path / "ir" / "000.png", tmp_path / "vis" / "000.png"):
        os.utime(path, (time.time() - 5, time.time() - 5))
    assert watcher.poll() == []


def test_what_changes_soon_after_it_was_fused_is_fused_again(tmp_path, monkeypatch):
    """Once it changes no more. Until then it is left, as is what was handed out and is not through."""
    monkeypatch.setattr(watch, "SETTLE", 0)
    for side in ("ir", "vis", "out"):
        (tmp_path / side).mkdir()
    watcher = watch.Watcher(
        (tmp_path / "ir", tmp_path / "vis"),
        (lambda name: Path(name).stem,) * 2,
        tmp_path / "out",
        Naming(),
    )

    def write(size):
        for side in ("ir", "vis"):
            path = tmp_path / side / "a.png"
            path.write_bytes(bytes(size))
            os.utime(path, (time.time() - 9, time.time() - 9))

    write(3)
    (job,) = watcher.poll()
    assert [each.name for each in watcher.left()] == ["a"]
    assert watcher.is_final(Outcome(job))
    assert watcher.left() == []
    job.output.write_bytes(b"fused")
    write(5)
    assert watcher.poll() == []  # whoever was seen changing may go on
    assert watcher.poll() == [job]
    assert watcher.is_final(Outcome(job))
    monkeypatch.setattr(watch, "RECHECK", 0)
    assert watcher.poll() == []  # from here on it is settled
    write(7)
    assert watcher.poll() == watcher.poll() == []


@pytest.mark.parametrize("option", [("--preview",), ("--steady",), ("--name", "{index}"), ("--pairs", "pairs.csv")])
def test_options_that_need_all_pairs_are_refused(pairs, fusecli, option):
    root = pairs(1)
    (root / "pairs.csv").write_text("ir,vis\n000.png,000.png\n")
    option = [root / one if one.endswith("csv") else one for one in option]
    code, _, err = fusecli(*command(root, "--watch", *option))
    assert code == 2
    assert option[0] in err
    assert "--watch" in err


def test_it_needs_two_folders_and_an_output_folder(pairs, fusecli):
    root = pairs(1)
    for ir in (root / "ir/000.png", ""):
        code, _, err = fusecli(*command(root, "--watch", "--ir", ir))
        assert (code, "needs a folder" in err) == (2, True)
    code, _, err = fusecli(*command(root, "--watch", "-o", root / "out.png"))
    assert (code, "needs a folder" in err) == (2, True)
    code, _, err = fusecli(*command(root, "--watch", "--cluster", "auto"))
    assert (code, "--watch are for one" in err, "watching" in err) == (2, True, False)


@pytest.mark.parametrize("options", [("--range", "9,9"), ("--format", "nifti")])
def test_what_makes_no_sense_is_told_before_anything_comes(tmp_path, fusecli, options):
    for side in ("ir", "vis"):
        (tmp_path / side).mkdir()
    sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "out", "--watch", *options)
    assert code == 2
    assert options[0] in err


@pytest.mark.parametrize("name", ["{foo}", "{stem}.png", "latest"])
def test_a_name_that_is_none_is_told_before_anything_comes(pairs, fusecli, name):
    root = pairs(1)
    code, _, err = fusecli(*command(root, "--watch", "--name", name))
    assert code == 2
    assert f"--name {name}" in err


def test_a_report_into_a_watched_folder_is_refused(pairs, fusecli):
    root = pairs(1)
    before = (root / "vis" / "000.png").read_bytes()
    code, _, err = fusecli(*command(root, "--watch", "--report", root / "vis" / "000.png"))
    assert code == 2
    assert f"--report {root / 'vis' / '000.png'}: lies in the input folder" in err
    assert (root / "vis" / "000.png").read_bytes() == before
    assert fusecli(*command(root, "--watch", "--report", root / "vis" / "new" / "r.json"))[0] == 2
    assert not (root / "vis" / "new").exists()
    err = fusecli(*command(root, "--watch", "--report", root / "out"))[2]
    assert "--report" in err
    assert "results go into a folder of this name" in err


def test_a_folder_that_cannot_be_listed_is_named(pairs, fusecli, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", "vis/night")

    root = pairs(1)
    monkeypatch.setattr(watch.Watcher, "existing", denied)
    code, _, err = fusecli(*command(root, "--watch"))
    assert code == 2
    assert "vis/night: cannot be listed: Permission denied" in err


@pytest.mark.parametrize("option", [("--series", "3"), ("--raw", "3x3")])
def test_options_of_other_inputs_are_refused(pairs, fusecli, option):
    root = pairs(1)
    code, _, err = fusecli(*command(root, "--watch", *option))
    assert code == 2
    assert option[0] in err
