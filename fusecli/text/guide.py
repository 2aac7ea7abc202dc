"""Use a teacher outside of training: its text describes what is measured in each pair that it fuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fusecli import registry
from fusecli.models import checkpoint
from fusecli.models.network import FusionNetwork
from fusecli.models.teacher import Teacher
from fusecli.text.describe import describe
from fusecli.text.encode import Remembered, carried_vectors, description_vectors, open_encoder, vector_dim

log = logging.getLogger("fusecli")


def load(model: str, task: str, look: float | None = None) -> FusionNetwork:
    """As `checkpoint.load`; a teacher that reads text comes with the encoder that it was trained with.

    Raises UsageError as `checkpoint.load` does, or if the encoder is missing here.
    """
    network = checkpoint.load(model, task, look)
    if isinstance(network, Teacher) and network.text_dim:
        carried = checkpoint.training_state(Path(model)).get("text", {})
        encoder = open_encoder(carried.get("encoder", "minilm"), vectors=carried_vectors(carried))
        if vector_dim(encoder) == network.text_dim:
            network.describe = describer(encoder, registry.TASKS[task].sides)
        else:
            log.warning("%s: was trained with another text encoder; it is told nothing about the pairs", model)
    return network


def describer(encoder: Remembered, sides: tuple[str, str]) -> Callable[[Tensor, Tensor], Tensor]:
    """Two N×1×H×W luma tensors in [0, 1] -> N×D description vectors of what `describe` measures in them."""

    def vectors(first: Tensor, second: Tensor) -> Tensor:
        images = [side[:, 0].float().cpu().numpy() for side in (first, second)]
        described = [describe(a, b, sides) for a, b in zip(*images, strict=True)]
        return torch.from_numpy(description_vectors(described, encoder)).to(first)

    return vectors
