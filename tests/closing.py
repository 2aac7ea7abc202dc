"""Long runs that show what the quick tests cannot; for the close of a piece of work.

python tests/closing.py kills [--times 40]        kill -9 at random moments, resume, compare with an unbroken run
python tests/closing.py long [--pairs 100000]     memory, start and rate over very many tiny pairs
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
from conftest import scene

FUSECLI = [sys.executable, "-m", "fusecli", "fuse"]


def make(root: Path, count: int, size: tuple[int, int]) -> list[str]:
    """``count`` pairs of 64 different scenes; the options that name them."""
    scenes = [[cv2.imencode(".png", image)[1].tobytes() for image in scene(seed, size)] for seed in range(64)]
    for side in ("vis", "ir"):
        (root / side).mkdir(parents=True)
    for index in range(count):
        for side, data in zip(("vis", "ir"), scenes[index % 64], strict=True):
            (root / side / f"{index:06d}.png").write_bytes(data)
    return ["--ir", str(root / "ir"), "--vis", str(root / "vis")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def results(folder: Path) -> list[Path]:
    """What is there under its last name; hidden files are half-written ones, which the next run sweeps away."""
    return [path for path in folder.glob("*.png") if not path.name.startswith(".")]


def kills(root: Path, times: int, seed: int) -> int:
    """Kill a run at random moments until it has been killed ``times`` times; each time the next one resumes it."""
    sides = make(root, 400, (96, 128))
    subprocess.run([*FUSECLI, *sides, "-o", str(root / "whole"), "-q"], check=True)
    whole = contents(root / "whole")
    random_, killed, lost, broken, ended = random.Random(seed), 0, 0, 0, 0
    while killed < times:
        shutil.rmtree(root / "out", ignore_errors=True)
        while True:
            run = subprocess.Popen([*FUSECLI, *sides, "-o", str(root / "out"), "-q", "--skip-existing"])
            if killed < times:
                for _ in range(int(random_.random() < 0.8)):  # most die at work, some while they start
                    limit = time.monotonic() + 60
                    before = len(results(root / "out"))
                    while run.poll() is None and len(results(root / "out")) == before:
                        if time.monotonic() > limit:
                            break
                        time.sleep(0.005)
                time.sleep(random_.random() * 1.5)
            if killed == times or run.poll() is not None:
                if run.wait() != 0:
                    print(f"a resumed run ended with {run.returncode}")
                    return 1
                break
            os.kill(run.pid, signal.SIGKILL)
            killed += run.wait() == -signal.SIGKILL
            for path in results(root / "out"):
                broken += path.read_bytes() != whole[path.name]
        ended += 1
        resumed = contents(root / "out")
        lost += len(whole.keys() - resumed.keys()) + sum(resumed[name] != whole.get(name) for name in resumed)
    print(f"{killed} kills, {ended} runs resumed to their end: {lost} pairs lost or different, {broken} half-written")
    return int(lost + broken > 0)


def resident(pid: int) -> float:
    """MB of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def long(root: Path, count: int) -> int:
    """Very many tiny pairs: when the first result is there, memory from 10,000 pairs on, pairs per second."""
    sides = make(root, count, (64, 64))
    listing = time.monotonic()
    for side in ("vis", "ir"):
        sum(entry.is_file() for entry in os.scandir(root / side))
    listing = time.monotonic() - listing
    began = time.monotonic()
    report = root / "report.json"
    run = subprocess.Popen([*FUSECLI, *sides, "-o", str(root / "out"), "-q", "--report", str(report)])
    first: float | None = None
    samples: list[tuple[int, float]] = []
    while run.poll() is None:
        time.sleep(0.1 if first is None else 5)
        done = sum(1 for _ in os.scandir(root / "out")) if (root / "out").is_dir() else 0
        if first is None and done:
            first = time.monotonic() - began
        if done and run.poll() is None:
            samples.append((done, resident(run.pid)))
            print(f"{done:7d} pairs  {samples[-1][1]:7.1f} MB  {time.monotonic() - began:6.1f} s", flush=True)
    totals = json.loads(report.read_text())["totals"]
    early = next((memory for done, memory in samples if done >= min(10_000, count // 10)), samples[-1][1])
    most = max(memory for done, memory in samples if done >= min(10_000, count // 10))
    print(json.dumps(totals))
    print(
        f"listing {listing:.1f} s, first result after {first or 0:.1f} s (start-up included), {early:.0f} MB at 10,000 "
        f"pairs, {most:.0f} MB at most after (+{100 * (most / early - 1):.1f} %), {totals['pairs_per_second']} pairs/s"
    )
    return int(run.returncode != 0 or most > 1.05 * early)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "long"])
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "kills":
            return kills(Path(folder), options.times, options.seed)
        return long(Path(folder), options.pairs)


if __name__ == "__main__":
    sys.exit(main())
