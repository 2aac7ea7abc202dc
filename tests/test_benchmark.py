"""fusecli benchmark: data sets, methods, reports, cache, bad inputs; and benchmark compare."""

from __future__ import annotations

import base64
import csv
import dataclasses
import errno
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from rich.console import Console

from fusecli import metrics, registry
from fusecli.benchmark import (
    cache,
    charts,
    classical,
    compare,
    datasets,
    methods,
    page,
    report,
    results,
    significance,
)
from fusecli.cli import main
from fusecli.errors import UsageError
from fusecli.images import frames
from fusecli.images.intensity import visible_range
from fusecli.images.opencv import cv2
from fusecli.images.pair import Pair
from fusecli.images.preview import encoded
from fusecli.training.degrade import degrade_pair

NAMES = ("a", "b", "c", "d")
QUICK = ["--no-speed", "--no-html", "--quiet"]


def _scene(seed: int, height: int = 56, width: int = 72) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (7, 9)).astype(np.float32)
    fine = np.random.default_rng(seed + 1).normal(0, 6, (height, width))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + fine, 0, 255).astype(np.uint8)


def _write_pairs(root: Path, first: str = "vis", second: str = "ir", names: tuple[str, ...] = NAMES) -> None:
    for index, name in enumerate(names):
        gray = _scene(index)
        color = np.dstack([gray, gray // 2 + 40, 255 - gray // 3]) if index % 2 else gray
        frames.write(root / first / f"{name}.png", [np.ascontiguousarray(color)])
        frames.write(root / second / f"{name}.png", [_scene(index + 50)])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a small tno/, an empty cache, and a working directory of its own."""
    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSECLI_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registry, "released", dict)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    _write_pairs(tmp_path / "data" / "tno")
    return tmp_path / "data"


def _run(*options: str) -> int:
    return main(["benchmark", *options])


def _report(*options: str) -> dict:
    assert _run(*options, *QUICK, "--json", "report.json") == 0
    return json.loads(Path("report.json").read_text(encoding="utf-8"))


def _fused_folder(name: str = "mine", change=lambda image: image) -> Path:
    """The averages of tno/, as if another program had written them."""
    folder = Path(name)
    for path in sorted((Path(os.environ["FUSECLI_DATA"]) / "tno" / "vis").iterdir()):
        first, second = (frames.read(side)[0].pixels for side in (path, path.parents[1] / "ir" / path.name))
        frames.write(folder / f"{path.stem}.tif", [change(classical.fuse("average", first, second))])
    return folder


def test_table_names_protocol_directions_and_marks(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--dataset", "tno", *QUICK) == 0
    text = capsys.readouterr().out
    assert "tno: 4 pairs" in text
    assert "protocol tang" in text
    assert "EN ↑" in text
    assert "Nabf ↓" in text
    assert "rank ↓" in text
    assert re.search(r"average +\d\.\d{3}.± \d\.\d{3}", text)
    assert "¹" in text
    assert "²" in text
    assert {"average", "maximum", "laplacian", "guided", "wavelet"} <= set(text.split())


def test_json_has_the_documented_shape(data: Path) -> None:
    report = _report("--dataset", "tno", "--methods", "average,maximum", "--metrics", "all", "--protocol", "standard")
    assert report["protocol"] == "standard"
    table = report["datasets"]["tno"]
    assert table["n"] == 4
    assert list(table["methods"]) == ["average", "maximum"]
    for method in table["methods"].values():
        assert set(method["mean"]) == set(method["std"]) == set(registry.METRICS["standard"])
        assert method["ms_per_pair"] is None  # --no-speed
        assert "params" in method
        values = method["values"]["VIF"]
        assert method["mean"]["VIF"] == pytest.approx(np.mean(values))
        assert method["std"]["VIF"] == pytest.approx(np.std(values))
        assert method["mean"]["MS-SSIM"] is None  # smaller than its windows
        assert "161×161" in method["undefined"]["MS-SSIM"]["a"]
    first, second = (frames.read(data / "tno" / side / "b.png")[0].pixels for side in ("vis", "ir"))
    expected = metrics.evaluate("standard", first, second, classical.fuse("maximum", first, second), ["VIF", "SSIM"])
    for name, value in expected.items():
        assert table["methods"]["maximum"]["values"][name][1] == pytest.approx(value)


def test_csv_latex_and_markdown_hold_every_method_and_metric(data: Path) -> None:
    options = ("--csv", "out/a.csv", "--latex", "a.tex", "--markdown", "a.md")
    assert _run("--dataset", "tno", "--methods", "average,wavelet", "--metrics", "en,VIF", *options, *QUICK) == 0
    with Path("out/a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["protocol", "dataset", "pair", "method", "metric", "value"]
    assert len(rows) == 4 * 2 * 2
    assert {row["metric"] for row in rows} == {"EN", "VIF"}
    assert all(float(row["value"]) > 0 for row in rows)
    latex = Path("a.tex").read_text(encoding="utf-8")
    assert latex.count("\\textbf{") == 2
    assert "±" not in latex
    assert "$\\uparrow$" in latex
    assert "\\toprule" in latex
    markdown = Path("a.md").read_text(encoding="utf-8")
    assert "| method | EN ↑ | VIF ↑ | rank ↓ |" in markdown
    assert "protocol tang" in markdown


def test_several_names_are_given_by_repeating_an_option_or_with_commas(data: Path) -> None:
    shutil.copytree(data / "tno", data / "msrs")
    twice = ("--methods", "average", "--methods", "maximum, wavelet")
    report = _report("--dataset", "tno,msrs", *twice, "--metrics", "EN", "--metrics", "SD")
    assert list(report["datasets"]) == ["tno", "msrs"]
    assert list(report["datasets"]["tno"]["methods"]) == ["average", "maximum", "wavelet"]
    assert set(report["datasets"]["tno"]["methods"]["average"]["mean"]) == {"EN", "SD"}


def test_json_on_stdout_is_nothing_but_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--dataset", "tno", "--methods", "average", *QUICK, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["datasets"]["tno"]["n"] == 4


def test_tables_on_stdout_are_added_and_nothing_else_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("log").write_text("before\n")
    with Path("log").open("a") as file, monkeypatch.context() as patch:  # as the shell's >> does
        patch.setattr("sys.stdout", file)
        assert _run("--dataset", "tno", "--methods", "average", *QUICK, "--csv", "-") == 0
    lines = Path("log").read_text().splitlines()
    assert lines[:2] == ["before", "protocol,dataset,pair,method,metric,value"]
    assert all(line.startswith("tang,tno,") for line in lines[2:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--csv", "{data}/tno/vis/a.png"), "--csv {data}/tno/vis/a.png: this is an input"),
        (("--csv", "t.txt", "--markdown", "t.txt"), "--markdown t.txt: --csv would be written there too"),
        (("--csv", "-", "--json", "-"), "would be written there too"),
        (("--fused", "mine=mine", "--json", "mine/a.tif"), "--json mine/a.tif: this is an input"),
    ],
)
def test_files_that_would_destroy_others_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    _fused_folder()
    given = [option.format(data=data) for option in options]
    assert _run("--dataset", "tno", "--methods", "average", *QUICK, *given) == 2
    assert said.format(data=data) in capsys.readouterr().err


def test_mri_of_sixteen_bits_is_read_as_fuse_reads_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side, most in (("ct", 4000), ("mri", 1200)):
        stored = (_scene(3).astype(np.uint16) * most // 255).clip(0, most)
        frames.write(tmp_path / side / "a.png", [stored])
    seen = []
    real = classical.fuse
    monkeypatch.setattr(classical, "fuse", lambda name, *sides: seen.append(sides) or real(name, *sides))
    sides = ("--ct", str(tmp_path / "ct"), "--mri", str(tmp_path / "mri"))
    _report(*sides, "--methods", "average", "--no-cache")
    for side, pixels in zip(("ct", "mri"), seen[0], strict=True):
        stored = frames.read(tmp_path / side / "a.png", intensity=visible_range([tmp_path / side / "a.png"]))[0].pixels
        assert np.array_equal(pixels, stored)


def test_second_run_computes_nothing_and_changes_are_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = str(_fused_folder())
    options = ("--dataset", "tno", "--methods", "average,guided", "--fused", f"mine={fused}")
    before = _report(*options)
    measured: list[str] = []
    real = metrics.measure
    monkeypatch.setattr(
        metrics, "measure", lambda protocol, name, trio: measured.append(name) or real(protocol, name, trio)
    )
    assert _report(*options) == before
    assert not measured
    frames.write(Path(fused) / "a.tif", [np.full((56, 72), 9, np.uint8)])
    after = _report(*options)
    assert len(measured) == len(results.DEFAULT_METRICS)  # one image anew
    assert after["datasets"]["tno"]["methods"]["mine"]["values"]["EN"][0] == 0
    measured.clear()
    frames.write(data / "tno" / "vis" / "a.png", [_scene(99)])
    changed = _report(*options)
    assert len(measured) == 3 * len(results.DEFAULT_METRICS)  # one pair anew, for all methods
    assert changed["datasets"]["tno"]["fingerprint"] != before["datasets"]["tno"]["fingerprint"]
    measured.clear()
    _report(*options, "--no-cache", "--workers", "1")
    assert len(measured) == 4 * 3 * len(results.DEFAULT_METRICS)
    measured.clear()
    monkeypatch.setattr("fusecli.benchmark.run.digest_of", lambda *rooms: "another reader")
    _report(*options)
    assert len(measured) == 4 * 3 * len(results.DEFAULT_METRICS)


def test_what_is_kept_is_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--dataset", "tno", "--methods", "average", "--fused", f"mine={_fused_folder()}", *QUICK)
    _report(*options)
    read: list[str] = []
    hashed: list[Path] = []
    hash_of, real = methods.file_hash, cache.Cache.read
    monkeypatch.setattr(cache.Cache, "read", lambda self, *key: read.append(key[0]) or real(self, *key))
    monkeypatch.setattr(methods, "file_hash", lambda path: hashed.append(path) or hash_of(path))
    _report(*options)
    assert len(read) == len(set(read)) == 2 * len(NAMES)
    assert len(hashed) == len(NAMES)


def test_workers_do_not_change_results(data: Path) -> None:
    one, three = (_report("--dataset", "tno", "--no-cache", "--workers", count) for count in ("1", "3"))
    assert one == three


def test_a_full_disk_costs_the_caching_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = cache.Cache(tmp_path)
    shared.write_json("abcd", {"EN": 7.0})
    assert cache.Cache(tmp_path).read_json("abcd") == {"EN": 7.0}
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    (tmp_path / "plain").touch()
    assert kept.stat().st_mode == (tmp_path / "plain").stat().st_mode  # other users may read it, as they may others

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    shared.write_json("abce", {"EN": 7.0})
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {kept, tmp_path / "plain"}


def test_no_place_for_temporary_files_costs_the_times_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only but for the results."""

    def refused(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    options = "--dataset tno --methods average --metrics EN --no-html --quiet --json x.json"
    assert _run(*options.split()) == 0
    (dataset,) = json.loads(Path("x.json").read_text())["datasets"].values()
    assert dataset["methods"]["average"]["mean"]["EN"]
    assert "No usable temporary directory" in dataset["notes"][-1]


def test_what_is_kept_but_spoilt_is_computed_anew(tmp_path: Path) -> None:
    kept = cache.Cache(tmp_path)
    for spoilt in (b"", b"{", b"[1]"):
        kept.write("abcd", "json", spoilt)
        assert kept.read_json("abcd") == {}


def test_names_are_shown_as_they_are(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = _fused_folder()
    (data / "tno").rename(data / "night [raw]")
    sides = ("--vis", str(data / "night [raw]" / "vis"), "--ir", str(data / "night [raw]" / "ir"))
    measured = [*sides, "--methods", "none", "--fused", f"x[/b] :cat:={fused}", *QUICK, "--json", "r.json"]
    for command in (measured, ["compare", "r.json", "r.json"]):
        assert _run(*command) == 0
        text = capsys.readouterr().out
        assert "night [raw]" in text
        assert "x[/b] :cat:" in text


def test_own_folder_of_a_data_sets_name_is_a_table_of_its_own(data: Path) -> None:
    for place in ("ct-mri", "pet-mri", "spect-mri"):
        _write_pairs(data / place, *place.split("-"))
    sides = ("--ct", str(data / "ct-mri" / "ct"), "--mri", str(data / "ct-mri" / "mri"))
    report = _report("--dataset", "harvard", *sides, "--methods", "average", "--metrics", "EN")
    assert list(report["datasets"]) == ["ct-mri", "pet-mri", "spect-mri", "ct-mri (own)"]


def test_own_folders_and_other_results(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = _fused_folder()
    sides = ("--vis", str(data / "tno" / "vis"), "--ir", str(data / "tno" / "ir"))
    report = _report(*sides, "--methods", "none", "--fused", f"mine={fused}")
    own = report["datasets"]["tno"]["methods"]
    assert list(own) == ["mine"]
    reference = _report(*sides, "--methods", "average")["datasets"]["tno"]["methods"]["average"]
    assert own["mine"]["values"] == reference["values"]
    assert _run("--vis", "x", "--mri", "y", *QUICK) == 2
    assert "--ct with --mri" in capsys.readouterr().err
    assert _run(*sides, "--methods", "none", *QUICK) == 2
    assert "--fused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "visible", "infrared", "name"),
    [
        (".", "data/tno/vis/*.png", "data/tno/ir/*.png", "tno"),
        (".", "data/*/vis/*.png", "data/*/ir/*.png", "data"),
        ("data/tno", "./vis", "ir", "tno"),
        ("data/tno/vis", "*.png", "../ir/*.png", "tno"),
        ("data/tno/vis", ".", "../ir", "tno"),
    ],
)
def test_own_pairs_are_named_by_their_folder(
    data: Path, place: str, visible: str, infrared: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent / place)
    assert datasets.from_folders(registry.TASKS["ir-vis"], {"vis": visible, "ir": infrared}).name == name


def test_the_home_folder_is_found_where_the_shell_has_not_expanded_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(data))
    _fused_folder().rename(data / "mine")
    sides = ("--vis=~/tno/vis", "--ir=~/tno/ir", "--fused", "mine=~/mine")
    assert _run(*sides, "--methods", "none", *QUICK, "--csv=~/values.csv") == 0
    assert (data / "values.csv").is_file()
    assert _run("--data-root=~", "--dataset", "tno", "--methods", "average", *QUICK) == 0


def test_results_of_others_may_be_named_in_their_own_way(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--dataset", "tno", "--methods", "none", "--metrics", "EN", "--fused")
    expected = _report(*options, f"mine={_fused_folder()}")
    others = Path("others")
    for path in sorted(_fused_folder().iterdir()):
        frames.write(others / f"{path.stem}_fused.tif", [frames.read(path)[0].pixels])
        frames.write(others / f"{path.stem}_weights.png", [np.zeros((9, 9), np.uint8)])
    for pattern in ("*_fused.tif", "*_fused.*", "*_fused"):
        found = _report(*options, f"mine={others / pattern}")
        assert (
            found["datasets"]["tno"]["methods"]["mine"]["mean"]
            == expected["datasets"]["tno"]["methods"]["mine"]["mean"]
        )
    assert _run(*options, f"mine={others}", *QUICK) == 2
    error = capsys.readouterr().err
    assert "there is others/a_fused.tif; if all are named so: --fused 'mine=others/*_fused.tif'" in error
    for name, said in (("deep/best_a.png", "mine=elsewhere/deep/best_*.png"), ("x.png", "")):
        frames.write(Path("elsewhere") / name, [np.zeros((9, 9), np.uint8)])
        assert _run(*options, "mine=elsewhere", *QUICK) == 2
        error = capsys.readouterr().err
        assert f"there is elsewhere/{name}" in error
        assert f"--fused '{said}'" in error if said else "if all are named so" not in error
        (Path("elsewhere") / name).unlink()


def test_the_pattern_advised_for_results_holds_for_every_set_and_draw(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--dataset", "tno", "--methods", "none", "--degraded", "--draws", "2", "--fused")
    for path in sorted(_fused_folder().iterdir()):
        for place in ("others/tno", "others/tno/draw2"):
            frames.write(Path(place) / f"best_{path.stem}.png", [frames.read(path)[0].pixels])
    assert _run(*options, "mine=others", *QUICK) == 2
    assert "--fused 'mine=others/best_*.png'" in capsys.readouterr().err
    assert _run(*options, "mine=others/best_*.png", *QUICK) == 0


def test_faults_of_all_result_folders_are_named_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [_fused_folder(name) for name in ("mine", "yours", "whole")]
    for folder, name in zip(folders, "ab", strict=False):
        (folder / f"{name}.tif").unlink()
    given = [part for folder in folders for part in ("--fused", f"{folder}={folder}")]
    assert _run("--dataset", "tno", "--methods", "none", *given, *QUICK) == 2
    error = capsys.readouterr().err
    assert "mine/a.*: no result" in error
    assert "yours/b.*: no result" in error
    assert "whole" not in error
    assert "there is" not in error  # the others were found, so it is not their names


def test_own_pairs_may_be_listed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pairs.csv").write_text("ir,vis,name\nb.png,a.png,one\nc.png,c.png,two\n")
    sides = ("--vis", str(data / "tno" / "vis"), "--ir", str(data / "tno" / "ir"))
    assert _report(*sides, "--pairs", "pairs.csv", "--methods", "average")["datasets"]["tno"]["pairs"] == ["one", "two"]
    for option in (
        ("--pairs", "pairs.csv"),
        ("--pair-by", "ir=*_IR,vis=*_RGB"),
        ("--recursive",),
        ("--ignore-unmatched",),
    ):
        assert _run("--dataset", "tno", *option, *QUICK) == 2
        assert f"{' '.join(option)}: of own pairs" in capsys.readouterr().err


def test_accents_of_results_may_be_taken_apart(data: Path) -> None:
    apart, fused = "e\u0301t\u00e9", _fused_folder()  # as macOS writes them
    for path in (data / "tno" / "vis" / "a.png", data / "tno" / "ir" / "a.png", fused / "a.tif"):
        path.rename(path.with_stem(apart))
    assert (
        "\u00e9t\u00e9"
        in _report("--dataset", "tno", "--methods", "none", "--fused", f"mine={fused}")["datasets"]["tno"]["pairs"]
    )


def test_bit_depths_may_differ(data: Path) -> None:
    folders = {
        "eight": _fused_folder("eight"),
        "sixteen": _fused_folder("sixteen", lambda image: image.astype(np.uint16) * 257),
        "floats": _fused_folder("floats", lambda image: (image / 255 * (1 + 1e-7) + 1e-7).astype(np.float32)),
    }
    options = itertools.chain.from_iterable(("--fused", f"{name}={folder}") for name, folder in folders.items())
    methods = _report("--dataset", "tno", "--methods", "none", *options)["datasets"]["tno"]["methods"]
    for name in ("sixteen", "floats"):
        for metric, mean in methods["eight"]["mean"].items():
            assert methods[name]["mean"][metric] == pytest.approx(mean, rel=1e-6), metric


def test_sixteen_bits_of_others_may_hold_fewer(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        _fused_folder("eight"),
        _fused_folder("twelve", lambda image: image.astype(np.uint16) * 16 + image // 16),
    ]
    options = itertools.chain.from_iterable(("--fused", f"{folder}={folder}") for folder in folders)
    assert _run("--dataset", "tno", "--methods", "none", *options, "--no-speed", "--no-html", "--json", "x.json") == 0
    assert "--fused twelve: values up to" in capsys.readouterr().err
    methods = json.loads(Path("x.json").read_text(encoding="utf-8"))["datasets"]["tno"]["methods"]
    assert methods["twelve"]["mean"] == pytest.approx(methods["eight"]["mean"], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(
    "case",
    [
        *("missing", "twice", "size", "nan", "range", "type", "no folder", "no image", "a file"),
        *("mine/*/F_*.png", "F_*_*.png"),
    ],
)
def test_bad_results_are_named_with_exit_code_2(
    case: str, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusecli.benchmark.run.run", lambda *_, **__: pytest.fail("told too late"))
    folder = _fused_folder()
    wrong = folder / "c.tif"
    expected = str(wrong)
    if case == "missing":
        wrong.unlink()
        expected = str(folder / "c")
    elif case == "twice":
        (folder / "c.png").write_bytes(b"not looked at")
        expected = f"{folder / 'c.png'}: c.tif is there too; keep one of them"
    elif case == "size":
        frames.write(wrong, [np.zeros((56, 71), np.uint8)])
        expected = f"{wrong}: 71×56 pixels, the pair has 72×56"
    elif case == "nan":
        frames.write(wrong, [np.full((56, 72), np.nan, np.float32)])
    elif case == "range":
        frames.write(wrong, [np.full((56, 72), 131, np.float32)])
        expected = f"{wrong}: has float values from 131 to 131"
    elif case == "type":
        cv2.imwrite(str(wrong), np.full((56, 72), 131, np.int32))
        expected = f"{wrong}: has samples of type int32"
    elif case == "no folder":
        folder, expected = Path("elsewhere"), "elsewhere: no such folder"
    elif case == "a file":
        folder, expected = wrong, f"{wrong}: is a file; name its folder"
    elif case in ("mine/*/F_*.png", "F_*_*.png"):
        folder, expected = Path(case), f"{case}: a single * may stand in the last part alone"
    elif case == "no image":
        wrong.write_bytes(b"nonsense")
    assert _run("--dataset", "tno", "--fused", f"mine={folder}", *QUICK, "--json", "x.json") == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not Path("x.json").exists()


def test_gray_results_beside_colour_ones_are_noted(data: Path) -> None:
    gray = f"gray={_fused_folder('gray', lambda image: image if image.ndim == 2 else image[..., 0])}"
    colour = f"colour={_fused_folder('colour', lambda image: image if image.ndim == 3 else np.dstack([image] * 3))}"
    for more, noted in (
        (("none", "--fused", gray, "--fused", colour), "gray"),
        (("none", "--fused", gray, "--fused", f"again={Path('gray').absolute()}"), ""),
        (("none", "--fused", gray, "--fused", colour, "--protocol", "standard"), ""),
        (("average", "--fused", colour), "average"),  # on two of the four pairs
        (("average", "--fused", f"mine={_fused_folder()}"), ""),
    ):
        notes = _report("--dataset", "tno", "--metrics", "EN", "--methods", *more)["datasets"]["tno"]["notes"]
        assert [note.partition(":")[0] for note in notes if "gray beside colour" in note] == [noted] * bool(noted)


def test_all_black_result_has_values_or_a_reason(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _fused_folder("black", np.zeros_like)
    for protocol in registry.METRICS:
        report = _report("--dataset", "tno", "--fused", f"black={folder}", "--metrics", "all", "--protocol", protocol)
        method = report["datasets"]["tno"]["methods"]["black"]
        for metric, values in method["values"].items():
            for pair, value in zip(NAMES, values, strict=True):
                assert value is not None or method["undefined"][metric][pair], (protocol, metric)
    assert "black, Qcb: no value on 4 of 4 pairs" in capsys.readouterr().out


def test_pairs_of_unequal_size_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames.write(data / "tno" / "ir" / "b.png", [np.zeros((50, 72), np.uint8)])
    assert _run("--dataset", "tno", "--methods", "average", *QUICK) == 2
    assert re.search(r"pair b: .*72×56 and .*72×50", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dataset", "roadsene"), "did you mean roadscene"),
        (("--dataset", "tno", "--metrics", "Qab"), "did you mean Qabf"),
        (("--dataset", "tno", "--protocol", "tangg"), "did you mean tang"),
        (("--dataset", "tno", "--methods", "averge"), "did you mean average"),
        (("--dataset", "tno", "--methods", "gone.pt"), "gone.pt: no such model file"),
        (("--dataset", "tno", "--fused", "folder"), "expected NAME=DIR"),
        (("--dataset", "tno", "--fail-below", "VIFF=1"), "did you mean VIF"),
        (("--dataset", "tno", "--fail-below", "VIF=high"), "expected METRIC=VALUE"),
        (("--dataset", "tno", "--fail-below", "PSNR=1"), "was not measured"),
        (("--dataset", "tno", "--split", "test"), "unknown split 'test'"),
        (("--vis", "x", "--ir", "y", "--split", "test"), "own pairs have none"),
        ((), "nothing to measure on"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    options: tuple[str, ...], expected: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*options, *QUICK) == 2
    assert expected in capsys.readouterr().err


def test_missing_data_set_says_where_to_get_it(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run("--dataset", "llvip", *QUICK) == 2
    error = capsys.readouterr().err
    assert "bupt-ai-cz.github.io/LLVIP" in error
    assert "academic" in error
    assert f"{data}/llvip/vis/" in error
    assert "LLVIP/visible/test/" in error
    monkeypatch.delenv("FUSECLI_DATA")
    assert _run("--dataset", "tno", *QUICK) == 2
    assert "$FUSECLI_DATA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("roadscene", "RoadScene/crop_LR_visible", "RoadScene/cropinfrared"),
        ("msrs", "MSRS-main/test/vi", "MSRS-main/test/ir"),
        ("llvip", "LLVIP/visible/test", "LLVIP/infrared/test"),
        ("m3fd", "M3FD/M3FD_Fusion/Vis", "M3FD/M3FD_Fusion/Ir"),
        ("vifb", "VIFB/input/VI", "VIFB/input/IR"),
        ("tno", "TNO/vi", "TNO/ir"),
        ("ct-mri", "CT-MRI/CT", "CT-MRI/MRI"),
        ("spect-mri", "spect-mri/spect", "spect-mri/mri"),
    ],
)
def test_layouts_as_their_authors_ship_them(name: str, first: str, second: str, tmp_path: Path) -> None:
    _write_pairs(tmp_path, first, second, ("x", "y"))
    found = datasets.load(name, tmp_path)
    assert [pair.name for pair in found.pairs] == ["x", "y"]
    assert found.task.name == registry.DATASETS[name].task
    assert found.pairs[0].first.parent == tmp_path / first


def test_harvard_stands_for_three() -> None:
    assert datasets.expand(["harvard", "tno", "ct-mri"]) == ["ct-mri", "pet-mri", "spect-mri", "tno"]


def test_split_lists_are_intact() -> None:
    for name, splits in datasets._splits().items():
        for split, content in splits.items():
            assert datasets._digest(content["names"]) == content["sha256"], (name, split)
            assert len(set(content["names"])) == len(content["names"])
    assert len(datasets.split_names("roadscene", "test")) == 50
    assert len(datasets.split_names("vifb", "test")) == 21


def test_split_takes_its_names_only_and_misses_are_named(tmp_path: Path) -> None:
    wanted = datasets.split_names("vifb", "test")
    _write_pairs(tmp_path / "vifb", names=(*wanted, "extra"))
    found = datasets.load("vifb", tmp_path, "test")
    assert [pair.name for pair in found.pairs] == wanted
    assert "sha256" in found.notes[0]
    (tmp_path / "vifb" / "vis" / "fight.png").unlink()
    with pytest.raises(UsageError, match="fight"):
        datasets.load("vifb", tmp_path, "test")


def _card(**lists: object) -> dict:
    return {"name": "nano", "tasks": ["ir-vis"], **lists}


def test_seen_pairs_are_left_out_and_said(data: Path) -> None:
    found = datasets.load("tno", data)
    datasets.leave_out_seen(found, [_card(seen={"tno": ["a"]}, tuned={"tno": ["b.png"]})], include=False)
    assert [pair.name for pair in found.pairs] == ["c", "d"]
    assert found.left_out == {"trained on": ["a"], "tuned on": ["b"]}

    found = datasets.load("tno", data)
    datasets.leave_out_seen(found, [_card(seen={"tno": ["a", "x"]}), _card(tuned={"tno": list("bcd")})], include=False)
    assert [pair.name for pair in found.pairs] == ["b", "c", "d"]  # tuning pairs only: shown, and marked
    assert found.left_out == {"trained on": ["a"]}
    assert "not a test" in found.notes[0]

    found = datasets.load("tno", data)
    datasets.leave_out_seen(found, [_card(seen={"tno": list(NAMES)})], include=True)
    assert len(found.pairs) == 4
    assert "no test" in found.notes[0]
    with pytest.raises(UsageError, match="--include-seen"):
        datasets.leave_out_seen(found, [_card(seen={"tno": list(NAMES)})], include=False)

    found = datasets.load("tno", data)
    found.name = "test"  # own folders, as of MSRS/test/vi
    datasets.leave_out_seen(found, [_card(seen={"tno": ["a"]}, tuned={"tno": ["b", "x"], "msrs": ["x"]})], False)
    assert len(found.pairs) == 4
    assert ["2 pairs named like those of tno" in note for note in found.notes] == [True]

    found = datasets.load("tno", data)
    datasets.leave_out_seen(found, [_card(trained_on=["tno"])], include=False)
    assert "does not say which" in found.notes[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from fusecli.models import checkpoint as files

    torch.manual_seed(0)
    config = {"fine": 4, "middle": 4, "coarse": 4}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    files.save(path, files.build("nano", config), "nano", config, ["ir-vis"])
    return path


def test_pairs_of_own_training_are_told(tmp_path: Path) -> None:
    pairs = [
        Pair(name, *(tmp_path / "data" / place / side / f"{name}.png" for side in ("vis", "ir")))
        for place, name in (("train/mine", "a"), ("val/mine", "b"), ("test/mine", "c"))
    ]
    weights = tmp_path / "nano.safetensors"
    recipe = {"train": {"ir-vis": ["train/mine"]}, "val": {"ir-vis": ["val/mine"], "ct-mri": ["test/mine"]}}
    for content, note in (
        ({"recipe": recipe}, ["mine: 2 pairs of folders that it was trained or tuned on: no test of it"]),
        ({"recipe": {"train": {"ct-mri": ["train/mine"]}, "val": {}}}, []),
        ({"recipe": []}, []),
    ):
        (tmp_path / "run.json").write_text(json.dumps(content))
        found = datasets.PairSet("mine", registry.TASKS["ir-vis"], pairs)
        assert datasets.note_own_training(found, "mine", weights) == bool(note)
        assert found.notes == note
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "mine").symlink_to(tmp_path / "roads", target_is_directory=True)
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}))
    assert datasets.note_own_training(datasets.PairSet("mine", registry.TASKS["ir-vis"], pairs[:1]), "mine", weights)


def test_network_runs_and_leaves_out_what_its_card_lists(
    data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = _card(seen={"tno": ["a"]}, tuned={"tno": ["b"]})
    monkeypatch.setattr(registry, "released", lambda: {"tiny": card})
    monkeypatch.setattr(registry, "WEIGHTS_DIR", checkpoint.parent)
    options = ("--dataset", "tno", "--device", "cpu", "--precision", "fp32")
    assert _run(*options, *QUICK) == 0
    text = capsys.readouterr().out
    assert "tno: 2 pairs" in text
    assert "left out: 1 pair that the released weights were trained on" in text
    assert "left out: 1 pair that the released weights were tuned on" in text
    assert "nano " in text
    report = _report(*options, "--include-seen", "--methods", f"nano,again={checkpoint}", "--teacher", str(checkpoint))
    methods = report["datasets"]["tno"]["methods"]
    assert list(methods) == ["nano", "again", "teacher"]
    assert methods["nano"]["values"] == methods["again"]["values"] == methods["teacher"]["values"]
    assert report["datasets"]["tno"]["n"] == 4
    Path("lr=0.1").mkdir()
    weights = shutil.copy(checkpoint, "lr=0.1")
    report = _report(*options, "--methods", f"{weights},slow={weights}")
    assert list(report["datasets"]["tno"]["methods"]) == ["tiny", "slow"]
    other = shutil.copy(checkpoint, "nano.safetensors")
    assert _run(*options, *QUICK, "--methods", f"nano,all,{other}") == 2
    assert f"two methods are called nano ({checkpoint} and {other})" in capsys.readouterr().err


def test_a_program_whose_name_is_not_utf_8_is_measured(tmp_path: Path) -> None:
    """The name, cut off after 15 bytes, is in /proc/self/status."""
    from fusecli.benchmark import cost

    (tmp_path / "status").write_bytes(b"Name:\tcam\xe9ra\nVmRSS:\t  12 kB\n")
    assert cost._told(str(tmp_path / "status"), "VmRSS").split() == ["12", "kB"]


def test_weights_that_do_not_fit_are_told_before_any_work(
    data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_pairs(data / "ct-mri", "ct", "mri")
    monkeypatch.setattr(classical, "fuse", None)
    options = ("--dataset", "tno", "--dataset", "ct-mri", "--methods", f"average,{checkpoint}")
    assert _run(*options, "--device", "cpu", *QUICK) == 2
    assert "trained for ir-vis, not for ct-mri" in capsys.readouterr().err


def test_memory_is_not_measured_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusecli.benchmark import cost
    from fusecli.benchmark.methods import Classical

    monkeypatch.setattr("sys.platform", "win32")  # where no library has no name
    assert cost._peak(Classical("average"), lambda: None) is None


def test_costs_are_measured_and_kept(
    data: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusecli.benchmark import cost

    monkeypatch.setattr(cost, "SECONDS", 0.02)
    options = ["--dataset", "tno", "--methods", f"tiny={checkpoint},average", "--fused", f"mine={_fused_folder()}"]
    options += ["--device", "cpu", "--precision", "fp32", "--no-html", "--quiet", "--json", "r.json"]
    assert _run(*options) == 0
    assert "cost of one pair of 72×56 on " in capsys.readouterr().out
    before = json.loads(Path("r.json").read_text(encoding="utf-8"))
    methods = before["datasets"]["tno"]["methods"]
    tiny = methods["tiny"]["cost"]
    assert methods["tiny"]["ms_per_pair"] == tiny["ms"] > 0
    assert tiny["ms_end_to_end"] > 0
    assert methods["tiny"]["params"] == tiny["params"] > 100
    assert tiny["macs"] > tiny["params"]
    assert tiny["size"] == [72, 56]
    assert "cores" in tiny["device"]
    assert tiny["precision"] == "float32"
    assert methods["average"]["cost"]["macs"] is None
    assert methods["mine"]["cost"] is None
    assert _run(*options) == 0
    assert json.loads(Path("r.json").read_text(encoding="utf-8")) == before


@pytest.mark.parametrize("name", list(classical.METHODS))
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (5, 3), (37, 50)])
def test_classical_rules_keep_what_both_sources_share(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    rule = classical.METHODS[name][1]
    assert np.abs(rule(image, image) - image).max() < 1e-5
    assert np.abs(rule(np.full_like(image, 0.4), np.full_like(image, 0.4)) - 0.4).max() < 1e-5


def test_classical_rules_do_what_they_say() -> None:
    first, second = (_scene(seed) for seed in (1, 2))
    expected = np.rint((first.astype(float) + second) / 2)
    assert (classical.fuse("average", first, second) == expected).all()
    assert (classical.fuse("maximum", first, second) == np.maximum(first, second)).all()
    textured, flat = np.full((64, 64), 120, np.uint8), np.full((64, 64), 100, np.uint8)
    textured[::2] = 60
    for name in ("laplacian", "guided", "wavelet"):  # these keep a texture that one source has, the average halves it
        assert classical.fuse(name, textured, flat)[16:48, 16:48].std() > 0.9 * textured.std()
    color = np.dstack([first, first // 2, 255 - first])
    fused = classical.fuse("maximum", color, second).astype(int)
    inside = ((fused > 0) & (fused < 255)).all(2)
    shift = (fused - color)[inside]
    assert np.abs(shift - shift[:, :1]).max() <= 1  # luma moves, chroma stays


@pytest.mark.skipif(
    not (SHARED / "data" / "val" / "tno").is_dir(), reason="the validation pairs are not part of the package"
)
def test_published_rows_are_reproduced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSECLI_DATA", str(SHARED / "data" / "val"))
    report = _report("--dataset", "tno", "--methods", "average,maximum,laplacian")
    columns = ["EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "CC", "Nabf"]
    published = {
        "maximum": "6.734 36.478 8.688 3.219 6.825 1.602 0.967 0.606 1.381 0.399 0.000",
        "laplacian": "6.584 28.842 10.591 4.198 1.582 1.741 0.676 0.522 1.404 0.463 0.033",
        "average": "6.045 22.905 5.721 2.280 2.074 1.674 0.574 0.339 1.491 0.481 0.000",
    }
    assert report["datasets"]["tno"]["n"] == 17
    for name, row in published.items():
        means = report["datasets"]["tno"]["methods"][name]["mean"]
        assert " ".join(f"{means[column]:.3f}" for column in columns) == row


@pytest.mark.skipif(not (datasets.SAMPLE / "ir").is_dir(), reason="no source tree around this package")
def test_sample_needs_nothing_but_the_checkout(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FUSECLI_DATA")
    assert _run("--dataset", "sample", "--methods", "average,maximum", *QUICK) == 0
    assert "sample: " in capsys.readouterr().out


def test_ranks_follow_direction_and_share_ties() -> None:
    up, down = registry.METRICS["tang"]["VIF"], registry.METRICS["tang"]["Nabf"]
    assert results.places({"a": 1.0, "b": 3.0, "c": 2.0, "d": None}, up) == {"a": 3, "b": 1, "c": 2, "d": 4}
    assert results.places({"a": 1.0, "b": 3.0, "c": 1.0}, down) == {"a": 1.5, "b": 3, "c": 1.5}


def test_ranks_and_marks_compare_on_the_same_pairs() -> None:
    made = _ssim(whole=[1.2, 0.2], part=[1.1, None], none=[None, None])
    dataset = made.datasets["tno"]
    assert made.mean_ranks(dataset) == {"whole": 1, "part": 2, "none": 3}
    assert report.marks(made, dataset, "SSIM") == {"whole": 1, "part": 2}
    assert dataset.methods["whole"].mean("SSIM") == pytest.approx(0.7)
    apart = _ssim(first=[1.2, None], second=[None, 1.3])
    assert apart.mean_ranks(apart.datasets["tno"]) == {"first": 1.5, "second": 1.5}
    for name, method in dataset.methods.items():
        method.undefined = {"SSIM": {"b": "too small"}} if name != "none" else {"SSIM": dict.fromkeys("ab", "black")}
    dataset.methods["whole"].undefined = {}
    said = "ranks and marks compare by the pairs on which all have a value"
    assert said in report.notes(made, dataset)[-1]
    for method in dataset.methods.values():
        method.undefined = {"SSIM": {"b": "too small"}}
    assert report.notes(made, dataset)[2:] == ["whole, part, none, SSIM: no value on 1 of 2 pairs, e.g. b: too small"]


def test_wilcoxon_counts_out_all_signs() -> None:
    generator = np.random.default_rng(0)
    for trial in range(20):
        differences = np.round(generator.normal(0.4, 1, 9), 1 if trial % 2 else 6)  # with ties and without
        nonzero = differences[differences != 0]
        size = np.abs(nonzero)
        ranks = np.array([(size < value).sum() + ((size == value).sum() + 1) / 2 for value in size])
        signs = np.array(list(itertools.product((0, 1), repeat=len(nonzero))))
        sums = signs @ ranks
        observed = min(ranks[nonzero > 0].sum(), ranks[nonzero < 0].sum())
        expected = min(1.0, 2 * np.mean(sums <= observed + 1e-9))
        side = np.sign(ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum())
        assert significance.wilcoxon(differences) == (pytest.approx(expected), side)
    assert significance.wilcoxon(np.zeros(5)) == (1, 0)
    many = generator.normal(0.15, 1, 200)
    exact, _ = significance.wilcoxon(many)
    approximated, _ = significance.wilcoxon(np.append(many, 1e-9))  # of more than 200
    assert approximated == pytest.approx(exact, rel=0.05)


def test_a_verdict_needs_a_significant_change() -> None:
    up, down = registry.METRICS["tang"]["VIF"], registry.METRICS["tang"]["Nabf"]
    verdicts = [
        compare.Move("tno", "mine", metric, before=0.5, after=after, n=9, p=p, side=side).verdict
        for metric in (up, down)
        for after, p, side in ((0.6, 0.049, 1), (0.4, 0.049, -1), (0.6, 0.05, 1), (0.6, 0.01, -1))
    ]
    assert verdicts == ["better", "worse", "same", "mixed", "worse", "better", "same", "mixed"]


def test_holm_steps_down() -> None:
    assert significance.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert significance.holm([0.9, 0.8]) == pytest.approx([1, 1])


def _two_reports(data: Path) -> None:
    """a.json and b.json: the same baseline, and a result that became noisy on twelve pairs."""
    shutil.rmtree(data / "tno")
    _write_pairs(data / "tno", names=tuple(f"{index:02}" for index in range(12)))
    noise = np.random.default_rng(0)
    folders = [
        _fused_folder("clean"),
        _fused_folder(
            "noisy", lambda image: np.clip(image + noise.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
        ),
    ]
    for folder, target in zip(folders, ("a.json", "b.json"), strict=True):
        options = ("--methods", "maximum", "--metrics", "VIF,SSIM,Nabf,AG", "--fused", f"mine={folder}")
        assert _run("--dataset", "tno", *options, *QUICK, "--json", target) == 0


def test_compare_shows_what_moved_and_gates(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _two_reports(data)
    capsys.readouterr()
    assert main(["benchmark", "compare", "a.json", "b.json"]) == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    verdicts = {(line[0], line[1].split()[0]): line[-1] for line in lines if len(line) == 8}
    assert verdicts["mine", "VIF"] == verdicts["mine", "SSIM"] == verdicts["mine", "Nabf"] == "worse"
    assert verdicts["mine", "AG"] == "better"  # noise: why one column does not decide
    assert {verdicts["maximum", name] for name in ("VIF", "SSIM", "Nabf", "AG")} == {"same"}
    assert main(["benchmark", "compare", "a.json", "b.json", "--fail-worse"]) == 1
    assert "SSIM became worse" in capsys.readouterr().err
    assert main(["benchmark", "compare", "b.json", "a.json", "--fail-worse", "-m", "maximum"]) == 0
    values = json.loads(Path("b.json").read_text(encoding="utf-8"))["datasets"]["tno"]["methods"]["mine"]["mean"]
    assert main(["benchmark", "compare", "a.json", "b.json", "--fail-below", f"SSIM={values['SSIM'] - 0.01}"]) == 0
    assert main(["benchmark", "compare", "a.json", "b.json", "--fail-below", f"SSIM={values['SSIM'] + 0.01}"]) == 1
    assert "mine: SSIM" in capsys.readouterr().err
    assert main(["benchmark", "compare", "a.json", "b.json", "--fail-below", f"Nabf={values['Nabf'] / 2}"]) == 1
    assert "is above" in capsys.readouterr().err


def test_a_mean_below_the_gate_fails_the_run(data: Path) -> None:
    assert _run("--dataset", "tno", "--methods", "average", *QUICK, "--fail-below", "SSIM=0.1") == 0
    assert _run("--dataset", "tno", "--methods", "average", *QUICK, "--fail-below", "SSIM=1.99") == 1
    assert _run("--dataset", "tno", "--methods", "average", *QUICK, "--fail-below", "ssim=1.99") == 1


def test_a_classical_rule_beside_others_is_judged_by_a_gate_if_it_is_named(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fused = f"mine={_fused_folder()}"
    for named, judged in (("average,maximum", ["average", "maximum", "mine"]), ("classical", ["mine"])):
        assert _run("--dataset", "tno", "-m", named, "--fused", fused, *QUICK, "--fail-below", "SSIM=1.99") == 1
        told = [line.split()[3] for line in capsys.readouterr().err.splitlines()]
        assert told == [f"{name}:" for name in judged]


def test_compare_reads_a_report_from_stdin_and_takes_no_options_of_benchmark(
    data: Path, capsys: pytest.CaptureFixture[str], on_stdin: Callable[[str], None]
) -> None:
    _report("--dataset", "tno", "--methods", "average")
    on_stdin(Path("report.json").read_text(encoding="utf-8"))
    assert main(["benchmark", "compare", "report.json", "-"]) == 0
    capsys.readouterr()
    for options in (["--quiet"], ["--ir", "ir"]):
        assert _run(*options, "compare", "report.json", "report.json") == 2
        assert f"{options[0]}: of `benchmark` alone" in capsys.readouterr().err
    assert main(["benchmark", "compare", "report.json", "none.json"]) == 2
    assert capsys.readouterr().err == "fusecli: none.json: no such file\n"


def test_a_tilde_is_the_home_folder_and_a_path_of_a_hyphen_a_file(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(data))
    folders = ("--vis=~/tno/vis", "--ir=~/tno/ir", "--methods", "average", "--fused", "mine=~/tno/vis")
    assert _run(*folders, *QUICK, "--csv=~/a.csv", "--json", "./-") == 0
    assert (data / "a.csv").is_file()
    assert json.loads(Path("-").read_text(encoding="utf-8"))["protocol"] == "tang"
    assert _run(*folders, *QUICK, "--teacher=~/none.pt") == 2
    assert f"{data / 'none.pt'}: no such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data-root", "."], "--data-root .: of a --dataset"),
        (["--html", "a.html", "--no-html"], "--html: of the page"),
        (["--cases", "1", "--no-html"], "--cases: of the page"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    data: Path, fusecli: Callable[..., tuple[int, str, str]], options: list[str], said: str
) -> None:
    code, _, err = fusecli("benchmark", "--vis", data / "tno/vis", "--ir", data / "tno/ir", *options)
    assert (code, said in err) == (2, True)


def test_draws_of_one_scene_are_no_more_scenes() -> None:
    names = [f"{draw}{name}" for draw in ("", "draw2/") for name in "abcdefgh"]

    def report(values: np.ndarray) -> results.Report:
        method = results.MethodResult("m", "classical", "m", {"SSIM": list(values)})
        dataset = results.DatasetResult("tno", "TNO", "ir-vis", names, {"m": method})
        return results.Report("tang", ["SSIM"], {"tno": dataset})

    change = np.tile(np.arange(1, 9) / 100, 2)
    (move,), _ = compare.compare(report(np.ones(16)), report(1 + change))
    assert (move.n, move.p) == (8, pytest.approx(2 / 2**8))
    assert move.change == pytest.approx(change.mean())


def _many(pairs: list[str], **values: np.ndarray) -> tuple[results.Report, results.DatasetResult]:
    """A report of one table that holds one metric, SSIM."""
    methods = {name: results.MethodResult(name, "classical", name, {"SSIM": list(values[name])}) for name in values}
    dataset = results.DatasetResult("tno", "TNO", "ir-vis", pairs, methods)
    return results.Report("tang", ["SSIM"], {"tno": dataset}), dataset


def test_chances_are_worked_out_once_for_all_methods() -> None:
    values = np.random.default_rng(0).random((5, 150))
    made, dataset = _many([str(number) for number in range(150)], **dict(zip("abcde", values, strict=True)))
    significance._chances.cache_clear()
    made.leads(dataset)
    assert significance._chances.cache_info().misses == 1


def test_the_best_is_told_from_all_others_by_more_than_chance(tmp_path: Path) -> None:
    names = [str(number) for number in range(8)]
    steps = np.arange(1, 9) / 100
    best, second = 1.2 + steps, 1 + steps
    made, dataset = _many(names, best=best, second=second, third=np.flip(second))
    assert made.leads(dataset)["SSIM"] == ("best", pytest.approx(2 / 2**8), 8)
    assert made.to_json()["datasets"]["tno"]["best"] == {"SSIM": {"method": "best", "p": pytest.approx(2 / 2**8)}}
    for text in (report.to_markdown(made), report.to_latex(made)):
        assert "better than every other method: Wilcoxon" in text
    assert "**1.245**† ± " in report.to_markdown(made)
    page.write(tmp_path / "page.html", made, {})
    assert "<b>1.245</b><i>†</i> " in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "best & \\textbf{1.245}\\rlap{$^\\dagger$} & " in report.to_latex(made)
    for other in (
        np.where(steps < 0.07, best - 0.1, best + 0.1),  # better on two pairs
        best - 1e-5 * steps,  # worse on all, but not as printed
        np.append(best[:7] + 0.02, 0),  # better on all but one, by which the mean is lower
    ):
        made, dataset = _many(names, best=best, other=other)
        assert made.leads(dataset)["SSIM"].method == "best"
        assert not report.leaders(made, dataset)
        assert "†" not in report.to_latex(made) + report.to_markdown(made).partition("\n\n- ")[0]


def test_draws_and_few_scenes_do_not_make_a_best_one() -> None:
    scenes = [str(number) for number in range(5)]
    lead = 1 + np.arange(1, 6) / 100
    made, dataset = _many([*scenes, *(f"draw2/{name}" for name in scenes)], best=np.tile(lead, 2), second=np.ones(10))
    assert made.leads(dataset)["SSIM"] == ("best", pytest.approx(2 / 2**5), 5)
    assert "too few scenes (5) for †, best by more than chance: that takes 6, " in report.notes(made, dataset)[1]
    alone, dataset = _many(scenes, best=lead)
    assert (made.metrics, alone.leads(dataset), report.notes(alone, dataset)) == (["SSIM"], {}, [])


def test_a_mean_that_moved_against_most_scenes_is_no_verdict() -> None:
    names = [str(number) for number in range(20)]
    after = 1 - np.arange(1, 21) / 1000
    after[0] = 2
    (move,), _ = compare.compare(_many(names, m=np.ones(20))[0], _many(names, m=after)[0])
    assert move.change > 0
    assert (move.p < 0.001, move.verdict) == (True, "mixed")


def test_too_few_scenes_for_any_verdict_are_remarked() -> None:
    def moved(scenes: int) -> tuple[str, list[str]]:
        reports = []
        for values in (np.ones(scenes), 1 + np.arange(1, scenes + 1) / 100):
            method = results.MethodResult("m", "classical", "m", {"SSIM": list(values)})
            dataset = results.DatasetResult("tno", "TNO", "ir-vis", [str(n) for n in range(scenes)], {"m": method})
            reports.append(results.Report("tang", ["SSIM"], {"tno": dataset}))
        (move,), remarks = compare.compare(*reports)
        return move.verdict, remarks

    assert moved(5) == ("same", ["too few scenes (5 at most) for any p < 0.05: that takes 6, or fewer comparisons"])
    assert moved(6) == ("better", [])


def test_compare_refuses_what_cannot_be_compared(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("tang", "standard"):
        options = ("--methods", "average", "--protocol", protocol, "--json", f"{protocol}.json")
        assert _run("--dataset", "tno", *options, *QUICK) == 0
    assert main(["benchmark", "compare", "tang.json", "standard.json"]) == 2
    assert "different protocols" in capsys.readouterr().err
    Path("x.json").write_text('{"protocol": "tang"}', encoding="utf-8")
    assert main(["benchmark", "compare", "tang.json", "x.json"]) == 2
    assert main(["benchmark", "compare", "tang.json", "gone.json"]) == 2
    assert main(["benchmark", "compare", "tang.json", "tang.json", "-m", "averag"]) == 2
    assert "did you mean average" in capsys.readouterr().err


def test_compare_takes_the_pairs_that_both_have(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _report("--dataset", "tno", "--methods", "average")
    Path("report.json").rename("a.json")
    (data / "tno" / "ir" / "a.png").unlink()
    (data / "tno" / "vis" / "a.png").unlink()
    _report("--dataset", "tno", "--methods", "average")
    capsys.readouterr()
    assert main(["benchmark", "compare", "a.json", "report.json"]) == 0
    assert "4 and 3 pairs; compared on the 3 in both" in capsys.readouterr().out


def test_compare_says_that_one_side_is_damaged_whatever_the_number_of_pairs(data: Path, capsys) -> None:
    options = ("--dataset", "tno", "--methods", "average")
    _report(*options)
    Path("report.json").rename("clean.json")
    for draws in ("1", "2"):
        _report(*options, "--degraded", "--draws", draws)
        capsys.readouterr()
        assert main(["benchmark", "compare", "clean.json", "report.json"]) == 0
        out = capsys.readouterr().out
        assert "tno: inputs are damaged (--degraded) in the second report alone" in out
        assert ("4 and 8 pairs" in out) == (draws == "2")
        assert "the images differ" not in out


def _page(data: Path, *options: str) -> str:
    assert _run("--dataset", "tno", "--no-speed", "--quiet", "--cases", "1", *options) == 0
    return Path("benchmark.html").read_text(encoding="utf-8")


def _cases(page: str) -> list[dict]:
    return json.loads(re.search(r'id="cases">(.*?)</script>', page, re.S)[1])["tno"]  # type: ignore[index]


def test_the_page_is_named_on_stderr(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--dataset", "tno", "--methods", "average", "--metrics", "EN", "--no-speed", "--html", "a.html") == 0
    assert "fusecli: page: a.html" in capsys.readouterr().err


def test_page_is_whole_and_needs_no_network(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = _fused_folder()
    page = _page(data, "--methods", "average,maximum", "--fused", f"<b>&mine={fused}")
    assert capsys.readouterr().err == ""  # it is --quiet
    outside = re.sub(r'"data:image/webp;base64,[^"]*"', "", page)
    assert not re.search(r"https?://|@import|<link|src=[\"']?(?!data:)[\w/]|url\((?!\"\$)", outside)
    assert "default-src 'none'" in page
    assert "<b>&mine" not in page.partition("<script")[0]
    assert "&lt;b&gt;&amp;mine" in page
    embedded = _cases(page)
    assert len(embedded) == 2
    assert [image["name"] for image in embedded[0]["images"]] == ["vis", "ir", "average", "maximum", "<b>&mine"]
    assert page.count("<svg") >= len(results.DEFAULT_METRICS)
    assert len(page) < 400_000


def test_page_is_written_from_the_cache(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _page(data, "--methods", "average,wavelet")
    monkeypatch.setattr(classical, "fuse", None)
    assert _page(data, "--methods", "average,wavelet") == first


def test_results_of_others_are_said_to_be_of_unknown_inputs_where_inputs_are_damaged(data: Path) -> None:
    options = ("--dataset", "tno", "--methods", "average", "--fused", f"mine={_fused_folder()}")
    said = "mine: as found, which compares only if made of these damaged inputs (--save-degraded)"
    assert said in _report(*options, "--degraded")["datasets"]["tno"]["notes"]
    assert said not in _report(*options)["datasets"]["tno"]["notes"]


def test_other_methods_get_the_same_damaged_inputs(data: Path, fusecli) -> None:
    options = ("--dataset", "tno", "--methods", "average", "--degraded")
    own = _report(*options, "--save-degraded", "damaged")["datasets"]["tno"]["methods"]["average"]["values"]
    for path in Path("damaged/tno/vis").iterdir():
        sides = [frames.read(Path("damaged/tno") / side / path.name)[0].pixels for side in ("vis", "ir")]
        frames.write(Path("theirs") / path.name, [classical.fuse("average", *sides)])
    report = _report(*options[:2], "--methods", "none", "--degraded", "--fused", "other=theirs")
    assert report["datasets"]["tno"]["methods"]["other"]["values"] == own
    code, _, err = fusecli("benchmark", *options, "--save-degraded", "damaged")
    assert code == 2
    assert "holds something already" in err
    assert fusecli("benchmark", *options[:-1], "--save-degraded", "new")[0] == 2


def test_each_pair_can_be_damaged_in_several_ways(data: Path, fusecli) -> None:
    options = ("--dataset", "tno", "--methods", "average", "--degraded")
    once = _report(*options)["datasets"]["tno"]["methods"]["average"]["values"]["VIF"]
    found = _report(*options, "--draws", "3", "--save-degraded", "damaged")["datasets"]["tno"]
    values = found["methods"]["average"]["values"]["VIF"]
    assert values[: len(once)] == once
    assert len({*values}) == 3 * len(once)
    assert any("each pair in 3 ways" in note for note in found["notes"])
    for path in Path("damaged/tno/vis").rglob("*.png"):
        name = path.relative_to("damaged/tno/vis")
        sides = [frames.read(Path("damaged/tno") / side / name)[0].pixels for side in ("vis", "ir")]
        frames.write(Path("theirs") / name, [classical.fuse("average", *sides)])
    theirs = _report(*options, "--draws", "3", "--methods", "none", "--fused", "other=theirs")
    assert theirs["datasets"]["tno"]["methods"]["other"]["values"]["VIF"] == values
    shutil.copytree(data / "tno" / "vis", Path("own/vis/draw2"))
    shutil.copytree(data / "tno" / "ir", Path("own/ir/draw2"))
    for side in ("vis", "ir"):
        shutil.copy(data / "tno" / side / "a.png", Path("own") / side)
    own = ("--vis", "own/vis", "--ir", "own/ir", "--recursive", "--methods", "average", "--degraded", "--draws", "2")
    assert "draw2/a is a pair, and what a draw would be called" in fusecli("benchmark", *own)[2]
    code, _, err = fusecli("benchmark", *options[:-1], "--draws", "3")
    assert code == 2
    assert "--draws 3: of --degraded" in err


def test_page_of_damaged_inputs_shows_what_the_methods_got(data: Path) -> None:
    _page(data, "--methods", "average")  # whose pictures in the cache are of clean inputs
    for case in _cases(_page(data, "--methods", "average", "--degraded")):
        name = f"{case['pair']}.png"
        clean = [frames.read(data / "tno" / side / name)[0].pixels for side in ("vis", "ir")]
        first, second, _ = degrade_pair(*clean, ("vis", "ir"), case["pair"])
        shown = (first, second, classical.fuse("average", first, second))
        quality = [cv2.IMWRITE_WEBP_QUALITY, page.QUALITY]
        expected = [encoded(image, page.SIDE, ".webp", quality) for image in shown]
        found = [base64.b64decode(image["url"].partition(",")[2]) for image in case["images"]]
        assert found == expected


def test_damage_of_renamed_pairs_is_not_taken_from_the_cache(data: Path) -> None:
    options = ("--dataset", "tno", "--methods", "average", "--degraded")
    _report(*options)
    for side in ("vis", "ir"):
        (data / "tno" / side / "a.png").rename(data / "tno" / side / "another.png")
    assert _report(*options) == _report(*options, "--no-cache")


def _ssim(**values: list[float | None]) -> results.Report:
    methods = {name: results.MethodResult(name, "classical", name, {"SSIM": values[name]}) for name in values}
    dataset = results.DatasetResult("tno", "TNO", "ir-vis", ["a", "b"], methods)
    return results.Report("tang", ["SSIM"], {"tno": dataset})


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = _ssim(first=[1.2, None], second=[1.0, 1.1])
    cost = {"ms": 12.3, "params": 134_000, "device": "cpu", "size": [64, 48]}
    first, second = made.datasets["tno"].methods.values()
    first.cost, first.undefined = cost, {"SSIM": {"b": "black"}}
    first.values["Nabf"], second.values["Nabf"] = [0.1, 0.2], [0.3, 0.4]
    made.metrics.append("Nabf")
    written = json.loads(json.dumps(made.to_json()))
    (tmp_path / "r.json").write_text(json.dumps(written), encoding="utf-8")
    read = results.load(tmp_path / "r.json")
    assert read.to_json() == written
    assert (read.datasets["tno"].name, read.datasets["tno"].title) == ("tno", "TNO")
    assert written["metrics"] == {"SSIM": "higher", "Nabf": "lower"}
    table = written["datasets"]["tno"]["methods"]
    assert [(table[name]["ms_per_pair"], table[name]["params"]) for name in table] == [(12.3, 134_000), (None, None)]
    assert table["first"]["mean"] == pytest.approx({"SSIM": 1.2, "Nabf": 0.15})


@pytest.mark.parametrize("values", [[1.2, float("nan")], [1.2, 10**400], [1.2, "1.3"], [1.2], None])
def test_a_report_with_other_values_than_numbers_is_refused(tmp_path: Path, values: list | None) -> None:
    written = _ssim(first=[1.2, 1.3]).to_json()
    written["datasets"]["tno"]["methods"]["first"]["values"]["SSIM"] = values  # as a script may have merged them
    path = tmp_path / "r.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(UsageError, match=r"r\.json: not written by `fusecli benchmark --json`"):
        results.load(path)


def test_ranks_are_over_several_methods_and_the_metrics_of_the_field() -> None:
    made = _ssim(first=[1.2, 1.3], second=[1.0, 1.1])
    (dataset,) = made.datasets.values()
    for method in dataset.methods.values():
        method.values["CC"] = [0.5, 0.5]
    made.metrics = ["SSIM", "CC"]
    assert made.ranked() == ["SSIM"]
    made.metrics = ["CC"]
    assert made.mean_ranks(dataset) == {}
    assert results.Report("vifb", ["Qcb", "Rmse"], {}).ranked() == ["Qcb", "Rmse"]
    alone = _ssim(first=[1.2, 1.3])
    assert alone.mean_ranks(alone.datasets["tno"]) == {}


def test_gates_judge_baselines_only_if_named_or_alone() -> None:
    made = _ssim(average=[1.0, 1.0], nano=[1.2, 1.2])
    (gate,) = compare.gates(["ssim=1.3"], "tang", ["SSIM"])
    assert (gate.fails(1.3), gate.fails(1.299)) == (False, True)
    for named, judged in ((None, ["average", "nano"]), (["nano"], ["nano"])):
        lines = compare.failures(made, [gate], named)
        assert [line.partition(":")[0] for line in lines] == [f"tno, {name}" for name in judged]
    made.datasets["tno"].methods["nano"].kind = "model"
    assert compare.failures(made, [gate]) == ["tno, nano: SSIM 1.200 is below 1.3"]
    assert compare.failures(made, [gate], ["average"]) == ["tno, average: SSIM 1.000 is below 1.3"]


def test_zero_has_no_sign() -> None:
    assert [report.number(value) for value in (-0.0004, -0.0006, 0.0)] == ["0.000", "-0.001", "0.000"]


def test_numbers_of_costs_are_short() -> None:
    quantities = {134_000: "134 k", 999: "999", 999.7: "1 k", 999_700: "1 M", 2.5e6: "2.5 M", 7e9: "7 G", None: "–"}
    times = {0.1234: "0.123", 999.4: "999", 999.7: "1,000", 12345.6: "12,346", None: "–"}
    for show, expected in ((report.quantity, quantities), (report.milliseconds, times)):
        assert {value: show(value) for value in expected} == expected


def test_costs_name_the_device_in_each_row_only_where_there_are_several() -> None:
    made = _ssim(first=[1.2, 1.3], second=[1.0, 1.1], of_others=[1.1, 1.1])
    cost = {"params": 9, "macs": 9e9, "ms": 1.0, "ms_end_to_end": 2.0, "peak_mb": 3.0, "size": (64, 48)}
    dataset = made.datasets["tno"]
    dataset.methods["first"].cost = cost | {"device": "CPU", "precision": None}
    dataset.methods["second"].cost = cost | {"device": "CPU", "precision": "fp32"}
    assert report.cost_columns(made, dataset)[2] == {
        "first": ["9", "9 G", "1", "2", "3", "–"],
        "second": ["9", "9 G", "1", "2", "3", "fp32"],
    }
    dataset.methods["second"].cost["device"] = "GPU"
    title, headers, cells = report.cost_columns(made, dataset)
    assert title.startswith("cost of one pair of 64×48 on CPU and GPU;")
    assert [row[-1] for row in cells.values()] == ["CPU", "GPU"]
    assert headers[-1] == "device"
    console = Console(file=io.StringIO(), width=200)
    report.terminal(made, console)
    costs = console.file.getvalue().partition("cost of one pair")[2]
    assert re.findall(r"^ *(first|second|of_others) ", costs, re.MULTILINE) == ["first", "second"]


def test_names_do_not_break_tables() -> None:
    made = _ssim(
        **{"a|b": [1.2, 1.3], "$x^2_{~\\}": [1.0, 1.1], "[12]": [0.8, 0.9], "*<ours>": [0.7, 0.8], "λ–Γ": [0.5, 0.6]}
    )
    rows = [line for line in report.to_markdown(made).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"| \*\<ours> |" in "\n".join(rows)
    latex = report.to_latex(made)
    assert r"\$x\textasciicircum{}2\_\{\textasciitilde{}\textbackslash{}\} & " in latex
    assert r"SSIM $\uparrow$" in latex
    assert r"a\textbar{}b & " in latex
    assert not re.search(r"(\\\\|\\midrule)\s*[\[*]", latex)  # LaTeX would take it for an option of the row before
    assert r"{*}\textless{}ours\textgreater{} & " in latex
    assert r"$\lambda$\textendash{}$\Gamma$ & " in latex


def test_latex_has_a_block_per_data_set_and_a_table_per_page() -> None:
    made = _ssim(**{"--look": [-0.25, 0.05], "none": [None, None]})
    (first,) = made.datasets.values()
    made.datasets["b"] = dataclasses.replace(first, name="b_2", methods={"none": first.methods["none"]})
    latex = report.to_latex(made)
    assert latex.count("\\begin{table*}") == 1
    assert "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}" in latex
    assert "\\midrule\n\\multicolumn{3}{l}{\\textit{tno: 2 pairs, TNO}} \\\\\n" in latex
    assert "\n-{}-look & \\textbf{$-$0.100} & 1.00 \\\\\n" in latex
    assert "\\textit{b\\_2: 2 pairs, TNO}} \\\\\nnone & -- & -- \\\\\n\\bottomrule" in latex
    rows = _ssim(**{str(index): [1.0, 1.0] for index in range(report.PAGE // 2)}).datasets["tno"]
    made.datasets |= {"c": rows, "d": rows}
    assert [table.count("multicolumn") for table in report.to_latex(made).split("\\end{table*}")] == [3, 1, 0]


def test_a_pair_without_any_value_is_no_news(recwarn: pytest.WarningsRecorder) -> None:
    made = _ssim(one=[1.2, None], two=[1.0, None])
    dataset = made.datasets["tno"]
    assert page.standing(made, dataset, dataset.methods["one"]) == pytest.approx([1, 0])
    assert not recwarn.list


def test_a_method_without_values_is_said_so_within_its_chart() -> None:
    made = _ssim(known=[1.2, 1.3], unknown=[None, None])
    chart = charts.distribution(made, made.datasets["tno"], "SSIM")
    assert 0 <= float(re.search(r'x="([^"]*)" y="[^"]*">no value', chart)[1]) < 300  # type: ignore[index]


PROBE = """<script>
const report = {};
const settle = () => new Promise((done) => setTimeout(done, 50));
(async () => {
  await settle();
  const viewer = document.querySelector(".viewer"), figures = () => viewer.querySelectorAll("figure");
  report.figures = figures().length;
  report.loaded = [...viewer.querySelectorAll("img")].every((image) => image.naturalWidth === 72);
  report.lens = [...viewer.querySelectorAll(".lens")].every((lens) => parseFloat(lens.style.width) > 0);
  report.crop = viewer.querySelector(".crop").style.backgroundImage.startsWith('url("data:image/webp');
  const zoom = viewer.querySelector("input");
  zoom.value = 8;
  zoom.dispatchEvent(new Event("input"));
  const area = viewer.querySelector(".image"), box = area.getBoundingClientRect();
  const lefts = (clientX) => {
    area.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY: box.top + 5 }));
    return [...viewer.querySelectorAll(".lens")].map((lens) => parseFloat(lens.style.left));
  };
  const atLeft = lefts(box.left), atRight = lefts(box.right);
  report.moved = atLeft.every((left) => left === 0) && atRight.every((left) => left > 10 && left < 100);
  const alt = () => viewer.querySelector("img").alt, worst = alt();
  viewer.querySelector(".next").click();
  await settle();
  report.stepped = alt() !== worst && viewer.querySelector("select").value === "1";
  const table = document.querySelector("table.sortable"), last = table.tHead.rows[0].cells.length - 1;
  const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[last].dataset.value));
  const button = table.tHead.rows[0].cells[last].querySelector("button");
  button.click();
  const up = column(); button.click();
  const down = column();
  report.sorted = up.every((v, i) => !i || up[i - 1] <= v) && down.every((v, i) => !i || down[i - 1] >= v);
  report.wide = document.documentElement.scrollWidth <= innerWidth;
  const out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(report);
  document.body.append(out);
})();
</script></body>"""


def test_page_works_in_a_browser(data: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = _page(data, "--methods", "average,maximum,guided")
    target = tmp_path / "probe.html"
    target.write_text(page.replace("</body>", PROBE), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", target.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr  # no error of a script, nothing that the page's policy refused
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)
    assert found, "the page's script did not run to its end"
    report = json.loads(found[1])
    assert report.pop("figures") == 5
    assert all(report.values()), report


def test_speed_comparison_accounts_for_every_engine(monkeypatch, capsys) -> None:
    from fusecli.benchmark import speed

    monkeypatch.setattr(
        "sys.argv", ["speed", "--pairs", "2", "--repeat", "1", "--size", "64x48", "--engine", "torch", "--json"]
    )
    speed.main()
    found = json.loads(capsys.readouterr().out)
    (only,) = found["engines"]
    assert only["engine"] == "torch"
    assert only["cpu_ms_per_pair"].keys() == {"decode", "network", "encode"}
    assert 0 <= only["idle_share"] < 1
    assert only["times_the_codec_floor"] > 1
