"""What to type instead where two sides do not pair: the pattern, the folders or the globs that tell them apart."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product, takewhile
from pathlib import Path
from typing import TypeVar

from fusecli.images.listing import middle_of, stem_of

ALIASES = 8  # folders beside each other may be for one side; more are rather for a scene each, as ir_0001
SEPARATORS = "_-. "  # between what two names share and what tells the sides apart
# What folders and files of each side are called in the data sets that are published.
_WORDS = {
    "vis": {"vi", "vis", "visible", "visual", "rgb", "co", "color", "colour", "eo"},
    "ir": {"ir", "infrared", "thermal", "lwir", "fir", "tir"},
    "ct": {"ct"},
    "pet": {"pet", "pt"},
    "spect": {"spect", "nm"},
    "mri": {"mri", "mr", "t1", "t1w", "t1n", "t2", "t2w", "flair"},
}
# Letters that only tell a side at the end of a name, as drones write them (DJI_0001_T.JPG: thermal, visible, wide).
_LETTERS = {"vis": {"v", "w"}, "ir": {"t"}}


def option(patterns: Iterable[tuple[str, str]], sides: tuple[str, str]) -> str:
    """``--pair-by`` with a pattern for each side."""
    by_side = zip(sides, patterns, strict=True)
    return f"--pair-by '{','.join(f'{side}={before}*{after}' for side, (before, after) in by_side)}'"


def for_names(names: tuple[str, str], keys: tuple[Collection[str], Collection[str]], sides: tuple[str, str]) -> str:
    """The ``--pair-by`` that tells the sides apart as it does these two names, one of each; "" where it does not.

    keys: all names, with their sub-folders. A pattern that fits a single pair of many fits by chance.
    """
    ends = [name.rpartition("/")[2] for name in names]
    start, stop = _shared(*ends), _shared(*(name[::-1] for name in ends))[::-1]
    if len(start) >= len(stop):
        patterns = [("", name.removeprefix(start.rstrip(SEPARATORS))) for name in ends]
    else:
        patterns = [(name.removesuffix(stop.lstrip(SEPARATORS)), "") for name in ends]
    apart = all(before[-1:] in SEPARATORS and after[:1] in SEPARATORS for before, after in patterns)  # as "" is
    paired = len(_middles(keys[0], patterns[0]) & _middles(keys[1], patterns[1])) if apart else 0
    return option(patterns, sides) if paired > 1 or paired == min(map(len, keys)) else ""


def for_one_folder(folder: str, files: Iterable[Path], sides: tuple[str, str], endings: Collection[str]) -> str:
    """The options that tell two sides apart which are one folder, by what sub-folders and files are called, or "".

    files: those of the folder, and of its sub-folders if these are taken too.
    """
    found: Counter[_Hint] = Counter()
    above: defaultdict[_Hint, set[tuple[str, ...]]] = defaultdict(set)
    for where, hint in _hints([file.relative_to(folder) for file in files], sides, endings):
        found[hint] += 1
        above[hint].add(where)
    if not found:
        return ""
    best = min(found, key=lambda hint: (-found[hint], len("".join(hint.names)), hint))
    if best.patterns:
        return option(best.patterns, sides)
    shared = ({*parts} for parts in zip(*above[best], strict=True))
    head = [glob.escape(parts.pop()) if len(parts) == 1 else "*" for parts in shared]
    typed = (shlex.quote(os.path.join(folder, *head, name)) for name in best.names)
    options = " ".join(f"--{side} {text}" for side, text in zip(sides, typed, strict=True))
    return f"{options} --recursive" if best.deeper else options


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
# What both sides have in common, folders above and the rest -> what they are called.
_BySide = defaultdict[tuple[tuple[str, ...], _Key], tuple[set[_Value], set[_Value]]]


@dataclass(frozen=True, order=True)
class _Hint:
    """What tells the sides apart: the names of two folders or files, or two patterns. deeper: with sub-folders."""

    names: tuple[str, str]
    patterns: tuple[tuple[str, str], ...] = ()
    deeper: bool = False


def _hints(
    files: Iterable[Path], sides: tuple[str, str], endings: Collection[str]
) -> Iterator[tuple[tuple[str, ...], _Hint]]:
    """For each two files that differ only in a word for their side: the folders above that word, and the hint."""
    folders: _BySide[tuple[str, ...], str] = defaultdict(lambda: (set(), set()))
    names: _BySide[str, tuple[str, tuple[str, str]]] = defaultdict(lambda: (set(), set()))
    for file in files:
        *above, name = file.parts
        stem = stem_of(name, endings) or name
        for index, part in enumerate(above):
            for side in _told(part, sides):
                folders[tuple(above[:index]), (*above[index + 1 :], stem)][side].add(part)
        for side, pattern in _patterns(stem, sides):
            names[tuple(above), middle_of(stem, pattern)][side].add((name, pattern))
    for (where, below), parts in folders.items():
        if max(map(len, parts)) <= ALIASES:
            for one, other in product(*parts):
                yield where, _Hint((one, other), deeper=len(below) > 1)
    for (where, left), found in names.items():
        for (one, pattern), (other, another) in product(*found):
            yield where, _Hint(("", ""), (pattern, another)) if left else _Hint((one, other))


@cache
def _told(text: str, sides: tuple[str, str]) -> list[int]:
    """The index of the side that a folder's name tells, in a list; an empty one if it tells neither or both."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    told = [
        any(word.rstrip("0123456789") in known or word in known for word in words)
        or any(len(long) > 4 and long in text.lower() for long in known)
        for known in (_WORDS.get(side, {side}) for side in sides)
    ]
    return [told.index(True)] if told.count(True) == 1 else []


def _patterns(stem: str, sides: tuple[str, str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """For a name that ends or begins with a word for a side: the index of the side, and the pattern of such names."""
    end, start = re.search(r"[-_. ]?([^-_. ]*)$", stem), re.match(r"([A-Za-z]*)[-_. ]?", stem)
    for index, side in enumerate(sides):
        known = _WORDS.get(side, {side})
        apart = end and end[0] != end[1]
        if end and end[1].lower() in (known | _LETTERS.get(side, set()) if apart else known):
            yield index, ("", end[0])
        if start and start[1].lower() in known and start[0] != stem:
            yield index, (start[0], "")


def _shared(a: str, b: str) -> str:
    """What two names share from their start."""
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _middles(names: Collection[str], pattern: tuple[str, str]) -> set[str]:
    """What a pattern leaves of those names that it fits, with their sub-folders."""
    split = (name.rpartition("/") for name in names)
    middles = ((folder, slash, middle_of(stem, pattern)) for folder, slash, stem in split)
    return {folder + slash + left for folder, slash, left in middles if left}
