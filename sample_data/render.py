"""A small renderer: one scene description, two cameras.

Every pixel's ray is followed to the first surface; the surface says its albedo, gloss and glow for the visible camera and
its temperature and emissivity for the thermal one, so the two pictures are registered by construction.  Visible light
casts shadows and is lost in fog; heat is not.

World: metres, x to the right, y up, z ahead.  Rays: arrays N×3, distances in units of the ray's direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from noise import fbm2, noise2

from fusecli.images.opencv import cv2

FAR = 1e9


def unit(v):
    v = np.asarray(v, float)
    return v / np.maximum(np.sqrt((v * v).sum(-1, keepdims=True)), 1e-12)


def dot(a, b):
    return (a * b).sum(-1)


# ---------------------------------------------------------------------------------------------------------------- cameras
class Camera:
    """Pinhole camera, or with ``extent`` (metres across) a parallel one, as the sun needs."""

    def __init__(self, eye, target, width, height, fov=50.0, extent=None):
        self.eye, self.width, self.height = np.asarray(eye, float), width, height
        self.ahead = unit(np.asarray(target, float) - self.eye)
        self.right = unit(np.cross([0.0, 1.0, 0.0], self.ahead))
        self.up = np.cross(self.ahead, self.right)
        self.extent = extent
        self.focal = width / extent if extent else width / 2 / np.tan(np.radians(fov) / 2)

    def rays(self):
        """Origins and directions (N×3), row by row; a direction advances one metre in depth."""
        y, x = np.mgrid[: self.height, : self.width]
        u = (x.ravel() + 0.5 - self.width / 2) / self.focal
        v = (self.height / 2 - y.ravel() - 0.5) / self.focal
        spread = u[:, None] * self.right + v[:, None] * self.up
        if self.extent:
            return self.eye + spread, np.broadcast_to(self.ahead, spread.shape)
        return np.broadcast_to(self.eye, spread.shape), self.ahead + spread

    def project(self, points):
        """Pixel column, pixel row and depth of points (…, 3)."""
        rel = points - self.eye
        depth = rel @ self.ahead
        scale = self.focal if self.extent else self.focal / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return rel @ self.right * scale + self.width / 2, self.height / 2 - rel @ self.up * scale, depth

    def pixels_of(self, corners):
        """Flat indices of the pixels that a box with these corners may cover; None for all of them."""
        x, y, depth = self.project(corners)
        if not self.extent and depth.min() < 0.05:
            return None if depth.max() > 0.05 else np.zeros(0, int)
        x0, x1 = max(int(np.floor(x.min())) - 1, 0), min(int(np.ceil(x.max())) + 2, self.width)
        y0, y1 = max(int(np.floor(y.min())) - 1, 0), min(int(np.ceil(y.max())) + 2, self.height)
        if x0 >= x1 or y0 >= y1:
            return np.zeros(0, int)
        return (np.arange(y0, y1)[:, None] * self.width + np.arange(x0, x1)).ravel()


# --------------------------------------------------------------------------------------------------------------- surfaces
@dataclass
class Surface:
    """What the cameras see of N points.  Colours linear RGB; temperatures in °C."""

    albedo: np.ndarray | tuple = (0.5, 0.5, 0.5)
    celsius: np.ndarray | float = 15.0
    emissivity: np.ndarray | float = 0.95
    gloss: np.ndarray | float = 0.0  # strength of the mirror-like part at a glancing angle
    sharp: np.ndarray | float = 30.0  # exponent of the highlight
    mirror: np.ndarray | float = 0.0  # share of traced reflection (water, wet road)
    glow: np.ndarray | tuple = (0.0, 0.0, 0.0)
    bump: np.ndarray | tuple = (0.0, 0.0, 0.0)  # added to the normal
    through: np.ndarray | float = 0.0  # light that comes through from behind (leaves)

    FIELDS = {  # noqa: RUF012
        "albedo": 3, "celsius": 1, "emissivity": 1, "gloss": 1, "sharp": 1, "mirror": 1, "glow": 3, "bump": 3, "through": 1,
    }  # fmt: skip

    @classmethod
    def blank(cls, count):
        return cls(**{k: np.zeros((count, 3) if n == 3 else count) for k, n in cls.FIELDS.items()})

    def put(self, where, other):
        for key in self.FIELDS:
            getattr(self, key)[where] = getattr(other, key)

    @classmethod
    def choose(cls, which, surfaces):
        """Surface number ``which`` at each point; each of ``surfaces`` covers all points."""
        out = cls.blank(len(which))
        for number, surface in enumerate(surfaces):
            where = which == number
            for key, n in cls.FIELDS.items():
                value = np.asarray(getattr(surface, key), float)
                if value.ndim == (2 if n == 3 else 1):
                    value = value[where]
                getattr(out, key)[where] = value
        return out


class Solid:
    """A body in its own frame (bounds lo..hi), turned by ``yaw`` degrees about y and set down at ``at``.

    ``skin(p, n)`` gives the Surface at own-frame points p with normals n.
    """

    def __init__(self, lo, hi, skin, at=(0, 0, 0), yaw=0.0, scale=1.0, tilt=0.0):
        self.lo, self.hi, self.skin = np.asarray(lo, float), np.asarray(hi, float), skin
        self.at, self.scale = np.asarray(at, float), scale
        c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
        self.turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # own frame -> world
        if tilt:
            c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
            self.turn = self.turn @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        self.shadow = True

    def local(self, o, d):
        return (o - self.at) @ self.turn / self.scale, d @ self.turn / self.scale

    def corners(self):
        pick = np.array([[(i >> k) & 1 for k in range(3)] for i in range(8)])
        return np.where(pick, self.hi, self.lo) @ self.turn.T * self.scale + self.at

    def span(self, o, d):
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / np.where(np.abs(d) < 1e-12, 1e-12, d)
            a, b = (self.lo - o) * inverse, (self.hi - o) * inverse
        return np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)


class Convex(Solid):
    """The common part of half-spaces normal · p ≤ offset."""

    def __init__(self, planes, lo, hi, skin, **pose):
        super().__init__(lo, hi, skin, **pose)
        planes = np.asarray(planes, float)
        length = np.sqrt((planes[:, :3] ** 2).sum(1, keepdims=True))
        self.normals, self.offsets = planes[:, :3] / length, planes[:, 3] / length[:, 0]

    @classmethod
    def box(cls, size, skin, **pose):
        """A box ``size`` = (width, height, depth) that stands on its frame's origin."""
        w, h, d = size
        planes = [(1, 0, 0, w / 2), (-1, 0, 0, w / 2), (0, 1, 0, h), (0, -1, 0, 0), (0, 0, 1, d / 2), (0, 0, -1, d / 2)]
        return cls(planes, (-w / 2, 0, -d / 2), (w / 2, h, d / 2), skin, **pose)

    def hit(self, o, d, near, far):
        entry, leave = near.copy(), far.copy()
        for normal, offset in zip(self.normals, self.offsets, strict=True):
            along, gap = d @ normal, offset - o @ normal
            with np.errstate(divide="ignore", invalid="ignore"):
                t = gap / along
            entry = np.where(along < 0, np.maximum(entry, t), entry)
            leave = np.where(along > 0, np.minimum(leave, t), leave)
            leave = np.where((along == 0) & (gap < 0), -FAR, leave)
        return np.where(entry <= leave, entry, FAR)

    def normal(self, p):
        return self.normals[np.argmax(p @ self.normals.T - self.offsets, axis=1)]


