"""Mutation fuzzing of every reader: files made by libraries are damaged, and what reads them must refuse or cope.

python tests/fuzz.py [--files 20000] [--seed 0] [--only png,tiff,…] [--keep FOLDER]

A file fails the test where the reader crashes, computes for more than 10 s, holds more than 2 GB, or raises anything
but a FusecliError. Readers run in forked processes, so that each failure costs one file; the damaged file is kept.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "sample_data"
MEMORY = 2 * 2**30  # bytes that a reader may hold
SECONDS = 10.0  # of one core
MAX_PIXELS = 2**24  # --max-pixels, as one sets it for files from strangers
BATCH = 200  # files of a process
Seeds = list[tuple[str, bytes]]  # name and content of whole files


# Seeds ---------------------------------------------------------------------------------------------------------------


def _scene() -> tuple:
    import cv2

    vis = cv2.imread(str(SAMPLES / "vis" / "night_street.png"))[40:64, 50:80]
    ir = cv2.imread(str(SAMPLES / "ir" / "night_street.png"), cv2.IMREAD_GRAYSCALE)[40:64, 50:80]
    return vis, ir


def _described(kind: str) -> tuple[str, bytes]:
    """A picture with EXIF, positions among it, profile, XMP and resolution."""
    from PIL import ExifTags, Image, ImageCms

    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 6
    exif.get_ifd(ExifTags.IFD.Exif).update({33434: 0.005, 40962: 30, 40963: 24})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (47.0, 22.0, 1.5)})
    loaded = Image.Exif()
    loaded.load(exif.tobytes())  # else Pillow leaves the positions out of a TIFF
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    options = {"icc_profile": profile, "dpi": (300, 300), "xmp": b'<x:xmpmeta tiff:Orientation="6"/>'}
    Image.fromarray(_scene()[0]).save(buffer, kind, exif=loaded, **options)
    return f"described.{kind}", buffer.getvalue()


def png() -> Seeds:
    import cv2
    from PIL import Image

    vis, ir = _scene()
    images = {"rgb": vis, "gray": ir, "deep": ir.astype("uint16") * 256, "alpha": cv2.cvtColor(vis, cv2.COLOR_BGR2BGRA)}
    seeds = [(f"{name}.png", cv2.imencode(".png", image)[1].tobytes()) for name, image in images.items()]
    for mode in ("P", "1", "LA"):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(vis).convert("L" if mode == "LA" else "RGB").convert(mode).save(buffer, "png", exif=exif)
        seeds.append((f"{mode}.png", buffer.getvalue()))
    return [*seeds, _described("png")]


def jpeg() -> Seeds:
    import cv2
    from PIL import Image

    vis, ir = _scene()
    seeds = [("rgb.jpg", cv2.imencode(".jpg", vis)[1].tobytes()), ("gray.jpg", cv2.imencode(".jpg", ir)[1].tobytes())]
    for options in ({"progressive": True}, {"restart_marker_rows": 1}):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[274] = 8
        Image.fromarray(vis).save(buffer, "jpeg", exif=exif, **options)
        seeds.append((f"{next(iter(options))}.jpg", buffer.getvalue()))
    return [*seeds, _described("jpeg")]


def other_pictures() -> Seeds:
    import cv2

    vis, ir = _scene()
    return [(f"a{ending}", cv2.imencode(ending, vis)[1].tobytes()) for ending in (".webp", ".bmp", ".ppm")] + [
        ("b.pgm", cv2.imencode(".pgm", ir)[1].tobytes()),
        _described("webp"),
    ]


def tiff() -> Seeds:
    import numpy as np
    import tifffile

    vis, ir = _scene()
    variants = {
        "plain": (ir, {}),
        "rgb": (vis, {"photometric": "rgb"}),
        "zlib": (ir.astype(np.uint16) * 200, {"compression": "zlib", "predictor": True}),
        "float": (ir.astype(np.float32) / 255, {}),
        "pages": (np.stack([ir, ir[::-1], ir]), {"photometric": "minisblack", "metadata": None}),
        "tiles": (np.tile(vis, (3, 3, 1)), {"tile": (32, 32), "photometric": "rgb"}),
        "big": (ir, {"bigtiff": True}),
        "other-order": (ir.astype(np.uint16), {"byteorder": ">"}),
        "palette": (ir, {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)}),
        "planes": (np.moveaxis(vis, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    }
    for compression in ("lzw", "jpeg", "packbits"):
        variants[compression] = (vis, {"compression": compression, "photometric": "rgb"})
    seeds = []
    for name, (array, options) in variants.items():
        buffer = io.BytesIO()
        order = {"bigtiff": options.pop("bigtiff", False), "byteorder": options.pop("byteorder", "<")}
        try:
            tifffile.imwrite(buffer, array, **order, **options)
        except (ImportError, KeyError):  # without imagecodecs
            continue
        seeds.append((f"{name}.tif", buffer.getvalue()))
    return [*seeds, _described("tiff")]


def dicom() -> Seeds:
    import pydicom

    seeds = []
    for index in (0, 1, 2):
        data = pydicom.dcmread(SAMPLES / "ct" / f"{index:03d}.dcm")
        data.PixelData = data.pixel_array[40:56, 40:56].tobytes()
        data.Rows = data.Columns = 16
        buffer = io.BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        seeds.append((f"{index:03d}.dcm", buffer.getvalue()))
    return seeds


def nifti() -> Seeds:
    import nibabel as nib
    import numpy as np

    head = nib.load(SAMPLES / "mr" / "head.nii.gz")
    small = np.asanyarray(head.dataobj)[20:34, 20:36, 4:8]
    rgb = np.zeros(small.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    kinds = {
        "one": nib.Nifti1Image(small.astype(np.int16), head.affine),
        "two": nib.Nifti2Image(small.astype(np.float32), head.affine),
        "four": nib.Nifti1Image(np.stack([small] * 2, -1).astype(np.uint8), head.affine),
        "rgb": nib.Nifti1Image(rgb, head.affine),
    }
    seeds = [(f"{name}.nii", image.to_bytes()) for name, image in kinds.items()]
    return [*seeds, ("packed.nii.gz", gzip.compress(seeds[0][1]))]


def weights() -> Seeds:
    import torch

    from fusecli.models import checkpoint

    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint.build("nano", {})
        path = Path(folder) / "a.safetensors"
        checkpoint.save(path, model, "nano", {}, ["ir-vis"])
        seeds.append(("a.safetensors", path.read_bytes()))
    buffer = io.BytesIO()
    state = {"architecture": "nano", "config": {}, "tasks": ["ir-vis"], "model": model.state_dict()}
    torch.save(state, buffer)
    seeds.append(("a.pt", buffer.getvalue()))
    return seeds


def texts() -> Seeds:
    record = {
        "name": "night/0001",
        "first": "vis/0001.png",
        "second": "ir/0001.png",
        "events": [{"type": "low light", "side": "vis", "severity": 0.5}],
        "sentences": {"vis": "The visible image is dark.", "ir": "The infrared image is fine."},
        "backend": "measure",
    }
    lines = "\n".join(json.dumps({**record, "name": f"{i}", "events": []}) for i in range(3)) + "\n"
    table = "vis,ir,name\n" + "".join(f"a{i}.png,b{i}.png,night/{i}\n" for i in range(4))
    recipe = (
        'architecture = "nano"\nsteps = 200\nlr = 1e-3\npatch = 64\n[train]\nir-vis = ["sets/a", "sets/b"]\n'
        "[val]\nir-vis = []\n[model]\nwidth = 8\n[loss]\ngrad = 10.0\n"
    )
    return [
        *(("a.jsonl", text.encode()) for text in (lines, json.dumps(record) + "\n")),
        *(("a.csv", text.encode()) for text in (table, table.replace(",", ";"), "\ufeff" + table)),
        ("a.toml", recipe.encode()),
    ]


# Readers -------------------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> None:
    """What `fuse` does with a picture: header, range of the sequence, pixels, metadata."""
    import numpy as np

    from fusecli.images import decode, frames, intensity

    decode.peek(path)
    range_ = intensity.sequence_range("auto", [path])
    intensity.visible_range([path])
    for frame in frames.read(path, intensity=range_, max_pixels=MAX_PIXELS):
        assert frame.pixels.ndim in (2, 3)
        assert frame.pixels.dtype in (np.uint8, np.float32)
        assert np.isfinite(frame.pixels).all()
        for ending in (".png", ".jpg", ".webp", ".tif"):
            result = path.parent / f"result{ending}"
            frames.write(result, [np.zeros((3, 5, 3), np.uint8)], metadata=[frame.metadata])
            assert frames.read(result)[0].size == (3, 5)


def read_volume(path: Path) -> None:
    """What `fuse` does with a volume: find, plan, read, what is shown of it. DICOM: with undamaged slices beside it."""
    from fusecli import registry
    from fusecli.images.volume import shown_range
    from fusecli.stream import volume_jobs, volume_pairs
    from fusecli.stream.plan import Naming

    typed = path.parent if path.suffix == ".dcm" else path
    task = registry.TASKS["ct-mri"]
    first = None if typed.is_dir() else "0"
    pairs = volume_pairs.find((str(typed), str(typed)), task, volume=first, max_voxels=MAX_PIXELS) or []
    for pair in pairs:
        for side in pair.inputs:
            volume = side.read()
            shown_range(volume, side.side, None).apply(volume.voxels)
    volume_jobs.plan(pairs, path.parent.parent / "out", Naming())  # last, since it refuses one volume on both sides


def read_weights(path: Path) -> None:
    """What `fuse -m` and `distill --teacher` do."""
    import numpy as np

    from fusecli.models import checkpoint
    from fusecli.stream.engine import Engine

    checkpoint.training_state(path)
    engine = Engine(checkpoint.load(str(path), "ir-vis"), "cpu")
    engine.fuse(np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8))


def read_text(path: Path) -> None:
    """Descriptions, tables of pairs, recipes."""
    from fusecli.images import frames, pairing
    from fusecli.text import record
    from fusecli.training.recipe import Recipe

    if path.suffix == ".jsonl":
        record.load(path)
        with record.Appender(path):
            pass
    elif path.suffix == ".csv":
        for side in ("a", "b"):
            for i in range(4):
                (path.parent / f"{side}{i}.png").touch()
        for pair in pairing.find_pairs(
            "", "", pairing.Pairing(pairs_csv=path), endings=frames.ENDINGS, sides=("vis", "ir")
        ):
            inside = (path.parent / "out" / f"{pair.name}.png").resolve()
            assert inside.is_relative_to((path.parent / "out").resolve()), pair.name
    else:
        Recipe.read(path)


def run_command(path: Path) -> None:
    """The whole command on a picture: an exit code that is documented, and no traceback."""
    from fusecli.cli import main

    out = path.parent / "out.tif"
    code = main(["fuse", "--ir", str(path), "--vis", str(path.with_name("same" + path.suffix)), "-o", str(out), "-q"])
    assert code in (0, 1, 2, 8), code


@dataclass(frozen=True)
class Target:
    seeds: Callable[[], Seeds]
    read: Callable[[Path], None]
    share: int  # of the files


TARGETS = {
    "png": Target(png, read_picture, 4),
    "tiff": Target(tiff, read_picture, 6),
    "jpeg": Target(jpeg, read_picture, 3),
    "pictures": Target(other_pictures, read_picture, 2),
    "dicom": Target(dicom, read_volume, 6),
    "nifti": Target(nifti, read_volume, 4),
    "weights": Target(weights, read_weights, 3),
    "text": Target(texts, read_text, 4),
}


# Mutations -----------------------------------------------------------------------------------------------------------

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    4096,
    32767,
    32768,
    60000,
    65535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_TOKENS = (
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b";",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"../",
    b"/",
    b"\\",
    b"=",
    b"nan",
    b"1e999",
)
_WORDS = (
    b"null",
    b"true",
    b"-1",
    b"[" * 2000,
    b"9" * 5000,
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"inf",
    b"{}",
    b"0x",
    b"\\ud800",
    b"..",
)


def mutate(name: str, data: bytes, others: Seeds, dice: random.Random) -> bytes:
    """A damaged copy; check sums and compression are put right now and then, so that the damage gets deeper."""
    if name.endswith(".gz") and dice.random() < 0.7:
        return gzip.compress(_damage(gzip.decompress(data), others, dice, False), 1)
    if name.endswith(".pt") and dice.random() < 0.7:
        return _in_zip(data, dice)
    damaged = _damage(data, others, dice, name.endswith((".jsonl", ".csv", ".toml", ".safetensors")))
    return _mend_png(damaged) if name.endswith(".png") and dice.random() < 0.7 else damaged


def _damage(data: bytes, others: Seeds, dice: random.Random, text: bool) -> bytes:
    out = bytearray(data)
    # Headers lie at the start (TIFF's, where its first bytes say): damage there is of more interest than in pixels.
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        reach = max(1, dice.choice((32, 512, len(out))))
        at = min(dice.randrange(reach), max(0, len(out) - 1))
        if dice.random() < 0.25:
            at = max(0, len(out) - 1 - at)
        kind = dice.randrange(9 if text else 7)
        if kind == 0 and out:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and out:
            out[at] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
        elif kind == 2:
            layout = dice.choice(("<H", ">H", "<I", ">I", "<Q", ">d"))
            value = dice.choice(_NUMBERS)
            size = struct.calcsize(layout)
            value = float(value) if layout[1] == "d" else value % 256**size
            out[at : at + size] = struct.pack(layout, value)
        elif kind == 3:
            del out[at : at + dice.choice((1, 4, 64, len(out)))]
        elif kind == 4:
            out[at:at] = out[at : at + dice.choice((1, 4, 64, 4000))]
        elif kind == 5:
            out[at:at] = dice.randbytes(dice.choice((1, 4, 64)))
        elif kind == 6:
            other = dice.choice(others)[1]
            start = dice.randrange(len(other))
            out[at : at + 64] = other[start : start + dice.choice((8, 64, 4096))]
        elif kind == 7:
            out[at : at + dice.choice((0, 1, 4))] = dice.choice(_TOKENS)
        else:
            out[at : at + dice.choice((0, 1, 4))] = dice.choice(_WORDS)
    return bytes(out)


def _mend_png(data: bytes) -> bytes:
    """The same with right check sums, as far as there are chunks."""
    out, position = bytearray(data), 8
    while position + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, position)
        end = position + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[position + 4 : end]))
        position = end + 4
    return bytes(out)


def _in_zip(data: bytes, dice: random.Random) -> bytes:
    """The archive with one member damaged and its check sum right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = source.namelist()
        chosen = (
            next(name for name in names if name.endswith("data.pkl")) if dice.random() < 0.8 else dice.choice(names)
        )
        for name in names:
            content = source.read(name)
            target.writestr(name, _damage(content, [("", content or b"0")], dice, False) if name == chosen else content)
    return buffer.getvalue()


