"""What exists: tasks, models, datasets, metrics. Free of torch, so that --help and listings answer at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

WEIGHTS_DIR = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Task:
    """A pair of modalities. ``first`` carries the colour, the geometry and the output's kind unless told otherwise."""

    name: str
    first: str
    second: str
    title: str

    @property
    def sides(self) -> tuple[str, str]:
        return self.first, self.second


TASKS = {
    task.name: task
    for task in (
        Task("ir-vis", "vis", "ir", "infrared + visible"),
        Task("ct-mri", "ct", "mri", "CT + MRI"),
        Task("pet-mri", "pet", "mri", "PET + MRI"),
        Task("spect-mri", "spect", "mri", "SPECT + MRI"),
    )
}

# Architecture name -> "module:Class", imported only when a model is built. Every class is constructed from keyword
# arguments that JSON can hold, and is called as model(first, second) on N×1×H×W luma in [0, 1].
ARCHITECTURES = {
    "nano": "fusecli.models.nano:Nano",
    "base": "fusecli.models.student:Student",
    "teacher": "fusecli.models.teacher:Teacher",
}

DEFAULT_MODEL = "nano"


def task_of(sides: set[str]) -> Task | None:
    """The task whose two sides are exactly ``sides``, or None."""
    return next((task for task in TASKS.values() if set(task.sides) == sides), None)


@cache
def released() -> dict[str, dict[str, Any]]:
    """The model cards of the released weights, by file stem such as ``nano-ir-vis`` (weights/card.json)."""
    card = WEIGHTS_DIR / "card.json"
    return json.loads(card.read_text(encoding="utf-8"))["models"] if card.exists() else {}


def released_path(model: str, task: str) -> Path | None:
    """The released weights called ``model`` for ``task``: the file whose card lists both, or None."""
    for stem, card in released().items():
        if card["name"] == model and task in card["tasks"]:
            return WEIGHTS_DIR / f"{stem}.safetensors"
    return None
