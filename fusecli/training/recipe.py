"""Recipe: everything that defines a training run, in one TOML file.

The same recipe gives the same weights on the same CPU with as many threads.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.metrics.structure import SSIM_WINDOW, VIF_SIDE
from fusecli.training.losses import LossWeights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# Name, least, most.
_LIMITS = (
    *((name, 1, math.inf) for name in ("steps", "val_every")),
    ("batch", 1, 2**16),  # a batch that memory cannot hold may stop the whole machine
    ("patch", SSIM_WINDOW, math.inf),
    ("seed", 0, 2**40),
    *((name, 1e-9, 1e30) for name in ("lr", "clip")),  # at 0 nothing would be learnt; float32 ends at 3e38
    *((name, 0, 1e30) for name in ("lr_end", "weight_decay", "jitter")),
    *((name, 0, 1) for name in ("ema", "parts", "varied", "dull", "clipped", "sparse", "wear", "worn", "degrade")),
)


@dataclass(frozen=True)
class Recipe:
    """A training run. Folders are below the data root; a folder holds one sub-folder per side of its task."""

    train: dict[str, list[str]]  # task -> folders to cut patches from
    val: dict[str, list[str]] = field(default_factory=dict)  # task -> folders to choose the best weights on
    architecture: str = "nano"
    model: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the architecture; others are as in init
    init: str = ""  # released model or weight file to start from, such as nano; none: random weights
    loss: LossWeights = field(default_factory=LossWeights)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)  # task -> weights of its loss that differ
    steps: int = 10_000
    batch: int = 16  # patches of a step, in each process of a torchrun
    patch: int = 128  # pixels, a side
    lr: float = 1e-3  # peak; rises over the first 2 % of steps, then falls to lr_end by a cosine
    lr_end: float = 1e-6
    weight_decay: float = 1e-4
    clip: float = 10.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights, which are the ones kept
    jitter: float = 0.0  # standard deviation of noise on a student's statistics: tiny differences are not to count
    parts: float = 0.0  # share of scenes that are cropped (or, scans, widened with black); the look is to stay the same
    varied: float = 0.0  # share of sources that get another camera's tone curve and sharpness, which are to be kept
    dull: float = 0.0  # share of scenes that are flat on both sides, which is to be kept
    flat: list[float] = field(default_factory=lambda: [0.2, 0.5])  # least and most contrast that these keep
    clipped: float = 0.0  # share of scenes with a white or black part in one of the sources, which is to be kept
    sparse: float = 0.0  # share of scenes that are shrunk within black: the last slices of volumes show little
    wear: float = 0.0  # share of sources that get the small faults of an old camera, which are to be kept
    worn: float = 0.25  # severity of these faults at most
    degrade: float = 0.0  # share of sources that are degraded; the loss still refers to the clean ones
    looks: bool = False  # aim at explicit targets between a thermal and a natural look (ir-vis, networks with looks)
    text: str = ""  # encoder of the descriptions that guide a teacher: minilm or clip:DIR; none for students
    descriptions: str = ""  # JSONL of `fusecli annotate`, below the data root; none: measured from the pairs
    val_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val", "losses", "model"):
            if not isinstance(getattr(self, name), dict):
                raise UsageError(f"recipe: {name} must be a table{'' if name == 'model' else ', by task'}")
        if not self.train:
            raise UsageError("recipe: train names no task")
        if not all(isinstance(each, dict) for each in self.losses.values()):
            raise UsageError("recipe: losses must be a table for each task")
        for name in ("train", "val"):
            for task, folders in getattr(self, name).items():
                if not isinstance(folders, list) or not all(isinstance(each, str) for each in folders):
                    raise UsageError(f'recipe: {name}.{task} must be a list of folders, as ["{name}/mine"]')
                if name == "train" and not folders:
                    raise UsageError(f"recipe: {name}.{task} names no folder")
        unknown = sorted({*self.train, *self.val, *self.losses} - set(registry.TASKS))
        if unknown:
            raise UsageError("recipe: " + registry.unknown("task", unknown[0], registry.TASKS))
        for item in fields(self):
            kind, value = type(item.default), getattr(self, item.name)
            expected = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}.get(kind)
            fits = type(value) in ((int, float) if kind is float else (kind,)) and value not in (math.inf, -math.inf)
            if expected and not fits:
                raise UsageError(f"recipe: {item.name} must be {expected}, not {value!r}")
        for name, least, most in _LIMITS:
            if not least <= getattr(self, name) <= most:
                limit = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
                raise UsageError(f"recipe: {name} must be {limit}, not {getattr(self, name)}")
        numbers = isinstance(self.flat, list) and all(type(each) in (int, float) for each in self.flat)
        if not (numbers and len(self.flat) == 2 and 0 <= self.flat[0] <= self.flat[1] <= 1):
            raise UsageError(f"recipe: flat must be two shares of contrast, least and most, not {self.flat}")
        for task in self.losses:
            self.loss_for(task)  # raises where it has keys that no loss has
        if self.patch < VIF_SIDE and any(self.loss_for(task).vif for task in self.train):
            raise UsageError(f"recipe: patch must be at least {VIF_SIDE} where loss.vif counts, not {self.patch}")
        if self.descriptions and not self.text:
            raise UsageError("recipe: descriptions are for networks that read text; add text = minilm")
        if self.looks and self.tasks != ["ir-vis"]:
            raise UsageError("recipe: looks are for ir-vis alone")

    @property
    def tasks(self) -> list[str]:
        return list(self.train)

    def loss_for(self, task: str) -> LossWeights:
        """The weights of a task's loss."""
        return replace(self.loss, **_known_weights(self.losses.get(task, {})))

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> Recipe:
        """The recipe in a TOML file, with ``KEY=VALUE`` settings put in.

        Raises UsageError, with the file's name, for broken TOML and for keys that no recipe has.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not a readable recipe ({error})") from error
        try:
            return cls.from_dict(values, settings)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any], settings: Sequence[str] = ()) -> Recipe:
        """The recipe that nested values describe. Raises UsageError for unknown keys and wrong kinds of value."""
        values = _with_settings(values, settings)
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(registry.unknown("recipe key", unknown[0], sorted(known)))
        if "train" not in values:
            raise UsageError('train is missing: the folders of each task, as train.ir-vis = ["train/mine"]')
        loss = values.get("loss", {})
        if not isinstance(loss, dict):
            raise UsageError("recipe: loss must be a table")
        return cls(**{**values, "loss": LossWeights(**_known_weights(loss))})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _known_weights(values: dict[str, Any]) -> dict[str, Any]:
    names = [item.name for item in fields(LossWeights)]
    for name in values:
        if name not in names:
            raise UsageError(registry.unknown("weight of the loss", name, names))
    return values


def _with_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy with ``KEY=VALUE`` put in (``model.width=16`` reaches into a table); values are TOML, else plain text."""
    result = copy.deepcopy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE, such as steps=200")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # not TOML
            value = text
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {setting}: {parent} is no table")
        place[last] = value
    return result
