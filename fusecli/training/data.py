"""Pairs for training: whole folders held in memory as 8-bit luma, random patches cut from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images import frames, pairing
from fusecli.images.colour import luma


@dataclass(frozen=True)
class LumaPair:
    """One pair as uint8 H×W luma; ``key`` is ``folder/name`` and unique within a set."""

    key: str
    first: Tensor
    second: Tensor


@dataclass
class PairSet:
    """Pairs of one task held in memory, and ``sha256`` over their names and pixels for the model card."""

    pairs: list[LumaPair]
    sha256: str

    @classmethod
    def load(cls, task: registry.Task, root: Path, folders: list[str]) -> PairSet:
        """Read ``<root>/<folder>/<side>`` for both sides of the task and every folder.

        Raises UsageError for a missing folder, unmatched names, or sources of different size.
        """
        digest = hashlib.sha256()
        pairs = []
        for folder in folders:
            first, second = (root / folder / side for side in task.sides)
            for pair in pairing.find_pairs(str(first), str(second), endings=frames.ENDINGS):
                a, b = read_luma(pair.first), read_luma(pair.second)
                if a.shape != b.shape:
                    sizes = f"{a.shape[1]}×{a.shape[0]} and {b.shape[1]}×{b.shape[0]}"
                    raise UsageError(
                        f"{pair.first} and {pair.second}: sizes differ ({sizes}); train on registered pairs"
                    )
                key = f"{folder}/{pair.name}"
                for part in (key.encode(), a.tobytes(), b.tobytes()):
                    digest.update(part)
                pairs.append(LumaPair(key, torch.from_numpy(a), torch.from_numpy(b)))
        return cls(pairs, digest.hexdigest())

    @property
    def area(self) -> int:
        """Pixels of all pairs."""
        return sum(pair.first.numel() for pair in self.pairs)

    def patches(self, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """``count`` random patches: two uint8 tensors N×1×size×size, flipped and rotated at random, and their keys.

        Every pixel of every pair is as likely as any other, so that large frames do not count less than small ones.
        Pairs smaller than ``size`` are repeated beyond their border by reflection.
        """
        areas = torch.tensor([pair.first.numel() for pair in self.pairs], dtype=torch.float64)
        chosen = torch.multinomial(areas, count, replacement=True, generator=generator).tolist()
        cuts = [_patch(self.pairs[index], size, generator) for index in chosen]
        first, second = (torch.stack(side).unsqueeze(1) for side in zip(*cuts, strict=True))
        return first, second, [self.pairs[index].key for index in chosen]


def read_luma(path: Path) -> np.ndarray:
    """uint8 H×W luma of an image file's first page; 16-bit and float files by their own range."""
    frame = frames.read(path, pages=[0])[0]
    if frame.pixels.dtype != np.uint8:
        frame = frames.read(path, pages=[0], intensity="frame")[0]
    return np.rint(luma(frame.as_float()) * 255).astype(np.uint8)


def _patch(pair: LumaPair, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    stack = torch.stack([pair.first, pair.second])
    short = [max(0, size - length) for length in stack.shape[1:]]
    if any(short):
        stack = torch.from_numpy(np.pad(stack.numpy(), ((0, 0), (0, short[0]), (0, short[1])), mode="symmetric"))
    corner = [int(torch.randint(length - size + 1, (), generator=generator)) for length in stack.shape[1:]]
    stack = stack[:, corner[0] : corner[0] + size, corner[1] : corner[1] + size]
    turn = int(torch.randint(8, (), generator=generator))
    stack = torch.rot90(stack, turn % 4, (1, 2))
    if turn >= 4:
        stack = stack.flip(2)
    return stack[0], stack[1]
