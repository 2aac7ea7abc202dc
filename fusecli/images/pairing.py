"""Which file of one side belongs to which of the other: by name, never by order."""

from __future__ import annotations

import glob
import logging
import mimetypes
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fusecli.errors import UsageError, counted, itemized
from fusecli.images import pair_table, pairing_hints, video
from fusecli.images.atomic import is_device
from fusecli.images.listing import folders_of, leaves_open_folders, matching, middle_of, reads, stem_of, walk
from fusecli.images.pair import Pair, same_file

log = logging.getLogger("fusecli")


class NoPair(UsageError):
    """Both sides have files, and none has a partner."""


@dataclass(frozen=True)
class Pairing:
    """How files find their partners; see the options of `fusecli fuse`.

    recursive: whether folders give the files of their sub-folders, too.
    pair_by: "stem" (same name, whatever the ending), or one pattern for each side, as ``ir=*_IR,vis=*_RGB``: the part
    under the star must agree, and names the result; ``?`` is any character. A side without pattern has ``*``.
    pairs_csv: a table of the pairs, see `pair_table.read`.
    ignore_unmatched: files without partner cost a warning, not the run, unless none has one (NoPair).
    """

    recursive: bool = False
    pair_by: str = "stem"
    pairs_csv: Path | None = None
    ignore_unmatched: bool = False


def find_pairs(
    first: str,
    second: str,
    pairing: Pairing = Pairing(),
    *,
    endings: Collection[str],
    folders: bool = False,
    sides: tuple[str, str] = ("first", "second"),
) -> list[Pair]:
    """The pairs, sorted by their unique names. Raises UsageError for all that is wrong, before any work starts.

    first, second: a folder, a file or a glob, as typed. A folder gives its files whose ending is in ``endings`` (lower
    case, with the dot; "" admits names without one), hidden ones excepted. In a glob such as ``set*/ir/*.png`` the
    parts with wildcards form the name (set1/0001), so both sides may differ in the fixed parts, even in the names of
    files (``*/ir.png``, ``*/vis.png``). A glob of folders (``set*/ir``) means the files in them. Two files are a pair
    whatever their names; one file is paired with its namesake in a folder.

    folders: whether a table lists these, too, see `pair_table.read`.
    sides: names of the two sides, for messages, patterns and columns.
    """
    pair_by = pairing.pair_by
    if pairing.pairs_csv is not None:
        if pair_by != "stem":
            raise UsageError("--pairs names the pairs, --pair-by tells them by their names: leave out one of them")
        return pair_table.read(pairing.pairs_csv, (first, second), sides, tuple(endings), folders)
    by_side = patterns(pair_by, sides)
    _check_there(zip(sides, (first, second), strict=True))
    by_folder = pair_by == "stem" and _differ_in_folders(first, second, endings)
    a, b = (
        _Side.collect(name, typed, pattern, tuple(endings), pairing.recursive, by_folder)
        for name, typed, pattern in zip(sides, (first, second), by_side, strict=True)
    )
    if a.single and b.single:
        (one,), (other,) = a.paths, b.paths
        return _distinct([Pair(stem_of(one.name, endings) or one.stem, one, other)], a, b)
    common = sorted(a.files.keys() & b.files.keys())
    if not common:
        message = _nothing_in_common(a, b, pair_by)
        raise NoPair("\n".join([message, *_not_taken(a, b)]))
    videos = sorted(key for key in a.foreign.keys() & b.foreign.keys() if a.foreign[key] in video.ENDINGS)
    if videos:
        log.warning("videos among pictures are left out, for example %s; fuse them in a run of their own", videos[0])
    kinds = a.foreign.items() & b.foreign.items() if ".png" in endings else ()  # not of snapshots beside volumes
    unread = sorted(key + kind for key, kind in kinds if key not in a.files and _is_medium(kind, ("image/",)))
    if unread:
        log.warning("%s of a kind that is not read left out, for example %s", counted(len(unread), "pair"), unread[0])
    if not a.single and not b.single:  # else one file is asked for, against a folder
        _tell_unmatched(a, b, pairing.ignore_unmatched)
    return _distinct([Pair(name, a.files[name], b.files[name]) for name in common], a, b)


def _is_medium(ending: str, kinds: tuple[str, ...] = ("image/", "video/")) -> bool:
    return (mimetypes.guess_type(f"a{ending}")[0] or "").startswith(kinds)


def _differ_in_folders(first: str, second: str, endings: Collection[str]) -> bool:
    """Whether folders alone tell which files of two globs are a pair, as for ``*/ct.nii.gz`` and ``*/mr.nii.gz``."""
    stems = {stem_of(os.path.basename(typed), endings) for typed in (first, second)}
    return len(stems) == 2 and leaves_open_folders(first) and leaves_open_folders(second)


