"""Estimate the `Calibration` of two cameras from pairs of their frames, for `fusecli align`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusecli.errors import UsageError, counted
from fusecli.images.calibration import Calibration, Size, reach, resizing, warp
from fusecli.images.coverage import completed
from fusecli.images.opencv import cv2

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
# Of the infrared's field of view relative to the visible's, for the search: 0.4 to 1.6.
SCALES = 1.6 * (0.6 / 1.6) ** (np.arange(23, -1, -1) / 16)
LEAST = 0.1  # share of the visible frame in which both have to overlap
GOOD_SIMILARITY, POOR_SIMILARITY = 0.22, 0.17
GOOD_RESIDUAL = 0.005  # of the visible frame's diagonal


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
        """Correlation of the edges where both overlap; 0 where that is less than a tenth of the visible frame."""
        whole = self.down @ matrix @ self.up
        size = self.fixed.shape[1::-1]
        near = cv2.warpPerspective(self.moving, whole, size, flags=cv2.INTER_LINEAR, borderValue=-1)
        known = near >= 0
        if known.mean() < LEAST:
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
    best, found = -np.inf, resizing(ir_size, vis_size)
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
        # Beyond the visible frame there are no edges, as in many a small patch.
        starts = [np.arange(n) - cut - margin for n, cut in zip(scores.shape[::-1], inner, strict=True)]
        inside = [np.minimum(at + n, m) - np.maximum(at, 0) for at, n, m in zip(starts, shape, small, strict=True)]
        scores[np.outer(inside[1], inside[0]) < LEAST * small[0] * small[1]] = -np.inf
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
