"""Pairs that a CSV file lists."""

from __future__ import annotations

import csv
import io
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePath

from fusecli.errors import UsageError, itemized
from fusecli.images.atomic import is_device
from fusecli.images.listing import reads, stem_of
from fusecli.images.pair import Pair, same_file

STDIN = Path("-")
BLANK = ',;"'  # what lines of empty cells consist of, besides spaces


def read(
    path: Path, typed: tuple[str, str], sides: tuple[str, str], endings: tuple[str, ...], folders: bool
) -> list[Pair]:
    """The pairs, sorted by their unique names, of a table on disk or (-) on stdin. Raises UsageError.

    Columns are headed by the names of the ``sides`` and, optionally, ``name`` (of the result). Relative paths start in
    the side's folder (``typed``) where they exist there, else beside the table. folders: whether they may be folders.
    """
    pairs: dict[str, Pair] = {}
    missing: list[str] = []
    for line, cells in _rows(path, sides):
        where = f"--pairs {path}, line {line}"
        if not all(cells.get(side) for side in sides):
            raise UsageError(f"{where}: a cell is empty; both {' and '.join(sides)} are needed")
        files = [_locate(cells[side], folder, path, folders) for side, folder in zip(sides, typed, strict=True)]
        missing += [f"line {line}: {file}" for file in files if not _is_there(file, folders)]
        for file in files:
            if stem_of(file.name, endings) is None and (_is_there(file, False) or not folders):
                raise UsageError(f"{where}: {file} is not a supported kind of file; {reads(endings)}")
        if same_file(*files):
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
        raise UsageError(f"--pairs {path}: no such {what}:{itemized(missing)}")
    if not pairs:
        raise UsageError(f"--pairs {path}: no pair below the header")
    return [pairs[name] for name in sorted(pairs)]


def _rows(path: Path, sides: tuple[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, cell by column) of each line below the heading that is not blank. Raises UsageError."""
    try:
        text = (_piped if _is_piped(path) else _text)(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--pairs {path}: cannot be read as a UTF-8 text file ({error})") from error
    if "\0" in text:
        raise UsageError(f"--pairs {path}: not a text file: it holds null bytes")
    head = next((line.strip() for line in text.split("\n") if not _is_blank(line)), "")
    rows = csv.reader(io.StringIO(text), delimiter=_delimiter(head, sides))
    try:
        filled = (row for row in rows if not _is_blank(row))
        header = _names(next(filled, []))
        _check_header(header, head, path, sides)
        for row in filled:
            yield rows.line_num, dict(zip(header, (cell.strip() for cell in row), strict=False))
    except csv.Error as error:
        raise UsageError(f"--pairs {path}, line {rows.line_num}: {error}") from error


def _check_header(header: list[str], head: str, path: Path, sides: tuple[str, str]) -> None:
    """Raises UsageError unless the heading, split and as typed (``head``), names each column once."""
    if not set(sides) <= set(header):
        raise UsageError(
            f"--pairs {path}: the first line must name the columns, as {','.join(sides)} or {','.join(sides)},name; "
            f"it is {head[:60]!r}"
        )
    twice = next((name for name in (*sides, "name") if header.count(name) > 1), None)
    if twice:
        raise UsageError(f"--pairs {path}: the first line names two columns {twice!r}; which is meant?")


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
