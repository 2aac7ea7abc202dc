"""`make bench`: pairs per second from file to file, beside the floor that reading and writing the same files sets.

    python -m fusecli.benchmark.speed [--pairs 300] [--repeat 3] [--size 640x480] [--device auto]

Both are timed in turns in one run, since machines drift; the ratio is what to compare.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fusecli import registry
from fusecli.images import frames
from fusecli.images.opencv import cv2
from fusecli.models import checkpoint
from fusecli.stream.engine import Engine

SAMPLED = 40  # pairs for the shares of a single thread


def make_pairs(folder: Path, count: int, width: int, height: int) -> None:
    """``count`` colour + gray PNG pairs: smooth random scenes with sensor noise, none like another."""
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


def fuse_files(folder: Path, device: str) -> float:
    """Seconds of a whole `fusecli fuse` process, start-up included."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = ["fuse", "--ir", folder / "ir", "--vis", folder / "vis", "-o", out, "-d", device, "-q"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fusecli", *map(str, command)], check=True)
    return time.perf_counter() - began


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
    spent: dict[str, list[float]] = {"decode": [], "network": [], "encode": []}

    def timed(stage: str, act: Callable):
        began = time.thread_time()
        result = act()
        spent[stage].append(1000 * (time.thread_time() - began))
        return result

    for path in sorted((folder / "vis").iterdir())[:SAMPLED]:
        files = [folder / side / path.name for side in ("vis", "ir")]
        first, second = (timed("decode", lambda file=file: frames.read(file)[0].pixels) for file in files)
        fused = timed("network", lambda a=first, b=second: engine.fuse(a[None], b[None])[0])
        timed("encode", lambda p=path, f=fused: frames.write(folder / "floor" / p.name, [f]))
    medians = {stage: statistics.median(values) for stage, values in spent.items()}
    return {**medians, "decode": 2 * statistics.mean(spent["decode"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    cv2.setNumThreads(1)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pairs(folder, options.pairs, width, height)
        turns = [(fuse_files(folder, options.device), codec_floor(folder, cores)) for _ in range(options.repeat)]
        engine = Engine(checkpoint.load(registry.DEFAULT_MODEL, "ir-vis"), options.device)
        share = shares(folder, engine)
    ratio = statistics.median(fuse / floor for fuse, floor in turns)
    figures = {
        "pairs": options.pairs,
        "size": options.size,
        "cores": cores,
        "device": str(engine.device),
        "precision": str(engine.precision).removeprefix("torch."),
        "pairs_per_second": round(options.pairs / statistics.median(fuse for fuse, _ in turns), 1),
        "floor_pairs_per_second": round(options.pairs / statistics.median(floor for _, floor in turns), 1),
        "times_the_codec_floor": round(ratio, 2),
        "cpu_ms_per_pair": {stage: round(value, 1) for stage, value in share.items()},
    }
    if options.json:
        print(json.dumps(figures))
        return
    total = sum(share.values())
    where = f"{cores} cores, {figures['device']}, {figures['precision']}"
    print(f"{options.pairs} colour PNG pairs of {options.size}, {where}")
    print(f"  file to file, start-up included  {figures['pairs_per_second']:8.1f} pairs/s")
    print(f"  decode and encode only (OpenCV)  {figures['floor_pairs_per_second']:8.1f} pairs/s")
    print(f"  time against that floor          {ratio:8.2f} ×")
    for stage, value in share.items():
        print(f"  {stage:<8} {value:6.1f} ms CPU per pair {100 * value / total:5.0f} %")


if __name__ == "__main__":
    main()
