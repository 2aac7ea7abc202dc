"""Fuse volumes: both on one grid in patient space, slice by slice through an engine, and back into their own format."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from fusecli import __version__
from fusecli.errors import InputError
from fusecli.images import colormap, derived, dicom, frames, grid, nifti
from fusecli.images.atomic import file_hash, numbered, replacing
from fusecli.images.colour import luma
from fusecli.images.coverage import completed, shares, within
from fusecli.images.grid import Grid
from fusecli.images.planes import Turn, planes
from fusecli.images.volume import Volume, by_slice, shown_range
from fusecli.machine import windowed
from fusecli.stream.job import Job, Outcome
from fusecli.stream.run import gather, guarded
from fusecli.stream.settings import VolumeSettings
from fusecli.stream.volume_jobs import VolumeJob

if TYPE_CHECKING:
    from torch import Tensor

    from fusecli.stream.engine import Engine, Found

log = logging.getLogger("fusecli")

SAMPLED = 16  # slices, evenly spread, that settle the context of a volume
LITTLE = 0.5  # share of a grid: a volume that covers less may be a scout, another region, or one slice
APART = 100  # ratio of lengths above which two volumes cannot be of the same patient
BATCH = 8  # slices at once on an accelerator, where --batch-size does not say
SLICES = 4  # at once on a CPU


def run(
    jobs: Sequence[Job],
    engine: Engine,
    settings: VolumeSettings,
    *,
    preview: Container[Path] = (),
    stop: Event | None = None,
) -> Generator[Outcome, None, None]:
    """Fuse every job and yield its outcome, one volume after the other, until ``stop`` is set.

    Errors of a pair are in its outcome. preview: results whose outcomes shall carry small pictures.
    """
    stop = stop or Event()
    with engine.sharing_threads(settings.workers), ThreadPoolExecutor(settings.workers) as pool:
        for job in jobs:
            if stop.is_set():
                break
            assert isinstance(job, VolumeJob)
            yield guarded(job, partial(_fuse, job, engine, settings, pool, job.output in preview))


def _fuse(job: VolumeJob, engine: Engine, settings: VolumeSettings, pool: ThreadPoolExecutor, preview: bool) -> Outcome:
    return _Fusion(job, engine, settings, pool).run(preview)


class _Fusion:
    """Fuses one pair of volumes. On creation reads both, and settles their ranges, resampling and turning."""

    def __init__(self, job: VolumeJob, engine: Engine, settings: VolumeSettings, pool: ThreadPoolExecutor) -> None:
        self.job, self.engine, self.settings, self.pool = job, engine, settings, pool
        self.began = time.perf_counter()
        self.mended: Found = {}  # of any slice
        volumes: list[Volume] = list(pool.map(lambda source: source.read(), job.volumes.chosen().inputs))
        self.shown = [
            shown_range(volume, side, settings.window if side == settings.task.first else None, _little(volume, other))
            for volume, other, side in zip(volumes, volumes[::-1], settings.task.sides, strict=True)
        ]
        self.reference = volumes[settings.reference]
        self.other = volumes[1 - settings.reference]
        if all(volume.kind == "dicom" for volume in volumes):
            for difference in dicom.differences(*volumes):
                log.warning("%s and %s: %s", job.first, job.second, difference)
        grids = _resampling(self.reference, self.other)
        spaces = [nifti.space(volume) for volume in volumes]
        if spaces[0] != spaces[1]:
            log.warning(
                "%s and %s: they are in different spaces, by their headers (%s and %s), so positions agree only if one "
                "was brought to the other before",
                *(job.first, job.second, *spaces),
            )
        if grids:
            self._tell(*grids)
        self.resampled = grids is not None  # whether the other one is, slice by slice
        self.volumes = [self._turned(volume) for volume in volumes]
        self.size = self.volumes[settings.reference].voxels.shape[:3]

    def _turned(self, volume: Volume) -> Volume:
        """The volume turned so that its first axis counts the slices that are fused."""
        if volume.grid is None or self.reference.grid is None:
            return volume
        # Volumes on one grid must turn alike, even if rounding in one header makes another axis the nearest.
        turn = Turn.upright(volume.grid if self.resampled else self.reference.grid, self.reference.grid)
        return replace(volume, voxels=turn.voxels(volume.voxels), grid=turn.grid(volume.grid))

    def run(self, preview: bool) -> Outcome:
        """Fuse and write."""
        fused, *shown = self._fuse(preview)
        self._write(fused)
        digest = file_hash(self.job.output) if self.settings.digest else None
        pictures = None
        if preview:
            result = fused if fused.dtype == np.uint8 else _bytes(fused)
            turned, part = self.volumes[self.settings.reference].grid, self._meeting()
            pictures = [planes(stack, turned, part) for stack in (*shown, result)]
        seconds = time.perf_counter() - self.began
        return Outcome(self.job, None, seconds, digest, pictures, mended=self.mended)

    def _fuse(self, preview: bool) -> list[np.ndarray]:
        """The result K×H×W(×3), turned, and with ``preview`` both sources on its grid as uint8."""
        size = self.size
        color = self.job.color
        levels = 255 if color else self._levels()
        dtype = {255: np.uint8, 65535: np.uint16, None: np.float32}[levels]
        fused = np.empty((*size, 3) if color else size, dtype)
        sources = [np.empty((*size, 3) if side == 0 and color else size, np.uint8) for side in (0, 1) if preview]

        def prepare(span: slice) -> tuple[slice, list[np.ndarray], np.ndarray | None]:
            sides, share = self._sides(span), self._share(span)
            for stack, side in zip(sources, self._within(sides, share), strict=False):
                stack[span] = side if side.dtype == np.uint8 else _bytes(side)
            return span, sides, share

        context = self._context()

        def fuse(span: slice, sides: list[np.ndarray], share: np.ndarray | None) -> None:
            begun = self.engine.start(sides[0], sides[1], levels, context)
            fused[span] = self._completed(begun.finish(), begun.mended, sides, share)
            for found in begun.mended:
                gather(self.mended, found)

        step = (self.settings.batch or BATCH) if self.engine.batches else SLICES
        spans = [slice(start, min(start + step, size[0])) for start in range(0, size[0], step)]
        if self.engine.batches:
            prepared = windowed(spans, lambda span: self.pool.submit(prepare, span), self.settings.workers + 1)
            for each in prepared:
                fuse(*each)
        else:  # each thread takes slices all the way, so that the cores do not wait for one another
            for _ in self.pool.map(lambda span: fuse(*prepare(span)), spans):
                pass
        return [fused, *sources]

    def _context(self) -> Tensor | None:
        """The context for every slice, one for the whole volume, so that the look does not change between slices.

        The mean over some slices, weighted by brightness: those that show little, as the last ones do, count little.
        Those that the other volume does not reach do not count: the result shows no fusion there.
        """
        total, weight = None, 0.0
        meeting = self._meeting()
        begin, end, _ = (meeting[0] if meeting else slice(None)).indices(self.size[0])
        for index in np.unique(np.linspace(begin, end - 1, SAMPLED).astype(int)):
            span = slice(index, index + 1)
            sides = self._within(self._sides(span), self._share(span))
            first, second, _ = self.engine.mend(*(side[0] for side in sides))
            seen = self.engine.context(first, second)
            if seen is None:
                return None
            shown = float(luma(first).mean() + luma(second).mean()) + 1e-6
            total = shown * seen if total is None else total + shown * seen
            weight += shown
        return None if total is None else total / weight

    def _meeting(self) -> tuple[slice, ...] | None:
        """The part of the reference that the other volume reaches; None: all, or between its voxels."""
        if not self.resampled:
            return None
        box = grid.around(*self._grids())
        return box if all(span.start < span.stop for span in box) else None

    def _grids(self) -> tuple[Grid, Grid]:
        """Those of the reference and of the other volume, which is resampled."""
        target, source = (self.volumes[side].grid for side in (self.settings.reference, 1 - self.settings.reference))
        assert target is not None
        assert source is not None
        return target, source

    def _sides(self, span: slice) -> list[np.ndarray]:
        return [self._side(side, span) for side in (0, 1)]

    def _share(self, span: slice) -> np.ndarray | None:
        """How much the other volume counts at some slices of the reference, see `shares`."""
        return shares(*self._grids(), span) if self.resampled else None

    def _within(self, sides: list[np.ndarray], share: np.ndarray | None) -> list[np.ndarray]:
        """Both sides, the other volume black where it has ended."""
        reference = self.settings.reference
        return [one if side == reference else within(one, share) for side, one in enumerate(sides)]

    def _side(self, side: int, span: slice) -> np.ndarray:
        """Slices of one volume on the reference's grid as the engine wants them: gray float32 or uint8 RGB.

        Beyond its end a volume goes on as it ended, lest the network takes that for an edge.
        """
        volume = self.volumes[side]
        range_ = volume.stored(self.shown[side])
        if self.resampled and side != self.settings.reference:
            target, source = self._grids()
            slab = grid.resample(volume.voxels, source, target, span)
        else:
            slab = volume.voxels[span]
        if volume.is_color:
            colors = np.clip(np.rint(slab), 0, 255).astype(np.uint8) if slab.dtype != np.uint8 else slab
            return np.ascontiguousarray(colors) if side == 0 and self.job.color else np.stack([*map(luma, colors)])
        values = np.ascontiguousarray(range_.apply(slab))
        if side == 0 and self.job.color:
            assert self.settings.colormap is not None
            return colormap.apply(values, self.settings.colormap)
        return values

    def _completed(
        self, fused: np.ndarray, mended: list[Found], sides: list[np.ndarray], share: np.ndarray | None
    ) -> np.ndarray:
        """The fused slices, which show the reference alone, mended as they are, where the other does not reach."""
        if share is None:
            return fused
        reference = self.settings.reference
        alone = sides[reference]
        if any(("first", "second")[reference] in found for found in mended):
            alone = np.stack([self.engine.mend(a, b)[:2][reference] for a, b in zip(*sides, strict=True)])
        if alone.ndim < fused.ndim:  # gray, of a coloured result
            alone = alone[..., None]
        return np.stack([completed(*each) for each in zip(fused, alone, share, strict=True)])

    def _levels(self) -> int | None:
        """Steps of a gray result; None: float, which the writer fits to the reference's type."""
        if self.settings.bit_depth:
            return 2**self.settings.bit_depth - 1
        if self.job.kind.startswith("."):
            deep = self.reference.dtype != np.uint8 and "uint16" in frames.WRITES[self.job.kind]
            return 65535 if deep else 255
        return None

    def _write(self, fused: np.ndarray) -> None:
        """Write pictures upright, as fused, since they hold no orientation; volumes in the reference's orientation."""
        job, settings = self.job, self.settings
        if not job.kind.startswith(".") and self.reference.grid is not None:
            fused = Turn.upright(self.reference.grid).back(fused)
        shown = self.shown[settings.reference]
        names = " + ".join(side.upper() for side in settings.task.sides)
        title = _ascii(f"Fused {names} ({settings.model})")
        if job.kind == "nifti":
            nifti.write(job.output, fused, self.reference, shown, title)
        elif job.kind == "dicom":
            derived.write(
                job.output, fused, self.reference, self.other, shown, title, _ascii(self._how(names)), folder=job.folder
            )
        elif job.folder:
            _write_slices(job.output, fused, job.kind, settings.compress)
        else:
            frames.write(job.output, list(fused), compress=settings.compress)

    def _how(self, names: str) -> str:
        """DerivationDescription."""
        sides = [side.upper() for side in self.settings.task.sides]
        parts = [f"{names} fused by fusecli {__version__}, model {self.settings.model}"]
        for side, volume, shown in zip(sides, self.volumes, self.shown, strict=True):
            if not volume.is_color:
                parts.append(f"{side} shown from {shown.lo:.6g} to {shown.hi:.6g}")
        if self.resampled:
            parts.append(f"{sides[1 - self.settings.reference]} resampled to the grid of the other (linear)")
        if self.job.color and not self.volumes[0].is_color:
            parts.append(f"{sides[0]} coloured by {self.settings.colormap}")
        return "; ".join(parts)

    def _tell(self, source: Grid, target: Grid) -> None:
        """Log the resampling, as a warning where it covers little. Raises InputError where it makes no sense."""
        longest = [max(np.multiply(one.shape, one.spacing)) for one in (source, target)]
        if max(longest) > APART * min(longest):  # resampling would take hours
            raise InputError(
                f"{self.job.first} and {self.job.second}: one is {min(longest):.2g} mm long, the other "
                f"{max(longest):.0f} mm; one header gives its sizes in another unit, such as metres: mend it"
            )
        share = grid.coverage(target, source)
        # Both ways, since a thin slab may lie between the sampled points of a long volume, but not the reverse.
        apart = share == 0 and grid.coverage(source, target) == 0
        sides = self.settings.task.sides
        to, moved = sides[self.settings.reference], sides[1 - self.settings.reference]
        if apart:
            raise InputError(
                f"{self.job.first} and {self.job.second} do not overlap in patient space ({to}: {_place(target)}; "
                f"{moved}: {_place(source)}): another patient or session, or a wrong header; register them first"
            )
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
        message = f"{self.job.name}: {moved} resampled to the grid of {to}, from {source} to {target}; "
        if share < LITTLE:
            log.warning(
                "%sit covers %s of it; elsewhere the result shows %s alone (--reference chooses the grid)",
                *(message, percent, to),
            )
        else:
            log.info("%sit covers %s of it", message, percent)


