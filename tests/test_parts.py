"""One run in parts: `--num-parts` and `--part-id`."""

import json
from collections import Counter
from itertools import chain

import cv2
import numpy as np
import phantom
import pytest
import tifffile
from conftest import command, contents, scene
from hypothesis import given
from hypothesis import strategies as st
from phantom import SMALL, SMALL_HEAD

from fusecli.stream.parts import Part


@given(st.text(), st.integers(1, 50))
def test_every_name_is_in_exactly_one_part(name, count):
    assert sum(Part(count, id).takes(name) for id in range(count)) == 1


def test_parts_are_fixed_for_good_and_of_like_size():
    assert [next(id for id in range(4) if Part(4, id).takes(f"{i:04d}")) for i in range(8)] == [3, 0, 3, 2, 2, 3, 3, 0]
    sizes = Counter(next(id for id in range(8) if Part(8, id).takes(f"frame_{i:06d}")) for i in range(4000))
    assert all(400 < size < 600 for size in sizes.values())
    assert sum(Part(3, id).takes("not \udcff utf-8") for id in range(3)) == 1


def test_the_union_of_parts_is_the_whole_run(tmp_path, fusecli):
    """Radiometric frames, whose range is that of the whole sequence; parts in any order, also where results exist."""
    for index in range(7):
        vis, ir = scene(index, (24, 32))
        for side in ("vis", "ir"):
            (tmp_path / side).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "vis" / f"{index}.png"), vis)
        tifffile.imwrite(tmp_path / "ir" / f"{index}.tif", 20000 + (index + 1) * 30 * ir.astype(np.uint16))
    sides = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "--name", "{index}_{stem}"]
    assert fusecli("fuse", *sides, "-o", tmp_path / "whole")[0] == 0
    done = []
    for part in (2, 0, 3, 1):
        code, out, err = fusecli(
            "fuse", *sides, "-o", tmp_path / "parts", "--num-parts", 4, "--part-id", part, "--report", "-"
        )
        assert code == 0, err
        done.append([pair["name"] for pair in json.loads(out)["pairs"] if pair["status"] == "done"])
    assert sorted(chain(*done)) == list("0123456")
    assert max(map(len, done)) < 7
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "parts", "--num-parts", 1, "--part-id", 0)
    assert code == 2
    assert "results exist already for 7 of 7 pairs" in err


def test_every_part_checks_the_whole_plan(pairs, fusecli):
    root = pairs(6)
    base = command(root)
    for part in range(3):
        assert fusecli(*base, "--name", "same", "--num-parts", 3, "--part-id", part)[0] == 2
    (root / "ir" / "001.png").unlink()
    for part in range(3):
        code, _, err = fusecli(*base, "--num-parts", 3, "--part-id", part)
        assert code == 2
        assert "001.png" in err


def test_a_part_replaces_no_input_of_another(pairs, fusecli):
    root = pairs(6)
    (root / "swap.csv").write_text(
        "ir,vis,name\n" + "".join(f"{i:03d}.png,{i:03d}.png,{(i + 1) % 6:03d}\n" for i in range(6))
    )
    before = contents(root / "vis")
    for part in range(3):
        code, _, err = fusecli(
            *(
                "fuse",
                "--ir",
                root / "ir",
                "--vis",
                f"{root}/vis/*.png",
                "--pairs",
                root / "swap.csv",
                "-o",
                root / "vis",
            ),
            *("--overwrite", "--num-parts", 3, "--part-id", part),
        )
        assert code == 2, err
    assert contents(root / "vis") == before


def test_volumes_come_in_parts_too(tmp_path, fusecli, average):
    for name in "abcd":
        for side in ("ct", "mri"):
            phantom.nifti(tmp_path / side / f"{name}.nii", SMALL_HEAD, SMALL)
    base = ["fuse", "--ct", tmp_path / "ct", "--mri", tmp_path / "mri", "-m", average]
    assert fusecli(*base, "-o", tmp_path / "whole")[0] == 0
    for part in range(2):
        assert fusecli(*base, "-o", tmp_path / "parts", "--num-parts", 2, "--part-id", part)[0] == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--num-parts", 4], "go together"),
        (["--part-id", 0], "go together"),
        (["--num-parts", 4, "--part-id", 4], "counted from 0, so the last of 4 is 3"),
        (["--num-parts", 4, "--part-id", 0, "--preview"], "--preview"),
    ],
)
def test_mistyped_parts_are_refused(pairs, fusecli, options, reason):
    root = pairs(1)
    code, _, err = fusecli(*command(root, *options))
    assert code == 2
    assert reason in err
