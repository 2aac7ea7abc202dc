"""What is compared: released students, checkpoints, classical rules, and folders of anybody's results."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from fusecli import __version__, registry
from fusecli.benchmark import classical
from fusecli.errors import UsageError, itemized
from fusecli.images.atomic import file_hash
from fusecli.images.decode import decode, peek
from fusecli.images.frames import ENDINGS
from fusecli.images.intensity import CAMERAS, WHOLE, camera_range
from fusecli.images.listing import files_of
from fusecli.images.pair import Pair
from fusecli.images.pairing import key_of
from fusecli.metrics import MetricError
from fusecli.metrics.protocols import to_levels
from fusecli.stream.work import EngineSpec

if TYPE_CHECKING:
    from fusecli.stream.engine import Engine

LOOKED_AT = 10  # files that show how all of a folder are named


class Method:
    """Something that fuses pairs. ``identity`` stands for all that decides its results, in cache keys."""

    kind = ""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    def identity(self, pair: Pair) -> str:
        raise NotImplementedError

    def fuse(self, pair: Pair, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The result of a pair of images, uint8 or float in [0, 1]; called from several threads."""
        raise NotImplementedError

    def like(self, pair: Pair) -> Path:
        """A file with as many channels as the result of a pair: methods here keep the first source's."""
        return pair.first

    def files(self) -> Iterable[Path]:
        """What it reads besides the pairs."""
        return ()

    def check(self, dataset: str, pairs: Sequence[Pair]) -> None:
        """Check before any work that there can be results for these pairs. Raises UsageError where not."""

    def load(self) -> None:
        """Get ready to fuse. Raises UsageError where that fails."""


