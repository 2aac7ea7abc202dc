"""Which file of one side belongs to which of the other: by name, never by order."""

from __future__ import annotations

import csv
import glob
import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fusecli.errors import UsageError

log = logging.getLogger("fusecli")
SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """Two files of one scene. ``name`` is the result's, without ending: posix, with the mirrored sub-folder."""

    name: str
    first: Path
    second: Path


def find_pairs(
    first: str,
    second: str,
    *,
    endings: Collection[str],
    recursive: bool = False,
    pair_by: str = "stem",
    pairs_csv: Path | None = None,
    ignore_unmatched: bool = False,
) -> list[Pair]:
    """Pairs sorted by name.

    first, second: a folder, a file or a glob. endings: lower case with dot; other files are passed over. recursive:
    sub-folders too, paired by their relative path. pair_by: "stem", or a pattern for each side, first one first, in
    which {} is what the names share: "{}_vis,{}_ir". pairs_csv: explicit pairs instead, two columns, relative to the
    file. ignore_unmatched: a warning instead of an error for files without a partner.
    Raises UsageError for missing or empty folders, ambiguous names and unmatched files.
    """
    if pairs_csv is not None:
        return _from_csv(pairs_csv)
    if Path(first).is_file() and Path(second).is_file():
        return [Pair(Path(first).stem, Path(first), Path(second))]
    patterns = _patterns(pair_by)
    sides = [
        _by_key(_files(given, endings, recursive), pattern, given)
        for given, pattern in zip((first, second), patterns, strict=True)
    ]
    common = sorted(sides[0].keys() & sides[1].keys())
    lonely = [str(side[key]) for side, other in (sides, sides[::-1]) for key in sorted(side.keys() - other.keys())]
    if lonely:
        shown = "\n  ".join(lonely[:SHOWN]) + (f"\n  … and {len(lonely) - SHOWN} more" if len(lonely) > SHOWN else "")
        message = f"{len(lonely)} file{'s' if len(lonely) > 1 else ''} without a partner of the same name:\n  {shown}"
        if not ignore_unmatched:
            raise UsageError(f"{message}\n(--ignore-unmatched fuses the others; --pair-by matches other names)")
        log.warning(message)
    if not common:
        raise UsageError(f"no name is in both {first} and {second}; --pair-by or --pairs can match other names")
    return [Pair(key, sides[0][key], sides[1][key]) for key in common]


def _patterns(pair_by: str) -> tuple[re.Pattern | None, re.Pattern | None]:
    """Patterns of names for both sides; None stands for the whole stem."""
    if pair_by == "stem":
        return None, None
    parts = pair_by.split(",")
    if len(parts) != 2 or any(part.count("{}") != 1 for part in parts):
        raise UsageError(
            f"--pair-by {pair_by}: write stem, or a pattern for each side with {{}} once, as {{}}_vis,{{}}_ir"
        )
    regexes = []
    for part in parts:
        before, _, after = part.partition("{}")
        regexes.append(re.compile(re.escape(before) + "(.+)" + re.escape(after)))
    return regexes[0], regexes[1]


def _by_key(files: Iterator[tuple[str, Path]], pattern: re.Pattern | None, given: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    seen = 0
    for folder, path in files:
        seen += 1
        stem = path.stem
        if pattern is not None:
            match = pattern.fullmatch(stem)
            if match is None:
                continue
            stem = match[1]
        key = f"{folder}/{stem}" if folder else stem
        if key in found:
            raise UsageError(f"{found[key]} and {path}: the same name twice, so neither can be paired; move one away")
        found[key] = path
    if not seen:
        raise UsageError(f"{given}: no image here")
    if not found:
        raise UsageError(f"{given}: none of {seen} names fits the --pair-by pattern")
    return found


def _files(given: str, endings: Collection[str], recursive: bool) -> Iterator[tuple[str, Path]]:
    """(relative folder, file) of a folder, a file or a glob; hidden files and other endings are passed over."""
    path = Path(given)
    if path.is_dir():
        others: list[str] = []
        empty = True
        for folder, file in _walk(path, recursive):
            if file.suffix.lower() in endings:
                empty = False
                yield folder, file
            else:
                others.append(file.suffix or file.name)
        if empty and others:
            kinds = ", ".join(sorted(set(others))[:5])
            raise UsageError(
                f"{given}: no supported image among its files ({kinds}); supported: {' '.join(sorted(endings))}"
            )
    elif path.is_file():
        yield "", path
    elif glob.has_magic(given):
        for name in sorted(glob.glob(given, recursive=True)):
            if Path(name).is_file() and Path(name).suffix.lower() in endings:
                yield "", Path(name)
    else:
        raise UsageError(f"{given}: no such file or folder")


def _walk(root: Path, recursive: bool) -> Iterator[tuple[str, Path]]:
    """Files below a folder by name; a folder that a link leads back to is visited once."""
    visited: set[tuple[int, int]] = set()

    def visit(folder: Path, relative: str) -> Iterator[tuple[str, Path]]:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            listing = sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
        for entry in listing:
            if entry.is_file():
                yield relative, Path(entry.path)
            elif recursive and entry.is_dir():
                yield from visit(Path(entry.path), f"{relative}/{entry.name}" if relative else entry.name)

    yield from visit(root, "")


def _from_csv(path: Path) -> list[Pair]:
    """Pairs of a CSV file: first, second and optionally the result's name; a header without a file's name is skipped."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a readable CSV file ({error})") from error
    pairs: dict[str, Pair] = {}
    for number, row in rows:
        if len(row) not in (2, 3):
            raise UsageError(f"{path}, line {number}: {len(row)} columns; write first,second or first,second,name")
        sides = [path.parent / cell.strip() for cell in row[:2]]
        if number == 1 and not any(side.suffix for side in sides):
            continue
        missing = [str(side) for side in sides if not side.is_file()]
        if missing:
            raise UsageError(f"{path}, line {number}: no such file: {', '.join(missing)}")
        name = row[2].strip() if len(row) == 3 else sides[0].stem
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise UsageError(f"{path}, line {number}: {name!r} does not name a file inside the output folder")
        if name in pairs:
            raise UsageError(f"{path}, line {number}: a second result called {name}; give names in a third column")
        pairs[name] = Pair(name, *sides)
    if not pairs:
        raise UsageError(f"{path}: no pair in it")
    return [pairs[name] for name in sorted(pairs)]
