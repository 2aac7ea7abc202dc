"""What several test files share: folders of small pairs, sample frames, and the command line called in-process."""

import functools
import importlib
import io
import logging
import os
import struct
import subprocess
import sys
import time
import zlib

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already uses the cores

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer.main

from fusecli.images.opencv import cv2

SAMPLES = Path(__file__).parents[1] / "sample_data"
FRAMES = sorted([*(SAMPLES / "ir").glob("*.*"), *(SAMPLES / "vis").glob("*.*")])
SHARED = Path(os.environ.get("FUSECLI_SHARED", SAMPLES.parents[1] / "shared"))  # data that are no part of the package

# Typer builds all commands anew whenever they are called, which takes longer than to fuse a small pair.
typer.main.get_command = functools.cache(typer.main.get_command)


def scene(seed: int, size: tuple[int, int] = (48, 64), color: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random visible image (BGR or gray) and an infrared one with a hot spot, uint8."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3) if color else size
    vis = cv2.GaussianBlur(rng.random(shape, np.float32), (0, 0), 2)
    vis = np.uint8(np.clip((vis - 0.5) * 900 + 110, 0, 255))
    ir = cv2.GaussianBlur(rng.random(size, np.float32), (0, 0), 3)
    ir = np.uint8(np.clip((ir - 0.5) * 900 + 80, 0, 200))
    cv2.circle(ir, (size[1] // 3, size[0] // 2), max(1, min(size) // 8), 250, -1)
    return vis, ir


def frame(path: Path):
    """The luma of a frame as networks see it: a tensor 1×1×H×W in [0, 1]."""
    import torch

    from fusecli.training.data import read_luma

    return torch.from_numpy(read_luma(path)).float()[None, None] / 255


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """After a command line that ran in-process, which sets up the logger of all that follow."""
    yield
    logger = logging.getLogger("fusecli")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def put_pairs(
    root: Path, count: int = 3, size: tuple[int, int] = (48, 64), color: bool = True, ending: str = ".png"
) -> Path:
    """Make ``count`` pairs in root/vis and root/ir and return root."""
    for index in range(count):
        for side, image in zip(("vis", "ir"), scene(index, size, color), strict=True):
            (root / side).mkdir(exist_ok=True)
            cv2.imwrite(str(root / side / f"{index:03d}{ending}"), image)
    return root


@pytest.fixture
def pairs(tmp_path) -> Callable[..., Path]:
    """`put_pairs` in tmp_path."""
    return functools.partial(put_pairs, tmp_path)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def command(root: Path, *more: object) -> list[object]:
    """The command line that fuses the pairs of `put_pairs` into root/out; options in ``more`` replace earlier ones."""
    return ["fuse", "--ir", root / "ir", "--vis", root / "vis", "-o", root / "out", *more]


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths within it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def until(met: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for what other threads or processes do; fails where it takes longer."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.01)


def wait_for_results(process: subprocess.Popen, folder: Path, count: int = 1, seconds: float = 60) -> None:
    """Until so many pictures are in the folder, or the process that writes them has ended."""
    until(lambda: process.poll() is not None or len(list(folder.glob("*.png"))) >= count, f"{count} results", seconds)


@pytest.fixture(scope="session")
def many_pairs(tmp_path_factory) -> Path:
    """Pairs that take a second or so, for what happens meanwhile; nobody changes them."""
    return put_pairs(tmp_path_factory.mktemp("many"), 120, (96, 128))


@pytest.fixture
def fusecli(capfd) -> Callable[..., tuple[int, str, str]]:
    """Run the command line: (exit code, stdout, stderr)."""
    from fusecli.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def on_stdin(monkeypatch) -> Callable[[str], None]:
    """Put a table on stdin; of a process it is the only one."""
    from fusecli.images import pair_table

    def put(table: str) -> None:
        monkeypatch.setattr(pair_table, "_piped", functools.cache(pair_table._text))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table.encode()), encoding="cp1252"))

    return put


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A folder for all examples of a property, which hypothesis gives no ``tmp_path`` of their own."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def head():
    """sample_data/head.py, which makes the phantom."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SAMPLES)
        return importlib.import_module("head")


@pytest.fixture(scope="session")
def average(tmp_path_factory) -> Path:
    """A weight file for every task whose results are the mean of both sources: nano before any training."""
    from fusecli import registry
    from fusecli.models import checkpoint

    path = tmp_path_factory.mktemp("model") / "average.safetensors"
    checkpoint.save(path, checkpoint.build("nano", {}), "nano", {}, list(registry.TASKS))
    return path
