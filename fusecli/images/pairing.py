"""Which file of one side belongs to which of the other: by name, never by order."""

from __future__ import annotations

import csv
import errno
import glob
import io
import logging
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from fusecli.errors import UsageError, itemized
from fusecli.images import video
from fusecli.images.atomic import is_device

log = logging.getLogger("fusecli")

STDIN = Path("-")
SHOWN = 10  # names that a message lists before it only counts
BLANK = ',;"'  # what lines of empty cells consist of, besides spaces
SEPARATORS = "_-. "  # between what two names share and what tells the sides apart


class NoPair(UsageError):
    """Both sides have files, and none has a partner."""


@dataclass(frozen=True)
class Pair:
    """Two files of one scene. name: the result's, without ending: posix, with the mirrored sub-folder (night/0001)."""

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
    folders: bool = False,
    ignore_unmatched: bool = False,
    sides: tuple[str, str] = ("first", "second"),
) -> list[Pair]:
    """The pairs, sorted by their unique names. Raises UsageError for all that is wrong, before any work starts.

    first, second: a folder, a file or a glob, as typed. A folder gives its files whose ending is in ``endings`` (lower
    case, with the dot; "" admits names without one), hidden ones excepted; ``recursive``: those of its sub-folders too.
    In a glob such as ``set*/ir/*.png`` the parts with wildcards form the name (set1/0001), so both sides may differ in
    the fixed parts. Two files are a pair whatever their names; one file is paired with its namesake in a folder.

    pair_by: "stem" (same name, whatever the ending), or one pattern for each side, as ``ir=*_IR,vis=*_RGB``: the part
    under the star must agree, and names the result. A side without pattern has ``*``.
    pairs_csv: the pairs themselves (-: on stdin), in columns headed by the names of the sides and, optionally, ``name``
    (of the result). Relative paths start in the side's folder where they exist there, else beside the CSV file.
    folders: whether the pairs themselves may be folders.
    ignore_unmatched: files without partner cost a warning, not the run, unless none has one (NoPair).
    sides: names of the two sides, for messages, patterns and columns.
    """
    options = tuple(f"--{side}" for side in sides)
    if pairs_csv is not None:
        if pair_by != "stem":
            raise UsageError("--pairs names the pairs, --pair-by tells them by their names: leave out one of them")
        return _from_csv(pairs_csv, (first, second), sides, tuple(endings), folders)
    by_side = patterns(pair_by, sides)
    _check_there(zip(options, (first, second), strict=True))
    a, b = (
        _Side.collect(option, typed, pattern, tuple(endings), recursive)
        for option, typed, pattern in zip(options, (first, second), by_side, strict=True)
    )
    if a.single and b.single:
        (one,), (other,) = a.paths, b.paths
        return _distinct([Pair(stem_of(one.name, endings) or one.stem, one, other)], sides)
    common = sorted(a.files.keys() & b.files.keys())
    if not common:
        message = _nothing_in_common(a, b, endings, sides if pair_by == "stem" else None)
        raise NoPair("\n".join([message, *_not_taken(a, b, endings)]))
    videos = sorted(key for key in a.foreign.keys() & b.foreign.keys() if a.foreign[key] in video.ENDINGS)
    if videos:
        log.warning("videos among pictures are left out, for example %s; fuse them in a run of their own", videos[0])
    if not a.single and not b.single:  # else one file is asked for, against a folder
        _tell_unmatched(a, b, endings, ignore_unmatched)
    return _distinct([Pair(name, a.files[name], b.files[name]) for name in common], sides)


def _check_there(sides: Iterable[tuple[str, str]]) -> None:
    """Raises UsageError that names all of ``sides`` (option, typed) where nothing is, before any is collected."""
    gone = []
    for option, typed in sides:
        if not os.path.exists(typed) and not glob.has_magic(typed):
            broken = os.path.islink(typed)
            what = f"a link to {os.readlink(typed)}, which is not there" if broken else "no such file or folder"
            gone.append(f"{option} {typed}: {what}" if typed else f"{option}: names nothing; write . for this folder")
    if gone:
        raise UsageError("\n".join(gone))


def _tell_unmatched(a: _Side, b: _Side, endings: Collection[str], ignore: bool) -> None:
    """List files without a partner, and broken links: a warning if they are to be ignored, else a UsageError."""
    listed = [_list_of(side, paths) for side, other in ((a, b), (b, a)) if (paths := side.without_partner(other))]
    if not (listed or a.broken or b.broken):
        return
    message = "\n".join([*listed, *_not_taken(a, b, endings)])
    if not ignore:
        raise UsageError(
            f"{message}\nAdd the missing files, or go on without these by --ignore-unmatched; "
            "--pair-by and --pairs match names that differ."
        )
    log.warning("%s", message)