class Field(Solid):
    """A body given by its distance function ``distance(p)`` (an underestimate is fine)."""

    def __init__(self, distance, lo, hi, skin, steps=72, eps=4e-4, **pose):
        super().__init__(lo, hi, skin, **pose)
        self.distance, self.steps, self.eps = distance, steps, eps

    def hit(self, o, d, near, far):
        out = np.full(len(o), FAR)
        active, t = np.arange(len(o)), near.copy()
        pace = 1 / np.sqrt((d * d).sum(-1))
        for _ in range(self.steps):
            if not len(active):
                break
            gap = self.distance(o[active] + t[active, None] * d[active]) * pace[active]
            close = gap < self.eps * np.maximum(t[active], 1)
            out[active[close]] = t[active[close]]
            t[active] += np.maximum(gap, 1e-4)
            active = active[~close & (t[active] < far[active])]
        return out

    def normal(self, p):
        h, total = 2e-3, 0.0
        for k in ([1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]):
            k = np.array(k, float)
            total = total + k * self.distance(p + h * k)[:, None]
        return unit(total)


class Leaves:
    """Many small discs: foliage, grass, gravel.  ``skin(items)`` gives the Surface of the discs with these numbers."""

    def __init__(self, centres, radii, normals, skin, shadow=True):
        self.centres, self.radii, self.normals, self.skin = centres, radii, unit(normals), skin
        self.shadow = shadow

    def splat(self, camera, depth):
        """(pixel, disc, depth) of the discs' visible fragments, given the depth that is already there."""
        x, y, z = camera.project(self.centres)
        reach = self.radii * (camera.focal if camera.extent else camera.focal / np.maximum(z, 0.05))
        ok = (z > 0.3) & (x > -40) & (x < camera.width + 40) & (y > -40) & (y < camera.height + 40)
        ids = np.flatnonzero(ok)
        x, y, z, reach = x[ids], y[ids], z[ids], np.clip(reach[ids], 0.5, 14)
        tilt = np.stack([self.normals[ids] @ camera.right, -(self.normals[ids] @ camera.up)], -1)
        pixel, disc, far = [], [], []
        for size in range(1, int(np.ceil(reach.max(initial=0))) + 1):
            group = np.flatnonzero(np.ceil(reach) == size)
            for dy in range(-size, size + 1):
                for dx in range(-size, size + 1):
                    px, py = np.floor(x[group]) + dx, np.floor(y[group]) + dy
                    off = np.stack([px + 0.5 - x[group], py + 0.5 - y[group]], -1)
                    # a disc seen aslant is an ellipse, narrow along the projected normal
                    lean = dot(off, tilt[group])
                    edge = np.maximum(1 - (tilt[group] ** 2).sum(-1), 0.08)
                    inside = (off**2).sum(-1) + lean**2 / edge <= reach[group] ** 2 + 0.3
                    inside &= (px >= 0) & (px < camera.width) & (py >= 0) & (py < camera.height)
                    chosen = group[inside]
                    pixel.append((py[inside] * camera.width + px[inside]).astype(np.int64))
                    disc.append(ids[chosen])
                    far.append(z[chosen])
        if not pixel:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        pixel, disc, far = np.concatenate(pixel), np.concatenate(disc), np.concatenate(far)
        seen = far < depth[pixel]
        pixel, disc, far = pixel[seen], disc[seen], far[seen]
        order = np.lexsort((disc, -far, pixel))  # the nearest comes last in its pixel
        last = np.flatnonzero(np.append(np.diff(pixel[order]) != 0, True)) if len(order) else order
        return pixel[order][last], disc[order][last], far[order][last]


