"""Data sets on disk: where their pairs lie, which of them count, and what to say when they are not there."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fusecli import registry
from fusecli.errors import UsageError, counted
from fusecli.images.frames import ENDINGS
from fusecli.images.pair import Pair
from fusecli.images.pairing import Pairing, find_pairs

SPLITS = Path(__file__).with_name("splits.json")
SAMPLE = Path(__file__).parents[2] / "sample_data"
SHORT_NAMES = {"vis": ("vis", "vi", "VI", "Vis", "visible"), "ir": ("ir", "IR", "Ir", "infrared")}


@dataclass
class PairSet:
    """Pairs to measure on. ``left_out``: reason -> names of pairs that were there but do not count. ``notes``: what the
    reader of a table must know."""

    name: str
    task: registry.Task
    pairs: list[Pair]
    title: str = ""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def expand(names: Iterable[str]) -> list[str]:
    """Data set names with groups resolved, each once. UsageError for a name that does not exist."""
    found: list[str] = []
    for name in names:
        if name in registry.DATASET_GROUPS:
            found += registry.DATASET_GROUPS[name]
        elif name in registry.DATASETS:
            found.append(name)
        else:
            raise UsageError(registry.unknown("data set", name, [*registry.DATASETS, *registry.DATASET_GROUPS]))
    return list(dict.fromkeys(found))


def load(name: str, root: Path | None, split: str = "all") -> PairSet:
    """The pairs of a registered data set. Raises UsageError that says where to get it and how the folder must look."""
    dataset = registry.DATASETS[name]
    task = registry.TASKS[dataset.task]
    first, second = _sides(dataset, root)
    pairs = find_pairs(str(first), str(second), Pairing(ignore_unmatched=True), endings=ENDINGS, sides=task.sides)
    found = PairSet(name, task, pairs, dataset.title)
    if split != "all":
        wanted = split_names(name, split)
        by_name = {pair.name: pair for pair in pairs}
        missing = [stem for stem in wanted if stem not in by_name]
        if missing:
            shown = ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
            raise UsageError(
                f"{name}: {first.parent} lacks {counted(len(missing), 'pair')} of split {split!r}: {shown}"
            )
        found.pairs = [by_name[stem] for stem in wanted]
        found.notes.append(f"split {split!r}: {counted(len(wanted), 'name')}, sha256 {_digest(wanted)[:12]}")
    return found


def from_folders(task: registry.Task, sides: dict[str, str], pairing: Pairing = Pairing()) -> PairSet:
    """Pairs of two folders (files, globs) given by side name, such as ``{"vis": …, "ir": …}``."""
    first, second = (sides[side] for side in task.sides)
    pairs = find_pairs(first, second, pairing, endings=ENDINGS, sides=task.sides)
    return PairSet(_name_of(Path(first), task), task, pairs, f"{first} with {second}")


def _name_of(first: Path, task: registry.Task) -> str:
    """The name of own pairs: their first side's folder, or the one that holds it where it is named as the side is."""
    while glob.has_magic(str(first)) and not first.exists():  # vis/*.png, or */vis: what is above the wildcards
        first = first.parent
    first = Path(os.path.abspath(first))
    if first.name.lower() in {task.first, *SHORT_NAMES["vis"]}:
        first = first.parent
    return first.name or "pairs"


def leave_out_seen(found: PairSet, cards: list[dict[str, Any]], include: bool) -> None:
    """Drop the pairs that the models of these cards were trained or tuned on; say so in ``found``.

    A card lists them by file name without ending, per data set: "seen" for training, "tuned" for choosing. If no pairs
    but tuning ones are left, they stay, with a note: scores on them serve to choose between models, and are no test.
    Raises UsageError if all pairs were trained on.
    """
    names = {pair.name for pair in found.pairs}
    trained = names & _listed(cards, ("seen",), found.name)
    tuned = names & _listed(cards, ("tuned",), found.name) - trained
    for card in cards:
        if found.name in card.get("trained_on", ()) and not card.get("seen"):
            found.notes.append(f"{card['name']} was trained on pairs of {found.name}, its card does not say which")
    if found.name not in registry.DATASETS:  # own folders, perhaps those of a data set
        for name in registry.DATASETS:
            alike = names & _listed(cards, ("seen", "tuned"), name)
            if alike:
                found.notes.append(
                    f"{counted(len(alike), 'pair')} named like those of {name} that the weights were trained or tuned "
                    f"on; if they are those, this is no test: --dataset {name} leaves them out"
                )
    if include:
        if trained or tuned:
            found.notes.append(
                f"includes {counted(len(trained), 'pair')} of training and {len(tuned)} of tuning: no test of them"
            )
        return
    dropped = trained
    if trained:
        found.left_out["trained on"] = sorted(trained)
    if tuned and names - trained - tuned:
        found.left_out["tuned on"] = sorted(tuned)
        dropped = trained | tuned
    elif tuned:
        found.notes.append(f"{counted(len(tuned), 'pair')}, all used to choose the weights: for tuning, not a test")
    found.pairs = [pair for pair in found.pairs if pair.name not in dropped]
    if not found.pairs:
        raise UsageError(
            f"{found.name}: the released weights were trained on every pair there ({len(names)}), so nothing is left "
            "to measure; --include-seen measures on them nevertheless"
        )