def files_in(folder: str, recursive: bool = False) -> Iterator[tuple[str, Path]]:
    """(name with the mirrored sub-folder, path) of all files of a folder that are not hidden. Raises OSError."""
    for relative, name, location in _walk(folder, recursive):
        yield relative + name, Path(location)


def files_of(pattern: str) -> Iterator[tuple[str, Path]]:
    """The same for the files that match a glob; the parts with wildcards form the sub-folder."""
    for relative, name, location in _glob(pattern, []):
        yield relative + name, Path(location)


def is_empty(folder: str) -> bool:
    """Whether a folder, with its sub-folders, holds no file yet and no broken link."""
    try:
        broken: list[str] = []
        return next(_walk(folder, True, broken), None) is None and not broken
    except OSError:  # reported when the folder is read
        return False


def key_of(name: str, *, pattern: tuple[str, str], endings: Collection[str]) -> str | None:
    """The pair's name of a file, given with its sub-folder; None where ending or pattern (`patterns`) does not fit."""
    folder, slash, own = name.rpartition("/")
    middle = _middle(stem_of(own, endings) or "", pattern)
    return unicodedata.normalize("NFC", folder + slash + middle) if middle else None


def _distinct(pairs: list[Pair], sides: tuple[str, str]) -> list[Pair]:
    """The pairs, unless both sides turn out to be the same files."""
    if _same(pairs[0].first, pairs[0].second):
        raise UsageError(
            f"--{sides[0]} and --{sides[1]} name the same file ({pairs[0].first}); where both sides share a folder, "
            f"tell them apart by --pair-by, as --pair-by '{sides[0]}=*_{sides[0]},{sides[1]}=*_{sides[1]}'"
        )
    return pairs


def _same(first: Path, second: Path) -> bool:
    with suppress(OSError):  # not there, or gone since it was listed: then its pair will fail by name
        return os.path.samefile(first, second)
    return False


@dataclass
class _Side:
    """What one side of the command line names.

    files: key -> path. other: files whose names do not fit the pattern. foreign: key -> ending that fusecli does not
    read. broken: broken links.
    """

    option: str
    typed: str
    single: bool = False
    files: dict[str, Path] = field(default_factory=dict)
    other: list[Path] = field(default_factory=list)
    foreign: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        return [*self.files.values(), *self.other]

    @classmethod
    def collect(
        cls, option: str, typed: str, pattern: tuple[str, str], endings: tuple[str, ...], recursive: bool
    ) -> _Side:
        path = Path(typed)
        broken: list[str] = []
        try:
            if path.is_dir():
                found = list(_walk(typed, recursive, broken))
            elif is_device(path):  # a pipe can be read only once, and reading may block
                raise UsageError(f"{option} {typed}: a pipe or device, which cannot be read as a file; save it as one")
            elif path.exists():
                found = [("", path.name, typed)]
            else:
                found = list(_glob(typed, broken))
        except OSError as error:
            raise UsageError(
                f"{option} {error.filename or typed}: cannot be listed: {error.strerror or error}"
            ) from error
        broken = [link for link in broken if stem_of(Path(link).name, endings) is not None]
        side = cls(option, typed, single=path.is_file(), broken=broken)
        for folder, name, location in found:
            stem = stem_of(name, endings)
            middle = _middle(Path(name).stem if stem is None else stem, pattern)
            key = unicodedata.normalize("NFC", folder + middle)  # macOS decomposes accented letters
            if stem is None:
                side.foreign[key] = Path(name).suffix.lower()
                continue
            if not middle:
                side.other.append(Path(location))
                continue
            if key in side.files:
                raise UsageError(
                    f"{option}: {side.files[key]} and {location} have the same name, so that no one can tell which to "
                    "pair; move one away, or give a glob such as '*.png'"
                )
            side.files[key] = Path(location)
        if not side.paths:
            why = _of_links(broken) if broken else _why_none([name for _, name, _ in found], path, endings, recursive)
            raise UsageError(f"{option} {typed}: {why}")
        return side

    def without_partner(self, partner: _Side) -> list[Path]:
        taken = set(partner.files.values()) if self.other else set()
        return [path for key, path in self.files.items() if key not in partner.files] + [
            path
            for path in self.other
            if path not in taken  # both sides may share a folder
        ]


