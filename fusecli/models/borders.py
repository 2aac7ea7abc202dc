"""Images made larger by repeating their edges. A zero border would darken the frame of the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def extend(images: Tensor, width: int) -> Tensor:
    """N×C×H×W with ``width`` pixels more on each side."""
    if not width:
        return images
    if torch.compiler.is_compiling():
        return F.pad(images, (width,) * 4, mode="replicate")
    # Eager padding takes as long as a small convolution.
    rows = torch.cat([images[:, :, :1]] * width + [images] + [images[:, :, -1:]] * width, 2)
    return torch.cat([rows[..., :1]] * width + [rows] + [rows[..., -1:]] * width, 3)


def fill(images: Tensor, cell: int) -> Tensor:
    """N×C×H×W with rows below and columns on the right until both sizes are multiples of ``cell``."""
    missing = (0, -images.shape[-1] % cell, 0, -images.shape[-2] % cell)
    if torch.compiler.is_compiling() or any(missing):  # a graph of any size has to ask when it runs
        return F.pad(images, missing, mode="replicate")
    return images
