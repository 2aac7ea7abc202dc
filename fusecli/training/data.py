"""Pairs for training: whole folders held in memory as 8-bit luma, random scenes made of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusecli import registry
from fusecli.errors import InputError, UsageError, counted, itemized
from fusecli.images import frames
from fusecli.images.atomic import file_hash
from fusecli.images.colour import luma
from fusecli.images.intensity import Intensity, pair_ranges
from fusecli.images.opencv import cv2
from fusecli.images.pair import Pair
from fusecli.images.pairing import find_pairs
from fusecli.machine import cores, thread_pool
from fusecli.training.degrade import brightened
from fusecli.training.looks import blur

LARGEST = 384  # px a side of a scene


@dataclass(frozen=True)
class LumaPair:
    """One pair as uint8 H×W luma; ``key`` is ``task/folder/name`` and unique within a run."""

    key: str
    first: Tensor
    second: Tensor


class UnusableError(UsageError):
    """Pictures that cannot be trained on. reasons: what is wrong with each."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = list(dict.fromkeys(reasons))  # a set may be listed twice
        super().__init__(f"{counted(len(self.reasons), 'fault')} in pictures to train on:{itemized(self.reasons)}")


@dataclass
class PairSet:
    """Pairs of one task held in memory, and ``sha256`` over their names and files for the model card.

    Of files, not pixels, since decoders of JPEG differ in the last bit.
    """

    task: registry.Task
    pairs: list[LumaPair]
    sha256: str

    @classmethod
    def load(cls, task: registry.Task, root: Path, folders: list[str]) -> PairSet:
        """Read ``<root>/<folder>/<side>`` for both sides of the task and every folder.

        Raises UsageError for a missing folder or unmatched names, UnusableError for files that cannot be read and
        sources of different size.
        """
        digest = hashlib.sha256()
        pairs, reasons = [], []
        for folder in folders:
            first, second = sides_of(task, root / folder)
            try:
                found = find_pairs(str(first), str(second), endings=frames.ENDINGS, sides=task.sides)
            except UsageError as error:  # it names options that training does not have
                raise UsageError(
                    f"{error}\nTraining has none of these options: give both files of each pair in "
                    f"{root / folder} the same name, without sub-folders."
                ) from error
            firsts, seconds = [pair.first for pair in found], [pair.second for pair in found]
            ranges = pair_ranges(firsts, seconds, infrared=task.second == "ir")  # as `fuse` will show them
            with thread_pool(cores()) as pool:
                for pair, read in zip(found, pool.map(partial(_read_pair, ranges), found), strict=True):
                    if isinstance(read, list):
                        reasons += read
                        continue
                    a, b = read
                    name = f"{folder}/{pair.name}"
                    whole = name.encode("utf-8", "surrogateescape")  # of a file, so perhaps no UTF-8
                    for part in (whole, *(file_hash(file).encode() for file in pair.files)):
                        digest.update(part)
                    pairs.append(LumaPair(f"{task.name}/{name}", torch.from_numpy(a), torch.from_numpy(b)))
        if reasons:
            raise UnusableError(reasons)
        return cls(task, pairs, digest.hexdigest())

    @cached_property
    def areas(self) -> Tensor:
        """Pixels of each pair."""
        return torch.tensor([pair.first.numel() for pair in self.pairs], dtype=torch.float64)

    @property
    def area(self) -> int:
        """Pixels of all pairs."""
        return int(self.areas.sum())

    def check_patch(self, size: int) -> None:
        """Raise UsageError for patches that would consist mostly of reflections."""
        largest = max((max(pair.first.shape) for pair in self.pairs), default=0)
        if size > 2 * largest:
            raise UsageError(
                f"recipe: patch = {size} is more than twice as large as any picture ({largest} px at most)"
            )

    def scene(self, size: int, generator: torch.Generator) -> tuple[Tensor, str]:
        """One pair as a camera might show it: uint8 2×H×W, H and W at least ``size``, and its key.

        Pairs are drawn in proportion to their pixels, so that large frames do not count less than small ones. The pair
        is flipped, rotated and, in six of ten cases, made smaller at random, down to a half, so that whole scenes vary
        more than the pairs do. Pairs smaller than ``size`` are reflected beyond their border; of large ones a random
        part of at most LARGEST pixels a side is taken.
        """
        pair = self.pairs[int(torch.multinomial(self.areas, 1, generator=generator))]
        planes = torch.stack([pair.first, pair.second])
        zoom, chance = torch.rand(2, generator=generator).tolist()
        least = max(0.5, size / min(planes.shape[1:]))
        if chance < 0.6 and least < 1:
            height, width = (round(length * (least + (1 - least) * zoom)) for length in planes.shape[1:])
            resized = [cv2.resize(plane.numpy(), (width, height), interpolation=cv2.INTER_AREA) for plane in planes]
            planes = torch.from_numpy(np.stack(resized))
        planes = _cut(planes, [max(size, min(LARGEST, length)) for length in planes.shape[1:]], generator)
        turn = int(torch.randint(8, (), generator=generator))
        planes = torch.rot90(planes, turn % 4, (1, 2))
        return (planes.flip(2) if turn >= 4 else planes).contiguous(), pair.key


def sides_of(task: registry.Task, folder: Path) -> tuple[Path, Path]:
    """The folders of both sides of a set. Raises UsageError for a missing one."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; a recipe names folders below the data root")
    first, second = (folder / side for side in task.sides)
    for path in (first, second):
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; a set of {task.name} holds {' and '.join(task.sides)}")
    return first, second


def read_luma(path: Path, intensity: Intensity = None) -> np.ndarray:
    """uint8 H×W luma of an image file's first page; 16-bit and float files by ``intensity`` (see `frames.read`)."""
    frame = frames.read(path, pages=[0], intensity=intensity)[0]
    return np.rint(luma(frame.pixels) * 255).astype(np.uint8)