def patterns(pair_by: str, sides: tuple[str, str]) -> list[tuple[str, str]]:
    """For each side, the parts of its pattern before and after the star."""
    if pair_by == "stem":
        return [("", "")] * 2
    given: dict[str, tuple[str, str]] = {}
    for part in pair_by.split(","):
        side, equals, pattern = part.strip().partition("=")
        if side not in sides or side in given or not equals or pattern.count("*") != 1:
            raise UsageError(
                f"--pair-by {pair_by}: expected stem, or a pattern with one * for each side, "
                f"as {sides[0]}=*_{sides[0]},{sides[1]}=*_{sides[1]}"
            )
        before, _, after = pattern.partition("*")
        given[side] = before, after
    return [given.get(side, ("", "")) for side in sides]


def stem_of(name: str, endings: Collection[str]) -> str | None:
    """The name without its ending; None where the ending is none of ``endings`` (of which .nii.gz may be one)."""
    dot = name.rfind(".")
    if dot <= 0:
        return name if "" in endings else None
    double = name.rfind(".", 1, dot)
    if double > 0 and name[double:].lower() in endings:
        return name[:double]
    return name[:dot] if name[dot:].lower() in endings else None


def _walk(
    folder: str,
    recursive: bool,
    broken: list[str] | None = None,
    relative: str = "",
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[str, str, str]]:
    """(folder with slash, name, location) of all files that are not hidden; links to a parent are not followed.

    broken: a list to which broken links are appended. relative, above: the path from the first folder to this one, and
    the folders on it.
    """
    try:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in above:
            return
        with os.scandir(folder) as entries:
            listing = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except (FileNotFoundError, PermissionError) as error:
        if not relative:
            raise
        if isinstance(error, PermissionError):  # `os.access` does not foresee it of a Windows drive's own folders
            _tell_closed(folder)
        return  # else it is gone since its parent was listed, such as the oldest day's
    for entry in listing:
        try:
            is_file, is_folder = entry.is_file(), entry.is_dir()
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link to itself
                continue
            raise
        if is_file:
            yield relative, entry.name, entry.path
        elif recursive and is_folder:
            if os.access(entry.path, os.R_OK | os.X_OK):
                yield from _walk(entry.path, recursive, broken, f"{relative}{entry.name}/", above | {identity})
            else:  # such as lost+found of a disk
                _tell_closed(entry.path)
        elif broken is not None and not is_folder and entry.is_symlink():
            broken.append(entry.path)


@cache
def _tell_closed(folder: str) -> None:
    """Once for each folder: --watch looks twice a second."""
    log.warning("%s: cannot be listed: no permission", folder)


def _glob(pattern: str, broken: list[str]) -> Iterator[tuple[str, str, str]]:
    """As `_walk`, for the files that match a glob; the folder keeps only the parts of a path that wildcards matched."""
    parts = Path(pattern).parts[:-1]
    deep = [index for index, part in enumerate(parts) if part == "**"]
    head, tail = (deep[0], len(parts) - 1 - deep[-1]) if deep else (len(parts), 0)
    for location in sorted(glob.glob(pattern, recursive=True)):
        if not os.path.isfile(location):
            broken += [location] if os.path.islink(location) and not os.path.exists(location) else []
            continue
        *folders, name = Path(location).parts
        matched = [*parts[:head], *["**"] * (len(folders) - head - tail), *parts[len(parts) - tail :]]
        kept = (f"{folder}/" for folder, part in zip(folders, matched, strict=False) if glob.has_magic(part))
        yield "".join(kept), name, location


def _reads(endings: Collection[str]) -> str:
    return f"fusecli reads {' '.join(sorted(ending for ending in endings if ending))} here"


def _not_taken(a: _Side, b: _Side, endings: Collection[str]) -> Iterator[str]:
    """For each side: which files would have a partner, if fusecli read files of their kind; which links are broken."""
    for side, other in ((a, b), (b, a)):
        kinds = Counter(side.foreign[key] for key in side.foreign.keys() & other.files.keys() - side.files.keys())
        if kinds:
            found = ", ".join(f"{count} × {kind or 'no ending'}" for kind, count in kinds.most_common(5))
            yield f"{side.option}: there are files of these names that are not read ({found}); {_reads(endings)}"
    yield from (f"{side.option}: {_of_links(side.broken)}" for side in (a, b) if side.broken)


