"""The one training loop, for teachers and students alike: resumable, averaged weights, validated, logged as CSV."""

from __future__ import annotations

import copy
import csv
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fusecli import __version__
from fusecli.errors import FusecliError, UsageError
from fusecli.models import checkpoint
from fusecli.training.data import PairSet
from fusecli.training.losses import fusion_loss
from fusecli.training.recipe import Recipe
from fusecli.training.validate import contact_sheet, score, validate

log = logging.getLogger("fusecli.training")


@dataclass
class Batch:
    """Patches as the network sees them (possibly degraded) and as the loss wants them (clean), N×1×H×W in [0, 1]."""

    first: Tensor
    second: Tensor
    clean_first: Tensor
    clean_second: Tensor
    weights: Tensor  # N×4, see LossWeights
    text: Tensor | None = None  # N×D description vectors, for models that read text


class Objective(Protocol):
    """What a step minimises. ``modules`` are trained along with the network (feature adapters, say)."""

    modules: nn.Module

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor: ...


class FusionObjective:
    """The fusion loss alone."""

    def __init__(self) -> None:
        self.modules = nn.Module()

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        fused = (
            network(batch.first, batch.second) if batch.text is None else network(batch.first, batch.second, batch.text)
        )
        return fusion_loss(fused, batch.clean_first, batch.clean_second, batch.weights).mean()


class Batches:
    """Batches of a recipe, a pure function of (seed, step, rank): a resumed run draws what an unbroken one would."""

    def __init__(self, recipe: Recipe, data: PairSet, rank: int = 0) -> None:
        self.recipe, self.data, self.rank = recipe, data, rank
        self.weights = recipe.loss.tensor()

    def __call__(self, step: int, device: torch.device) -> Batch:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step * 257 + self.rank)
        first, second, _ = self.data.patches(self.recipe.batch, self.recipe.patch, generator)
        first, second = (side.to(device, non_blocking=True).float() / 255 for side in (first, second))
        weights = self.weights.expand(self.recipe.batch, -1).to(device)
        return Batch(first, second, first, second, weights)


class Run:
    """One training run in a folder: ``last.pt`` to resume from, ``best.pt``, ``log.csv``."""

    def __init__(self, recipe: Recipe, out: Path, *, device: torch.device, objective: Objective | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, device
        self.objective = objective or FusionObjective()
        self.network = checkpoint.build(recipe.architecture, recipe.model).to(device, memory_format=torch.channels_last)
        self.objective.modules.to(device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        parameters = [*self.network.parameters(), *self.objective.modules.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.step = 0
        self.best = -math.inf

    # -- state ---------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; plain containers and tensors, so that ``weights_only=True`` reads it."""
        return {
            "fusecli": __version__,
            "architecture": self.recipe.architecture,
            "config": self.recipe.model,
            "tasks": self.recipe.tasks,
            "model": self.average.state_dict(),
            "recipe": self.recipe.as_dict(),
            "network": self.network.state_dict(),
            "objective": self.objective.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
        }

    def save(self, name: str) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        path, partial = self.out / name, self.out / f".{name}.partial"
        torch.save(self.state(), partial)
        os.replace(partial, path)
        return path

    def resume(self) -> bool:
        """Take up ``last.pt`` if there is one. Raises UsageError if it belongs to another recipe."""
        path = self.out / "last.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.as_dict():
            changed = [key for key, value in self.recipe.as_dict().items() if state["recipe"].get(key) != value]
            raise UsageError(f"{path}: made with another {', '.join(changed)}; use a new folder or the old recipe")
        self.average.load_state_dict(state["model"])
        self.network.load_state_dict(state["network"])
        self.objective.modules.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        return True

    # -- steps ---------------------------------------------------------------------------------------------------
    def rate(self, step: int) -> float:
        """Learning rate: linear rise over the first 2 % of the steps, then a cosine from ``lr`` to ``lr_end``."""
        recipe = self.recipe
        rise = max(1, recipe.steps // 50)
        if step < rise:
            return recipe.lr * (step + 1) / rise
        progress = (step - rise) / max(1, recipe.steps - rise)
        return recipe.lr_end + (recipe.lr - recipe.lr_end) * (1 + math.cos(math.pi * progress)) / 2

    def train_step(self, batch: Batch) -> float:
        """One update; returns the loss. Raises FusecliError, weights untouched, if the loss is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.objective(self.network, batch)
        if not torch.isfinite(loss):
            raise FusecliError(f"step {self.step}: the loss is {loss.item()}; last.pt holds the last good weights")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.item()

    # -- the run -------------------------------------------------------------------------------------------------
    def fit(
        self, batches: Batches, val: dict[str, PairSet], progress: Callable[[int, float], None] | None = None
    ) -> Path:
        """Train to the recipe's last step; returns the path of the best weights (the last ones without ``val``)."""
        recipe = self.recipe
        losses: list[float] = []
        while self.step < recipe.steps:
            losses.append(self.train_step(batches(self.step, self.device)))
            if progress:
                progress(self.step, losses[-1])
            if self.step % recipe.val_every == 0 or self.step == recipe.steps:
                self._validate(val, sum(losses) / len(losses))
                losses.clear()
                self.save("last.pt")
        return self.out / ("best.pt" if val else "last.pt")

    def _validate(self, val: dict[str, PairSet], loss: float) -> None:
        row: dict[str, float] = {"step": self.step, "loss": round(loss, 5), "rate": self.rate(self.step)}
        if val:
            results = validate(self.average, val, self.device)
            row |= {f"{name}/{metric}": value for name, values in results.items() for metric, value in values.items()}
            row["score"] = score(results)
            contact_sheet(self.average, val, self.device, self.out / "contact.png")
            if row["score"] > self.best:
                self.best = row["score"]
                self.save("best.pt")
        path = self.out / "log.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        log.info(
            "step %d: %s", self.step, ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "step")
        )
