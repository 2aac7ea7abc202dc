"""From a recipe to a weight file: what `train-teacher` and `distill` share."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fusecli import registry
from fusecli.errors import FusecliError, UsageError, counted, first_line
from fusecli.images.atomic import locked, write_text
from fusecli.images.outputs import check_writable
from fusecli.machine import cores, keep_freed_pages, out_of_memory
from fusecli.models import checkpoint
from fusecli.models.network import FusionNetwork
from fusecli.progress import SignOfLife, tqdm
from fusecli.stream.device import pick_device
from fusecli.stream.stop import Stop
from fusecli.text import record
from fusecli.text.encode import open_encoder
from fusecli.training.batches import Batches
from fusecli.training.data import PairSet, UnusableError, sides_of
from fusecli.training.distill import FEATURE, DistillObjective
from fusecli.training.loop import LAST, Run
from fusecli.training.recipe import Recipe
from fusecli.training.texts import Texts
from fusecli.training.validate import check_scorable

log = logging.getLogger("fusecli.training")


def data_root(given: Path | None, remembered: str = "") -> Path:
    """``--data-root``, else $FUSECLI_DATA, else what a checkpoint remembers. Raises UsageError if none is a folder."""
    named = os.environ.get("FUSECLI_DATA") or remembered
    root = given or (Path(named) if named else None)
    if root is None or not root.is_dir():
        what = "no data folder" if root is None else f"{root}: no such folder"
        raise UsageError(f"{what}; give the folder of the data sets by --data-root or FUSECLI_DATA")
    return root


def default_recipe(task: registry.Task, root: Path) -> dict[str, Any]:
    """Recipe values of a teacher for every data set below ``root`` that has both sides of the task.

    Sets are ``<root>/train/<set>`` or ``<root>/<set>``; those in ``<root>/val/<set>`` choose the best weights.
    ``train`` and ``val`` may be sets themselves. Raises UsageError if there is none.
    The learning rate is the paper's for it (arXiv 2504.07029); a Recipe's own suits small convolutional networks.
    """

    def sets(folder: Path) -> list[str]:
        paths = [folder, *sorted(folder.glob("*"))]
        found = [path for path in paths if all((path / side).is_dir() for side in task.sides)]
        return [path.relative_to(root).as_posix() for path in found]

    val = sets(root / "val")
    train = sets(root / "train") or [name for name in sets(root) if name not in val]
    if not train:
        raise UsageError(f"{root}: no folder below it holds {task.first}/ and {task.second}/")
    named = {"train": {task.name: train}, "val": {task.name: val}}
    return {"architecture": "teacher", "text": "minilm", "lr": 1e-4, "degrade": 0.6, **named}


def train(
    recipe: Recipe,
    root: Path,
    out: Path,
    *,
    device: str = "auto",
    teacher: FusionNetwork | None = None,
    feature_weight: float = FEATURE,
    text_vectors: Mapping[str, np.ndarray] | None = None,
    workers: int | None = None,
    quiet: bool = False,
    stop: Stop | None = None,
) -> Path | None:
    """Train, or resume if ``out`` holds ``last.pt``; the best weights go to ``<out>/<architecture>.safetensors``.

    With ``teacher`` the network is distilled from it (``feature_weight``: of the feature loss); ``recipe.text`` then
    names the teacher's encoder, and ``text_vectors`` are those that its checkpoint carries. Under ``torchrun`` every
    process takes a share of each step; all but the first return None. ``workers`` processes draw the batches (None: for
    CUDA on Linux one per core; else none).
    Raises FusecliError if memory runs out or the loss is not finite, UsageError for data that do not fit the recipe
    and, before any work, where ``out`` cannot be written to, is in use or holds weights of a run that cannot be taken
    up, Stopped once ``stop`` is set.
    """
    rank, local = _join_processes()
    path = out / f"{recipe.architecture}.safetensors"
    if rank:
        logging.getLogger("fusecli").setLevel(logging.ERROR)  # the first process tells of the run and warns of the data
    if rank == 0:  # which alone writes
        check_writable("-o", out)
        if path.exists() and not (out / LAST).exists():  # removed to save space, perhaps
            raise UsageError(f"{path}: of another run, would be replaced; use a new folder, or move it away")
        if unused := sorted(set(recipe.losses) - set(recipe.train)):  # of a recipe for more than --set train names
            named = ", ".join(f"losses.{task}" for task in unused)
            log.warning("%s: not used, as the recipe trains %s alone", named, " and ".join(recipe.tasks))
    auto = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    target = pick_device(auto if device == "auto" else device)
    if target.type == "cuda":
        torch.cuda.set_device(target)  # where graphs are recorded and memory is pinned
    elif target.type == "cpu":
        keep_freed_pages()
    if workers is None:
        share = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = share if target.type == "cuda" and sys.platform == "linux" else 0
    if recipe.descriptions:
        record.load(root / recipe.descriptions)  # tells what is wrong with it before pictures are decoded
    data, val = _pairs(recipe, root)
    texts = _texts(recipe, data, root, text_vectors)
    if recipe.architecture == "teacher" and "text_dim" not in recipe.model:
        recipe = replace(recipe, model={**recipe.model, "text_dim": texts.dim if texts else 0})
    with _alone(out) if rank == 0 else nullcontext():
        run = Run(recipe, out, device=target)
        run.data_root = str(root.resolve())
        run.data_sha256 = {task: pairs.sha256 for task, pairs in data.items()}
        run.texts_sha256 = texts.sha256 if texts and recipe.descriptions else ""
        run.val_sha256 = {name: pairs.sha256 for name, pairs in val.items()}
        if teacher is not None:
            run.set_objective(DistillObjective(teacher.to(target), run.network, feature_weight))
        _check_that_texts_fit(recipe, texts, teacher, run.network)
        if run.resume():
            done = run.step >= recipe.steps
            log.info("all steps are done: %s" if done else f"going on from step {run.step} of %s", out / LAST)
        size = sum(each.numel() for each in run.network.parameters())
        pairs = ", ".join(f"{counted(len(each.pairs), 'pair')} of {task}" for task, each in data.items())
        what = f"{recipe.architecture}, {size:,} parameters, learns from {pairs}"
        log.info("%s on %s: step %d of %d", what, target, run.step, recipe.steps)
        batches = Batches(recipe, data, rank, texts, run.network, teacher)
        best = _fit(run, batches, val, workers, stop, bar=not (quiet or rank))
        if dist.is_initialized():
            dist.destroy_process_group()
        if rank:
            return None
        _keep(run, best, path)
    return path


def _pairs(recipe: Recipe, root: Path) -> tuple[dict[str, PairSet], dict[str, PairSet]]:
    """Training pairs by task, and validation pairs by task and folder.

    Raises UsageError for unsuitable ones, UnusableError for the pictures of all of them together.
    """
    sets = {task: (task, folders) for task, folders in recipe.train.items()}
    sets |= {f"{task}/{folder}": (task, [folder]) for task, folders in recipe.val.items() for folder in folders}
    for task, folders in sets.values():  # before pictures are decoded, which may take minutes
        for folder in folders:
            sides_of(registry.TASKS[task], root / folder)
    loaded, reasons = {}, []
    for name, (task, folders) in sets.items():
        try:
            loaded[name] = PairSet.load(registry.TASKS[task], root, folders)
        except UnusableError as error:
            reasons += error.reasons
    if reasons:
        raise UnusableError(reasons)
    data = {task: loaded.pop(task) for task in recipe.train}
    for pairs in data.values():
        pairs.check_patch(recipe.patch)
    for name, pairs in loaded.items():
        check_scorable(name, pairs)
    return data, loaded


def _check_that_texts_fit(
    recipe: Recipe, texts: Texts | None, teacher: FusionNetwork | None, network: FusionNetwork
) -> None:
    reads = getattr(teacher or network, "text_dim", 0)
    if texts and reads != texts.dim:
        reader = "the teacher" if teacher else f"this {recipe.architecture}"
        raise UsageError(
            f"recipe: text = {recipe.text} gives {texts.dim} numbers a pair, and {reader} reads {reads or 'no text'}; "
            "leave out text or model.text_dim (--set text=)"
        )


def _fit(run: Run, batches: Batches, val: dict[str, PairSet], workers: int, stop: Stop | None, *, bar: bool) -> Path:
    """Train behind a progress bar; returns the best weights' path. Raises FusecliError, with advice, out of memory."""
    recipe, sign = run.recipe, SignOfLife()
    with tqdm(total=recipe.steps, initial=run.step, disable=None if bar else True, unit="step") as shown:

        def progress(step: int, loss: float) -> None:
            shown.update(step - shown.n)
            shown.set_postfix(loss=f"{loss:.4g}", refresh=False)
            if bar and shown.disable and sign.due():
                log.info("step %d of %d: loss %.4g", step, recipe.steps, loss)

        try:
            return run.fit(batches, val, progress, workers, stop)
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise FusecliError(
                    f"out of memory at step {run.step}: lower batch ({recipe.batch}), patch ({recipe.patch}) or width"
                ) from error
            if "DataLoader worker" in str(error):  # killed by the system, mostly for lack of memory
                reason = first_line(error).rstrip(" .")
                raise FusecliError(f"step {run.step}: {reason}; fewer need less memory: --workers") from error
            raise