# Running -------------------------------------------------------------------------------------------------------------


def case(seeds: Seeds, number: int, seed: int) -> tuple[str, bytes, random.Random]:
    """The damaged file of that number: the same in every run."""
    dice = random.Random(f"{seed}-{number}")
    name, data = dice.choice(seeds)
    return name, mutate(name, data, seeds, dice), dice


def _examine(target: Target, seeds: Seeds, number: int, seed: int, root: Path) -> str | None:
    """Read one damaged file; why that failed the test, if it did."""
    from fusecli.errors import FusecliError

    folder = root / "case"
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True)
    name, data, dice = case(seeds, number, seed)
    path = folder / name
    if name.endswith(".dcm"):
        for other, content in seeds:
            (folder / other).write_bytes(content)
    path.write_bytes(data)
    read = target.read
    if read is read_picture and dice.random() < 0.05:
        shutil.copy(path, path.with_name("same" + path.suffix))
        read = run_command
    try:
        read(path)
    except FusecliError:
        pass
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        inner = [frame for frame in place if "fusecli" in frame.filename] or place
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(inner[-1].filename).name}:{inner[-1].lineno})"
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"held {held >> 20} MB" if held > MEMORY else None


def _worker(target: Target, seeds: Seeds, numbers: list[int], seed: int, root: Path, pipe: int) -> None:
    """In a forked process: one line per file as it begins, and one per failure."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY + 2**30,) * 2)  # spares the machine; the test is what is held
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("ignore")
    for number in numbers:
        os.write(pipe, f"{number}\n".encode())
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its default action ends the process
        signal.alarm(90)
        reason = _examine(target, seeds, number, seed, root)
        if reason:
            os.write(pipe, f"{number} {reason}\n".replace("\0", "?").encode("utf-8", "replace"))
            if reason.startswith("held"):
                break
    os._exit(0)


def _batch(target: Target, seeds: Seeds, numbers: list[int], seed: int, root: Path) -> dict[int, str]:
    """Failures among the files of these numbers."""
    failures: dict[int, str] = {}
    left = list(numbers)
    while left:
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(receive)
                _worker(target, seeds, left, seed, root, send)
            finally:
                os._exit(1)
        os.close(send)
        with open(receive, encoding="utf-8", errors="replace") as pipe:
            lines = [line.rstrip("\n").partition(" ") for line in pipe]
        _, status = os.waitpid(child, 0)
        last = left[0]
        for text, _, reason in lines:
            if text.isdecimal():
                last = int(text)
                if reason:
                    failures[last] = reason
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            hang = number in (signal.SIGPROF, signal.SIGALRM)
            failures[last] = f"more than {SECONDS:.0f} s" if hang else f"crash: {signal.Signals(number).name}"
        elif os.WEXITSTATUS(status):
            failures.setdefault(last, f"the process ended with {os.WEXITSTATUS(status)}")
        left = [number for number in left if number > last]
    return failures


def run(files: int, seed: int, only: list[str], keep: Path | None = None, tell: bool = True) -> dict[str, str]:
    """Failures by file, among ``files`` damaged ones of all targets together."""
    import torch  # loaded once, before the forks

    from fusecli.stream import engine, run, volume_jobs  # noqa: F401
    from fusecli.training import recipe  # noqa: F401

    torch.set_num_threads(1)
    os.environ["FUSECLI_MAX_PIXELS"] = str(MAX_PIXELS)
    total = sum(TARGETS[name].share for name in only)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only:
            target = TARGETS[name]
            seeds = target.seeds()
            count = max(1, round(files * target.share / total))
            began = time.monotonic()
            reasons = Counter[str]()
            for start in range(0, count, BATCH):
                numbers = list(range(start, min(start + BATCH, count)))
                for number, reason in _batch(target, seeds, numbers, seed, Path(folder) / "work").items():
                    reasons[reason] += 1
                    found[f"{name}-{number}"] = reason
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        file, data, _ = case(seeds, number, seed)
                        (keep / f"{name}-{number}-{file}").write_bytes(data)
            if tell:
                print(f"{name:10s} {count:6d} files  {time.monotonic() - began:6.1f} s  {reasons.total()} failures")
                for reason, times in reasons.most_common(20):
                    print(f"{times:8d} × {reason}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    options = parser.parse_args()
    failures = run(options.files, options.seed, options.only.split(","), options.keep)
    for file, reason in list(failures.items())[:50]:
        print(f"{file}: {reason}")
    print(f"{options.files} damaged files: {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
