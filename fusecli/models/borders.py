"""Images made larger by repeating their edges. A zero border would darken the frame of the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def written_in_place() -> bool:
    """Whether results may be written to where they belong, which is quickest; gradients and graphs want new tensors."""
    return not (torch.is_grad_enabled() or torch.jit.is_tracing())


def extend(images: Tensor, width: int) -> Tensor:
    """N×C×H×W with ``width`` pixels more on each side."""
    if torch.jit.is_tracing():
        return F.pad(images, (width,) * 4, mode="replicate")
    # Eager padding takes as long as a small convolution.
    rows = torch.cat([images[:, :, :1]] * width + [images] + [images[:, :, -1:]] * width, 2)
    return torch.cat([rows[..., :1]] * width + [rows] + [rows[..., -1:]] * width, 3)


def extended(act: Callable[..., Tensor], width: int, like: Tensor, channels: int) -> Tensor:
    """``extend(act(), width)`` for an act that takes ``out`` and gives ``channels`` of H×W, type and place of ``like``.

    Written to where it belongs, if it may be: one pass over the result and not four.
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
    """The images that were made larger by ``width``."""
    return wider[..., width:-width, width:-width]


def fill(images: Tensor, cell: int) -> Tensor:
    """N×C×H×W with rows below and columns on the right until both sizes are multiples of ``cell``."""
    height, width = images.shape[-2:]
    missing = (0, (width + cell - 1) // cell * cell - width, 0, (height + cell - 1) // cell * cell - height)
    if torch.jit.is_tracing() or any(missing):  # a graph of any size has to ask when it runs
        return F.pad(images, missing, mode="replicate")
    return images