# ---------------------------------------------------------------------------------------------------------------- tracing
@dataclass
class Hits:
    origin: np.ndarray
    ray: np.ndarray
    depth: np.ndarray
    thing: np.ndarray
    item: np.ndarray

    @property
    def points(self):
        return self.origin + np.minimum(self.depth, 1e5)[:, None] * self.ray


def trace(things, origin, ray, camera=None, near=0.02):
    """First hits of the rays; discs (Leaves) are seen by cameras only."""
    count = len(ray)
    hits = Hits(origin, ray, np.full(count, FAR), np.full(count, -1), np.full(count, -1))
    for number, thing in enumerate(things):
        if isinstance(thing, Leaves):
            continue
        where = camera.pixels_of(thing.corners()) if camera else None
        where = np.arange(count) if where is None else where
        o, d = thing.local(origin[where], ray[where])
        enter, leave = thing.span(o, d)
        enter = np.maximum(enter, near)
        ok = (leave >= enter) & (enter < hits.depth[where])
        where, o, d = where[ok], o[ok], d[ok]
        t = thing.hit(o, d, enter[ok], np.minimum(leave[ok], hits.depth[where]))
        closer = t < hits.depth[where]
        hits.depth[where[closer]] = t[closer]
        hits.thing[where[closer]] = number
    for number, thing in enumerate(things if camera else ()):
        if isinstance(thing, Leaves):
            pixel, disc, far = thing.splat(camera, hits.depth)
            hits.depth[pixel], hits.thing[pixel], hits.item[pixel] = far, number, disc
    return hits


def resolve(things, hits):
    """World normals and Surface of the hits."""
    normal = np.zeros_like(hits.ray)
    surface = Surface.blank(len(hits.depth))
    points = hits.points
    for number in np.unique(hits.thing[hits.thing >= 0]):
        thing, where = things[number], np.flatnonzero(hits.thing == number)
        if isinstance(thing, Leaves):
            normal[where] = thing.normals[hits.item[where]]
            surface.put(where, thing.skin(hits.item[where]))
            continue
        p = (points[where] - thing.at) @ thing.turn / thing.scale
        own = thing.normal(p)
        got = thing.skin(p, own)
        surface.put(where, got)
        normal[where] = unit(own + got.bump) @ thing.turn.T
    away = dot(normal, hits.ray) > 0
    leaf = hits.item >= 0
    normal[away & leaf] *= -1
    return normal, surface