def _keep(run: Run, best: Path, path: Path) -> None:
    """Write the best weights to ``path``, and ``run.json`` beside them, which says what they were made of."""
    architecture, config, tasks, tensors = checkpoint.read(best)
    network = checkpoint.build(architecture, config)
    network.load_state_dict(tensors)
    checkpoint.save(path, network, architecture, config, tasks)
    score = run.best if math.isfinite(run.best) else None
    summary = {"recipe": run.recipe.as_dict(), "data_sha256": run.data_sha256, "score": score}
    write_text(path.with_name("run.json"), json.dumps(summary, indent=2) + "\n")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Make a run's folder, which goes again if nothing comes into it, and keep other runs out of it.

    Raises UsageError where one is at work.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with locked(out.resolve()) as free:
        if not free:
            raise UsageError(f"-o {out}: another run is training there; wait until it ends, or use another folder")
        try:
            yield
        finally:
            with suppress(OSError):  # not empty
                for folder in made:
                    folder.rmdir()


def _texts(
    recipe: Recipe, data: dict[str, PairSet], root: Path, vectors: Mapping[str, np.ndarray] | None
) -> Texts | None:
    if not recipe.text:
        return None
    return Texts.of(
        open_encoder(recipe.text, vectors=vectors), data, root / recipe.descriptions if recipe.descriptions else None
    )


def _join_processes() -> tuple[int, int]:
    """(rank, local rank); joins the group that ``torchrun`` describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # The others wait while the first one validates, however long; if one has died, torchrun ends them.
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=1))
        return dist.get_rank(), int(os.environ.get("LOCAL_RANK", "0"))
    return 0, 0
