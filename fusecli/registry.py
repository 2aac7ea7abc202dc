"""What exists: tasks, models, datasets, metrics. Free of torch, so that --help and listings answer at once."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fusecli.errors import UsageError

WEIGHTS_DIR = Path(__file__).parent / "weights"


def cache_dir() -> Path:
    """The folder for what can be computed again: $FUSECLI_CACHE, else fusecli in $XDG_CACHE_HOME or ~/.cache.

    Raises UsageError for a user without a home, as in containers.
    """
    if own := os.environ.get("FUSECLI_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusecli"
    except RuntimeError as error:
        raise UsageError(f"no folder for the cache ({error}); $FUSECLI_CACHE names one") from error


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
    "base": "fusecli.models.base:Base",
    "paper": "fusecli.models.student:Student",
    "teacher": "fusecli.models.teacher:Teacher",
}

DEFAULT_MODEL = "nano"

# What a result looks like: at 0 all that is bright in either source, at 1 the visible image with what is hot.
LOOKS = {"thermal": 0.0, "natural": 1.0}


@dataclass(frozen=True)
class Metric:
    """A metric under one protocol: ``title`` says what is measured, ``arrow`` in which direction it improves."""

    name: str
    title: str
    higher_is_better: bool = True

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"


_TANG = (
    Metric("EN", "entropy of the fused image, bits"),
    Metric("SD", "standard deviation"),
    Metric("SF", "spatial frequency"),
    Metric("AG", "average gradient"),
    Metric("MI", "mutual information with both sources, bits"),
    Metric("SCD", "sum of the correlations of differences"),
    Metric("VIF", "visual information fidelity"),
    Metric("Qabf", "edges kept (Xydeas-Petrović)"),
    Metric("Nabf", "edges invented (Shreyamsha Kumar)", higher_is_better=False),
    Metric("FMI", "feature mutual information, pixels in 3×3 windows"),
    Metric("SSIM", "structural similarity to both sources"),
    Metric("MS-SSIM", "multi-scale structural similarity to both sources"),
    Metric("CC", "mean correlation with both sources"),
    Metric("PSNR", "peak signal-to-noise ratio to both sources, dB"),
    Metric("MSE", "mean squared error to both sources", higher_is_better=False),
)
_VIFB = (
    Metric("Cross_entropy", "mean cross entropy to both sources, bits", higher_is_better=False),
    Metric("Entropy", "entropy, bits"),
    Metric("Mutinf", "mutual information with both sources, nats"),
    Metric("Psnr", "peak signal-to-noise ratio, dB, by Rmse"),
    Metric("Avg_gradient", "average gradient"),
    Metric("Edge_intensity", "mean Sobel magnitude"),
    Metric("Qabf", "edges kept (Xydeas-Petrović)"),
    Metric("Variance", "standard deviation"),
    Metric("Spatial_frequency", "spatial frequency"),
    Metric("Rmse", "root of summed squares / pixels", higher_is_better=False),
    Metric("Ssim", "structural similarity, sum over both sources"),
    Metric("Qcb", "contrast kept (Chen-Blum)"),
    Metric("Qcv", "visible regional error (Chen-Varshney)", higher_is_better=False),
)
# Protocol -> metric name -> metric, in the order of tables. The formulas are in fusecli.metrics.protocols.
METRICS = {
    protocol: {metric.name: metric for metric in metrics}
    for protocol, metrics in (("tang", _TANG), ("vifb", _VIFB), ("standard", _TANG))
}


@dataclass(frozen=True)
class Dataset:
    """A data set that others publish; fusecli only finds it on disk.

    folders: names of its folder under the data root. layouts: (first side, second side) below that folder, as its
    authors ship it; ``<side>/`` and the usual short names are tried first. where, terms: what to tell who
    does not have it.
    """

    name: str
    title: str
    task: str
    where: str
    terms: str
    folders: tuple[str, ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()


_HARVARD = (
    "the Whole Brain Atlas of Johnson and Becker, www.med.harvard.edu/AANLIB; as image pairs: "
    "github.com/xianming-gu/Havard-Medical-Image-Fusion-Datasets"
)
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("sample", "the sample frames of this checkout", "ir-vis", "sample_data/ of the source tree", "MIT"),
        Dataset(
            "tno",
            "TNO Image Fusion Dataset",
            "ir-vis",
            "figshare.com/articles/dataset/TNO_Image_Fusion_Dataset/1008029 (the field uses renumbered copies)",
            "CC BY 4.0, cite Toet, Data in Brief 2017",
            ("TNO",),
        ),
        Dataset(
            "roadscene",
            "RoadScene",
            "ir-vis",
            "github.com/hanna-xu/RoadScene",
            "for research, cite Xu et al., AAAI 2020",
            ("RoadScene", "RoadScene-master"),
            (("crop_LR_visible", "cropinfrared"),),
        ),
        Dataset(
            "msrs",
            "MSRS, multi-spectral road scenarios",
            "ir-vis",
            "github.com/Linfeng-Tang/MSRS",
            "for research, cite Tang et al., PIAFusion 2022",
            ("MSRS", "MSRS-main"),
            (("test/vi", "test/ir"),),
        ),
        Dataset(
            "llvip",
            "LLVIP, visible-infrared pairs in low light",
            "ir-vis",
            "bupt-ai-cz.github.io/LLVIP",
            "for academic use, cite Jia et al., ICCVW 2021",
            ("LLVIP",),
            (("visible/test", "infrared/test"),),
        ),
        Dataset(
            "m3fd",
            "M3FD, fusion part",
            "ir-vis",
            "github.com/JinyuanLiu-CV/TarDAL",
            "for academic use, cite Liu et al., CVPR 2022",
            ("M3FD", "M3FD_Fusion"),
            (("M3FD_Fusion/Vis", "M3FD_Fusion/Ir"),),
        ),
        Dataset(
            "vifb",
            "VIFB benchmark pairs",
            "ir-vis",
            "github.com/xingchenzhang/VIFB (name input/VI/peopleshadow.jpg like its partner, peopleShadow.jpg)",
            "for research, cite Zhang et al., CVPRW 2020",
            ("VIFB", "VIFB-master"),
            (("input/VI", "input/IR"),),
        ),
        *(
            Dataset(
                task.name,
                f"Harvard AANLIB, {task.title}",
                task.name,
                _HARVARD,
                "for research and teaching, cite Johnson & Becker",
                (task.name.upper(),),
                ((task.first.upper(), task.second.upper()),),
            )
            for task in TASKS.values()
            if task.name != "ir-vis"
        ),
    )
}
# Names that stand for several data sets.
DATASET_GROUPS = {"harvard": tuple(name for name in TASKS if name != "ir-vis")}


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest ones first, else all."""
    known = list(known)
    lower = {choice.lower(): choice for choice in known}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"