# ----------------------------------------------------------------------------------------------------------------- lights
@dataclass
class Light:
    """A lamp at ``at`` (or with ``sun`` a parallel light from the direction ``at``); ``beam`` narrows it to a cone."""

    at: tuple
    color: tuple
    sun: bool = False
    beam: tuple | None = None  # (direction, cosine of the half angle)
    shadow: bool = False
    shadow_view: tuple | None = None  # sun: (centre, metres across); lamp: (target, field of view)
    size: int = 900
    reach: float = 0.15  # softening of the inverse square near the lamp

    def prepare(self, things):
        if not self.shadow:
            return self
        if self.sun:
            centre, extent = self.shadow_view
            eye = np.asarray(centre, float) + unit(self.at) * extent * 1.5
            self.view = Camera(eye, centre, self.size, self.size, extent=extent)
        else:
            target, fov = self.shadow_view
            self.view = Camera(self.at, target, self.size, self.size, fov=fov)
        solid = [t for t in things if t.shadow]
        origin, ray = self.view.rays()
        self.map = trace(solid, origin, ray, self.view).depth.reshape(self.size, self.size)
        return self

    def lit(self, points, normal):
        """Share of the light that reaches the points (shadow), by the depth seen from the lamp."""
        if not self.shadow:
            return 1.0
        grain = self.view.extent / self.size if self.sun else 0.0
        x, y, depth = self.view.project(points + normal * (0.02 + 1.5 * grain))
        total = 0.0
        offsets = [(-0.8, -0.3), (0.3, -0.8), (0.8, 0.3), (-0.3, 0.8), (0, 0)]
        for dx, dy in offsets:
            i, j = np.floor(y + dy).astype(int), np.floor(x + dx).astype(int)
            inside = (i >= 0) & (i < self.size) & (j >= 0) & (j < self.size) & (depth > 0)
            stored = self.map[np.clip(i, 0, self.size - 1), np.clip(j, 0, self.size - 1)]
            total = total + (~inside | (stored > depth - 0.03 - grain))
        return total / len(offsets)


@dataclass
class Scene:
    """Everything a pair of pictures needs."""

    name: str
    width: int
    height: int
    eye: tuple
    target: tuple
    things: list
    fov: float = 50.0
    sky: Callable = lambda d: np.ones_like(d)  # visible radiance in a direction
    sky_celsius: Callable = lambda d: -20 - 25 * np.clip(d[:, 1], 0, 1)
    ambient: tuple = (0.25, 0.28, 0.32)  # light from above
    bounce: tuple = (0.10, 0.09, 0.08)  # light from below
    lights: list = field(default_factory=list)
    veils: list = field(default_factory=list)
    flares: list = field(default_factory=list)  # (position, colour, size): glare of lamps that shine into the lens
    fog: float = 0.0  # visible extinction per metre
    fog_color: tuple = (0.7, 0.72, 0.75)
    fog_ir: float = 0.0
    air: float = 10.0  # °C
    exposure: float = 1.0
    bloom: float = 0.15
    grain: float = 0.010
    white: tuple = (1.0, 1.0, 1.0)
    gray: bool = False
    celsius: tuple | None = (0.0, 40.0)  # range of the 8-bit thermal picture; None for a 16-bit one in 0.01 K
    netd: float = 0.06
    occlusion: float = 1.0
    kind: dict = field(default_factory=dict)  # endings and file options for make.py


@dataclass
class Veil:
    """Something seen through: glass, film, smoke.  ``look(p)`` gives visible cover, colour, thermal cover and °C."""

    solid: Solid
    look: Callable


def occlusion(points, normal, depth, shape, reach=1.2):
    """Ambient light kept (0..1): what nearby surfaces in the picture hide of the sky."""
    height, width = shape
    grid, facing = points.reshape(height, width, 3), normal.reshape(height, width, 3)
    total = np.zeros(shape)
    steps = [
        (r * np.cos(a), r * np.sin(a)) for r, a0 in ((3, 0.2), (8, 0.6), (20, 0.0)) for a in a0 + np.arange(7) * 0.9
    ]
    padded = cv2.copyMakeBorder(grid, 24, 24, 24, 24, cv2.BORDER_REPLICATE)
    for dx, dy in steps:
        i, j = 24 + round(dy), 24 + round(dx)
        way = padded[i : i + height, j : j + width] - grid
        far = np.sqrt((way**2).sum(-1)) + 1e-6
        total += np.clip(dot(way, facing) / far - 0.12, 0, 1) / (1 + (far / reach) ** 2)
    kept = np.clip(1 - 2.2 * total / len(steps), 0.12, 1)
    return np.where(depth.reshape(shape) < 1e5, kept, 1)


