"""Bad input and broken runs: a clear message, the right exit code, nothing lost."""

import glob
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import GenericAlias, SimpleNamespace
from typing import get_type_hints
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import typer
from conftest import command, contents, scene, wait_for_results

from fusecli import registry
from fusecli.cli import app, benchmark, main
from fusecli.cli.messages import is_terminal
from fusecli.images import decode, intensity
from fusecli.stream import run


def launch(root, *more, **options):
    arguments = [str(argument) for argument in command(root, *more)]
    return subprocess.Popen([sys.executable, "-m", "fusecli", *arguments], stderr=subprocess.PIPE, text=True, **options)


def test_callbacks_take_what_python_3_10_knows_as_a_class():
    """Typer asks issubclass of it, which there fails for list[str]: no command would start."""
    registered = [*app.registered_commands, *benchmark.app.registered_commands, benchmark.app.registered_callback]
    hints = [hint for one in registered for hint in get_type_hints(one.callback, include_extras=True).values()]
    callbacks = {extra.callback for hint in hints for extra in getattr(hint, "__metadata__", ()) if extra.callback}
    assert callbacks
    for callback in callbacks:
        taken = {name: hint for name, hint in get_type_hints(callback).items() if name != "return"}
        assert not [name for name, hint in taken.items() if isinstance(hint, GenericAlias)]


def test_missing_partner_is_listed(pairs, fusecli):
    root = pairs(3)
    (root / "ir" / "001.png").unlink()
    code, _, err = fusecli(*command(root))
    assert code == 2
    assert "001.png" in err
    assert not (root / "out").exists()
    code, _, err = fusecli(*command(root, "--ignore-unmatched"))
    assert code == 0
    assert "001.png" in err
    assert sorted(contents(root / "out")) == ["000.png", "002.png"]


def test_one_pair_of_different_sizes_fails_alone(pairs, fusecli):
    root = pairs(3)
    cv2.imwrite(str(root / "ir" / "001.png"), scene(0, (10, 10))[1])
    code, _, err = fusecli(*command(root, "--report", root / "report.json"))
    assert code == 8
    assert "001" in err
    assert "10×10" in err
    assert sorted(contents(root / "out")) == ["000.png", "002.png"]
    rows = json.loads((root / "report.json").read_text())["pairs"]
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert ["10×10" in row.get("error", "") for row in rows] == [False, True, False]


def test_a_truncated_file_costs_one_pair_of_fifty(pairs, fusecli):
    root = pairs(50, size=(24, 32))
    broken = root / "vis" / "025.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    code, out, err = fusecli(*command(root, "--json", "--report", root / "report.json"))
    assert code == 8
    assert "025" in err
    assert "Traceback" not in err
    totals = json.loads(out)
    assert (totals["done"], totals["failed"]) == (49, 1)
    assert len(contents(root / "out")) == 49
    failed = [pair for pair in json.loads((root / "report.json").read_text())["pairs"] if pair["status"] == "failed"]
    assert [pair["name"] for pair in failed] == ["025"]


def test_fail_fast_stops_at_the_first(pairs, fusecli):
    root = pairs(40, size=(24, 32))
    (root / "vis" / "000.png").write_text("not an image")
    code, out, _ = fusecli(*command(root, "--fail-fast", "--json", "-j", "1", "--report", root / "report.json"))
    totals = json.loads(out)
    assert code == (8 if totals["done"] else 1)
    assert totals["failed"] == 1
    assert totals["left"] >= 36  # what had begun is finished, so that no half-written file stays
    pairs = json.loads((root / "report.json").read_text())["pairs"]
    assert [pair["name"] for pair in pairs] == [f"{index:03d}" for index in range(40)]
    assert [pair["status"] for pair in pairs].count("left") == totals["left"]


def test_empty_files_are_no_results(pairs, fusecli):
    root = pairs(3)
    assert fusecli(*command(root))[0] == 0
    before = contents(root / "out")
    (root / "out" / "001.png").write_bytes(b"")
    assert "results exist already for 3 of 3 pairs" in fusecli(*command(root))[2]
    code, out, _ = fusecli(*command(root, "--skip-existing", "--json"))
    totals = json.loads(out)
    assert (code, totals["done"], totals["skipped"]) == (0, 1, 2)
    assert contents(root / "out") == before


def test_a_folder_or_a_pipe_in_place_of_a_result_is_none(pairs, fusecli):
    root = pairs(2)
    (root / "out" / "000.png" / "sub").mkdir(parents=True)
    (root / "out" / "000.png" / "notes.txt").write_text("mine")
    code, _, err = fusecli(*command(root, "--skip-existing"))
    assert (code, "000.png: cannot be written: Is a directory" in err) == (8, True)
    (root / "out" / "001.png").unlink()
    os.mkfifo(root / "out" / "001.png")  # writing there would wait for a reader
    for option in ("--skip-existing", "--overwrite"):
        code, _, err = fusecli(*command(root, option))
        assert (code, "001.png is a pipe or device" in err) == (2, True)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no memory disk")