def _write_slices(folder: Path, slices: np.ndarray, ending: str, compress: bool) -> None:
    """Write slices as 0001.png … into a folder that appears only when it is complete."""
    with replacing(folder, folder=True) as place:
        for path, image in zip(numbered(place, len(slices), ending), slices, strict=True):
            frames.write(path, [image], compress=compress)


def _resampling(reference: Volume, other: Volume) -> tuple[Grid, Grid] | None:
    """The grids from which and to which ``other`` is resampled; None where it is on the reference's grid.

    Raises InputError where that cannot be known.
    """
    if reference.grid is not None and other.grid is not None:
        return None if grid.same(reference.grid, other.grid) else (other.grid, reference.grid)
    if reference.grid is None and other.grid is None and reference.shape == other.shape:
        log.warning(
            "%s and %s do not say where their voxels lie; taken as registered voxel by voxel",
            *(reference.source, other.source),
        )
        return None
    lost = reference if reference.grid is None else other
    reason = (
        "both sform and qform code are 0"
        if lost.kind == "nifti"
        else "ImagePositionPatient, ImageOrientationPatient or PixelSpacing is missing"
    )
    raise InputError(
        f"{lost.source}: does not say where its voxels lie ({reason}), so it cannot be brought to the grid of the "
        "other volume; mend its header, or give both without geometry and of one size"
    )


def _little(volume: Volume, other: Volume) -> tuple[slice, ...] | None:
    """The part of a volume that another one covers, where that is little of it."""
    if volume.grid is None or other.grid is None or grid.coverage(volume.grid, other.grid) >= LITTLE:
        return None
    return grid.around(volume.grid, other.grid)


def _place(where: Grid) -> str:
    x, y, z = where.centre
    return f"{where} around {x:.0f}, {y:.0f}, {z:.0f} mm"


def _bytes(values: np.ndarray) -> np.ndarray:
    """uint8 of float32 in [0, 1] or of uint16."""
    scale = np.float32(255 if values.dtype == np.float32 else 1 / 257)
    return by_slice(lambda plane: np.rint(plane * scale), values, np.dtype(np.uint8))


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
