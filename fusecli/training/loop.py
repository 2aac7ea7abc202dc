"""The one training loop, for teachers and students alike: resumable, averaged weights, validated, logged as CSV."""

from __future__ import annotations

import copy
import io
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusecli import __version__, registry
from fusecli.errors import FusecliError, Stopped, UsageError
from fusecli.images.atomic import sweep, write_bytes
from fusecli.images.preview import contact_sheet
from fusecli.machine import out_of_memory
from fusecli.models import checkpoint
from fusecli.models.network import FusionNetwork
from fusecli.models.teacher import Teacher
from fusecli.stream.stop import Stop
from fusecli.text.encode import carried_vectors
from fusecli.text.guide import describer
from fusecli.training import csv_log
from fusecli.training.batches import Batch, Batches
from fusecli.training.data import PairSet
from fusecli.training.recipe import Recipe
from fusecli.training.replay import replayed
from fusecli.training.texts import Texts
from fusecli.training.validate import score, validate

log = logging.getLogger("fusecli.training")


# In a run's folder: the state to resume from, the weights with the best score, and a row for each validation.
LAST, BEST, LOG = "last.pt", "best.pt", "log.csv"
SAVE_SECONDS = 300  # of work that a killed run loses at most
WHITENING_BATCHES = 100  # whose contexts `FusionNetwork.fit_whitening` gets


class Objective(Protocol):
    """What a step minimises. ``modules`` are trained along with the network (feature adapters, say).

    about: what it depends on besides the recipe, in plain values; a run is resumed only with the same.
    """

    modules: nn.Module
    about: dict[str, Any]

    def __call__(self, network: FusionNetwork, batch: Batch) -> Tensor: ...


class FusionObjective:
    """The fusion loss alone."""

    def __init__(self) -> None:
        self.modules = nn.Module()
        self.about: dict[str, Any] = {}

    def __call__(self, network: FusionNetwork, batch: Batch) -> Tensor:
        guide = batch.context if batch.text is None else network.told(batch.text, batch.look)
        fused, _ = network.with_features(batch.first, batch.second, guide)
        return batch.aimed_by(network).loss(fused) + batch.perception_loss(network)