def _of_links(links: list[str]) -> str:
    what = "1 link leads" if len(links) == 1 else f"{len(links)} links lead"
    return f"{what} to what is not there, as {links[0]} to {os.readlink(links[0])}"


def _why_none(names: list[str], path: Path, endings: tuple[str, ...], recursive: bool) -> str:
    reads = _reads(endings)
    if names and path.is_file():
        return f"not a supported kind of file; {reads}"
    nested = path.is_dir() and not recursive and any(entry.is_dir() for entry in path.iterdir())
    if names:
        kinds = Counter(Path(name).suffix.lower() or "no ending" for name in names)
        found = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))
        deeper = "; --recursive takes its sub-folders too" if nested else ""
        return f"no supported file among those found ({found}); {reads}{deeper}"
    if not path.is_dir():
        return "only folders match; add /* for their files" if glob.glob(str(path)) else "no file matches"
    if nested:
        return "the folder holds only sub-folders; --recursive takes these too"
    return "the folder is empty"


def _list_of(side: _Side, paths: list[Path]) -> str:
    what = "1 file has" if len(paths) == 1 else f"{len(paths)} files have"
    return f"{side.option}: {what} no partner of the same name:{itemized(paths, SHOWN)}"


def _nothing_in_common(a: _Side, b: _Side, endings: Collection[str], sides: tuple[str, str] | None) -> str:
    """The message where the sides share no name; given ``sides``, it suggests patterns that match, if it finds any."""
    for side in (a, b):
        if not side.files:
            stem = stem_of(side.paths[0].name, endings)
            return (
                f"{side.option}: no name there, without its ending, fits the pattern of --pair-by, {stem!r} for example"
            )
    bases = [{key.rpartition("/")[2]: key for key in side.files} for side in (a, b)]
    alike = min(bases[0].keys() & bases[1].keys(), default=None)
    names = [min(side.files) if alike is None else base[alike] for side, base in zip((a, b), bases, strict=True)]
    message = (
        f"no file of {a.option} has a partner of the same name in {b.option}; "
        f"{a.typed} has {names[0]!r}, {b.typed} has {names[1]!r}, for example"
    )
    if alike is not None:
        return f"{message}. The sub-folders must agree, too; --pairs matches files wherever they lie."
    ends = [name.rpartition("/")[2] for name in names]
    start, stop = _agreement(*ends), _agreement(ends[0][::-1], ends[1][::-1])
    if start >= stop:
        start = len(ends[0][:start].rstrip(SEPARATORS))
        differ = [name[start:] for name in ends]
        patterns = [("", rest) for rest in differ]
    else:
        stop = len(ends[0][len(ends[0]) - stop :].lstrip(SEPARATORS))
        differ = [name[: len(name) - stop][::-1] for name in ends]
        patterns = [(rest[::-1], "") for rest in differ]
    apart = all(not rest or rest[0] in SEPARATORS for rest in differ)
    if sides and apart and _keys(a.files, patterns[0]) & _keys(b.files, patterns[1]):
        option = ",".join(f"{side}={before}*{after}" for side, (before, after) in zip(sides, patterns, strict=True))
        return f"{message}. Did you mean --pair-by '{option}'?"
    return f"{message}. --pair-by and --pairs match names that differ."


