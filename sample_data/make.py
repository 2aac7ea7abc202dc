"""Make sample_data again: `python sample_data/make.py [OUT]` renders every pair from its scene, the same bytes each time.

Both pictures of a pair come from one model of the place (shapes, materials, temperatures, lamps, fog), so they are
registered exactly: the visible one from the light, the infrared one from the warmth.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile
from head import phantom
from render import Scene, detect, develop, render
from scenes import SCENES

HERE = Path(__file__).parent


def save(path: Path, image: np.ndarray) -> None:
    """PNG as small as it gets, or TIFF for counts of a radiometric camera."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, image, compression="zlib", predictor=True, metadata=None)
    else:
        bgr = image[..., ::-1] if image.ndim == 3 else image
        cv2.imwrite(str(path), bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def picture(index: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    """A scene with its visible (uint8 RGB or gray) and infrared (uint8, or uint16 counts of 0.01 K) picture."""
    rng = np.random.default_rng(1000 + index)
    scene = SCENES[index](rng)
    visible, celsius = render(scene)
    return scene, develop(scene, visible, rng), detect(scene, celsius, rng)


def frames(out: Path) -> None:
    """vis/ and ir/: one pair per scene."""
    for index in range(len(SCENES)):
        scene, visible, infrared = picture(index)
        save(out / "vis" / f"{scene.name}.png", visible)
        save(out / "ir" / f"{scene.name}{'.tif' if infrared.dtype == np.uint16 else '.png'}", infrared)


def mistakes(out: Path) -> None:
    """mistakes/: what goes wrong in real folders, beside two pairs that are fine."""
    pairs = {name: [cv2.imread(str(out / side / f"{name}.png"), cv2.IMREAD_UNCHANGED) for side in ("vis", "ir")]
             for name in ("day_street", "night_street")}  # fmt: skip
    folder = out / "mistakes"

    def put(name: str, pair: list[np.ndarray]) -> None:
        for side, image in zip(("vis", "ir"), pair, strict=True):
            small = cv2.resize(image, (120, 90), interpolation=cv2.INTER_AREA)
            save(folder / side / f"{name}.png", small[..., ::-1] if small.ndim == 3 else small)

    for name, pair in pairs.items():
        put(f"good_{name}", pair)
    put("truncated", pairs["day_street"])
    cut = folder / "vis" / "truncated.png"
    cut.write_bytes(cut.read_bytes()[:4000])
    put("wrong_size", pairs["night_street"])
    narrow = cv2.imread(str(folder / "ir" / "wrong_size.png"), cv2.IMREAD_UNCHANGED)[:, :100]
    save(folder / "ir" / "wrong_size.png", narrow)
    put("no_partner", pairs["day_street"])
    (folder / "ir" / "no_partner.png").unlink()
    put("text", pairs["night_street"])
    (folder / "vis" / "text.png").write_text("This is no picture, whatever its name says.\n")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name in ("vis", "ir", "mistakes", "ct", "mr", "pet"):
        shutil.rmtree(out / name, ignore_errors=True)
    frames(out)
    mistakes(out)
    phantom(out)


if __name__ == "__main__":
    main()
