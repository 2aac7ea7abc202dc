"""Frames that do not line up: one transform for a rigid pair of cameras, estimated once and applied to every pair.

A transform maps pixel centres of the infrared frame, (x, y) from (0, 0), to those of the visible one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from fusecli.errors import InputError, UsageError, counted
from fusecli.images.colour import luma
from fusecli.images.opencv import cv2

log = logging.getLogger("fusecli")

# What each model's transforms can do besides those of the one before it: generators, in units where the frame reaches
# from -1 to 1.
_MOVES = {
    "shift": ([[0, 0, 1], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1], [0, 0, 0]]),
    "similarity": ([[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]),
    "affine": ([[1, 0, 0], [0, -1, 0], [0, 0, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
    "homography": ([[0, 0, 0], [0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
}
MODELS = tuple(_MOVES)
WIDTHS = (160, 320, 640)  # of the visible frame, coarse to fine
SCALES = np.geomspace(0.6, 1.6, 17)  # of the infrared's field of view relative to the visible's, for the search
FEATHER = 33  # px, the least over which results fade into the visible where the infrared ends
FEATHER_SHARE = 0.055  # of the infrared's side there, over which they do if that is more
STRIP = 64  # rows that are blended at once: the float values of a whole large frame would take hundreds of MB
SHRINKS = 0.7  # scale below which the infrared is downsized before warping: else pixels are skipped, and edges jagged
GOOD_SIMILARITY, POOR_SIMILARITY = 0.22, 0.17
GOOD_RESIDUAL = 0.005  # of the visible frame's diagonal

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, eq=False)
class Calibration:
    """matrix: 3×3. ir_size, vis_size: (width, height) it was made for; None where not known."""

    matrix: np.ndarray
    ir_size: Size | None = None
    vis_size: Size | None = None

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """From JSON: "matrix" (3 rows of 3), or "scale" and "shift" ([x, y] in visible pixels). Raises UsageError.

        Warns where `fusecli align` rated its own estimate as doubtful or poor.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            if "matrix" in values:
                matrix = np.array(values["matrix"], np.float64)
            else:
                scale, (x, y) = float(values["scale"]), values["shift"]
                matrix = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]], np.float64)
            sizes = [values.get(key) and (int(values[key][0]), int(values[key][1])) for key in ("ir_size", "vis_size")]
            if any(size and min(size) < 1 for size in sizes):
                raise ValueError("a size without pixels")
        except OSError as error:
            raise UsageError(f"--align {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(
                f'--align {path}: not a calibration ({type(error).__name__}: {error}); it needs "matrix", '
                'or "scale" and "shift"'
            ) from error
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
            raise UsageError(f"--align {path}: the matrix must have 3 rows of 3 numbers and an inverse")
        if values.get("trust") in ("doubtful", "poor"):
            log.warning("--align %s: its estimate is %s: %s", path, values["trust"], values.get("reason"))
        return cls(matrix, *sizes)

    def between(self, ir_size: Size, vis_size: Size) -> np.ndarray:
        """The matrix for frames of these sizes, rescaled where they differ from the calibrated sizes.

        Raises InputError for frames of another aspect ratio.
        """
        matrix = self.matrix
        for side, known, size in (("infrared", self.ir_size, ir_size), ("visible", self.vis_size, vis_size)):
            if known is None or known == size:
                continue
            across, down = size[0] / known[0], size[1] / known[1]
            if abs(across - down) > 0.01 * across:
                raise InputError(
                    f"{side} frame of {size[0]}×{size[1]} pixels: the calibration was made for {known[0]}×{known[1]}"
                )
            scaling = resizing(known, size)
            matrix = matrix @ np.linalg.inv(scaling) if side == "infrared" else scaling @ matrix
        return matrix


