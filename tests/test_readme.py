"""Every shell block of the README that is marked runnable is run, as a user would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import SAMPLES, scene

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```sh runnable\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
PYTHON = re.findall(r"```python runnable\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folders that the README's lines name."""
    for index, name in enumerate(("a", "b")):
        vis, ir = scene(index)
        for place in (tmp_path, tmp_path / "days" / "monday", tmp_path / "days" / "tuesday"):
            sides = ("thermal", "camera") if place is tmp_path else ("ir", "vis")
            for side, image in zip(sides, (ir, vis), strict=True):
                (place / side).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(place / side / f"{name}.png"), image)
        for extra in ("radiometric", "mixed"):
            (tmp_path / extra).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "radiometric" / f"{name}.tif", 27000 + 15 * ir.astype(np.uint16))
        for side, image, time in (("ir", ir, index + 0.61), ("vis", vis, index + 0.5)):
            (tmp_path / "timed" / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "timed" / side / f"162000000{time:.2f}.png"), image)
        cv2.imwrite(str(tmp_path / "mixed" / f"{name}_IR.png"), ir)
        cv2.imwrite(str(tmp_path / "mixed" / f"{name}_RGB.png"), vis)
    for side in ("ir", "vis"):
        (tmp_path / "rig" / side).mkdir(parents=True)
        for name in ("back_yard", "day_street", "fog_road"):
            shutil.copy(SAMPLES / side / f"{name}.png", tmp_path / "rig" / side)
    (tmp_path / "days" / "tuesday" / "vis" / "b.png").write_bytes(b"\x89PNG broken")
    return tmp_path


def test_the_readme_opens_with_the_two_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# fusecli"
    assert lines.index("```sh") < 6  # after one sentence that says what this is
    block = lines[lines.index("```sh") + 1 : lines.index("```")]
    assert [line.split("#")[0].strip() for line in block] == ["make demo", "make test"]


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[-1][:40] for block in BLOCKS])
def test_runnable_blocks_run(folder, block):
    binary = folder / ".bin"
    binary.mkdir()
    (binary / "fusecli").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fusecli "$@"\n')
    (binary / "fusecli").chmod(0o755)
    if "days" in block and "case" not in block:
        shutil.copy(folder / "camera" / "b.png", folder / "days" / "tuesday" / "vis" / "b.png")
    environment = {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if "case" in block:
        assert "monday/: all done" in done.stdout
        assert "tuesday/: failed pairs:\n  b " in done.stdout
    else:
        assert "ended with" not in done.stderr
    places = {"fused", "fused16", "paired", "out", "default"}
    made = [path for path in folder.rglob("*.png") if places & set(path.relative_to(folder).parts)]
    assert len(made) >= 2


def test_python_gives_what_the_command_gives(folder, fusecli, monkeypatch):
    monkeypatch.chdir(folder)
    assert fusecli("fuse", "--ir", "thermal", "--vis", "camera", "-o", "expected")[0] == 0
    (folder / "fused").mkdir()
    (block,) = PYTHON
    exec(block, {})
    assert np.array_equal(*(cv2.imread(str(folder / where / "a.png")) for where in ("fused", "expected")))


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 6
