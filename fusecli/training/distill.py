"""Distillation: the student learns to reproduce the teacher's result and features, without text (arXiv 2504.07029)."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecli.errors import UsageError
from fusecli.models.network import FusionNetwork
from fusecli.training.batches import Batch
from fusecli.training.losses import feature_loss

FEATURE = 0.1  # the paper's weight of the feature loss; those of fusion and output loss are 1


class DistillObjective:
    """The student's fusion loss + smooth-L1 to the teacher's result + smooth-L1 between channel-normalised features.

    Features are compared at every scale that both networks have, the teacher's mapped to the student's width by 1×1
    adapters. The adapters are in ``modules`` and so are trained with the student: left out of the optimizer, they would
    stay random and the feature loss would teach noise.
    """

    def __init__(self, teacher: FusionNetwork, student: FusionNetwork, feature: float = FEATURE) -> None:
        self.teacher, self.feature = teacher, feature
        teacher.eval().requires_grad_(False)
        self.about = {"teacher": _digest(teacher), "feature weight": feature}
        if teacher.mends and not student.mends:
            raise UsageError("the teacher wants its sources mended, so the student must: --set model.mend=true")
        self.scales = sorted(set(teacher.feature_channels) & set(student.feature_channels))
        if feature and not self.scales:
            raise UsageError("teacher and student have no feature scale in common")
        self.modules: nn.Module = nn.ModuleList(
            nn.Conv2d(teacher.feature_channels[scale], student.feature_channels[scale], 1) for scale in self.scales
        )

    def __call__(self, network: FusionNetwork, batch: Batch) -> Tensor:
        with torch.no_grad():
            guide = batch.teacher_context if batch.text is None else self.teacher.told(batch.text, batch.look)
            target, taught = self.teacher.with_features(batch.first, batch.second, guide)
        fused, features = network.with_features(batch.first, batch.second, batch.context)
        loss = batch.aimed_by(network).loss(fused) + batch.perception_loss(network) + F.smooth_l1_loss(fused, target)
        if self.feature:
            adapted = [
                adapter(taught[scale]) for adapter, scale in zip(self.modules.children(), self.scales, strict=True)
            ]
            loss = loss + self.feature * feature_loss([features[scale] for scale in self.scales], adapted)
        return loss


def _digest(network: nn.Module) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
