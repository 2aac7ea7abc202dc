"""`make bench`: pairs per second from file to file, beside the floor that reading and writing the same files sets.

    python -m fusecli.benchmark.speed [--pairs 300] [--repeat 3] [--size 640x480] [--device auto] [--engine auto …]

All are timed in turns in one run, since machines drift; the ratio is what to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fusecli import registry
from fusecli.images import frames
from fusecli.images.opencv import cv2
from fusecli.machine import cores
from fusecli.stream.engine import Engine
from fusecli.stream.work import EngineSpec

SAMPLED = 40  # pairs whose stages are timed on a single thread


def make_pairs(folder: Path, count: int, width: int, height: int) -> None:
    """Write ``count`` colour + gray PNG pairs: smooth random scenes with sensor noise, all different."""
    rng = np.random.default_rng(0)
    for side in ("vis", "ir"):
        (folder / side).mkdir(parents=True)
    for index in range(count):
        scene = np.zeros((height, width, 4), np.float32)
        for scale in (8, 40, 160):
            coarse = rng.random((height // scale + 2, width // scale + 2, 4), np.float32)
            scene += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * scale
        scene = (scene - scene.min()) / np.ptp(scene) * 235 + rng.normal(0, 2, scene.shape) + 8
        image = np.clip(scene, 0, 255).astype(np.uint8)
        frames.write(folder / "vis" / f"{index:05d}.png", [image[..., :3]])
        frames.write(folder / "ir" / f"{index:05d}.png", [image[..., 3]])


class Spent(NamedTuple):
    """Wall and CPU seconds of a process; the latter 0 on Windows, which does not tell."""

    wall: float
    cpu: float


def fuse_files(folder: Path, device: str, engine: str) -> Spent:
    """Time a whole `fusecli fuse` process, start-up included."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = ["fuse", "--ir", folder / "ir", "--vis", folder / "vis", "-o", out]
    command += ["-d", device, "--engine", engine, "-q"]
    began, used = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "fusecli", *map(str, command)], check=True)
    wall, now = time.perf_counter() - began, os.times()
    return Spent(wall, now.children_user + now.children_system - used.children_user - used.children_system)


def codec_floor(folder: Path, threads: int) -> float:
    """Seconds to decode both sides and encode the visible one with OpenCV (PNG level 1), nothing in between."""
    out = folder / "floor"
    out.mkdir(exist_ok=True)

    def copy(path: Path) -> None:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None, path
        cv2.imread(str(folder / "ir" / path.name), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(out / path.name), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(copy, sorted((folder / "vis").iterdir())))
    return time.perf_counter() - began


def shares(folder: Path, engine: Engine) -> dict[str, float]:
    """CPU milliseconds per pair on one thread: decode, network (with its luma and colour), encode."""
    torch.set_num_threads(1)
    marks = []
    for path in sorted((folder / "vis").iterdir())[:SAMPLED]:
        began = time.process_time()
        first, second = (frames.read(folder / side / path.name)[0].pixels for side in ("vis", "ir"))
        decoded = time.process_time()
        fused = engine.fuse(first[None], second[None])[0]
        computed = time.process_time()
        frames.write(folder / "floor" / path.name, [fused])
        marks.append((began, decoded, computed, time.process_time()))
    medians = np.median(np.diff(marks), 0) * 1000
    return {
        stage: round(value, 1) for stage, value in zip(("decode", "network", "encode"), medians.tolist(), strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", nargs="+", default=["auto"])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    cv2.setNumThreads(1)
    count = cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pairs(folder, options.pairs, width, height)
        floors, turns = [], []
        for _ in range(options.repeat):
            floors.append(codec_floor(folder, count))
            turns.append([fuse_files(folder, options.device, engine) for engine in options.engine])
        engines = [
            EngineSpec(registry.DEFAULT_MODEL, "ir-vis", device=options.device, runtime=each).build()
            for each in options.engine
        ]
        found = [
            _figures(options.pairs, count, engine, spent, floors) | {"cpu_ms_per_pair": shares(folder, engine)}
            for engine, spent in zip(engines, zip(*turns, strict=True), strict=True)
        ]
    figures = {
        "pairs": options.pairs,
        "size": options.size,
        "cores": count,
        "floor_pairs_per_second": round(options.pairs / statistics.median(floors), 1),
        "engines": found,
    }
    print(json.dumps(figures)) if options.json else _show(figures)


def _figures(
    pairs: int, count: int, engine: Engine, spent: Sequence[Spent], floors: Sequence[float]
) -> dict[str, object]:
    idle = [max(0.0, 1 - each.cpu / each.wall / count) for each in spent if each.cpu]
    return {
        "engine": engine.runtime,
        "device": str(engine.device),
        "precision": engine.precision,
        "pairs_per_second": round(pairs / statistics.median(each.wall for each in spent), 1),
        "times_the_codec_floor": round(
            statistics.median(each.wall / floor for each, floor in zip(spent, floors, strict=True)), 2
        ),
        "idle_share": round(statistics.median(idle), 3) if idle else None,
    }


def _show(figures: dict[str, Any]) -> None:
    print(f"{figures['pairs']} colour PNG pairs of {figures['size']}, {figures['cores']} cores")
    print(f"  decode and encode only (OpenCV)  {figures['floor_pairs_per_second']:8.1f} pairs/s")
    for one in figures["engines"]:
        print(f"{one['engine']}, {one['device']}, {one['precision']}")
        print(f"  file to file, start-up included  {one['pairs_per_second']:8.1f} pairs/s")
        print(f"  time against the codecs alone    {one['times_the_codec_floor']:8.2f} times")
        if one["idle_share"] is not None:
            print(f"  cores idle or used by others     {100 * one['idle_share']:8.0f} %")
        total = sum(one["cpu_ms_per_pair"].values())
        for stage, value in one["cpu_ms_per_pair"].items():
            print(f"  {stage:<8} {value:6.1f} ms CPU per pair {100 * value / total:5.0f} %")


if __name__ == "__main__":
    main()
