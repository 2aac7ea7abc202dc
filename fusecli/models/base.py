"""Base: nano, and a U-Net that restores what its result lacks where the sources are degraded; for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.models import phases
from fusecli.models.borders import extend, fill
from fusecli.models.nano import UNDERSTOOD, Nano, affine, double, perceptron
from fusecli.models.network import Features, FusionNetwork


class Block(nn.Module):
    """x + two 3×3 convolutions, steered in between (feature-wise affine) by a vector that describes the whole pair."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3)
        self.second = nn.Conv2d(width, width, 3)
        self.steer = nn.Linear(told, 2 * width)
        for parameter in self.steer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, told: Tensor) -> Tensor:
        gain, shift = self.steer(told)[..., None, None].chunk(2, 1)
        found = self.first(extend(features, 2))
        found = F.relu_(affine(found, gain, shift))  # under one name: what it was is freed
        return self.second(found).add_(features)


class Base(FusionNetwork):
    """Fuse N×1×H×W luma pairs in [0, 1] as nano does, and restore the result.

    What is added to nano's result comes from residual blocks at half, quarter and eighth resolution (a U-Net) that see
    both sources and that result. They are steered by what nano knows of the pair as a whole: its statistics, the
    degradations it perceives, the look. The training target is nano's result for the undamaged sources (`aim`), so
    where nothing is wrong the result is nano's. Nano itself is not trained. 2.3 million parameters besides nano's.

    ``nano``: the arguments of the `Nano` that it starts from, whose look and mending it shares. ``widths``, ``blocks``:
    features and blocks on the way down (and again on the way up) of each resolution. ``steer``: size of the vector that
    steers. ``narrow``: only detail is added, so that larger parts keep nano's brightness: a few hundred scenes are too
    few to learn how bright a scene should be.
    A constant pair gives a constant result whatever the weights.
    """

    align = 16
    halo = Nano.halo + 144  # blocks 48 + 32 + 16, entry and head 4, bilinear steps 12, means taken off 24, a cell 8
    sees_statistics = True
    starts_from = "nano"
    aims = True

    def __init__(
        self,
        nano: dict[str, Any] | None = None,
        widths: Sequence[int] = (48, 96, 144),
        blocks: Sequence[int] = (2, 2, 3),
        steer: int = 96,
        narrow: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(blocks) != 3 or min(*widths, *blocks, steer) < 1:
            raise ValueError("widths and blocks must be three numbers each, and with steer at least 1")
        self.nano = Nano(**(nano or {})).requires_grad_(False)
        self.mends, self.narrow = self.nano.mends, narrow
        self.widths = tuple(widths)
        fine, middle, coarse = widths
        self.tell = perceptron(UNDERSTOOD, steer, steer)
        self.entry = nn.Conv2d(3 * 4, fine, 3)
        self.down = nn.ModuleList([nn.Conv2d(fine, middle, 2, 2), nn.Conv2d(middle, coarse, 2, 2)])
        self.up = nn.ModuleList([nn.Conv2d(middle, fine, 1), nn.Conv2d(coarse, middle, 1)])
        self.inward, self.outward = (
            nn.ModuleList(
                nn.ModuleList(Block(width, steer) for _ in range(count))
                for width, count in zip(widths[:levels], blocks[:levels], strict=True)
            )
            for levels in (3, 2)
        )
        self.head = nn.Parameter(torch.zeros(4, fine, 3, 3))  # training starts with nano's result
        self.level = nn.Parameter(torch.zeros(1))

    @property
    def look(self) -> float | None:
        """The look of its nano."""
        return self.nano.look

    @look.setter
    def look(self, look: float | None) -> None:
        self.nano.look = look

    @property
    def feature_channels(self) -> dict[int, int]:
        return dict(zip((2, 4, 8), self.widths, strict=True))

    def train(self, mode: bool = True) -> Base:
        super().train(mode)
        self.nano.eval()
        return self

    def start_from(self, source: FusionNetwork) -> None:
        """Take over the weights of a nano, or of another base."""
        (self.nano if isinstance(source, Nano) else self).load_state_dict(source.state_dict())

    def context(self, first: Tensor, second: Tensor, look: Tensor | None = None) -> Tensor:
        return self.nano.context(first, second, look)

    @torch.no_grad()
    def aim(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """Nano's result: for undamaged sources the training target, for others what this network adds to."""
        return self.nano(first, second, context)

    def jittered(self, contexts: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        return self.nano.jittered(contexts, strength, generator)

    def with_features(self, first: Tensor, second: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Features]:
        """(fused, features by scale). Clamped to [0, 1], except in training. ``guide``: the ``context``."""
        context = self.context(first, second) if guide is None else guide
        start = self.aim(first, second, context)
        with torch.autocast(first.device.type, enabled=False):  # few numbers, on which all depends
            told = F.relu(self.tell(self.nano.understood(context)))
        height, width = first.shape[-2:]
        pixels = F.pixel_unshuffle(fill(torch.cat([first, second, start], 1), self.align), 2)
        wider = extend(pixels.contiguous(memory_format=torch.channels_last), 1)
        # Large frames: what is not needed again has no name, so that its memory is free for the next layer.
        levels = [_in_turn(self.inward[0], F.relu_(self.entry(wider)), told)]
        for down, stack in zip(self.down, self.inward[1:], strict=True):
            levels.append(_in_turn(stack, F.relu_(down(levels[-1])), told))
        risen = [levels.pop()]
        for up, stack in zip(reversed(self.up), reversed(self.outward), strict=True):
            risen.append(_in_turn(stack, levels.pop() + double(up(risen[-1])), told))
        added = F.conv2d(extend(risen[-1], 1), phases.alike(self.head), self.level.repeat(4))
        fine = F.pixel_shuffle(added.float(), 2)
        if self.narrow:
            fine = fine - F.interpolate(F.avg_pool2d(fine, self.align), scale_factor=self.align, mode="bilinear")
        fused = start + fine[..., :height, :width]
        return fused if self.training else fused.clamp(0, 1), dict(zip((8, 4, 2), risen, strict=True))


def _in_turn(stack: nn.Module, features: Tensor, told: Tensor) -> Tensor:
    for block in stack.children():
        features = block(features, told)
    return features
