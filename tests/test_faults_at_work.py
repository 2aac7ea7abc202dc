"""Faults while a run is at work, names at the limit, bombs, and who may read what is written."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from conftest import command, contents, png_chunk, scene

from fusecli.images import atomic, decode, intensity, tiff
from fusecli.images.atomic import PARTIAL, by_turns, file_hash, replacing, sweep


def meddle(path, how):
    data = path.read_bytes()
    if how == "vanishes":
        path.unlink()
    elif how == "shrinks":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empties":
        path.write_bytes(b"")
    else:
        path.write_bytes(data + bytes(5000))


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("how", ["vanishes", "shrinks", "empties", "grows"])
def test_a_file_that_changes_while_it_is_read(pairs, fusecli, monkeypatch, how, ending):
    """Between its first bytes and the rest: it costs its pair, or nothing where the picture is still whole."""
    root = pairs(5, size=(240, 320), ending=ending)
    victim = root / "vis" / f"002{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    cv2.imwrite(str(victim), noise)  # its head is like no other, and it is more than is read at once
    fused = fusecli(*command(root))
    assert fused[0] == 0
    before = contents(root / "out")
    head, changed = victim.read_bytes()[:132], []
    kind_of = decode.headers.kind_of

    def meddling(data):
        if not changed and data == head:
            changed.append(True)
            meddle(victim, how)
        return kind_of(data)

    monkeypatch.setattr(decode.headers, "kind_of", meddling)
    monkeypatch.setattr(intensity, "peek", lambda path: None)  # what settles the intensity range, before the run
    code, _, err = fusecli(*command(root, "--overwrite", "--range", "full"))
    assert changed
    if how == "grows" or (how == "vanishes" and ending == ".png"):  # an open file outlives its name
        assert code == 0, err
        assert contents(root / "out") == before
    else:
        assert code == 8, err
        assert f"002{ending}" in err
        assert "Traceback" not in err
        assert {name: data for name, data in contents(root / "out").items() if "002" not in name} == {
            name: data for name, data in before.items() if "002" not in name
        }


@pytest.mark.parametrize("kind", ["png", "nii"])
def test_a_file_that_shrinks_does_not_end_the_process(tmp_path, kind):
    """A mapped file would: touching what is gone raises SIGBUS."""
    code = {
        "png": """
            from fusecli.images import decode, headers
            parse = headers.parse
            headers.parse = lambda data: (os.truncate(path, 0), parse(data))[1]
            assert decode.peek(path) is not None
        """,
        "nii": """
            import nibabel as nib, numpy as np
            from fusecli.images import nifti
            nib.save(nib.Nifti1Image(np.ones((200, 200, 20), np.int16), np.eye(4)), path)
            volume = nifti.read(path)
            os.truncate(path, 0)
            assert volume.voxels.sum() == 800000
        """,
    }[kind]
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        cv2.imwrite(str(path), scene(0, (200, 200))[0])
    script = f"import os\nfrom pathlib import Path\npath = Path({str(path)!r})\n{textwrap.dedent(code)}"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_names_at_the_limit_are_fused(pairs, fusecli):
    root = pairs(1, size=(24, 32))
    names = [
        "x" * 251 + ".png",
        "夜" * 83 + ".png",
        "a\nb\tc.png",
        " lead and trail .png",
        "%s{stem}$HOME`id`;.png",
        "-o.png",
    ]
    names.append(os.fsdecode(b"latin-\xe9.png"))
    for name in names:
        for side in ("vis", "ir"):
            (root / side / name).write_bytes((root / side / "000.png").read_bytes())
    report = root / "report.json"
    code, _, err = fusecli(*command(root, "--report", report))
    assert code == 0, err
    assert sorted(contents(root / "out")) == sorted([*names, "000.png"])
    assert report.read_bytes().count(b'"done"') >= 8
    for done, left in ((6, 0), (0, 6)):  # in a run that finds results, too
        code, out, err = fusecli(*command(root, "--name", "{stem}_{task}", "--skip-existing", "--json"))
        assert code == 8, err
        totals = json.loads(out)
        assert (totals["done"], totals["skipped"], totals["failed"]) == (done, left, 2)  # 260 bytes are no name
        assert err.count("File name too long") == 2
        assert "Traceback" not in err


def test_links_that_lead_back_end_the_walk(pairs, fusecli):
    root = pairs(2, size=(24, 32))
    for side in ("vis", "ir"):
        (root / side / "again").symlink_to(root / side)
        (root / side / "deep").mkdir()
        (root / side / "deep" / "up").symlink_to("..")
        (root / side / "self").symlink_to("self")
        (root / side / "000.png").rename(root / side / "deep" / "000.png")
    code, _, err = fusecli(*command(root, "--recursive"))
    assert code == 0, err
    assert "001.png" in contents(root / "out")
    assert "deep/000.png" in contents(root / "out")
    assert len(contents(root / "out")) <= 4


def bomb(ending):
    """60,000×60,000 pixels in less than 4 MB, all of them there."""
    if ending == ".tif":
        buffer = io.BytesIO()
        strip = zlib.compress(bytes(60000 * 100), 9)
        tifffile.imwrite(
            buffer, iter([strip] * 600), shape=(60000, 60000), dtype=np.uint8, compression="zlib", rowsperstrip=100
        )
        return buffer.getvalue()

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(60001 * 60)) for _ in range(10)) + packer.flush()
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)


def decoded_sizes(monkeypatch) -> list[int]:
    """The size of every image that is decoded from now on."""
    sizes = []

    def watching(act):
        def acting(*arguments, **options):
            result = act(*arguments, **options)
            sizes.append(getattr(result[0] if isinstance(result, tuple) else result, "size", 0))
            return result

        return acting

    for module, act in ((decode, "_decode_plain_png"), (decode, "_decode_any"), (tiff, "_with_tifffile")):
        monkeypatch.setattr(module, act, watching(getattr(module, act)))
    return sizes


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("limit", [[], ["--max-pixels", "1000000"]])
def test_bombs_are_refused_before_memory_is_taken(pairs, fusecli, monkeypatch, ending, limit):
    root = pairs(2, size=(24, 32), ending=ending)
    (root / "ir" / f"001{ending}").write_bytes(bomb(ending))
    sizes = decoded_sizes(monkeypatch)
    code, _, err = fusecli(*command(root, *limit))
    assert code == 8
    assert "3,600,000,000 pixels are more than the limit" in err
    assert list(contents(root / "out")) == [f"000{ending}"]
    assert 0 < max(sizes) < 10_000


def test_the_limit_holds_for_what_settles_the_range_too(pairs, fusecli, monkeypatch):
    """16-bit frames are sampled before any pair is fused."""
    root = pairs(2, size=(24, 32), color=False)
    sizes = decoded_sizes(monkeypatch)
    cv2.imwrite(str(root / "ir" / "001.png"), np.zeros((500, 500), np.uint16))
    code, _, err = fusecli(*command(root, "--max-pixels", "10000"))
    assert code == 8
    assert "250,000 pixels" in err
    assert 0 < max(sizes) < 10_000


def test_a_read_only_output_is_refused_unless_nothing_is_left_to_write(pairs, fusecli, tmp_path):
    root = pairs(1)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a disk here")
    try:
        for where in (disk, disk / "out"):
            code, _, err = fusecli(*command(root, "-o", where))
            assert code == 2
            assert "Read-only file system" in err
            assert "Traceback" not in err
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert fusecli(*command(root, "-o", disk / "out"))[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert fusecli(*command(root, "-o", disk / "out", "--skip-existing"))[0] == 0  # nothing is left to write
    finally:
        subprocess.run(["umount", disk], check=True)


def test_results_and_temporary_files_have_the_mode_of_the_umask(pairs, fusecli, tmp_path):
    root = pairs(1)
    mask = os.umask(0o077)
    try:
        assert fusecli(*command(root, "--report", root / "report.json"))[0] == 0
        for path in (root / "out" / "000.png", root / "report.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        os.umask(0o027)
        with replacing(tmp_path / "a.txt") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o640  # from its first byte on
    finally:
        os.umask(mask)


def test_temporary_names_cannot_be_foreseen_and_follow_no_link(tmp_path, monkeypatch):
    names = set()
    for _ in range(5):
        with replacing(tmp_path / "a.png") as partial:
            names.add(partial.name)
            partial.write_bytes(b"x")
    assert len(names) == 5
    monkeypatch.setattr("secrets.token_hex", lambda count: "known")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / partial.name.replace(partial.name.split("-")[1].split(".")[0], "known")).symlink_to(victim)
    assert PARTIAL in partial.name
    with pytest.raises(Exception, match="File exists"), replacing(tmp_path / "a.png") as partial:
        partial.write_bytes(b"overwritten")
    assert victim.read_bytes() == b"precious"


def test_a_link_where_a_folder_of_results_goes_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "out", folder=True) as partial:
        (partial / "0001.dcm").touch()
    assert not (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0001.dcm"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept"]


def test_a_folder_that_another_run_replaces_at_the_same_time_is_replaced(tmp_path, monkeypatch):
    path, rename = tmp_path / "out", os.rename
    path.mkdir()
    others = iter(["takes it away", "puts its own there"])

    def meanwhile(source, target):
        if next(others, None) is not None:
            if source == path:
                shutil.rmtree(path)
            else:
                path.mkdir()
                (path / "0001.dcm").write_bytes(b"other")
        rename(source, target)

    monkeypatch.setattr(os, "rename", meanwhile)
    with replacing(path, folder=True) as partial:
        (partial / "0001.dcm").write_bytes(b"own")
    assert (path / "0001.dcm").read_bytes() == b"own"
    assert os.listdir(tmp_path) == ["out"]


def test_what_several_would_make_is_made_by_turns(tmp_path):
    steps = []

    def make():
        with by_turns(tmp_path / "new" / "graph"):
            steps.append("begun")
            time.sleep(0.05)
            steps.append("done")

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == ["begun", "done"] * 3


def test_the_hash_of_a_folder_is_of_its_files_in_order(tmp_path):
    for name in "hbdfgace":
        (tmp_path / name).write_text(name)
    assert file_hash(tmp_path) == hashlib.sha256(b"abcdefgh").hexdigest()
    assert file_hash(tmp_path / "b") == hashlib.sha256(b"b").hexdigest()


def put_into(partial, data):
    (partial / "0001.png" if partial.is_dir() else partial).write_bytes(data)  # which opens it by its name


@pytest.mark.parametrize("folder", [False, True])
def test_what_another_run_is_writing_is_not_swept(tmp_path, folder):
    path = tmp_path / "a.png"
    for _ in range(2):  # the second replaces the first
        with replacing(path, folder=folder) as partial:
            put_into(partial, b"begun")
            assert sweep([path]) == 0
            put_into(partial, b"whole")
        assert (path / "0001.png" if folder else path).read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_run_was_writing_is_swept(tmp_path, folder):
    path = tmp_path / "a.png"
    code = f"""if True:
        import os, pathlib, signal
        from fusecli.images.atomic import replacing
        with replacing(pathlib.Path({str(path)!r}), folder={folder}):
            os.kill(os.getpid(), signal.SIGKILL)"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    assert sweep([path]) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch, folder):
    fcntl, path, swept = pytest.importorskip("fcntl"), tmp_path / "a.png", []
    flock = fcntl.flock

    def late(descriptor, how):
        monkeypatch.setattr("fcntl.flock", flock)
        swept.append(sweep([path]))
        flock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", late)
    with replacing(path, folder=folder) as partial:
        put_into(partial, b"x")
    assert swept == [1]
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_swept_before_it_is_opened_for_its_lock_is_made_again(tmp_path, monkeypatch, folder):
    pytest.importorskip("fcntl")
    locked, path, swept = atomic.locked, tmp_path / "a.png", []

    def late(place):
        monkeypatch.setattr(atomic, "locked", locked)
        swept.append(sweep([path]))
        return locked(place)

    monkeypatch.setattr(atomic, "locked", late)
    with replacing(path, folder=folder) as partial:
        put_into(partial, b"x")
    assert swept == [1]
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_folder_that_another_run_takes_away_while_it_is_looked_at_is_no_device(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.mkdir()
    exists = type(path).exists

    def taken_away(self):
        there = exists(self)
        path.rmdir()
        return there

    monkeypatch.setattr(type(path), "exists", taken_away)
    assert not atomic.is_device(path)


def test_file_systems_without_locks_are_written_to_and_swept(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    path = tmp_path / "a.png"
    with replacing(path) as partial:
        (tmp_path / partial.name.replace(PARTIAL, "0" + PARTIAL)).touch()
        partial.write_bytes(b"x")
    assert path.read_bytes() == b"x"
    assert sweep([path]) == 1
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_system_without_locks_sweeps_what_is_a_day_old(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(atomic, "fcntl", None)
    path = tmp_path / "a.png"
    with replacing(path, folder=folder) as partial:
        put_into(partial, b"x")
        assert sweep([path]) == 0
    left = tmp_path / partial.name
    left.mkdir() if folder else left.touch()
    os.utime(left, (time.time() - atomic.ABANDONED - 1,) * 2)
    assert sweep([path]) == 1
    assert os.listdir(tmp_path) == ["a.png"]


def test_sigterm_while_it_starts_leaves_nothing_half_written(pairs):
    root = pairs(30, size=(24, 32))
    for seconds in (0.3, 2.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "fusecli", *map(str, command(root, "--skip-existing"))], stderr=subprocess.PIPE
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 143, -signal.SIGTERM)
        assert b"Traceback" not in err
    assert not any(name.startswith(".") for name in contents(root / "out"))