def _check_there(sides: Iterable[tuple[str, str]]) -> None:
    """Raises UsageError that names all of ``sides`` (name, typed) where nothing is, before any is collected."""
    gone = []
    for name, typed in sides:
        if not os.path.exists(typed) and not glob.has_magic(typed):
            broken = os.path.islink(typed)
            what = f"a link to {os.readlink(typed)}, which is not there" if broken else "no such file or folder"
            gone.append(f"--{name} {typed}: {what}" if typed else f"--{name}: names nothing; write . for this folder")
    if gone:
        raise UsageError("\n".join(gone))


def _tell_unmatched(a: _Side, b: _Side, ignore: bool) -> None:
    """List files without a partner, and broken links: a warning if they are to be ignored, else a UsageError."""
    listed = [_list_of(side, paths) for side, other in ((a, b), (b, a)) if (paths := side.without_partner(other))]
    if not (listed or a.broken or b.broken):
        return
    message = "\n".join([*listed, *_not_taken(a, b)])
    if not ignore:
        raise UsageError(
            f"{message}\nAdd the missing files, or go on without these by --ignore-unmatched; "
            "--pair-by and --pairs match names that differ."
        )
    log.warning("%s", message)


def key_of(name: str, *, pattern: tuple[str, str], endings: Collection[str]) -> str | None:
    """The pair's name of a file, given with its sub-folder; None where ending or pattern (`patterns`) does not fit."""
    folder, slash, own = name.rpartition("/")
    middle = middle_of(stem_of(own, endings) or "", pattern)
    return unicodedata.normalize("NFC", folder + slash + middle) if middle else None


def _distinct(pairs: list[Pair], a: _Side, b: _Side) -> list[Pair]:
    """The pairs, unless both sides turn out to be the same files."""
    if all(same_file(pair.first, pair.second) for pair in pairs):  # a few may be links to one, as of black frames
        hint = _hint_in_one_folder(a, b)
        example = pairing_hints.option([("", f"_{a.name}"), ("", f"_{b.name}")], (a.name, b.name))
        apart = f"tell them apart by {example}, say, by a folder or glob for each, or list the pairs for --pairs"
        how = f"did you mean {hint}?" if hint else f"where both sides share a folder, {apart}"
        if not hint and _has_alpha(pairs[0].first):
            how = "if its fourth channel is the infrared, as in MFNet, save that in a folder of its own"
        raise UsageError(f"{a.option} and {b.option} name the same file ({pairs[0].first}); {how}")
    return pairs


