"""Pad images by repeating their edges; a zero border would darken the margin of the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def written_in_place() -> bool:
    """Whether results may be written into existing tensors, which is fastest; gradients and traces need new ones."""
    return not (torch.is_grad_enabled() or torch.jit.is_tracing())


def extend(images: Tensor, width: int) -> Tensor:
    """N×C×H×W with ``width`` pixels more on each side."""
    if torch.jit.is_tracing():
        return F.pad(images, (width,) * 4, mode="replicate")
    # Eager padding takes as long as a small convolution.
    rows = torch.cat([images[:, :, :1]] * width + [images] + [images[:, :, -1:]] * width, 2)
    return torch.cat([rows[..., :1]] * width + [rows] + [rows[..., -1:]] * width, 3)


def extended(act: Callable[..., Tensor], width: int, like: Tensor, channels: int) -> Tensor:
    """``extend(act(), width)``; ``act`` takes ``out`` and gives ``channels`` of the size, type and device of ``like``.

    Where possible ``act`` writes into the extended tensor: one pass over the result instead of four.
    """
    if not written_in_place() or like.device.type == "mps":  # what MPS clamps into a part of a tensor lands beside it
        return extend(act(), width)
    count, _, height, length = like.shape
    shape = (count, channels, height + 2 * width, length + 2 * width)
    wider = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    act(out=inside(wider, width))
    wider[:, :, :width], wider[:, :, -width:] = wider[:, :, width : width + 1], wider[:, :, -width - 1 : -width]
    wider[..., :width], wider[..., -width:] = wider[..., width : width + 1], wider[..., -width - 1 : -width]
    return wider


def inside(wider: Tensor, width: int) -> Tensor:
    """The images that were extended by ``width``, without their borders."""
    return wider[..., width:-width, width:-width]


def fill(images: Tensor, cell: int) -> Tensor:
    """N×C×H×W, padded below and on the right until both sizes are multiples of ``cell``."""
    height, width = images.shape[-2:]
    missing = (0, (width + cell - 1) // cell * cell - width, 0, (height + cell - 1) // cell * cell - height)
    if torch.jit.is_tracing() or any(missing):  # a graph of any size has to ask when it runs
        return F.pad(images, missing, mode="replicate")
    return images