def _agreement(a: str, b: str) -> int:
    """How many characters two names share from their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _keys(names: Collection[str], pattern: tuple[str, str]) -> set[str]:
    """The keys of those names that a pattern fits."""
    split = (name.rpartition("/") for name in names)
    middles = ((folder, slash, _middle(stem, pattern)) for folder, slash, stem in split)
    return {folder + slash + middle for folder, slash, middle in middles if middle}


def _middle(stem: str, pattern: tuple[str, str]) -> str:
    """The part of a stem that the star matches; empty where the pattern does not fit."""
    before, after = pattern
    fits = stem.startswith(before) and stem.endswith(after)
    return stem[len(before) : len(stem) - len(after)] if fits else ""


def _from_csv(
    path: Path, typed: tuple[str, str], sides: tuple[str, str], endings: tuple[str, ...], folders: bool
) -> list[Pair]:
    try:
        text = (_piped if _is_piped(path) else _text)(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--pairs {path}: cannot be read as a UTF-8 text file ({error})") from error
    if "\0" in text:
        raise UsageError(f"--pairs {path}: not a text file: it holds null bytes")
    head = next((line.strip() for line in text.split("\n") if not _is_blank(line)), "")
    rows = csv.reader(io.StringIO(text), delimiter=_delimiter(head, sides))
    try:
        return _from_rows(rows, head, path, typed, sides, endings, folders)
    except csv.Error as error:
        raise UsageError(f"--pairs {path}, line {rows.line_num}: {error}") from error


def _delimiter(head: str, sides: tuple[str, str]) -> str:
    """The delimiter with which the heading names both sides; which one spreadsheets write depends on the locale."""
    return next((one for one in ",;\t" if set(sides) <= set(_names(head.replace('"', "").split(one)))), ",")


def _names(row: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in row]


def _is_blank(cells: Iterable[str]) -> bool:
    """Whether a line, or its cells, hold nothing but spaces, of which some are no-break ones."""
    return all(character.isspace() or character in BLANK for character in "".join(cells))


def _is_piped(path: Path) -> bool:
    return path == STDIN or is_device(path)


def _text(path: Path) -> str:
    """UTF-8, with or without a byte order mark; every kind of line ending becomes a line feed."""
    data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    return io.StringIO(data.decode("utf-8-sig"), newline=None).read()


_piped = cache(_text)  # a pipe can be read only once, but is searched both for volumes and for pictures


def _from_rows(
    rows: Any,
    head: str,
    path: Path,
    typed: tuple[str, str],
    sides: tuple[str, str],
    endings: tuple[str, ...],
    folders: bool,
) -> list[Pair]:
    header = _names(next((row for row in rows if not _is_blank(row)), []))
    if not set(sides) <= set(header):
        raise UsageError(
            f"--pairs {path}: the first line must name the columns, as {','.join(sides)} or {','.join(sides)},name; "
            f"it is {head[:60]!r}"
        )
    twice = next((name for name in (*sides, "name") if header.count(name) > 1), None)
    if twice:
        raise UsageError(f"--pairs {path}: the first line names two columns {twice!r}; which is meant?")
    pairs: dict[str, Pair] = {}
    missing: list[str] = []
    for row in rows:
        if _is_blank(row):
            continue
        where = f"--pairs {path}, line {rows.line_num}"
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        if not all(cells.get(side) for side in sides):
            raise UsageError(f"{where}: a cell is empty; both {' and '.join(sides)} are needed")
        files = [_locate(cells[side], folder, path, folders) for side, folder in zip(sides, typed, strict=True)]
        missing += [f"line {rows.line_num}: {file}" for file in files if not _is_there(file, folders)]
        for file in files:
            if stem_of(file.name, endings) is None and (_is_there(file, False) or not folders):
                raise UsageError(f"{where}: {file} is not a supported kind of file; {_reads(endings)}")
        if _same(*files):
            raise UsageError(f"{where}: --{sides[0]} and --{sides[1]} name the same file ({files[0]})")
        name = unicodedata.normalize("NFC", cells.get("name") or files[0].name)
        name = stem_of(name, endings) or name
        if _leaves(name):
            raise UsageError(f"{where}: {name!r} does not name a file inside the output folder")
        name = PurePath(name).as_posix()  # on Windows backslashes part folders, too
        if name in pairs:
            raise UsageError(
                f"{where}: a second result would be called {name!r} (before: {pairs[name].first}); "
                "give results their names in a column called name"
            )
        pairs[name] = Pair(name, files[0], files[1])
    if missing:
        what = "file or folder" if folders else "file"
        raise UsageError(f"--pairs {path}: no such {what}:{itemized(missing, SHOWN)}")
    if not pairs:
        raise UsageError(f"--pairs {path}: no pair below the header")
    return [pairs[name] for name in sorted(pairs)]


def _locate(cell: str, folder: str, table: Path, folders: bool) -> Path:
    beside = Path() if _is_piped(table) else table.parent  # stdin lies nowhere
    slashed = cell.replace("\\", "/")  # a table made on Windows
    spelled = dict.fromkeys((cell, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))))
    places = [root / name for root in (Path(folder) if folder else beside, beside) for name in spelled]
    return next((place for place in places if _is_there(place, folders)), beside / cell)


def _is_there(path: Path, folders: bool) -> bool:
    try:
        return path.is_file() or (folders and path.is_dir())
    except OSError:  # a name that is too long
        return False


def _leaves(name: str) -> bool:
    """Whether a result of that name would lie outside the output folder, be hidden, or have none."""
    path = PurePath(name)
    return not path.parts or name.endswith("/") or bool(path.anchor) or any(part.startswith(".") for part in path.parts)
