import hashlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import command, scene

from fusecli import registry
from fusecli.cli.benchmark import Benchmark, benchmark
from fusecli.cli.fuse import Fuse, fuse
from fusecli.images.preview import contact_sheet, row


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["fuse", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments):
    script = (
        "import sys; from fusecli.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'cv2', 'numpy', 'scipy', 'pydicom', 'nibabel', 'tifffile'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{'fusecli' if '--version' in arguments else 'Usage: fusecli'} " in done.stdout  # not: "Usage: -c"


def without_torch(*arguments, cwd=None):
    """A process of its own, with exit code 100 where it has imported torch."""
    script = (
        "import sys; from fusecli.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    line = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        ("fuse", "-o", "out"),
        ("fuse", "-o", "out", "--watch"),
        ("annotate", "-o", "out.jsonl"),
        ("align", "-o", "out.json"),
        ("benchmark", "--no-html"),
    ],
)
def test_a_mistyped_folder_is_told_without_importing_torch(pairs, command):
    done = without_torch(*command, "--ir", "gone", "--vis", "vis", cwd=pairs(1))
    assert done.returncode == 2, done.stderr
    assert "--ir gone: " in done.stderr


@pytest.mark.parametrize(("ir", "said"), [("ir", "2 skipped"), ("empty", "nothing to fuse yet")])
def test_a_run_without_work_imports_no_torch(pairs, fusecli, ir, said):
    """As cron starts it, every minute. What is mistyped is told, and a report says what would have computed."""
    root = pairs(2)
    (root / "empty").mkdir()
    assert fusecli(*command(root))[0] == 0
    again = command(root, "--ir", root / ir, "--skip-existing", "--ignore-unmatched")
    done = without_torch(*again, "--json")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert json.loads(done.stdout)["done"] == 0
    for option, value, fault in (
        ("--model", "nope", "no model 'nope'"),
        ("--device", "gpu", "--device gpu: choose auto"),
        ("--precision", "half", "--precision half: choose auto"),
        ("--engine", "onnx", "unknown engine 'onnx'"),
        ("--tile", "big", "--tile big: write auto"),
        ("--tile-overlap", "-3", "--tile-overlap -3: write auto"),
    ):
        mistyped = without_torch(*again, option, value)
        assert (mistyped.returncode, fault in mistyped.stderr) == (2, True), mistyped.stderr
    assert fusecli(*again, "--report", root / "report.json")[0] == 0
    assert json.loads((root / "report.json").read_text())["engine"] == "torch"