def check_task(name: str) -> None:
    """Raises UsageError for a task that does not exist."""
    if name not in TASKS:
        raise UsageError(unknown("task", name, TASKS))


def task_of(sides: set[str]) -> Task | None:
    """The task whose two sides are exactly ``sides``, or None."""
    return next((task for task in TASKS.values() if set(task.sides) == sides), None)


@cache
def released() -> dict[str, dict[str, Any]]:
    """The model cards of the released weights, by file stem such as ``nano-ir-vis`` (weights/card.json).

    The file says once what all models of one kind of data have in common: the data, their terms, the pairs seen.
    Raises UsageError where it lies within a zip file that Python imports from.
    """
    try:
        written = json.loads((WEIGHTS_DIR / "card.json").read_text(encoding="utf-8"))
    except NotADirectoryError as error:
        file = WEIGHTS_DIR.parents[1]
        raise UsageError(f"{file}: fusecli cannot read its weights within a zip file; unpack it") from error
    cards: dict[str, dict[str, Any]] = written["models"]
    for card in cards.values():
        card.update(written["data"][card.pop("data")])
    return cards


def released_path(model: str, task: str) -> Path | None:
    """The released weights called ``model`` for ``task``: the file whose card lists both, or None."""
    for stem, card in released().items():
        if card["name"] == model and task in card["tasks"]:
            return WEIGHTS_DIR / f"{stem}.safetensors"
    return None


def weights_file(model: str, task: str) -> Path:
    """The file that ``--model`` names for a task: a released name or a file. Raises UsageError where it is neither."""
    check_task(task)
    path = released_path(model, task) or Path(model)
    if path.suffix == ".onnx":
        raise UsageError(f"{path}: ONNX is for other programs; give the .safetensors or .pt file it was made of")
    if path.suffix not in {".safetensors", ".pt"}:
        names = sorted({card["name"] for card in released().values() if task in card["tasks"]})
        known = ", ".join(names) or "none"
        raise UsageError(f"no model {model!r} for {task}; released: {known}, or give a .safetensors or .pt file")
    check_model_file(path)
    return path


def check_model_file(path: Path) -> None:
    """Raises UsageError where no model file is."""
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