def _has_alpha(path: Path) -> bool:
    """Whether a file is a PNG of four channels."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(26)
        return head.startswith(b"\x89PNG") and head.endswith(b"\6")  # the colour type
    return False


def _hint_in_one_folder(a: _Side, b: _Side) -> str:
    """The options that would tell both sides apart where they are one folder or glob; "" where nothing would."""
    if os.path.isdir(a.typed) and same_file(Path(a.typed), Path(b.typed)):
        return pairing_hints.for_one_folder(a.typed, a.paths, (a.name, b.name), a.endings)
    if glob.has_magic(a.typed) and a.typed == b.typed:
        shared = os.path.commonpath([path.parent for path in a.paths])
        return pairing_hints.for_one_folder(shared, a.paths, (a.name, b.name), a.endings)
    return ""


@dataclass
class _Side:
    """What one side of the command line names.

    endings: those of the files that are taken. files: key -> path. other: files whose names do not fit the pattern.
    foreign: key -> ending that fusecli does not read. broken: broken links.
    """

    name: str
    typed: str
    endings: tuple[str, ...]
    single: bool = False
    files: dict[str, Path] = field(default_factory=dict)
    other: list[Path] = field(default_factory=list)
    foreign: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def option(self) -> str:
        return f"--{self.name}"

    @property
    def paths(self) -> list[Path]:
        return [*self.files.values(), *self.other]

    @classmethod
    def collect(
        cls,
        name: str,
        typed: str,
        pattern: tuple[str, str],
        endings: tuple[str, ...],
        recursive: bool,
        by_folder: bool,
    ) -> _Side:
        path = Path(typed)
        broken: list[str] = []
        try:
            if path.is_dir():
                found = list(walk(typed, recursive, broken))
            elif is_device(path):  # a pipe can be read only once, and reading may block
                raise UsageError(f"--{name} {typed}: a pipe or device, which cannot be read as a file; save it as one")
            elif path.exists():
                found = [("", path.name, typed)]
            else:
                found = list(matching(typed, recursive, broken))
        except OSError as error:
            raise UsageError(
                f"--{name} {error.filename or typed}: cannot be listed: {error.strerror or error}"
            ) from error
        broken = [link for link in broken if stem_of(Path(link).name, endings) is not None]
        side = cls(name, typed, endings, single=path.is_file(), broken=broken)
        for folder, own, location in found:
            stem = stem_of(own, endings)
            middle = middle_of(Path(own).stem if stem is None else stem, pattern)
            name_within = folder[:-1] if by_folder and folder else folder + middle
            key = unicodedata.normalize("NFC", name_within)  # macOS decomposes accented letters
            if stem is None:
                kind = Path(own).suffix.lower()
                if middle and (key not in side.foreign or _is_medium(kind)):  # which labels of that name do not hide
                    side.foreign[key] = kind
                continue
            if not middle:
                side.other.append(Path(location))
                continue
            if key in side.files:
                raise UsageError(
                    f"--{name}: {side.files[key]} and {location} have the same name, so that no one can tell which to "
                    "pair; move one away, or give a glob such as '*.png'"
                )
            side.files[key] = Path(location)
        if not side.paths:
            why = _of_links(broken) if broken else _why_none([own for _, own, _ in found], path, endings, recursive)
            raise UsageError(f"--{name} {typed}: {why}")
        return side

    def without_partner(self, partner: _Side) -> list[Path]:
        lonely = [path for key, path in self.files.items() if key not in partner.files]
        taken = set(partner.files.values()) if self.other else set()  # both sides may share a folder
        return lonely + [path for path in self.other if path not in taken]


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


def _not_taken(a: _Side, b: _Side) -> Iterator[str]:
    """For each side: which files would have a partner, if fusecli read files of their kind; which links are broken."""
    for side, other in ((a, b), (b, a)):
        kinds = Counter(side.foreign[key] for key in side.foreign.keys() & other.files.keys() - side.files.keys())
        if kinds:
            found = ", ".join(f"{count} × {kind or 'no ending'}" for kind, count in kinds.most_common(5))
            yield f"{side.option}: there are files of these names that are not read ({found}); {reads(side.endings)}"
    yield from (f"{side.option}: {_of_links(side.broken)}" for side in (a, b) if side.broken)


def _of_links(links: list[str]) -> str:
    what = "1 link leads" if len(links) == 1 else f"{len(links)} links lead"
    return f"{what} to what is not there, as {links[0]} to {os.readlink(links[0])}"


def _why_none(names: list[str], path: Path, endings: tuple[str, ...], recursive: bool) -> str:
    readable = reads(endings)
    if names and path.is_file():
        return f"not a supported kind of file; {readable}"
    folders = [path] if path.is_dir() else folders_of(str(path))
    nested = not recursive and any(entry.is_dir() for folder in folders for entry in folder.iterdir())
    if names:
        kinds = Counter(Path(name).suffix.lower() or "no ending" for name in names)
        found = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(5))
        deeper = "; --recursive takes its sub-folders too" if nested else ""
        return f"no supported file among those found ({found}); {readable}{deeper}"
    if not folders:
        return "no file matches"
    one = path.is_dir()
    if nested:
        what = "the folder holds" if one else "the folders that match hold"
        return f"{what} only sub-folders; --recursive takes these too"
    return "the folder is empty" if one else "the folders that match are empty"


def _list_of(side: _Side, paths: list[Path]) -> str:
    what = "1 file has" if len(paths) == 1 else f"{len(paths)} files have"
    return f"{side.option}: {what} no partner of the same name:{itemized(paths)}"


def _nothing_in_common(a: _Side, b: _Side, pair_by: str) -> str:
    """The message where the sides share no name; it suggests options that would tell them apart, if it finds any."""
    for side in (a, b):
        if not side.files:
            stem = stem_of(side.paths[0].name, side.endings)
            hint = _hint_in_one_folder(a, b)
            return (
                f"{side.option}: no name there, without its ending, fits the pattern of --pair-by, {stem!r} for example"
                + (f". Did you mean {hint}?" if hint else "")
            )
    bases = [{key.rpartition("/")[2]: key for key in side.files} for side in (a, b)]
    alike = min(bases[0].keys() & bases[1].keys(), default=None)
    names = [min(side.files) if alike is None else base[alike] for side, base in zip((a, b), bases, strict=True)]
    message = (
        f"no file of {a.option} has a partner of the same name in {b.option}; "
        f"{a.typed} has {names[0]!r}, {b.typed} has {names[1]!r}, for example"
    )
    if alike is not None:
        return (
            f"{message}. The sub-folders must agree, too, but for the fixed parts of two globs (as */{a.name} and "
            f"*/{b.name}); --pairs matches files wherever they lie."
        )
    sides = a.name, b.name
    hint = pairing_hints.for_names((names[0], names[1]), (a.files, b.files), sides) if pair_by == "stem" else ""
    return f"{message}. Did you mean {hint}?" if hint else f"{message}. --pair-by and --pairs match names that differ."