@pytest.mark.parametrize("command", [("fuse", "-o", "out"), ("benchmark", "--no-html")])
def test_threads_of_torch_sleep_while_they_wait(pairs, command):
    """Where other programs use the cores, threads that spin take fifty times as long; torch reads it as it loads."""
    script = (
        "import os, sys; from fusecli.cli import main\n"
        "class Loading:\n"
        "    def find_spec(name, *rest):\n"
        "        if name == 'torch': os._exit(0 if os.environ.get('OMP_WAIT_POLICY') == 'PASSIVE' else 9)\n"
        "sys.meta_path.insert(0, Loading)\n"
        "sys.exit(main(sys.argv[1:]) or 'torch was not loaded')"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    words = (*command, "--ir", "ir", "--vis", "vis")
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=env, cwd=pairs(1), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["fuse", "annotate", "align", "distill", "train-teacher", "export", "benchmark", "benchmark compare"]
)
def test_help_fits_a_narrow_terminal(fusecli, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = fusecli(*command.split(), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) == 80
    assert not re.search(r"[^\s(]…", out)  # no option's name and no other word is cut off
    assert "--no-overwrite" not in out
    if command == "align":  # lines flow
        assert re.search(r"before and after\. Exit code 1 where the estimate is poor\. *$", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["fuse", "annotate", "benchmark", "distill", "train-teacher"])
def test_help_says_that_quiet_hides_warnings_too(fusecli, command):
    assert re.search(r"--quiet .*Errors only\.", fusecli(command, "--help")[1])


@pytest.mark.parametrize(("kind", "command"), [(Fuse, fuse), (Benchmark, benchmark)])
def test_every_option_stands_under_one_heading(kind, command):
    named = [name for names in kind.panels.values() for name in names]
    assert sorted(named) == sorted(set(inspect.signature(command).parameters) - {"context"})


def test_switches_have_opposites_all_the_same(pairs, fusecli):
    root = pairs(1)
    code, _, err = fusecli(*command(root, "--no-overwrite"))
    assert code == 0, err


def test_a_bar_takes_no_lock_between_processes():
    """Python 3.14 would warn of it at the end of every run."""
    script = (
        "import sys; from fusecli.progress import tqdm\n"
        "with tqdm(total=1, disable=True): sys.exit('multiprocessing.synchronize' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_folder_is_fused_with_size_colour_and_names_kept(pairs, fusecli):
    root = pairs(4)
    code, out, err = fusecli(*command(root))
    assert (code, out) == (0, "")
    assert "4 done" in err
    for index in range(4):
        vis, fused = read(root / "vis" / f"{index:03d}.png"), read(root / "out" / f"{index:03d}.png")
        assert fused.shape == vis.shape
        assert fused.dtype == vis.dtype
        unclipped = ((fused > 0) & (fused < 255)).all(-1)
        chroma = (fused.astype(int) - fused[..., 1:2]) - (vis.astype(int) - vis[..., 1:2])
        assert abs(chroma[unclipped]).max() <= 1
    hot = read(root / "out" / "000.png")[24, 21].mean()
    assert hot > read(root / "vis" / "000.png")[24, 21].mean()


def test_gray_stays_gray_and_odd_and_mixed_sizes_are_fine(pairs, fusecli):
    root = pairs(2, size=(33, 57), color=False)
    for side, image in zip(("vis", "ir"), scene(9, (20, 81), color=False), strict=True):
        cv2.imwrite(str(root / side / "zz.png"), image)
    assert fusecli(*command(root))[0] == 0
    assert read(root / "out" / "001.png").shape == (33, 57)
    assert read(root / "out" / "zz.png").shape == (20, 81)


def test_sixteen_bit_radiometric_sequence_is_mapped_as_one(tmp_path, average, fusecli):
    """Two infrared frames of equal counts give equal results, though only one holds something hot."""
    vis = np.full((40, 40), 20000, np.uint16)
    cold = np.random.default_rng(0).normal(29500, 20, (40, 40)).astype(np.uint16)
    hot = cold.copy()
    hot[20:, :] = 31000
    for name, image in (("a", cold), ("b", hot)):
        for side, pixels in (("vis", vis), ("ir", image)):
            (tmp_path / side).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / side / f"{name}.tif", pixels)
    arguments = ["fuse", "--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "-o"]
    assert fusecli(*arguments, tmp_path / "seq")[0] == 0
    one, two = (tifffile.imread(tmp_path / "seq" / f"{name}.tif") for name in "ab")
    assert one.dtype == np.uint16
    assert two[30:].mean() > one[30:].mean() + 3000
    assert fusecli(*arguments, tmp_path / "mean", "-m", average)[0] == 0  # looks at each pixel alone
    one, two = (tifffile.imread(tmp_path / "mean" / f"{name}.tif") for name in "ab")
    assert np.array_equal(one[:10], two[:10])
    assert (
        fusecli(*arguments, tmp_path / "eight", "--bit-depth", "8", "--format", "png", "--range", "29000,32000")[0] == 0
    )
    assert read(tmp_path / "eight" / "a.png").dtype == np.uint8


def test_pages_of_a_tiff_are_fused_one_by_one(tmp_path, fusecli):
    stacks = [np.stack(pages) for pages in zip(*(scene(i, color=False) for i in range(3)), strict=True)]
    for side, stack in zip(("vis", "ir"), stacks, strict=True):
        tifffile.imwrite(tmp_path / f"{side}.tif", stack, photometric="minisblack")
    assert fusecli("fuse", "--ir", tmp_path / "ir.tif", "--vis", tmp_path / "vis.tif", "-o", tmp_path / "o.tif")[0] == 0
    assert tifffile.imread(tmp_path / "o.tif").shape == (3, 48, 64)


def test_report_totals_and_preview_show_what_was_done(pairs, fusecli):
    root = pairs(3)
    report = root / "report.json"
    arguments = command(root, "--report", report, "--json", "--preview")
    before = datetime.now(timezone.utc)
    code, out, _ = fusecli(*arguments)
    assert code == 0
    assert json.loads(out)["done"] == 3
    account = json.loads(report.read_text())
    assert abs(datetime.fromisoformat(account["started"]) - before) < timedelta(minutes=1)  # with an offset, too
    assert {"fusecli", "torch", "device", "precision", "options", "totals", "pairs"} <= set(account)
    for pair in account["pairs"]:
        assert pair["status"] == "done"
        assert 0 < pair["seconds"] < 60
        with open(pair["output"], "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == pair["sha256"]
    sheet = root / "out" / "preview.png"
    assert read(sheet).shape[1] > 3 * 300
    sheet.unlink()
    code, _, err = fusecli(*arguments, "--skip-existing")
    assert code == 0
    assert f"--preview: nothing was fused now, so {sheet} was not written" in err
    assert re.search(r"3 skipped in [\d.]+ s\n", err)


def test_contact_sheets_show_every_sample_type_alike(tmp_path):
    gray, _ = scene(0, color=False)
    cells = row(gray, gray.astype(np.uint16) * 257, gray / np.float32(255), np.repeat(gray[..., None], 3, 2))
    assert all(cell.dtype == np.uint8 and cell.shape == (270, 360, 3) for cell in cells)
    assert np.ptp(cells, axis=0).max() <= 1
    assert abs(cells[0].mean() - gray.mean()) < 1
    contact_sheet([cells[:2], cells[2:3]], tmp_path / "sheet.png")
    sheet = read(tmp_path / "sheet.png")
    assert sheet.shape == (2 * 276, 2 * 366, 3)
    assert np.array_equal(sheet[:270, 366:726], cells[1][..., ::-1])
    assert not sheet[276:, 366:].any()
    assert [row(np.zeros(size))[0].shape[:2] for size in ((1, 4000), (4000, 1))] == [(1, 360), (1440, 360)]


def test_seconds_are_right_where_the_clock_is_set_back(pairs, fusecli, monkeypatch):
    root, clock = pairs(1), itertools.count(2e9, -1000)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    totals = json.loads(fusecli(*command(root, "--json"))[1])
    assert totals["pairs_per_second"] > 0


def test_existing_results_are_refused_skipped_or_replaced(pairs, fusecli):
    root = pairs(3)
    arguments = command(root)
    assert fusecli(*arguments)[0] == 0
    first = root / "out" / "000.png"
    whole = first.read_bytes()
    first.write_bytes(b"kept")
    code, _, err = fusecli(*arguments)
    assert code == 2
    assert "results exist already for 3 of 3 pairs (" in err
    assert f"{root / 'out' / '002.png'}); --overwrite or --skip-existing" in err
    (root / "out" / "001.png").unlink()
    code, out, _ = fusecli(*arguments, "--skip-existing", "--json")
    assert (code, json.loads(out)["skipped"], json.loads(out)["done"]) == (0, 2, 1)
    assert first.read_bytes() == b"kept"
    assert fusecli(*arguments, "--overwrite")[0] == 0
    assert first.read_bytes() == whole


def test_recursive_mirrors_sub_folders(pairs, fusecli):
    root = pairs(1)
    for side in ("vis", "ir"):
        (root / side / "night").mkdir()
        (root / side / "000.png").rename(root / side / "night" / "a b.png")
    assert fusecli(*command(root, "-r"))[0] == 0
    assert (root / "out" / "night" / "a b.png").is_file()


@pytest.mark.parametrize(
    ("kind", "ending"), [("jpg", "jpg"), ("webp", "webp"), ("jpeg", "jpg"), ("JPG", "jpg"), ("tif", "tif")]
)
def test_results_are_named_by_pattern_task_model_and_format(pairs, fusecli, kind, ending):
    root = pairs(1)
    (root / "ir" / "000.png").rename(root / "ir" / "000_IR.png")
    code, _, err = fusecli(*command(root, "--pair-by", "ir=*_IR", "--name", "{stem}_{task}_{model}", "--format", kind))
    assert code == 0, err
    assert (root / "out" / f"000_ir-vis_nano.{ending}").is_file()
    assert fusecli("fuse", "--ir", "x", "--vis", "y", "-o", "z", "--name", "{nonsense}")[0] == 2


def test_any_pair_of_modalities_but_only_those(pairs, fusecli):
    root = pairs(1, color=False)
    assert fusecli("fuse", "--ct", root / "vis", "--mri", root / "ir", "-o", root / "out")[0] == 0
    for wrong in (["--ct", "a", "--ir", "b"], ["--ir", "a"], ["--ir", "a", "--vis", "b", "--mri", "c"]):
        code, _, err = fusecli("fuse", *wrong, "-o", root / "out2")
        assert code == 2
        assert "--vis with --ir" in err
        assert "--ct with --mri" in err


def test_resize_brings_one_side_to_the_other(tmp_path, fusecli):
    vis, _ = scene(0, (48, 64))
    _, ir = scene(0, (24, 32))
    for side, image in (("vis", vis), ("ir", ir)):
        cv2.imwrite(str(tmp_path / f"{side}.png"), image)
    arguments = ["fuse", "--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.png"]
    code, _, err = fusecli(*arguments, "-o", tmp_path / "no.png")
    assert code == 1
    assert "64×48" in err
    assert "32×24" in err
    assert fusecli(*arguments, "-o", tmp_path / "big.png", "--resize", "ir")[0] == 0
    assert read(tmp_path / "big.png").shape == (48, 64, 3)
    code, _, err = fusecli(*arguments, "-o", tmp_path / "small.png", "--resize", "vis")
    assert (code, "stretches" in err) == (0, False)
    assert read(tmp_path / "small.png").shape == (24, 32, 3)
    cv2.imwrite(str(tmp_path / "ir.png"), scene(0, (24, 40))[1])
    code, _, err = fusecli(*arguments, "-o", tmp_path / "wide.png", "--resize", "ir")
    assert code == 0
    assert "--resize stretches 40×24 to 64×48" in err


def test_color_gray_gives_gray_results(pairs, fusecli):
    root = pairs(1)
    assert fusecli(*command(root, "--color", "gray"))[0] == 0
    assert read(root / "out" / "000.png").ndim == 2


def test_log_format_json_is_json(pairs, fusecli):
    root = pairs(1)
    _, _, err = fusecli(*command(root, "--log-format", "json"))
    lines = [json.loads(line) for line in err.splitlines()]
    assert any("1 done" in line["message"] for line in lines)


def test_there_are_two_formats_of_the_log(fusecli):
    code, _, err = fusecli("fuse", "--ir", "a", "--vis", "b", "-o", "c", "--log-format", "xml")
    assert code == 2
    assert "--log-format xml: choose text or json" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_log_format_json_is_json_in_every_encoding(pairs, fusecli, monkeypatch, encoding):
    root = pairs(1)
    for side in ("ir", "vis"):
        (root / side / "000.png").rename(root / side / "🌃.png")
    (root / "ir" / "🌃.png").write_text("é × …")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding, errors="backslashreplace"))
    fusecli(*command(root, "--log-format", "json"))
    sys.stderr.flush()
    messages = [json.loads(line.decode("utf-8"))["message"] for line in written.getvalue().splitlines()]
    assert any("🌃.png: not an image" in message for message in messages)


def test_log_format_json_shows_no_bar_on_a_terminal(pairs, fusecli, monkeypatch):
    root = pairs(1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "1/1" in fusecli(*command(root))[2]
    err = fusecli(*command(root, "--overwrite", "--log-format", "json"))[2]
    assert all(json.loads(line) for line in err.splitlines())


def test_the_look_is_a_word_or_a_number(pairs, fusecli, average):
    root = pairs(1)
    arguments = command(root, "--overwrite")

    def with_look(*look: str) -> bytes:
        code, _, err = fusecli(*arguments, *look)
        assert code == 0, err
        return (root / "out" / "000.png").read_bytes()

    thermal, natural, usual = with_look("--look", "thermal"), with_look("--look", "Natural"), with_look()
    assert len({thermal, natural, usual}) == 3
    assert [with_look("--look", number) for number in ("0", "1.0", "0.15")] == [thermal, natural, usual]
    for look in ("warm", "-0.1", "1.5", "nan"):
        code, _, err = fusecli(*arguments, "--look", look)
        assert code == 2
        assert f"--look {look}: write thermal, natural or a number from 0 to 1" in err
    code, _, err = fusecli(*arguments, "--look", "0", "-m", average)
    assert code == 2
    assert "was trained for one look only" in err


def test_models_lists_what_is_released(fusecli):
    code, out, _ = fusecli("models", "--json")
    assert code == 0
    cards = json.loads(out)
    assert any(card["name"] == "nano" and "ir-vis" in card["tasks"] for card in cards.values())
    data = ("licence", "data_sha256", "trained_on", "tuned_on", "terms", "seen", "tuned")  # whole in each card
    assert all(cards["base-ir-vis"][key] == cards["nano-ir-vis"][key] for key in data)
    assert all(len(card["seen"][name]) for card in cards.values() for name in card["seen"])
    code, out, _ = fusecli("models")
    assert code == 0
    score = f"{cards['nano-ir-vis']['scores']['tno']['VIF']:.3f}"
    assert all(said in out for said in ("nano for ir-vis", "0.15 by default", "tno", "VIF", score)), out


def test_a_steady_sequence_keeps_its_exposure(tmp_path, fusecli):
    """What happens in one part of a frame does not change the rest of it: a lamp in every other frame, far away."""
    vis, ir = scene(0, (64, 320))
    for index in range(4):
        lamp = vis.copy()
        if index % 2:
            lamp[:, :96] = 255
        for side, image in (("vis", lamp), ("ir", ir)):
            (tmp_path / side).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / side / f"{index}.png"), image)
    changes = []
    for options in ([], ["--steady"]):
        out = tmp_path / f"out{len(options)}"
        assert fusecli("fuse", "--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "-o", out, *options)[0] == 0
        dark, lit = (read(out / f"{index}.png")[:, 160:].astype(int) for index in (0, 1))
        changes.append(abs(dark - lit).mean())
    assert changes[1] == 0 < changes[0]


def test_a_damaged_pair_costs_itself_in_a_steady_sequence_too(pairs, fusecli):
    root = pairs(3)
    damaged = root / "ir" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    code, _, err = fusecli(*command(root, "--steady"))
    assert code == 8
    assert "001.png" in err
    assert sorted(path.name for path in (root / "out").iterdir()) == ["000.png", "002.png"]


def test_a_pair_without_memory_for_it_costs_itself_in_a_steady_sequence(pairs, fusecli, monkeypatch):
    root = pairs(3)
    looks = iter([RuntimeError("DefaultCPUAllocator: can't allocate memory"), None, None])

    def look(*_):
        if (found := next(looks)) is not None:
            raise found

    monkeypatch.setattr("fusecli.stream.engine.Engine.context", look)
    assert fusecli(*command(root, "--steady"))[0] == 0


def test_memory_that_is_short_before_the_first_pair_is_told(pairs, fusecli, monkeypatch):
    root = pairs(1)

    def short(*_):
        raise MemoryError("Unable to allocate 8 GiB")

    monkeypatch.setattr("fusecli.images.intensity._sample", short)
    code, _, err = fusecli(*command(root))
    assert (code, err) == (1, "fusecli: out of memory (Unable to allocate 8 GiB)\n")


@pytest.mark.parametrize("library", ["cv2", "torch"])
def test_memory_that_is_short_for_the_libraries_is_told(pairs, library):
    """As under a small ulimit -v; of OpenCV it was said that a package of the system is missing."""
    script = (
        "import sys\n"
        "class Full:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == sys.argv[1]:\n"
        "            raise ImportError(f'lib{name}.so: failed to map segment from shared object')\n"
        "sys.meta_path.insert(0, Full())\n"
        "from fusecli.cli import main\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    call = [sys.executable, "-c", script, library, *map(str, command(pairs(1)))]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fusecli: out of memory, for the libraries alone (lib{library}.so: failed to map")
    assert done.stderr.count("\n") == 1


def test_a_pair_that_memory_is_short_of_is_told_in_words(pairs, fusecli, monkeypatch):
    def start(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't\nFrame 1")

    monkeypatch.setattr("fusecli.stream.engine.Engine.start", start)
    code, _, err = fusecli(*command(pairs(1)))
    assert code == 1
    assert (
        "out of memory ([enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't); --workers 1" in err
    )


def test_threads_that_may_not_be_started_are_told(pairs, fusecli, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    root = pairs(2)
    monkeypatch.setattr(threading.Thread, "start", start)
    code, _, err = fusecli(*command(root))
    assert (code, err) == (
        1,
        "fusecli: no more threads may be started here (ulimit -u, or the container's limit of processes)\n",
    )


def test_a_log_shows_that_a_long_run_goes_on(pairs, fusecli, monkeypatch):
    root = pairs(3)
    monkeypatch.setattr("fusecli.progress.TELL_SECONDS", -1)
    assert "fusecli: 2 of 3\n" in fusecli(*command(root))[2]
    assert not fusecli(*command(root, "--overwrite", "--quiet"))[2]


def test_a_model_that_is_not_there_is_told_before_frames_are_looked_at(pairs, fusecli, monkeypatch):
    root = pairs(1)

    def looked_at(*_, **__):
        raise AssertionError

    monkeypatch.setattr("fusecli.images.intensity.pair_ranges", looked_at)
    for options, said in ((("-m", "nope"), "no model 'nope'"), (("-d", "cuda:9"), "--device cuda:9")):
        code, _, err = fusecli(*command(root, *options))
        assert code == 2
        assert said in err


def test_a_file_beside_the_result_is_not_the_result_however_it_is_spelled(pairs, fusecli, monkeypatch):
    root = pairs(1)
    monkeypatch.chdir(root)
    sides = ("--ir", root / "ir" / "000.png", "--vis", root / "vis" / "000.png")
    code, _, err = fusecli("fuse", *sides, "-o", "one.png", "--report", root / "one.png")
    assert code == 2
    assert "would also be the result" in err


def test_a_report_replaces_nothing_that_the_run_reads(pairs, fusecli, average):
    root = pairs(1)
    (root / "pairs.csv").write_text("vis,ir\n000.png,000.png\n")
    (root / "rig.json").write_text('{"scale": 1, "shift": [0, 0]}')
    model = root / "mine.safetensors"
    model.write_bytes(average.read_bytes())
    for option, path in (("--pairs", root / "pairs.csv"), ("--align", root / "rig.json"), ("-m", model)):
        before = path.read_bytes()
        code, _, err = fusecli(*command(root, option, path, "--report", path))
        assert code == 2, err
        assert f"--report {path}: this is an input" in err
        assert path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_what_was_fused_counts_where_its_totals_cannot_be_written(pairs, fusecli, monkeypatch):
    root = pairs(2)
    full = open("/dev/full", "w")  # noqa: SIM115 - closing it would fail
    monkeypatch.setattr(sys, "stdout", full)
    code, _, err = fusecli(*command(root, "--json"))
    assert code == 8
    assert "standard output: cannot be written: No space left on device" in err
    assert "2 done" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_report_that_cannot_be_written_counts_where_other_things_are_written(pairs, fusecli):
    root = pairs(1)
    code, out, err = fusecli(*command(root, "--report", "/dev/full", "--json", "--preview"))
    assert (code, json.loads(out)["done"]) == (8, 1)
    assert "/dev/full: cannot be written: No space left on device" in err
    assert "1 done" in err
    assert (root / "out" / "preview.png").exists()


def test_a_dash_is_a_stream(pairs, fusecli, monkeypatch, tmp_path):
    root = pairs(1)
    monkeypatch.chdir(tmp_path)
    table = "vis,ir,name\n000.png,000.png,one\n"
    typed = [sys.executable, "-m", "fusecli", *map(str, command(root, "--pairs", "-", "--report", "-"))]
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as file:  # as the shell's >> does
        subprocess.run(typed, input=table, stdout=file, text=True, check=True)
    before, report = log.read_text().split("\n", 1)
    assert before == "before"
    assert [pair["name"] for pair in json.loads(report)["pairs"]] == ["one"]
    assert not (tmp_path / "-").exists()
    code, _, err = fusecli(*command(root, "--report", "-", "--json"))
    assert code == 2
    assert "--report - and --json would both write to stdout" in err


def test_a_dash_in_a_folder_is_a_file(pairs, fusecli, monkeypatch):
    monkeypatch.chdir(pairs(1))
    dash = Path("./-")
    dash.write_text("vis,ir,name\n000.png,000.png,one\n")
    sides = ("fuse", "--ir", "ir", "--vis", "vis")
    assert fusecli(*sides, "-o", "out", "--pairs", "./-")[0] == 0
    assert [path.name for path in Path("out").iterdir()] == ["one.png"]
    dash.unlink()
    assert fusecli(*sides, "-o", "other", "--report", ".//-")[1] == ""
    assert json.loads(dash.read_text())["totals"]["done"] == 1
    dash.unlink()
    assert fusecli(*sides, "-o", "./-")[0] == 0
    assert [path.name for path in dash.iterdir()] == ["000.png"]


def test_the_home_folder_is_found_where_the_shell_has_not_expanded_it(pairs, fusecli, monkeypatch):
    root = pairs(1)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(root))
    monkeypatch.chdir(root)
    (root / "~").mkdir()
    (root / "rig.json").write_text('{"scale": 1, "shift": [0, 0]}')
    shutil.copy(registry.released_path("nano", "ir-vis"), root / "own.safetensors")
    places = (
        "--model=~/own.safetensors",
        "--ir=~/ir",
        "--vis=~/vis",
        "--output=~/out",
        "--report=~/r.json",
        "--align=~/rig.json",
    )
    assert fusecli("fuse", *places)[0] == 0
    code, _, err = fusecli("fuse", "--ir=~/ir", "--vis=~/vis", "--output=~/new", "--model=~/none.pt")
    assert (code, err) == (2, f"fusecli: {root / 'none.pt'}: no such model file\n")
    assert (root / "out" / "000.png").is_file()
    assert (root / "r.json").is_file()
    assert fusecli("fuse", "--ir=ir/000.png", "--vis=vis/000.png", "--output=./~")[0] == 0
    assert [path.name for path in (root / "~").iterdir()] == ["000.png"]


def test_pairs_from_stdin_lie_in_the_current_folder(pairs, fusecli, monkeypatch, on_stdin):
    root = pairs(1)
    monkeypatch.chdir(root)
    for table, expected in (("vis/000.png,ir/000.png", 0), ("vis/000.png,ir/009.png", 2)):
        on_stdin(f"vis,ir\n{table}\n")
        code, _, err = fusecli(*command(root, "--pairs", "-"))
        assert code == expected, err
    assert "line 2: ir/009.png" in err