def light_up(scene, hits, normal, surface, kept):
    """Visible radiance (N×3) of the hits."""
    points, view = hits.points, -unit(hits.ray)
    upward = 0.5 + 0.5 * normal[:, 1:2]
    sky = np.asarray(scene.ambient) * upward + np.asarray(scene.bounce) * (1 - upward)
    total = surface.albedo * sky * kept[:, None]
    for light in scene.lights:
        color = np.asarray(light.color, float)
        if light.sun:
            toward, power = np.broadcast_to(unit(light.at), points.shape), np.ones(len(points))
        else:
            way = np.asarray(light.at) - points
            square = dot(way, way)
            toward, power = way / np.sqrt(square)[:, None], 1 / (square + light.reach)
        if light.beam:
            axis, cosine = light.beam
            off = -(toward @ unit(axis))
            power = power * np.clip((off - cosine) / (1 - cosine), 0, 1) ** 1.5
        power = power * light.lit(points, normal)
        facing = dot(normal, toward)
        diffuse = np.clip(facing, 0, 1) + surface.through * np.clip(-facing, 0, 1)
        half = unit(toward + view)
        shine = (
            surface.gloss * np.clip(dot(normal, half), 0, 1) ** surface.sharp * (surface.sharp + 8) / 40 * (facing > 0)
        )
        total += (surface.albedo * diffuse[:, None] + shine[:, None]) * power[:, None] * color
    return total + surface.glow


def mirrored(hits, normal):
    return hits.ray - 2 * dot(normal, hits.ray)[:, None] * normal


def render(scene, over=2):
    """Linear visible radiance and apparent °C, each at the scene's size (over × over rays a pixel)."""
    width, height = scene.width * over, scene.height * over
    camera = Camera(scene.eye, scene.target, width, height, scene.fov)
    origin, ray = camera.rays()
    hits = trace(scene.things, origin, ray, camera)
    normal, surface = resolve(scene.things, hits)
    for light in scene.lights:
        light.prepare(scene.things)
    kept = occlusion(hits.points, normal, hits.depth, (height, width)).ravel()
    kept = 1 - scene.occlusion * (1 - kept)
    visible = light_up(scene, hits, normal, surface, kept)

    # what glossy surfaces reflect: the sky, or for mirrors what a second ray meets
    back = unit(mirrored(hits, normal))
    fresnel = (0.06 + 0.94 * (1 - np.clip(-dot(unit(hits.ray), normal), 0, 1)) ** 5)[:, None]
    solid = hits.thing >= 0
    shiny = solid & (surface.gloss > 0)
    around = np.where(back[:, 1:2] > 0, scene.sky(back), np.asarray(scene.bounce) * 0.6)
    visible[shiny] += (around * fresnel * surface.gloss[:, None] * kept[:, None] ** 2)[shiny]
    where = np.flatnonzero(solid & (surface.mirror > 0.01))
    reflected_celsius = np.where(back[:, 1] > 0, scene.sky_celsius(back), scene.air)
    if len(where):
        again = trace(scene.things, hits.points[where] + normal[where] * 0.02, back[where])
        n2, s2 = resolve(scene.things, again)
        seen = light_up(scene, again, n2, s2, np.full(len(where), 0.8))
        seen = np.where((again.thing >= 0)[:, None], seen, scene.sky(back[where]))
        share = np.clip(fresnel[where, 0] * surface.mirror[where], 0, 1)[:, None]
        visible[where] = visible[where] * (1 - share) + seen * share
        reflected_celsius[where] = np.where(again.thing >= 0, s2.celsius, reflected_celsius[where])

    open_sky = ~solid
    looking = unit(hits.ray)
    visible[open_sky] = scene.sky(looking[open_sky])
    celsius = surface.emissivity * surface.celsius + (1 - surface.emissivity) * reflected_celsius
    celsius[open_sky] = scene.sky_celsius(looking[open_sky])

    path = np.minimum(hits.depth, 400.0) * np.sqrt(dot(hits.ray, hits.ray))
    for veil in scene.veils:
        back_hits = trace([veil.solid], origin, ray, camera)
        where = np.flatnonzero((back_hits.thing >= 0) & (back_hits.depth < hits.depth))
        p = (back_hits.points[where] - veil.solid.at) @ veil.solid.turn / veil.solid.scale
        cover, color, warm_cover, warm = veil.look(p)
        visible[where] = visible[where] * (1 - cover[:, None]) + color * cover[:, None]
        celsius[where] = celsius[where] * (1 - warm_cover) + warm * warm_cover
    if scene.fog:
        patch = 0.75 + 0.5 * fbm2(looking[:, 0] * 5, looking[:, 1] * 9, 3)
        clear = np.exp(-scene.fog * patch * path)[:, None]
        visible = visible * clear + np.asarray(scene.fog_color) * (1 - clear)
    if scene.fog_ir:
        clear = np.exp(-scene.fog_ir * path)
        celsius = celsius * clear + scene.air * (1 - clear)

    size = (scene.width, scene.height)
    visible = cv2.resize(np.clip(visible, 0, 60).reshape(height, width, 3), size, interpolation=cv2.INTER_AREA)
    celsius = cv2.resize(celsius.reshape(height, width), size, interpolation=cv2.INTER_AREA)
    camera = Camera(scene.eye, scene.target, scene.width, scene.height, scene.fov)
    depth = cv2.resize(hits.depth.reshape(height, width), size, interpolation=cv2.INTER_NEAREST)
    return add_glare(scene, visible, camera, depth), celsius