def test_files_on_the_memory_disk_are_no_devices(pairs, fusecli):
    root = pairs(1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for side in ("ir", "vis"):
            shutil.copy(root / side / "000.png", f"{folder}/{side}.png")
        arguments = ("fuse", "--ir", f"{folder}/ir.png", "--vis", f"{folder}/vis.png", "-o", f"{folder}/one.png")
        assert fusecli(*arguments)[0] == 0
        before = os.stat(f"{folder}/one.png").st_ino
        assert fusecli(*arguments, "--overwrite")[0] == 0
        assert os.stat(f"{folder}/one.png").st_ino != before  # replaced as a whole


@pytest.mark.parametrize("option", ["--report", "--align", "--pairs"])
def test_an_empty_path_is_not_this_folder(pairs, fusecli, option):
    code, _, err = fusecli(*command(pairs(1), option, ""))
    assert (code, f"'{option}': it names nothing" in err) == (2, True)


def test_an_option_of_which_only_the_last_counts_is_told(pairs, fusecli):
    root = pairs(1)
    code, _, err = fusecli(*command(root, "--pair-by", "vis=*_a", "--pair-by", "stem", "--overwrite", "--overwrite"))
    assert (code, err.count("given")) == (0, 1)
    assert "--pair-by: given 2 times; only the last one counts" in err
    code, _, err = fusecli(*command(root, "--ir", root / "ir", "--overwrite", "--log-format", "json"))
    assert json.loads(err.splitlines()[0])["message"].startswith("--ir: given 2 times")
    assert "given" not in fusecli(*command(root, "--ir", root / "ir", "--overwrite", "--quiet"))[2]
    arguments = ("--ir", root / "vis", "--ir", root / "ir", "--vis", root / "vis", "--no-html", "--methods", "none")
    assert "--ir: given 2 times" in fusecli("benchmark", *arguments)[2]


def test_nothing_is_told_while_a_shell_completes_words(capsys):
    fuse = typer.main.get_command(app).commands["fuse"]
    fuse.make_context("fuse", ["--ir", "a", "--ir", "b", "c"], resilient_parsing=True)
    assert capsys.readouterr().err == ""


def test_an_advice_is_given_once(pairs, fusecli):
    root = pairs(3)
    for path in (root / "ir").iterdir():
        cv2.imwrite(str(path), np.zeros((20, 30), np.uint8))
    code, _, err = fusecli(*command(root))
    assert (code, err.count("sizes differ"), err.count("--resize")) == (1, 3, 1)


def test_numbers_of_results_say_nothing_of_what_is_done(pairs, fusecli):
    root = pairs(2)
    code, _, err = fusecli(*command(root, "--skip-existing", "--name", "{index}"))
    assert (code, "--skip-existing: cannot tell" in err) == (2, True)


def test_a_report_into_a_pipe_or_device_leaves_it_what_it_is(pairs, fusecli):
    root = pairs(1)
    os.mkfifo(root / "pipe")
    reader = subprocess.Popen(["cat", root / "pipe"], stdout=subprocess.PIPE)
    assert fusecli(*command(root, "--report", root / "pipe"))[0] == 0
    assert json.loads(reader.communicate(timeout=120)[0])["totals"]["done"] == 1
    assert (root / "pipe").is_fifo()
    code, out, _ = fusecli(*command(root, "--overwrite", "--report", "/dev/stdout"))
    assert (code, json.loads(out)["totals"]["done"]) == (0, 1)
    code, _, err = fusecli(*command(root, "--overwrite", "--report", root))
    assert (code, "is a folder; name a file" in err) == (2, True)


@pytest.mark.parametrize("arguments", ["--version", "models", "fuse --help"])
def test_a_reader_that_has_seen_enough(arguments):
    line = f"{sys.executable} -m fusecli {arguments} | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(5):  # it may be there long enough to read all
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode in (0, 141)
        assert "Traceback" not in done.stderr
        if done.returncode:
            return
    pytest.skip("the reader was there until the end")


def test_text_named_png_fails_its_pair_by_name(pairs, fusecli):
    root = pairs(1)
    (root / "vis" / "000.png").write_text("I am no picture")
    code, _, err = fusecli(*command(root))
    assert code == 1
    assert "000.png" in err
    assert "Traceback" not in err


def test_empty_and_missing_folders_are_named(tmp_path, pairs, fusecli):
    root = pairs(1)
    (tmp_path / "empty").mkdir()
    code, _, err = fusecli(*command(root, "--ir", tmp_path / "empty"))
    assert code == 2
    assert "the folder is empty" in err
    code, _, err = fusecli(*command(root, "--ir", tmp_path / "nowhere"))
    assert code == 2
    assert "nowhere: no such file or folder" in err


@pytest.mark.parametrize("sides", [("vis", "ir"), ("pet", "mri")])
def test_a_run_that_comes_before_its_inputs_is_no_failure(tmp_path, fusecli, sides):
    """As cron starts it, every minute."""
    folders = [tmp_path / side for side in sides]
    arguments = ["fuse", f"--{sides[0]}", folders[0], f"--{sides[1]}", folders[1], "-o", tmp_path / "out", "-r"]
    folders[0].mkdir()
    assert fusecli(*arguments, "--skip-existing", "--ignore-unmatched")[0] == 2  # a folder that is not there
    (folders[1] / "today").mkdir(parents=True)
    assert fusecli(*arguments)[0] == 2
    for options in (["--skip-existing"], ["--ignore-unmatched"], ["--skip-existing", "--ignore-unmatched"]):
        code, out, err = fusecli(*arguments, *options, "--report", tmp_path / "report.json", "--json")
        assert code == 0, err
        assert "nothing to fuse yet" in err
        assert json.loads(out)["done"] == json.loads((tmp_path / "report.json").read_text())["totals"]["done"] == 0
        assert fusecli(*arguments, *options, "--quiet") == (0, "", "")
    assert fusecli(*arguments[:-2], folders[0] / "out", "--skip-existing")[0] == 2  # would be refused later
    lost = folders[1] / "today" / "lost.png"
    lost.symlink_to(tmp_path / "gone.png")
    assert fusecli(*arguments, "--skip-existing")[0] == 2
    lost.unlink()
    cv2.imwrite(str(folders[0] / "a.png"), scene(0)[0])
    assert fusecli(*arguments, "--ignore-unmatched")[0] == 0
    code, _, err = fusecli(*arguments, "--skip-existing")
    assert code == 2
    assert "the folder is empty" in err
    (folders[1] / "today" / "b.gif").write_bytes(b"GIF89a")
    assert fusecli(*arguments, "--ignore-unmatched")[0] == 2


@pytest.mark.parametrize("option", ["--skip-existing", "--ignore-unmatched"])
def test_what_a_table_lists_is_fused_though_the_folders_are_empty(pairs, fusecli, option):
    root = pairs(1)
    (root / "empty").mkdir()
    (root / "pairs.csv").write_text(f"ir,vis\n{root}/ir/000.png,{root}/vis/000.png\n")
    sides = ("--ir", root / "empty", "--vis", root / "empty", "--pairs", root / "pairs.csv")
    code, _, err = fusecli("fuse", *sides, "-o", root / "out", option)
    assert code == 0, err
    assert sorted(contents(root / "out")) == ["000.png"]


def test_partners_of_the_first_frames_may_come_until_the_next_run(pairs, fusecli):
    root = pairs(1)
    (root / "ir" / "000.png").rename(root / "ir" / "001.png")
    assert fusecli(*command(root, "--ignore-unmatched"))[0] == 2
    code, _, err = fusecli(*command(root, "--ignore-unmatched", "--skip-existing"))
    assert code == 0
    assert "nothing to fuse yet: no file of --vis has a partner" in err


@pytest.mark.parametrize(
    ("where", "said"),
    [("vis", "this is an input"), ("ir", "this is an input"), ("vis/below", "lies in the input folder")],
)
def test_output_in_an_input_folder_is_refused(pairs, fusecli, where, said):
    root = pairs(2)
    before = contents(root)
    code, _, err = fusecli(*command(root, "-o", root / where, "--overwrite"))
    assert code == 2
    assert said in err
    assert contents(root) == before


def test_output_beside_what_a_table_lists(pairs, fusecli):
    """--ir and --vis then only say where its paths start, perhaps above everything."""
    root = pairs(1)
    table = root / "pairs.csv"
    table.write_text("vis,ir\nvis/000.png,ir/000.png\n")
    listed = ("fuse", "--ir", root, "--vis", root, "--pairs", table, "-o")
    assert fusecli(*listed, root / "out")[0] == 0
    assert (root / "out" / "000.png").is_file()
    assert "lies in the input folder" in fusecli(*listed, root / "vis" / "below")[2]


def test_output_in_an_input_folder_by_another_spelling_is_refused(pairs, fusecli, monkeypatch):
    """As VIS is vis on most disks of macOS."""
    root = pairs(1)
    (root / "VIS").symlink_to(root / "vis")
    monkeypatch.setattr("pathlib.Path.resolve", Path.absolute)  # which there does not tell either
    code, _, err = fusecli(*command(root, "-o", root / "VIS" / "new"))
    assert code == 2
    assert "lies in the input folder" in err


def test_output_that_a_glob_would_find_is_refused(pairs, fusecli):
    root = pairs(1)
    before = contents(root)
    (root / "ir" / "000.png").rename(root / "ir" / "000.jpg")
    sides = ("fuse", "--ir", root / "ir" / "*.jpg", "--vis", root / "vis" / "**" / "*.png")
    for output in (root / "vis" / "fused", root / "vis" / "new" / "fused"):
        code, _, err = fusecli(*sides, "-o", output, "--skip-existing")
        assert code == 2
        assert "would find the results as inputs" in err
    (root / "ir" / "000.jpg").rename(root / "ir" / "000.png")
    assert contents(root) == before
    both = ("--ir", root / "**" / "ir" / "*.png", "--vis", root / "**" / "vis" / "*.png")
    assert fusecli("fuse", *both, "-o", root / "vis")[0] == 2
    for output in ("first", "second"):  # where neither pattern finds them
        code, _, err = fusecli("fuse", *both, "-o", root / output)
        assert code == 0, err
        assert list(contents(root / output)) == ["000.png"]


def test_a_folder_of_results_that_a_glob_of_folders_would_match_is_refused(pairs, fusecli):
    root = pairs(1)
    for side in ("ir", "vis"):
        (root / "all" / side).mkdir(parents=True)
        shutil.move(root / side, root / "all" / side / "day")
    sides = ("--ir", root / "all" / "ir" / "*", "--vis", root / "all" / "vis" / "*")
    code, _, err = fusecli("fuse", *sides, "-o", root / "all" / "vis", "--name", "{stem}-2")
    assert code == 2
    assert f"{root / 'all' / 'vis' / '*'} would find the results as inputs" in err
    assert fusecli("fuse", *sides, "-o", root / "fused")[0] == 0


@pytest.mark.parametrize("sides", [("ir", "vis"), ("pet", "mri")])
def test_the_folders_that_a_glob_matches_are_looked_up_once(pairs, fusecli, monkeypatch, sides):
    root = pairs(1)
    look_up, asked = glob.iglob, []
    monkeypatch.setattr(glob, "iglob", lambda typed, **how: asked.append(typed) or look_up(typed, **how))
    typed = [str(root.parent / f"[{root.name[0]}]{root.name[1:]}" / folder) for folder in ("ir", "vis")]
    for output in ("out", "more"):
        asked.clear()
        code, _, err = fusecli("fuse", f"--{sides[0]}", typed[0], f"--{sides[1]}", typed[1], "-o", root / output)
        assert code == 0, err
        assert sorted(asked) == typed


def test_a_glob_that_would_find_some_of_the_results_is_refused(pairs, fusecli):
    root = pairs(1)
    for place in ("street", "vis"):  # results are street/000.png and vis/000.png
        for side in ("ir", "vis"):
            shutil.copytree(root / side, root / "all" / place / side)
    sides = ("--ir", root / "all" / "**" / "ir" / "*.png", "--vis", root / "all" / "**" / "vis" / "*.png")
    code, _, err = fusecli("fuse", *sides, "-o", root / "all" / "fused")
    assert code == 2
    assert "would find the results as inputs" in err


def test_output_file_that_is_an_input_is_refused(pairs, fusecli):
    root = pairs(1)
    files = ["--ir", root / "ir" / "000.png", "--vis", root / "vis" / "000.png"]
    code, _, err = fusecli("fuse", *files, "-o", root / "vis" / "000.png", "--overwrite")
    assert code == 2
    assert "this is an input" in err


def test_two_inputs_to_one_output(pairs, fusecli):
    root = pairs(2)
    code, _, err = fusecli(*command(root, "--name", "same"))
    assert code == 2
    assert "000.png" in err
    assert "001.png" in err
    code, _, err = fusecli(*command(root)[:-1], root / "one.png")
    assert code == 2
    assert "2 pairs" in err


def test_an_output_folder_that_is_a_file_is_refused(pairs, fusecli):
    root = pairs(1)
    (root / "out").write_text("a file where the folder should be")
    code, _, err = fusecli(*command(root))
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize(
    "more",
    [
        ("-m", "nemo"),
        ("-d", "quantum"),
        ("--bit-depth", "16", "--format", "jpg"),
        ("--report", "."),
        ("--range", "9,9"),
        ("--align", "none.json"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(pairs, fusecli, monkeypatch, more):
    root = pairs(1)
    monkeypatch.chdir(root)
    assert fusecli("fuse", "--ir", "ir", "--vis", "vis", "-o", "new/er/out", *more)[0] == 2
    assert sorted(path.name for path in root.iterdir()) == ["ir", "vis"]
    assert fusecli("fuse", "--ir", "ir", "--vis", "vis", "-o", "new/er/out", "--report", "to/report.json")[0] == 0
    assert sorted(path.as_posix() for path in (root / "new").rglob("*.*")) == [f"{root}/new/er/out/000.png"]


def test_unknown_model_device_and_number(pairs, fusecli):
    root = pairs(1)
    for more, word in (
        (["-m", "nemo"], "nano"),
        (["-m", "missing.safetensors"], "missing.safetensors"),
        (["-m", root / "vis" / "000.png"], "or give a .safetensors or .pt file"),
        (["--ir", ""], "--ir: names nothing; write . for this folder"),  # as of a shell's variable that is not set
        (["-d", "quantum"], "--device quantum: choose auto, cpu, cuda, mps"),
        (["-d", "CUDA:0"], "--device CUDA:0: choose auto, cpu, cuda, mps"),
        (["--tile", "many"], "many"),
        (["--tile-overlap", "-3"], "-3"),
    ):
        code, _, err = fusecli(*command(root, *more))
        assert code == 2, more
        assert word in err
        assert "Traceback" not in err


def test_full_disk_leaves_no_half_written_file(pairs, fusecli, tmp_path):
    root = pairs(30, size=(120, 160))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        code, _, err = fusecli(*command(root, "-o", disk / "out"))
        assert code not in (0, 2)
        assert "No space left" in err
        assert "--skip-existing" in err
        assert "Traceback" not in err
        written = contents(disk / "out")
        assert written
        assert all(name.endswith(".png") and not name.startswith(".") for name in written)
        for data in written.values():
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == (120, 160, 3)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="module")
def whole(many_pairs, tmp_path_factory):
    """What a run that nothing ends makes of ``many_pairs``."""
    from fusecli.cli import main

    out = tmp_path_factory.mktemp("whole")
    assert main(list(map(str, command(many_pairs, "-o", out)))) == 0
    return contents(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted_and_resumed_gives_the_same_bytes(many_pairs, whole, tmp_path, fusecli, number, code):
    report, out = tmp_path / "report.json", tmp_path / "out"
    process = launch(many_pairs, "-o", out, "--report", report)
    wait_for_results(process, out, 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    begun = contents(out)
    if process.returncode == 0:
        pytest.skip("done before the signal came")
    assert process.returncode == code
    assert "Traceback" not in err
    assert 0 < len(begun) < len(whole)
    assert all(not name.startswith(".") for name in begun)
    assert json.loads(report.read_text())["totals"]["interrupted"]
    assert fusecli(*command(many_pairs, "-o", out, "--skip-existing"))[0] == 0
    assert contents(out) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_before_the_work_is_told(pairs, number, code):
    root = pairs(1)
    os.mkfifo(root / "table")
    process = launch(root, "--pairs", root / "table")
    with (root / "table").open("w"):  # once the other end is opened; reading it then waits for its end
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"fusecli: stopped by {number.name}\n")


def test_a_run_under_nohup_outlives_its_terminal(many_pairs, whole, tmp_path):
    out = tmp_path / "out"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which its children inherit
    try:
        process = launch(many_pairs, "-o", out)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_results(process, out)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert (process.returncode, contents(out)) == (0, whole)


def test_killed_and_resumed_gives_the_same_bytes(many_pairs, whole, tmp_path, fusecli):
    out = tmp_path / "out"
    process = launch(many_pairs, "-o", out)
    wait_for_results(process, out)
    process.kill()
    process.wait()
    assert fusecli(*command(many_pairs, "-o", out, "--skip-existing"))[0] == 0
    assert contents(out) == whole  # no temporary file is left either


def test_what_a_killed_run_left_beside_results_that_exist_is_swept(pairs, fusecli):
    root = pairs(1)
    options = ("-o", root / "out", "--report", root / "report.json", "--preview")
    assert fusecli(*command(root, *options))[0] == 0
    for path in (root / "out" / "000.png", root / "out" / "preview.png", root / "report.json"):
        code = f"""if True:
            import os, pathlib, signal
            from fusecli.images.atomic import replacing
            with replacing(pathlib.Path({str(path)!r})):
                os.kill(os.getpid(), signal.SIGKILL)"""
        subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(root.rglob(".*"))) == 3
    assert fusecli(*command(root, *options, "--skip-existing"))[0] == 0
    assert list(root.rglob(".*")) == []


def test_an_output_that_names_nothing_writable_is_refused(pairs, fusecli):
    root = pairs(1)
    sides = ("fuse", "--ir", root / "ir" / "000.png", "--vis", root / "vis" / "000.png", "-o")
    foreign = ("xyz", "gif", "heic", "nii.gz", "NII", "dcm", "nrrd", "mha", "npy")
    for output, reason in (
        ("", "names nothing"),
        *((root / f"a.{ending}", "not written here; name a folder, or a file in .png, .tif,") for ending in foreign),
        (root / "out.mp4", "is for videos"),
    ):
        code, _, err = fusecli(*sides, output)
        assert code == 2
        assert reason in err
    assert sorted(path.name for path in root.iterdir()) == ["ir", "vis"]
    for folder in ("results.v2", "2026.11.28", ".hidden", "made.before"):
        if folder == "made.before":
            (root / folder).mkdir()
        assert fusecli(*sides, root / folder)[0] == 0
        assert (root / folder / "000.png").is_file()
    assert fusecli(*command(root, "-o", root / "results.final"))[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize(
    "more",
    [
        *(("fuse", "-o", name) for name in ("loop", "loop/out", "loop/a.png")),
        ("fuse", "-o", "out", "--report", "loop/a.json"),
        ("align", "-o", "loop/a.json"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_a_link_to_itself_is_no_place_to_write_to(pairs, fusecli, monkeypatch, more, several):
    root = pairs(1)
    (root / "loop").symlink_to("loop")
    monkeypatch.chdir(root)
    files = "*.png" if several else "000.png"
    code, _, err = fusecli(more[0], "--ir", f"ir/{files}", "--vis", f"vis/{files}", *more[1:])
    assert code == 2
    assert "cannot write here" in err
    assert sorted(path.name for path in root.iterdir()) == ["ir", "loop", "vis"]


@pytest.mark.parametrize("option", ["--ir", "--vis", "-o", "--report", "--align", "--pairs", "-m"])
def test_a_name_that_is_too_long_is_refused(pairs, fusecli, option):
    root = pairs(1)
    code, _, err = fusecli(*command(root, option, root / ("x" * 300 + ".png")))
    assert code == 2
    assert f"{'x' * 300}.png" in err
    if sys.version_info < (3, 14) or option in ("-o", "--report"):  # what is read just is not there since then
        assert ".png: longer than a file's name can be" in err
    assert sorted(path.name for path in root.iterdir()) == ["ir", "vis"]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("options", [(), ("--range", "frame"), ("--range", "0,255")])
def test_coloured_infrared_is_said_once(pairs, fusecli, ending, options):
    root = pairs(4, ending=ending)
    told = "is coloured: a false-colour rendering, or are infrared and visible swapped?"
    assert told not in fusecli(*command(root, *options))[2]
    swapped = ("fuse", "--ir", root / "vis", "--vis", root / "ir", "-o", root / "swapped", *options)
    code, _, err = fusecli(*swapped)
    assert (code, err.count(told)) == (0, 1), err
    assert fusecli(*swapped, "--overwrite", "--quiet")[::2] == (0, "")
    for path in (root / "ir").iterdir():
        gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO))
    assert fusecli(*command(root, "--overwrite", *options))[2].count(told) == 1


@pytest.mark.parametrize("maker", ["FLIR", "DJI"])
def test_infrared_that_is_the_preview_of_measurements_is_said_once(pairs, fusecli, maker):
    root = pairs(4, ending=".jpg")
    told = "is a radiometric JPEG: only its preview is used, of 8 bits"
    exif = b"\xff\xe1\0\x30Exif\0\0" + b"MM\0*\0\0\0\x08\0\1\x01\x0f\0\2\0\0\0\4DJI\0".ljust(40, b"\0")
    segments = {"FLIR": b"\xff\xe1\0\x10FLIR\0\1\0\0FFF\0\0\0", "DJI": exif + b"\xff\xe3\0\x06\1\2\3\4"}
    for side, others in (("vis", False), ("ir", True)):
        for path in (root / side).iterdir():
            data = path.read_bytes()
            path.write_bytes(data[:20] + segments[maker] + data[20:])
        code, _, err = fusecli(*command(root, "--overwrite"))
        assert (code, err.count(told)) == (0, int(others)), err


def test_gray_infrared_stored_in_colour_is_gray(pairs, fusecli, monkeypatch):
    """With a scale printed into it and JPEG's chroma; and what says that it is gray is not even read for that."""
    root = pairs(3, size=(96, 320))
    looked_at = []
    monkeypatch.setattr(intensity, "decode", lambda path, **options: looked_at.append(path) or decode.decode(path))
    assert "coloured" not in fusecli(*command(root))[2]
    assert not looked_at
    for path in (root / "ir").iterdir():
        image = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), cv2.COLOR_GRAY2BGR)
        image[:, -5:] = (200, 30, 0)
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg")), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert "coloured" not in fusecli(*command(root, "--overwrite"))[2]
    assert len(looked_at) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuse", "--ir", "a", "--vis", "b"),
        ("annotate", "--ir", "a", "--vis", "b"),
        ("align", "--ir", "a", "--vis", "b"),
        ("export",),
        ("train-teacher",),
        ("distill", "--teacher", "a"),
    ],
)
def test_an_output_of_no_name_is_refused_by_every_command(fusecli, arguments):
    code, _, err = fusecli(*arguments, "-o", "")
    assert code == 2
    assert err == "fusecli: -o: names nothing; write -o . for this folder\n"


@pytest.mark.parametrize("command", ["fuse", "annotate", "align"])
def test_a_pattern_that_the_shell_has_expanded(pairs, fusecli, command):
    root = pairs(5)
    code, _, err = fusecli(command, "--ir", *sorted((root / "ir").iterdir()), "--vis", root / "vis", "-o", root / "out")
    assert code == 2
    assert "001.png" in err
    assert "004.png" not in err
    assert "where the shell has expanded a pattern, quote it" in err
    assert not (root / "out").exists()
    err = fusecli("models", root / "ir")[2]
    assert "ir: belongs to no option; see --help" in err


def test_an_option_before_any_command_names_the_command_that_takes_it(fusecli):
    code, _, err = fusecli("--ir", "thermal", "--vis", "camera", "-o", "fused")
    assert code == 2
    assert "--ir comes after a command: " in err
    assert " fuse --ir …" in err
    assert "No such option" in fusecli("--nonsense")[2]  # the rest of it depends on Click


def test_patterns_stay_whole_on_windows(pairs, monkeypatch):
    """Where no shell expands them click does: then no pattern could be given."""

    class Windows:
        name = "nt"

        def __getattr__(self, name):
            return getattr(os, name)

    from fusecli.cli import main

    root = pairs(2)
    sides = ("--ir", root / "ir" / "*.png", "--vis", root / "vis" / "*.png")
    monkeypatch.setattr("sys.argv", ["fusecli", "fuse", *map(str, sides), "-o", str(root / "out")])
    monkeypatch.setattr("typer.core.os", Windows())
    assert main() == 0
    assert len(contents(root / "out")) == 2


@pytest.mark.parametrize("command", ["fuse", "export", "benchmark"])
def test_a_console_of_few_characters_gets_help(command):
    typed = [sys.executable, "-m", "fusecli", command, "--help"]
    narrow = {**os.environ, "PYTHONIOENCODING": "cp437"}
    done = subprocess.run(typed, env=narrow, capture_output=True, text=True, encoding="cp437", check=False)
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout or "--dataset" in done.stdout


def test_more_bits_than_the_format_holds_are_refused_before_any_work(pairs, fusecli):
    root = pairs(2)
    code, _, err = fusecli(*command(root, "--bit-depth", "16", "--format", "jpg"))
    assert code == 2
    assert ".jpg files hold 8 bits" in err
    assert ".jpg files hold 8 bits" in fusecli(*command(root, "--bit-depth", "16", "--format", "jpg", "--watch"))[2]
    assert fusecli(*command(root, "--bit-depth", "16", "--format", "png"))[0] == 0


def test_with_json_what_libraries_print_goes_nowhere_and_python_s_words_stay(pairs, fusecli, monkeypatch):
    """libpng and its like write to the descriptor, past Python."""
    root = pairs(2)
    damaged = root / "vis" / "000.png"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2 :: 50] = bytes(len(data[len(data) // 2 :: 50]))
    damaged.write_bytes(bytes(data[:-12]) + damaged.read_bytes()[-12:])
    script = """
import os, sys
from fusecli.cli import main
from fusecli.stream import run
load = run.load
def loud(job, settings):
    os.write(2, b"native line\\n")
    if job.name == "001":
        print("own line", file=sys.stderr)
    return load(job, settings)
run.load = loud
code = main(sys.argv[1:])
os.write(2, b"descriptor is back\\n")
print("stream is back", file=sys.stderr)
sys.exit(code)
"""
    arguments = [sys.executable, "-c", script, *map(str, command(root, "--log-format", "json"))]
    done = subprocess.run(arguments, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 8
    *lines, back, again = done.stderr.splitlines()
    assert (back, again) == ("descriptor is back", "stream is back")
    assert lines.pop(next(index for index, line in enumerate(lines) if line == "own line"))
    messages = [json.loads(line)["message"] for line in lines]
    assert any("000.png" in message for message in messages)
    load = run.load
    monkeypatch.setattr(run, "load", lambda *given: os.write(2, b"native line\n") and load(*given))
    assert "native line" in fusecli(*command(root, "--log-format", "text", "--overwrite"))[2]


def test_a_stream_of_a_program_s_own_may_have_no_more_than_write_and_flush(pairs, fusecli, monkeypatch):
    written = []
    own = SimpleNamespace(write=written.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", own)
    assert fusecli(*command(pairs(1)))[0] == 0
    assert "1 done" in "".join(written)
    assert sys.stderr is own
    assert not is_terminal(own)


@pytest.mark.parametrize("in_memory", [False, True])
def test_json_lines_where_stderr_is_another_stream(pairs, fusecli, monkeypatch, capfd, in_memory):
    root = pairs(1)
    if in_memory:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    stream = sys.stderr
    code, _, err = fusecli(*command(root, "--log-format", "json"))
    err = stream.getvalue() if in_memory else err
    assert (code, sys.stderr) == (0, stream)
    assert "1 done" in json.loads(err.splitlines()[-1])["message"]
    os.write(2, b"still there")
    assert "still there" in capfd.readouterr().err


def test_errors_are_json_too_with_their_traceback(pairs, fusecli):
    root = pairs(1)
    (root / "ir" / "000.png").unlink()
    code, _, err = fusecli(*command(root, "--log-format", "json", "-v"))
    assert code == 2
    failed, last = map(json.loads, err.splitlines())
    assert "UsageError" in failed["traceback"]
    assert last["level"] == "error"
    assert "the folder is empty" in last["message"]


def test_a_current_folder_that_was_removed_is_told(pairs, fusecli, monkeypatch, tmp_path):
    """MKL would end the process: cannot load libtorch_cpu.so."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    told = "fusecli: the current folder was removed; change to one that exists\n"
    assert fusecli(*command(pairs(1)))[::2] == (2, told)
    assert fusecli("benchmark", "--dataset", "sample")[::2] == (2, told)
    assert fusecli("fuse", "--help")[0] == 0


def test_a_current_folder_that_cannot_be_read_is_no_obstacle(pairs, fusecli, monkeypatch):
    """As of root's for another user; the released model was looked for in it."""
    root, stat = pairs(1), os.stat

    def denied(path, *rest, **more):
        if os.fspath(path) == "nano":
            raise PermissionError(13, "Permission denied", "nano")
        return stat(path, *rest, **more)

    monkeypatch.setattr(os, "stat", denied)
    assert fusecli(*command(root))[0] == 0


def test_results_that_would_be_one_file_where_case_does_not_count_are_refused(pairs, fusecli, monkeypatch):
    root = pairs(1)
    for side in ("ir", "vis"):
        shutil.copy(root / side / "000.png", root / side / "A.png")
        shutil.copy(root / side / "000.png", root / side / "a.png")
    if len(contents(root / "ir")) < 3:
        pytest.skip("both inputs are one file here")
    assert fusecli(*command(root))[0] == 0
    assert len(contents(root / "out")) == 3

    def exists(path):  # as on a camera's card
        folder, name = os.path.split(path)
        return name.casefold() in map(str.casefold, os.listdir(folder))

    monkeypatch.setattr(os.path, "exists", exists)
    code, _, err = fusecli(*command(root, "--overwrite"))
    assert (code, "A.png and " in err, "would be one file" in err) == (2, True, True)


def test_weights_within_a_zip_file_are_told(tmp_path):
    package = registry.WEIGHTS_DIR.parent
    with ZipFile(tmp_path / "fusecli.zip", "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    code = "import sys; sys.path.insert(0, 'fusecli.zip'); from fusecli.cli import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot read its weights within a zip file" in done.stderr) == (2, True)


def test_a_run_without_bars_warns_of_no_widgets(pairs):
    """In a notebook importing tqdm.auto does, where ipywidgets is missing."""
    words = [str(word) for word in command(pairs(1))]
    code = f"import sys; from fusecli.cli import main; main({words}); print('tqdm.auto' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_another_thread_than_the_main_one_may_run_it(pairs):
    """Only the main one can set what signals do."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, list(map(str, command(pairs(1))))).result() == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_cost_nothing(pairs, closed):
    root = pairs(2)
    typed = shlex.join([sys.executable, "-m", "fusecli", *map(str, command(root))])
    assert subprocess.run(["sh", "-c", f"{typed} {closed}"], stderr=subprocess.DEVNULL).returncode == 0
    assert len(contents(root / "out")) == 2


def test_accents_pair_however_they_are_written(pairs, fusecli):
    """macOS stores ü as u and two dots."""
    root = pairs(1)
    for side, form in (("ir", "NFD"), ("vis", "NFC")):
        (root / side / "000.png").rename(root / side / (unicodedata.normalize(form, "Zürich") + ".png"))
    assert fusecli(*command(root))[0] == 0
    assert list(contents(root / "out")) == [unicodedata.normalize("NFC", "Zürich") + ".png"]


def test_names_that_shells_dislike_are_fused(pairs, fusecli):
    root = pairs(1)
    for name in ("two words.png", "ünïcode — 夜.png", "new\nline.png", "'quote\".png"):
        for side in ("vis", "ir"):
            shutil.copy(root / side / "000.png", root / side / name)
    assert fusecli(*command(root, "--report", root / "report.json"))[0] == 0
    assert len(contents(root / "out")) == 5
    assert "ünïcode — 夜" in (root / "report.json").read_text(encoding="utf-8")  # to be read and searched by people


def test_a_limit_of_the_environment_that_is_no_number_is_told_once(pairs, fusecli, monkeypatch):
    monkeypatch.setenv("FUSECLI_MAX_PIXELS", "many")
    code, _, err = fusecli(*command(pairs(2)))
    assert (code, err.count("FUSECLI_MAX_PIXELS=many: expected a number")) == (2, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_standard_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fusecli", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "fusecli: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("given", [("--log-format", "json"), ("--log-format=json",)])
def test_options_that_cannot_be_read_are_json_too(pairs, fusecli, given):
    code, _, err = fusecli(*command(pairs(1), *given, "--num-parts", "zero"))
    assert code == 2
    assert "--num-parts" in json.loads(err)["message"]


def test_a_picture_called_preview_is_not_replaced(pairs, fusecli):
    root = pairs(1)
    (root / "out").mkdir()
    (root / "out" / "preview.png").write_bytes(b"another program's")
    code, _, err = fusecli(*command(root, "--preview"))
    assert code == 2
    assert "preview.png exists already" in err
    assert (root / "out" / "preview.png").read_bytes() == b"another program's"
    assert fusecli(*command(root, "--preview", "--overwrite"))[0] == 0
    assert (root / "out" / "preview.png").read_bytes() != b"another program's"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "{index:05d}"], "{index} has six digits by itself"),
        (
            ["--pair-by", "ir=*_IR,vis=*_RGB"],
            "--vis: no name there, without its ending, fits the pattern of --pair-by, '000' for example",
        ),
        (["-m", "nano.onnx"], "nano.onnx: ONNX is for other programs"),
    ],
)
def test_what_is_wrong_is_named(pairs, fusecli, options, said):
    code, _, err = fusecli(*command(pairs(1), *options))
    assert code == 2
    assert said in err


def test_range_is_for_infrared(pairs, fusecli):
    root = pairs(1, color=False)
    arguments = ("fuse", "--ct", root / "vis", "--mri", root / "ir", "-o", root / "out", "--range", "10,20")
    assert "--range is for infrared" in fusecli(*arguments)[2]


def test_videos_among_pictures_are_named(pairs, fusecli):
    root = pairs(1)
    for side in ("ir", "vis"):
        (root / side / "one.mp4").write_bytes(b"video")
    code, _, err = fusecli(*command(root))
    assert code == 0
    assert "videos among pictures are left out, for example one" in err


def test_a_video_beside_the_pictures_of_both_sides_is_no_pair(pairs, fusecli):
    """As on a drone's card, where both sides share a folder and each has the other's files, too."""
    root = pairs(1)
    mixed = root / "mixed"
    mixed.mkdir()
    for side in ("ir", "vis"):
        next((root / side).iterdir()).rename(mixed / f"a_{side}.png")
        (mixed / f"film_{side}.mp4").write_bytes(b"video")
    (mixed / "other.mp4").write_bytes(b"video")
    arguments = ("fuse", "--ir", mixed, "--vis", mixed, "-o", root / "out", "--pair-by", "ir=*_ir,vis=*_vis")
    assert "videos among pictures are left out, for example film;" in fusecli(*arguments)[2]


def test_folders_of_videos_are_not_watched(pairs, fusecli):
    root = pairs(0)
    for side in ("ir", "vis"):
        (root / side).mkdir(parents=True, exist_ok=True)
        (root / side / "one.mp4").write_bytes(b"video")
    code, _, err = fusecli(*command(root, "--watch"))
    assert code == 2
    assert "--watch is for pictures" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-o", "x.pgm"), "x.pgm: PGM holds no colour; write .ppm or .png, or add --color gray"),
        (("--report", "out"), "--report out: results go into a folder of this name"),
        (("-o", "out/below/x.png", "--report", "./out"), "--report out: results go into a folder of this name"),
        (("--name", "{stem}.JPG"), "--name {stem}.JPG: leave out .jpg; endings go by --format"),
        (("-o", "x.png", "--name", "{index}"), "-o x.png names the result, and so does --name {index}: leave out one"),
        (("--name", "{stem}.nii.gz"), "--name {stem}.nii.gz: leave out .nii.gz; endings go by --format"),
    ],
)
def test_what_cannot_be_written_is_told_before_any_work(pairs, fusecli, tmp_path, monkeypatch, more, message):
    root = pairs(1)
    monkeypatch.chdir(tmp_path)
    code, _, err = fusecli(
        "fuse", "--ir", root / "ir" / "000.png", "--vis", root / "vis" / "000.png", "-o", "out", *more
    )
    assert code == 2
    assert message in err
    assert not (tmp_path / "x.pgm").exists()


def test_a_damaged_file_that_would_become_pgm_is_named(pairs, fusecli):
    root = pairs(1)
    broken = root / "vis" / "000.png"
    broken.write_bytes(b"")
    code, _, err = fusecli("fuse", "--ir", root / "ir" / "000.png", "--vis", broken, "-o", root / "o.pgm")
    assert code == 1
    assert f"{broken}: the file is empty" in err


def test_what_would_steer_a_terminal_is_spelled_out(pairs, fusecli):
    root = pairs(1)
    for side in ("ir", "vis"):
        (root / side / "000.png").rename(root / side / "\x1b[31mred.png")
    (root / "ir" / "\x1b[31mred.png").write_text("x")
    code, _, err = fusecli(*command(root))
    assert code == 1
    assert "\x1b" not in err
    assert "\\x1b[31mred" in err