def note_own_training(found: PairSet, method: str, weights: Path) -> bool:
    """Note how many pairs own weights were trained or validated on, by the run.json beside them; whether any were.

    Its recipe names folders below a data root, which may have moved, so only the ends of paths are compared, and links
    are seen both as what they are called and as what they point to.
    """
    try:
        recipe = json.loads(weights.with_name("run.json").read_text(encoding="utf-8"))["recipe"]
        named = [Path(one).parts for key in ("train", "val") for one in recipe[key].get(found.task.name, ())]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    seen = 0
    for pair in found.pairs:
        places = [path.parts[:-2] for path in (Path(os.path.abspath(pair.first)), pair.first.resolve())]
        seen += any(place[-len(parts) :] == parts for place in places for parts in named if parts)
    if seen:
        found.notes.append(
            f"{method}: {counted(seen, 'pair')} of folders that it was trained or tuned on: no test of it"
        )
    return seen > 0


def split_names(name: str, split: str) -> list[str]:
    """File names, without ending, of an agreed split. UsageError if there is none of that name."""
    splits = _splits().get(name, {})
    if split not in splits:
        known = ["all", *splits]
        raise UsageError(f"{name}: {registry.unknown('split', split, known)}")
    return splits[split]["names"]


@cache
def _splits() -> dict[str, dict[str, dict[str, Any]]]:
    """Data set -> split -> {"names", "sha256" of the names joined by newlines, "source"}."""
    return json.loads(SPLITS.read_text(encoding="utf-8"))


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _listed(cards: list[dict[str, Any]], keys: tuple[str, ...], dataset: str) -> set[str]:
    """Names of a data set's pairs that cards list under these keys, without endings."""
    names = [name for card in cards for key in keys for name in card.get(key, {}).get(dataset, ())]
    return {Path(name).stem if Path(name).suffix.lower() in ENDINGS else name for name in names}


def _sides(dataset: registry.Dataset, root: Path | None) -> tuple[Path, Path]:
    """The folders of both sides. Raises UsageError that says where to get them, if they are not there."""
    task = registry.TASKS[dataset.task]
    layouts = [task.sides, *dataset.layouts]
    layouts += [
        (first, second)
        for first in SHORT_NAMES.get(task.first, (task.first,))
        for second in SHORT_NAMES.get(task.second, (task.second,))
    ]
    names = (dataset.name, *dataset.folders)
    if dataset.name == "sample":
        root, names = SAMPLE.parent, (SAMPLE.name,)
    elif root is None and os.environ.get("FUSECLI_DATA"):
        root = Path(os.environ["FUSECLI_DATA"])
    for folder in [root / name for name in names] if root else []:
        for first, second in layouts:
            if (folder / first).is_dir() and (folder / second).is_dir():
                return folder / first, folder / second
    place = root or "<data root>"
    shapes = [f"{names[0]}/{task.first}/ and {names[0]}/{task.second}/"]
    shapes += [f"{(*dataset.folders, names[0])[0]}/{first}/ and …/{second}/" for first, second in dataset.layouts]
    looked = "" if root else ": no data root is set (--data-root or $FUSECLI_DATA)"
    raise UsageError(
        f"data set {dataset.name!r} ({dataset.title}) is not there{looked}\n"
        f"  get it:  {dataset.where}\n"
        f"  terms:   {dataset.terms}\n"
        f"  folders: {place}/{f' or {place}/'.join(shapes)}, files of one name in both"
    )