class Run:
    """One training run in a folder: ``last.pt`` to resume from, ``best.pt``, ``log.csv``, ``contact.png``."""

    def __init__(self, recipe: Recipe, out: Path, *, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, device
        self.model = self._model()
        self.network = checkpoint.build(recipe.architecture, self.model).to(device)
        if self.network.starts_from and not recipe.init:
            start = self.network.starts_from
            raise UsageError(f"recipe: {recipe.architecture} starts from a {start}; add it, as --set init={start}")
        if recipe.looks and self.network.look is None:
            raise UsageError("looks = true: this network has none; give it one, as --set model.look=0.15")
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        if recipe.init and not (out / LAST).exists():
            self._start_from(recipe.init)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        if device.type == "cpu":  # which cannot catch a lack of memory: the system ends the process
            self.network.save_memory()
        self.step = 0
        self.loss_sum, self.summed = 0.0, 0  # over the steps since the last validation
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        self.recorded: dict[tuple[str, ...], Callable[..., Tensor]] = {}  # by the terms of the loss, see `replayed`
        self.best = -math.inf
        self.texts: Texts | None = None
        self.text_vectors: dict[str, np.ndarray] = {}  # of texts met before the run was resumed
        self.data_sha256: dict[str, str] = {}  # of the training pairs, by task
        self.val_sha256: dict[str, str] = {}  # of the validation pairs, by set
        self.texts_sha256 = ""  # of the descriptions, where the recipe names a file of them
        self.data_root = ""  # where the recipe's folders were, for a distillation that does not say
        self.set_objective(FusionObjective())

    def _model(self) -> dict[str, Any]:
        """The model's arguments: those of the weights that it starts from, unless the recipe sets others."""
        recipe, last = self.recipe, self.out / LAST
        if not recipe.init:
            return recipe.model
        path = last if last.exists() else registry.weights_file(recipe.init, recipe.tasks[0])
        architecture, values, *_ = checkpoint.read(path)
        if architecture == checkpoint.kind(recipe.architecture).starts_from:
            return {architecture: values, **recipe.model}
        return {**values, **recipe.model} if architecture == recipe.architecture else recipe.model

    def _start_from(self, name: str) -> None:
        """Take the weights of a released model or a file. Raises UsageError where they are of another shape."""
        source = checkpoint.load(name, self.recipe.tasks[0])
        kinds = [checkpoint.kind(one) for one in (self.recipe.architecture, self.network.starts_from) if one]
        if type(source) not in kinds:
            raise UsageError(f"init = {name}: is no {self.recipe.architecture}, which the recipe trains")
        try:
            self.network.start_from(source)
        except RuntimeError as error:
            model = f"{self.recipe.architecture} {self.recipe.model or ''}".rstrip()
            raise UsageError(f"init = {name}: does not fit into {model}; leave its sizes out of the recipe") from error

    def set_objective(self, objective: Objective) -> None:
        """What the steps minimise (before the first one); the objective's own modules are trained too."""
        self.objective = objective
        self.objective.modules.to(self.device)
        parameters = [*self.network.parameters(), *self.objective.modules.parameters()]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            parameters, self.recipe.lr, weight_decay=self.recipe.weight_decay, fused=fused
        )

    # -- state ---------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; plain containers and tensors, so that ``weights_only=True`` reads it."""
        return {
            "fusecli": __version__,
            "architecture": self.recipe.architecture,
            "config": self.model,
            "tasks": self.recipe.tasks,
            "model": self.average.state_dict(),
            "recipe": self.recipe.as_dict(),
            "network": self.network.state_dict(),
            "objective": self.objective.modules.state_dict(),
            "about": self.objective.about,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": [self.loss_sum, self.summed],
            "processes": self.processes,
            "best": self.best,
            "text": self.text_table(),
            "data_root": self.data_root,
            "data_sha256": self.data_sha256,
            "val_sha256": self.val_sha256,
            "texts_sha256": self.texts_sha256,
        }

    def text_table(self) -> dict[str, Any]:
        """Encoder and vectors of all texts met, for a distillation where the encoder is not installed."""
        if self.texts is None:
            return {}
        encoder = self.texts.encoder
        vectors = {key: torch.from_numpy(vector) for key, vector in encoder.table().items()}
        return {"encoder": self.recipe.text, "vectors": vectors}

    def save(self, name: str) -> Path:
        """Write a checkpoint; a crash in mid-write leaves the old one."""
        path, memory = self.out / name, io.BytesIO()
        torch.save(self.state(), memory)  # not to the file: torch would hide why writing failed
        write_bytes(path, memory.getvalue())
        return path

    def resume(self) -> bool:
        """Resume from ``last.pt`` if there is one.

        Raises UsageError if it belongs to another recipe, to other pairs or to another number of processes.
        """
        path = self.out / LAST
        sweep((path, self.out / BEST))
        if not path.exists():
            return False
        state = checkpoint.training_state(path)
        made_with = Recipe(train=self.recipe.train).as_dict() | state["recipe"]  # may lack newer fields
        changed = _differing(made_with, self.recipe.as_dict())
        if not changed and state["tasks"] != self.recipe.tasks:  # by which batches draw theirs
            changed = "order of tasks in train"
        if changed:
            alike = (made_with["architecture"], made_with["model"]) == (self.recipe.architecture, self.recipe.model)
            start = f", where --set init={path} starts from these weights" if alike else ""
            raise UsageError(f"{path}: made with another {changed}; use the old recipe or a new folder{start}")
        if changed := _differing(state.get("about", {}), self.objective.about):
            raise UsageError(f"{path}: made with another {changed}; use a new folder")
        if (before := state.get("processes", self.processes)) != self.processes:
            raise UsageError(
                f"{path}: made with another number of processes ({before}), each of which has a batch in every step; "
                f"start as many, or use a new folder, where --set init={path} starts from these weights"
            )
        pairs = state.get("data_sha256")
        if pairs and self.data_sha256 and pairs != self.data_sha256:
            raise UsageError(f"{path}: made with other training pairs than are there now; use a new folder, or those")
        if state.get("texts_sha256", self.texts_sha256) != self.texts_sha256:
            file = self.recipe.descriptions
            raise UsageError(f"{path}: made with other descriptions than are in {file} now; use a new folder, or those")
        try:
            self.average.load_state_dict(state["model"])
            self.network.load_state_dict(state["network"])
            self.objective.modules.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.loss_sum, self.summed = state.get("losses", (0.0, 0))
        except (RuntimeError, ValueError, KeyError) as error:
            made_by = f"fusecli {state.get('fusecli', 'of another version')}"
            raise UsageError(f"{path}: {made_by} made it of other parts; use that version, or a new folder") from error
        if state.get("val_sha256", self.val_sha256) != self.val_sha256:
            log.warning("%s: validated on other pairs before; the best weights are those from here on", path)
        elif (self.out / BEST).exists():  # else the next validation makes another
            self.best = state["best"]
        self.text_vectors = carried_vectors(state["text"])
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
        batch = self._jittered(batch)
        loss = self._gradients(batch)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        value = _mean_over_ranks(loss.detach(), parameters)
        self._check(value, batch)
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(self.recipe.ema, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return value

    def _gradients(self, batch: Batch) -> Tensor:
        """The loss, whose gradients the parameters get; in less memory from here on if they need too much."""
        self.network.train()
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    loss = self._loss(batch)
                loss.backward()
                return loss
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or not self.network.save_memory():
                    raise
            log.warning("out of memory: layers are computed twice from here on, which takes about a third longer")
            self.recorded.clear()

    def _check(self, loss: float, batch: Batch) -> None:
        if not math.isfinite(loss):
            raise FusecliError(
                f"step {self.step}: the loss is {loss} (patches: {', '.join(sorted(set(batch.keys)))})"
                + (f"; {self.out / LAST} holds the last good weights" if (self.out / LAST).exists() else "")
                + ". Lower lr, or look at these files"
            )

    @torch.no_grad()
    def _check_weights(self, batch: Batch) -> None:
        """Check weights before they are saved, since a step's loss is that of those before it. Raises FusecliError."""
        finite = all(bool(tensor.isfinite().all()) for tensor in self.average.state_dict().values())
        self._check(self.objective(self.average, batch).item() if finite else math.nan, batch)

    def _jittered(self, batch: Batch) -> Batch:
        """The batch with noise on its context, which is the same whenever a step is repeated."""
        if not self.recipe.jitter or batch.context is None:
            return batch
        rank = dist.get_rank() if dist.is_initialized() else 0
        # Another stream than the one that drew the batch.
        generator = torch.Generator().manual_seed(2**61 + self.recipe.seed * 1_000_003 + self.step * 257 + rank)
        return replace(batch, context=self.network.jittered(batch.context, self.recipe.jitter, generator))

    def _loss(self, batch: Batch) -> Tensor:
        """The objective; on a GPU replayed as CUDA graphs."""
        if self.device.type != "cuda":
            return self.objective(self.network, batch)
        names = batch.tensors()
        if batch.terms not in self.recorded:

            def act(*inputs: Tensor) -> Tensor:
                given: dict[str, Any] = dict(zip(names, inputs, strict=True))
                return self.objective(self.network, replace(batch, **given))

            trained = [self.network, self.objective.modules]
            self.recorded[batch.terms] = replayed(act, trained, list(names.values()))
        return self.recorded[batch.terms](*names.values())

    # -- the run -------------------------------------------------------------------------------------------------
    def fit(
        self,
        batches: Batches,
        val: dict[str, PairSet],
        progress: Callable[[int, float], None] | None = None,
        workers: int = 0,
        stop: Stop | None = None,
    ) -> Path:
        """Train to the recipe's last step; returns the path of the best weights (the last ones without ``val``).

        workers: number of processes that draw the batches, which does not change these. stop: once set, the step under
        way is finished and saved (before the first one there is nothing to save); then Stopped is raised.
        """
        recipe = self.recipe
        self.texts = batches.texts
        if self.texts and self.text_vectors:
            self.texts.encoder.add(self.text_vectors)
        if batches.rank == 0:
            due = self._validation_is_due() and self.summed > 0  # the run ended before it was through
            csv_log.forget_later(self.out / LOG, self.step - due)
            if due:
                self._validate(val)
        if self.step == 0 and not recipe.init and self.network.sees_statistics:
            self._fit_whitening(batches, workers, stop)
        saved = time.monotonic()
        for batch in batches.ahead(self.step, recipe.steps, self.device, workers):
            loss = self.train_step(batch)
            self.loss_sum, self.summed = self.loss_sum + loss, self.summed + 1
            if progress:
                progress(self.step, loss)
            stopped = stop is not None and _on_any_rank(stop.is_set(), self.device) and self.step < recipe.steps
            due = self._validation_is_due()
            if batches.rank == 0 and (due or stopped or time.monotonic() - saved > SAVE_SECONDS):
                self._check_weights(batch)
                self.save(LAST)  # first: whatever then fails costs no step
                if due and not stopped:
                    self._validate(val)
                saved = time.monotonic()
            if stopped:
                held = f"after step {self.step}, which {self.out / LAST} holds: the same command goes on from there"
                raise _stopped(stop, held)
        best = self.out / BEST
        if val and not best.exists():
            log.warning("%s: was removed after the last step; its weights are taken, the best or not", best)
        return best if val and best.exists() else self.out / LAST

    def _fit_whitening(self, batches: Batches, workers: int, stop: Stop | None) -> None:
        """Adapt the network to the statistics of its data (`FusionNetwork.fit_whitening`)."""
        seen = copy.copy(batches)
        seen.rank, seen.texts = 0, None  # the same for all processes, which share only gradients; no texts are needed
        contexts = []
        for batch in seen.ahead(0, WHITENING_BATCHES, self.device, workers):
            if stop is not None and stop.is_set():
                raise _stopped(stop, "before the first step")
            if batch.context is not None:
                contexts.append(batch.context)
        for network in (self.network, self.average) if contexts else ():
            network.fit_whitening(torch.cat(contexts))

    def _validation_is_due(self) -> bool:
        return self.step % self.recipe.val_every == 0 or self.step == self.recipe.steps

    def _validate(self, val: dict[str, PairSet]) -> None:
        """Score and log the averaged weights, keep them if they are the best, and save that this step is through.

        Until it is, ``last.pt`` holds the losses since the last validation, and a resumed run validates again.
        """
        loss = self.loss_sum / self.summed
        row: dict[str, float] = {"step": self.step, "loss": round(loss, 5), "rate": self.rate(self.step)}
        if val:
            results, rows = {}, []
            for name, data in val.items():
                if self.texts and isinstance(self.average, Teacher):  # validated as it will be used
                    self.average.describe = describer(self.texts.encoder, data.task.sides)
                results[name], pictures = validate(self.average, data, self.device)
                rows += pictures
            row |= {f"{name}/{metric}": value for name, values in results.items() for metric, value in values.items()}
            row["score"] = score(results)
            contact_sheet(rows, self.out / "contact.png")
            if row["score"] > self.best:
                self.best = row["score"]
                self.save(BEST)
        csv_log.append(self.out / LOG, row)
        log.info(
            "step %d: %s", self.step, ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "step")
        )
        self.loss_sum, self.summed = 0.0, 0
        self.save(LAST)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The names of the values that are not the same, or are in one only; of numbers also what they were before."""
    changed = {key: before.get(key) for key in sorted({*before, *now}) if before.get(key) != now.get(key)}
    return ", ".join(f"{key} ({value})" if isinstance(value, int | float) else key for key, value in changed.items())


def _stopped(stop: Stop | None, when: str) -> Stopped:
    """What ends a run. ``stop`` is not set where another process of a ``torchrun`` was told to."""
    number = (stop and stop.signal) or signal.SIGTERM
    return Stopped(f"stopped by {number.name} {when}", number)


def _on_any_rank(flag: bool, device: torch.device) -> bool:
    """Whether it is set in any process of a ``torchrun``, so that all end with the same step."""
    if not dist.is_initialized():
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def _mean_over_ranks(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    """Average the gradients, in place, and the loss over all processes of a ``torchrun``; alone: the loss.

    Written out, since DistributedDataParallel averages for ``forward`` alone and distillation needs ``with_features``.
    """
    if not dist.is_initialized():
        return loss.item()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    torch._foreach_copy_(
        gradients,
        [part.view_as(g) for part, g in zip(flat[1:].split([g.numel() for g in gradients]), gradients, strict=True)],
    )
    return flat[0].item()