# ------------------------------------------------------------------------------------------------------------ the cameras
def add_glare(scene, visible, camera, depth):
    """Bloom of what is bright, and the flare of lamps that look into the lens."""
    wide = sum(
        weight * cv2.GaussianBlur(np.clip(visible - 0.7, 0, 12), (0, 0), sigma)
        for sigma, weight in ((1.5, 0.4), (5, 0.3), (16, 0.2), (40, 0.1))
    )
    visible = visible + scene.bloom * wide
    y, x = np.mgrid[: scene.height, : scene.width].astype(float)
    for at, color, size in scene.flares:
        cx, cy, z = camera.project(np.asarray(at, float))
        column, row = int(cx), int(cy)
        if z < 0.1 or not (0 <= column < scene.width and 0 <= row < scene.height) or depth[row, column] < z - 0.6:
            continue
        far = np.hypot(x - cx, y - cy) + 1e-3
        angle = np.arctan2(y - cy, x - cx)
        rays = 0.75 + 0.5 * noise2(angle * 7 + 40, far * 0 + cx) + 0.25 * np.cos(angle * 6 + 0.4) ** 8
        halo = np.exp(-((far / size) ** 2)) * 4 + rays * 0.6 / (1 + (far / size) ** 2) + 0.04 / (1 + far / (6 * size))
        visible = visible + halo[..., None] * np.asarray(color)
    return visible


def develop(scene, visible, rng):
    """8-bit visible picture (H×W×3 RGB, or H×W where the camera is a gray one)."""
    x = np.clip(visible * scene.exposure * np.asarray(scene.white), 0, None)
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)  # filmic shoulder (Narkowicz 2015)
    y, u = np.mgrid[-1 : 1 : scene.height * 1j, -1 : 1 : scene.width * 1j]
    x = np.clip(x, 0, 1) * (1 - 0.13 * (y**2 + u**2))[..., None]
    x = x ** (1 / 2.2)
    luma = rng.normal(size=(scene.height, scene.width, 1))
    chroma = cv2.GaussianBlur(rng.normal(size=(scene.height, scene.width, 3)), (0, 0), 0.8)
    x = x + scene.grain * (1.15 - x) * luma + 0.5 * scene.grain * (1.15 - x) * chroma
    if scene.gray:
        x = (x @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.floor(np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8).squeeze()


def detect(scene, celsius, rng):
    """Thermal picture: 8-bit white-hot over the scene's range, or 16-bit counts of 0.01 K."""
    x = cv2.GaussianBlur(celsius, (0, 0), 0.75)  # thermal optics are softer
    column = rng.normal(size=(1, scene.width)) * 0.4 + rng.normal(size=(scene.height, 1)) * 0.15
    x = x + scene.netd * (rng.normal(size=x.shape) + column)
    if scene.celsius is None:
        return np.floor((x + 273.15) * 100 + 0.5).astype(np.uint16)
    low, high = scene.celsius
    x = (x - low) / (high - low)
    x = np.where(x > 0.85, 0.85 + 0.15 * np.tanh((x - 0.85) / 0.15), x)  # the camera rolls off hot parts
    return np.floor(np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