class Classical(Method):
    """A rule of `fusecli.benchmark.classical`."""

    kind = "classical"

    def __init__(self, name: str) -> None:
        super().__init__(name, classical.METHODS[name][0])

    def identity(self, pair: Pair) -> str:
        return f"classical {self.name} {classical.VERSION}"

    def fuse(self, pair: Pair, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return classical.fuse(self.name, first, second)


class Network(Method):
    """Released weights or a checkpoint, run by the engine that `fusecli fuse` uses. Loaded when first needed."""

    kind = "network"

    def __init__(self, name: str, spec: EngineSpec, card: dict[str, Any] | None) -> None:
        self.path = Path(spec.model)
        super().__init__(name, self.path.name)
        self.spec, self.card = spec, card
        self._lock = Lock()

    @cached_property
    def _identity(self) -> str:
        code, spec = digest_of("models", "stream", "text"), self.spec
        return f"{file_hash(self.path)} {code} {spec.device} {spec.precision} {spec.look}"

    def identity(self, pair: Pair) -> str:
        return self._identity

    def files(self) -> Iterable[Path]:
        return (self.path,)

    @cached_property
    def engine(self) -> Engine:
        return self.spec.build()

    def load(self) -> None:
        _ = self.engine

    def fuse(self, pair: Pair, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        with self._lock:  # one model, one device
            return self.engine.fuse(first[None], second[None])[0]


class Folder(Method):
    """Results that another program wrote, found by the pairs' names: below a folder, or by a pattern such as
    ``folder/*_fused.png``."""

    kind = "folder"

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, f"results in {folder}")
        self.folder, self.pattern, self.endings = folder, ("", ""), ENDINGS
        if not folder.is_dir() and "*" in folder.name:
            ending = folder.suffix.lower()
            before, _, after = (folder.stem if ending in {*ENDINGS, ".*"} else folder.name).partition("*")
            self.folder, self.pattern = folder.parent, (before, after)
            self.endings = frozenset({ending}) if ending in ENDINGS else ENDINGS
        if not self.folder.is_dir() or "*" in self.pattern[1]:
            fault = "is a file; name its folder" if self.folder.is_file() else "no such folder"
            if "*" in f"{self.folder}{self.pattern[1]}":
                fault = "a single * may stand in the last part alone, as DIR/*_fused.png; sub-folders are searched"
            raise UsageError(f"--fused {name}={folder}: {fault}")
        self.paths: dict[Pair, Path] = {}
        self.range = WHOLE

    def check(self, dataset: str, pairs: Sequence[Pair]) -> None:
        """Find every result before any work. Raises UsageError that lists what is missing, of wrong size or
        no image in [0, 1]."""
        root = self.folder / dataset if (self.folder / dataset).is_dir() else self.folder
        files: dict[str, list[Path]] = {}
        for name, path in files_of(str(root), recursive=True):
            if key := key_of(name, pattern=self.pattern, endings=self.endings):
                files.setdefault(key, []).append(path)
        hint = "" if any(pair.name in files for pair in pairs) else self._hint(root, files.values(), pairs)
        found = {pair: files.get(pair.name, []) for pair in pairs}
        wrong = [fault for pair, paths in found.items() if (fault := self._fault(root, pair, paths))]
        if wrong:
            raise UsageError(f"--fused {self.name}: cannot be compared on {dataset}{itemized(wrong)}{hint}")
        self.paths = {pair: path for pair, (path,) in found.items()}
        self.range = camera_range(f"--fused {self.name}", self._of_sixteen_bits())

    def _hint(self, root: Path, files: Iterable[list[Path]], pairs: Sequence[Pair]) -> str:
        """One of the files that belong to no pair, and the pattern by which such files would, if one can be seen.

        The pattern is that of all data sets and draws: their folders, below the one given, are found without it.
        """
        own = sorted({pair.name.rpartition("/")[2] for pair in pairs}, key=lambda name: (-len(name), name))
        folders = {root / pair.name.rpartition("/")[0] for pair in pairs}
        examples = [paths[0] for paths in islice(files, LOOKED_AT)]
        patterns = Counter(
            (self.folder if path.parent in folders else path.parent) / path.name.replace(name, "*", 1)
            for path in examples
            for name in own
            if name in path.name
        )
        if not patterns:
            return f"\n  there is {examples[0]}" if examples else ""
        likely = patterns.most_common(1)[0][0]  # short names are in most others by chance
        return f"\n  there is {examples[0]}; if all are named so: --fused '{self.name}={likely}'"

    def _fault(self, root: Path, pair: Pair, paths: list[Path]) -> str | None:
        """What is wrong with the results of a pair that were found, if anything."""
        if not paths:
            place, slash, own = pair.name.rpartition("/")
            return f"{root}/{place}{slash}{own.join(self.pattern)}.*: no result for this pair"
        path, *others = paths
        if others:
            return f"{path}: {', '.join(other.name for other in others)} is there too; keep one of them"
        found, expected = peek(path), peek(pair.first)
        if found is None:
            return f"{path}: not a readable image"
        if found.pages != 1:
            return f"{path}: holds {found.pages} pages; one image is expected"
        if expected and (found.height, found.width) != (expected.height, expected.width):
            sizes = [f"{one.width}×{one.height}" for one in (found, expected)]
            return f"{path}: {sizes[0]} pixels, the pair has {sizes[1]}"
        if found.dtype not in (np.uint8, np.uint16):
            try:  # values of other types may be out of range
                to_levels(decode(path).pages[0])
            except MetricError as error:
                return f"{path}: {error}"
        return None

    def _of_sixteen_bits(self) -> Iterator[np.ndarray]:
        """The uint16 results, up to the first whose values need more bits than any of CAMERAS has."""
        for path in self.paths.values():
            header = peek(path)
            if header is not None and header.dtype == np.uint16:
                image = decode(path).pages[0]
                yield image
                if image.max() >= 2 ** max(CAMERAS):
                    return

    def identity(self, pair: Pair) -> str:
        return "file " + file_hash(self.paths[pair]) + ("" if self.range == WHOLE else str(self.range))

    def like(self, pair: Pair) -> Path:
        return self.paths[pair]

    def files(self) -> Iterable[Path]:
        return self.paths.values()

    def fuse(self, pair: Pair, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The stored result as it is; but uint16 of fewer bits (see `camera_range`) is scaled to [0, 1]."""
        image = decode(self.paths[pair]).pages[0]
        return self.range.apply(image) if image.dtype == np.uint16 and self.range != WHOLE else image


def choose(
    names: Sequence[str],
    task: str,
    device: str,
    precision: str,
    look: float | None = None,
    teacher: Path | None = None,
) -> list[Method]:
    """The methods that ``--methods`` names for a task.

    names: released models, checkpoint files (or NAME=FILE), classical rules, and the words all,
    released, classical, none. Raises UsageError for a name that is none of these, and for two methods of one name.
    """
    released = list(dict.fromkeys(card["name"] for card in registry.released().values() if task in card["tasks"]))
    words = {
        "all": [*released, *classical.METHODS],
        "released": released,
        "classical": list(classical.METHODS),
        "none": [],
    }
    chosen: dict[str, Method] = {}

    def network(name: str, path: Path, look: float | None = look, card: dict[str, Any] | None = None) -> Network:
        registry.check_model_file(path)
        return Network(name, EngineSpec(str(path), task, look, device, precision), card)

    def add(method: Method) -> None:
        first = chosen.setdefault(method.name, method)
        if first.files() != method.files():  # `distill` calls every student nano.safetensors
            files = " and ".join(str(path) for each in (first, method) for path in each.files())
            raise UsageError(f"two methods are called {method.name} ({files}); name a file by NAME=FILE")

    for word in names:
        for name in words.get(word, [word]):
            label, equals, file = name.partition("=")
            if not equals or Path(name).is_file():  # no label: the = is in a path, such as lr=0.1/last.pt
                label, file = "", name
            path = registry.released_path(name, task)
            if name in classical.METHODS:
                add(Classical(name))
            elif path is not None:
                add(network(name, path, card=registry.released()[path.stem]))
            elif Path(file).suffix in {".pt", ".safetensors"}:
                add(network(label or Path(file).stem, Path(file)))
            else:
                known = [*released, *classical.METHODS, *words]
                raise UsageError(registry.unknown(f"method for {task}", name, known) + " (or a checkpoint file)")
    if teacher is not None:
        add(network("teacher", teacher, look=None))
    return list(chosen.values())


@cache
def digest_of(*rooms: str) -> str:
    """A hash of the code of these sub-packages: as part of cache keys, it makes a change of code invalidate entries."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(__version__.encode())
    for room in rooms:
        for path in sorted((package / room).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