def _read_pair(ranges: tuple[Intensity, Intensity], pair: Pair) -> tuple[np.ndarray, np.ndarray] | list[str]:
    """Luma of both sides, or the reasons why the pair cannot be trained on."""
    read, reasons = [], []
    for file, intensity in zip(pair.files, ranges, strict=True):
        try:
            read.append(read_luma(file, intensity))
        except InputError as error:
            reasons.append(str(error))
    if reasons:
        return reasons
    a, b = read
    if a.shape != b.shape:
        sizes = f"{a.shape[1]}×{a.shape[0]} and {b.shape[1]}×{b.shape[0]}"
        return [f"{pair.first} and {pair.second}: sizes differ ({sizes}); train on registered pairs"]
    return a, b


def cut_patch(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """C×size×size at a random place of C×H×W; reflected beyond the border where H or W is smaller."""
    return _cut(images, [size, size], generator)


def cut_part(images: Tensor, least: int, generator: torch.Generator) -> Tensor:
    """A random part of C×H×W, 60 % of each side or more, and ``least`` pixels where there are as many."""
    shares = (0.6 + 0.4 * torch.rand(2, generator=generator)).tolist()
    size = [min(max(least, round(x * s)), x) for x, s in zip(images.shape[1:], shares, strict=True)]
    return _cut(images, size, generator)


def within_black(images: Tensor, generator: torch.Generator) -> Tensor:
    """C×H×W with margins of up to a quarter of a side, as where the field of view of a scanner is wider."""
    height, width = images.shape[1:]
    margins = 0.25 * torch.rand(4, generator=generator) * torch.tensor([width, width, height, height])
    return F.pad(images, [round(margin) for margin in margins.tolist()])


def flattened(image: Tensor, contrasts: list[float], generator: torch.Generator) -> Tensor:
    """1×1×H×W with less contrast, around another level. Where both sides are flat, the scene is, which is no fault."""
    share, place = torch.rand(2, generator=generator).tolist()
    contrast = contrasts[0] + (contrasts[1] - contrasts[0]) * share
    low, high = contrast * image.min(), contrast * image.max()
    return contrast * image - low + place * (1 - high + low)


def partly_clipped(image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """1×1×H×W with a part white or black (a blown-out sky, snow, an unlit yard: no fault), and which part, H×W."""
    share, angle, kind, level, following = torch.rand(5, generator=generator).tolist()
    height, width = image.shape[2:]
    down, across = torch.linspace(-0.5, 0.5, height)[:, None], torch.linspace(-0.5, 0.5, width)
    place = math.cos(2 * math.pi * angle) * down + math.sin(2 * math.pi * angle) * across
    white = kind < 0.65
    place = place + following * (image[0, 0] if white else 1 - image[0, 0])  # its border follows what is there
    limit = place.flatten().kthvalue(max(1, round((0.95 - 0.6 * share) * place.numel()))).values
    part = torch.from_numpy(blur((place > limit).float().numpy(), 1.5))
    return image.lerp(torch.tensor(1 - 0.06 * level if white else 0.04 * level), part), part


def saturated(image: Tensor, generator: torch.Generator) -> Tensor:
    """1×1×H×W with up to 40 % of its pixels white, as where a scene exceeds a thermal camera's range: no fault."""
    share = 0.4 * torch.rand(1, 1, 1, 1, generator=generator)
    return brightened(image, share, torch.full_like(share, 1 / 0.6)).clamp(max=1)


def of_another_camera(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """1×1×H×W, with chance ``share`` in another tone curve, gain and sharpness: cameras differ, which is no fault."""
    chance, tone, sharpness, gain = torch.rand(4, generator=generator).tolist()
    if chance >= share:
        return image
    image = image ** math.exp(1.4 * tone - 0.7) * (1 - 0.25 * gain)
    soft = torch.from_numpy(blur(image[0, 0].numpy(), 1.0))[None, None]
    return image.lerp(soft, 0.4 - 1.6 * sharpness).clamp(0, 1)


def shrunk(images: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Both 1×1×H×W shrunk within black and perhaps made faint, as the last slices of a volume show little."""
    size, *faint = torch.rand(3, generator=generator).tolist()
    height, width = images[0].shape[2:]
    small = [max(1, round(length * (0.08 + 0.72 * size))) for length in (height, width)]
    places = zip((height, width), small, strict=True)
    top, left = (int(torch.randint(whole - part + 1, (), generator=generator)) for whole, part in places)
    results = []
    for image, share in zip(images, faint, strict=True):
        result = torch.zeros_like(image)
        resized = cv2.resize(image[0, 0].numpy(), small[::-1], interpolation=cv2.INTER_AREA)
        result[0, 0, top : top + small[0], left : left + small[1]] = torch.from_numpy(resized)
        results.append(result * min(1.0, max(0.0, 2 * share - 0.3)))
    return results


def _cut(images: Tensor, size: list[int], generator: torch.Generator) -> Tensor:
    short = [max(0, want - length) for want, length in zip(size, images.shape[1:], strict=True)]
    if any(short):
        images = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, short[0]), (0, short[1])), mode="symmetric"))
    lengths = zip(size, images.shape[1:], strict=True)
    top, left = (int(torch.randint(length - want + 1, (), generator=generator)) for want, length in lengths)
    return images[:, top : top + size[0], left : left + size[1]]