def resizing(before: Size, after: Size) -> np.ndarray:
    """3×3 of an image resize, which maps edges onto edges; so pixel centres shift by half a pixel's growth."""
    x, y = after[0] / before[0], after[1] / before[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def warp(infrared: np.ndarray, visible: tuple[int, int], calibration: Calibration) -> np.ndarray:
    """The infrared frame on the grid of visible frames of H×W, its border pixels repeated beyond its edges.

    infrared: H×W or H×W×3, uint8 or float32 in [0, 1]; the result is of that type, H×W.
    """
    size, before = visible[::-1], infrared.shape[1::-1]
    matrix = calibration.between(before, size)
    moving = luma(infrared)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2])))) / max(abs(matrix[2, 2]), 1e-9)
    if scale < SHRINKS:
        small = max(1, round(scale * before[0])), max(1, round(scale * before[1]))
        moving = cv2.resize(moving, small, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.linalg.inv(resizing(before, small))
    here = cv2.warpPerspective(moving, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.rint(here * 255).astype(np.uint8) if infrared.dtype == np.uint8 else here


def reach(infrared: tuple[int, int], visible: tuple[int, int], calibration: Calibration | None) -> np.ndarray | None:
    """H×W in [0, 1] for frames of these heights and widths: 0 where no infrared is, 1 well inside it.

    In between results fade into the visible, so that the infrared's border does not show in them. The larger the
    infrared is there, the wider they do: in a frame of 12 megapixels 33 px are a hard line. None where the infrared
    covers the whole frame, as it is taken to do without a calibration.
    """
    if calibration is None:
        return None
    with _reaching:  # else two threads would both compute it, and both warn
        return _reach(infrared, visible, calibration)


_reaching = Lock()


@lru_cache(8)  # the same for all frames of a rig
def _reach(infrared: tuple[int, int], visible: tuple[int, int], calibration: Calibration) -> np.ndarray | None:
    size = visible[::-1]
    whole = np.ones(infrared, np.float32)
    # To the nearest: pixels reach half a pixel beyond their centres, which of a small infrared are many visible ones.
    inside = cv2.warpPerspective(whole, calibration.between(infrared[::-1], size), size, flags=cv2.INTER_NEAREST)
    if inside.min() >= 1:
        return None
    if (covered := inside.mean()) < 0.05:
        log.warning("--align: the infrared reaches %.0f %% of the visible frame; is it that rig's?", 100 * covered)
    feather = max(FEATHER, round(FEATHER_SHARE * float(np.sqrt(np.count_nonzero(inside)))) | 1)
    inner = cv2.erode(inside, np.ones((feather, feather), np.uint8))
    return cv2.blur(inner, (feather, feather), borderType=cv2.BORDER_REPLICATE)


def completed(fused: np.ndarray, visible: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    """Blend ``fused``, weighted by ``share`` (see `reach`), with the visible.

    Both H×W or H×W×3, uint8, uint16 or float32 in [0, 1]; the result is of fused's type.
    """
    if share is None:
        return fused
    share = share if fused.ndim == 2 else share[..., None]
    white, from_white = (1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max for image in (fused, visible))
    result = np.empty_like(fused)
    for top in range(0, len(fused), STRIP):
        rows = slice(top, top + STRIP)
        mixed = share[rows] * fused[rows] + (1 - share[rows]) * (visible[rows] * np.float32(white / from_white))
        result[rows] = mixed if fused.dtype.kind == "f" else np.rint(mixed, out=mixed)
    return result


def within(infrared: np.ndarray, share: np.ndarray | None) -> np.ndarray:
    """A warped infrared frame, black where results do without it (see `reach`), not its border pixels repeated."""
    return infrared if share is None else np.where(share > 0, infrared, infrared.dtype.type(0))


@dataclass(frozen=True)
class Estimate:
    """What `estimate` found. residual: px of the visible frame; similarity: of edges, in [-1, 1], before and after."""

    calibration: Calibration
    model: str
    pairs: list[str]
    residual: float
    similarity: tuple[float, float]
    trust: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "maps": "infrared pixel centres (x, y) to visible ones",
            "matrix": [[float(f"{value:.9g}") for value in row] for row in self.calibration.matrix],
            "ir_size": self.calibration.ir_size,
            "vis_size": self.calibration.vis_size,
            "model": self.model,
            "pairs": self.pairs,
            "residual_px": round(self.residual, 2),
            "similarity": {"before": round(self.similarity[0], 3), "after": round(self.similarity[1], 3)},
            "trust": self.trust,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class _Edges:
    """Edges of a pair, the visible's at a working width and the infrared's at about the same detail."""

    fixed: np.ndarray
    moving: np.ndarray
    down: np.ndarray  # 3×3, visible frame to ``fixed``
    up: np.ndarray  # 3×3, ``moving`` to infrared frame

    @classmethod
    def of(cls, visible: np.ndarray, infrared: np.ndarray, width: int) -> _Edges:
        pair = visible, infrared
        shapes = []
        for image in pair:
            across = min(width, image.shape[1])
            shapes.append((across, max(2, round(across * image.shape[0] / image.shape[1]))))
        edges = [_edges(image, shape) for image, shape in zip(pair, shapes, strict=True)]
        sizes = [image.shape[1::-1] for image in pair]
        return cls(edges[0], edges[1], resizing(sizes[0], shapes[0]), resizing(shapes[1], sizes[1]))

    def agreement(self, matrix: np.ndarray) -> float:
        """Correlation of the edges where both overlap; 0 where that is less than a fifth of the visible frame."""
        whole = self.down @ matrix @ self.up
        size = self.fixed.shape[1::-1]
        near = cv2.warpPerspective(self.moving, whole, size, flags=cv2.INTER_LINEAR, borderValue=-1)
        known = near >= 0
        if known.mean() < 0.2:
            return 0.0
        a, b = self.fixed[known], near[known]
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-9))


@dataclass(frozen=True)
class Outlines:
    """The edges of a pair at every size at which `estimate` compares them: a few MB, however large the frames are."""

    vis_size: Size
    ir_size: Size
    searched: np.ndarray  # the visible's, for the search
    sought: dict[float, np.ndarray]  # the infrared's, by scale
    views: dict[int, _Edges]  # by width

    @classmethod
    def of(cls, visible: np.ndarray, infrared: np.ndarray) -> Outlines:
        """Of two H×W luma images in [0, 1]."""
        vis_size, ir_size = visible.shape[1::-1], infrared.shape[1::-1]
        searched = _edges(visible, _searched(vis_size))
        sought = {scale: _edges(infrared, _sought(scale, vis_size, ir_size)) for scale in (1.0, *SCALES)}
        views = {width: _Edges.of(visible, infrared, width) for width in WIDTHS}
        return cls(vis_size, ir_size, searched, sought, views)


def estimate(names: Sequence[str], pairs: Sequence[Outlines], model: str = "affine") -> Estimate:
    """One transform for all pairs, of frames that on each side are all of one size.

    Edges are what both bands have in common. Shift and scale are searched at low resolution over all pairs together
    (for the model "shift" the scale is 1), then the model's parameters are refined by a pattern search from coarse to
    fine, on the mean correlation of edges. For the residual the transform is refined on two halves of the pairs, every
    other one and the rest: it is the mean distance between the frame's corners as the two map them (0 for one pair).
    Raises UsageError for sides of several sizes.
    """
    if len({(pair.vis_size, pair.ir_size) for pair in pairs}) > 1:
        raise UsageError("align: the frames of a side must all have one size; choose those of one rig")
    vis_size, ir_size = pairs[0].vis_size, pairs[0].ir_size
    matrix = _search(pairs, (1.0,) if model == "shift" else SCALES)
    for width in WIDTHS:
        matrix = _refine([pair.views[width] for pair in pairs], matrix, model, step=4.0)
    views = [pair.views[WIDTHS[1]] for pair in pairs]
    residual = 0.0
    if len(pairs) > 1:
        right, bottom = ir_size[0] - 1.0, ir_size[1] - 1.0
        corners = np.array([[[0, 0], [right, 0], [right, bottom], [0, bottom]]])
        halves = (views[::2], views[1::2])
        places = [cv2.perspectiveTransform(corners, _refine(half, matrix, model, step=2.0)) for half in halves]
        residual = float(np.linalg.norm(places[0] - places[1], axis=2).mean())
    before, after = (_agreement(views, each) for each in (resizing(ir_size, vis_size), matrix))
    trust, reason = _trust(residual, after, len(pairs), vis_size)
    calibration = Calibration(matrix, ir_size, vis_size)
    return Estimate(calibration, model, list(names), residual, (before, after), trust, reason)


def overlay(visible: np.ndarray, infrared: np.ndarray, calibration: Calibration) -> np.ndarray:
    """uint8 H×2W×3 RGB, visible red and infrared cyan: left only resized, right aligned; matching edges are gray."""
    height, width = visible.shape
    plain = Calibration(resizing(infrared.shape[1::-1], (width, height)))
    shown = np.empty((height, 2 * width, 3), np.uint8)
    for each, half in zip((plain, calibration), np.hsplit(shown, 2), strict=True):
        share = reach(infrared.shape[:2], visible.shape, each)
        moved = completed(warp(infrared, visible.shape, each), visible, share)
        half[..., 0] = np.rint(visible * 255)
        half[..., 1:] = np.rint(moved * 255)[..., None]
    return shown


def _edges(image: np.ndarray, size: Size) -> np.ndarray:
    """Gradient magnitude of luma at that size, relative to its surroundings, so that bright and dark count alike."""
    resized = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(resized, (0, 0), 1.0)
    magnitude = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    around = cv2.GaussianBlur(magnitude, (0, 0), 12.0)
    return magnitude / (around + 0.02)


def _search(pairs: Sequence[Outlines], scales: Iterable[float]) -> np.ndarray:
    """Scale and shift at which the edges of all pairs together agree best, as a 3×3 of full-size frames."""
    vis_size, ir_size = pairs[0].vis_size, pairs[0].ir_size
    small = _searched(vis_size)
    margin = small[0] // 4
    best, found = -np.inf, np.eye(3)
    edges = [np.pad(pair.searched, margin) for pair in pairs]
    for scale in scales:
        shape = _sought(scale, vis_size, ir_size)
        inner = [round(0.15 * length) for length in shape]  # only the infrared's middle is searched for in the visible
        middle = np.s_[inner[1] : shape[1] - inner[1], inner[0] : shape[0] - inner[0]]
        patches = [pair.sought[scale][middle] for pair in pairs]
        if any(p.shape[0] > e.shape[0] or p.shape[1] > e.shape[1] for p, e in zip(patches, edges, strict=True)):
            continue
        both = zip(edges, patches, strict=True)
        scores = np.sum([cv2.matchTemplate(e, p, cv2.TM_CCOEFF_NORMED) for e, p in both], axis=0)
        score = float(np.max(scores)) * scale  # smaller patches match more easily by chance
        if score > best:
            y, x = np.unravel_index(int(np.argmax(scores)), scores.shape)
            moved = np.array([[1, 0, x - inner[0] - margin], [0, 1, y - inner[1] - margin], [0, 0, 1]], float)
            best, found = score, resizing(small, vis_size) @ moved @ resizing(ir_size, shape)
    return found


def _searched(vis_size: Size) -> Size:
    """At which size the visible frame is searched."""
    return WIDTHS[0], max(8, round(WIDTHS[0] * vis_size[1] / vis_size[0]))


def _sought(scale: float, vis_size: Size, ir_size: Size) -> Size:
    """At which size the infrared frame is searched for in the visible one."""
    across = _searched(vis_size)[0] * scale
    return round(across), max(8, round(across * ir_size[1] / ir_size[0]))


def _agreement(views: Sequence[_Edges], matrix: np.ndarray) -> float:
    return float(np.mean([view.agreement(matrix) for view in views]))


def _refine(views: Sequence[_Edges], start: np.ndarray, model: str, step: float) -> np.ndarray:
    """Pattern search around ``start``: move each parameter up and down, by steps halved down to 0.1 px of a view."""
    height, width = views[0].fixed.shape
    half = np.array([[width / 2, 0, (width - 1) / 2], [0, width / 2, (height - 1) / 2], [0, 0, 1]])
    to_unit = np.linalg.inv(half) @ views[0].down  # visible frame to [-1, 1] across
    moves = [np.array(move, float) for name in MODELS[: MODELS.index(model) + 1] for move in _MOVES[name]]
    best, score = np.eye(3), _agreement(views, start)
    size = 2 * step / width
    while size * width / 2 > 0.1:
        better = False
        for move in moves:
            for sign in (1, -1):
                trial = (np.eye(3) + sign * size * move) @ best
                found = _agreement(views, np.linalg.inv(to_unit) @ trial @ to_unit @ start)
                if found > score + 1e-6:
                    best, score, better = trial, found, True
                    break
        if not better:
            size /= 2
    return np.linalg.inv(to_unit) @ best @ to_unit @ start


def _trust(residual: float, similarity: float, count: int, vis_size: Size) -> tuple[str, str]:
    limit = GOOD_RESIDUAL * float(np.hypot(*vis_size))
    if similarity < POOR_SIMILARITY:
        return "poor", f"the edges of both sides hardly agree ({similarity:.2f})"
    if residual > 4 * limit:
        return "poor", f"the pairs contradict one another by {residual:.1f} px"
    if residual > limit:
        return "doubtful", f"halves of the pairs differ by {residual:.1f} px"
    if similarity < GOOD_SIMILARITY:
        return "doubtful", f"the edges of both sides agree weakly ({similarity:.2f})"
    if count < 3:
        return "doubtful", f"from {counted(count, 'pair')} alone; three or more can check one another"
    return "good", f"{count} pairs agree within {residual:.1f} px"
