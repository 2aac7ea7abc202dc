"""People, cars, trees and walls for the scenes: shapes as distance functions, skins as colour and temperature."""

import numpy as np
from noise import fbm2, fbm3, mix, noise2, noise3, pick, step, tint
from render import Convex, Field, Leaves, Solid, Surface, dot, unit


# ------------------------------------------------------------------------------------------------------- distance functions
def capsule(p, a, b, ra, rb=None):
    """Rod from a to b whose radius goes from ra to rb."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    pa, ba = p - a, b - a
    s = np.clip(pa @ ba / max(ba @ ba, 1e-9), 0, 1)
    gap = pa - s[:, None] * ba
    return np.sqrt(dot(gap, gap)) - mix(ra, ra if rb is None else rb, s)


def ellipsoid(p, centre, radii):
    q = (p - np.asarray(centre, float)) / np.asarray(radii, float)
    return (np.sqrt(dot(q, q)) - 1) * min(radii)


def rounded(p, centre, half, radius):
    q = np.abs(p - np.asarray(centre, float)) - (np.asarray(half, float) - radius)
    outside = np.maximum(q, 0)
    return np.sqrt(dot(outside, outside)) + np.minimum(q.max(1), 0) - radius


def disc(p, centre, radius, half):
    """A wheel: a cylinder along x."""
    q = p - np.asarray(centre, float)
    a, b = np.hypot(q[:, 1], q[:, 2]) - radius, np.abs(q[:, 0]) - half
    return np.minimum(np.maximum(a, b), 0) + np.hypot(np.maximum(a, 0), np.maximum(b, 0))


def ring(p, centre, radius, thick):
    q = p - np.asarray(centre, float)
    return np.hypot(np.hypot(q[:, 1], q[:, 2]) - radius, q[:, 0]) - thick


def outline(x, y, corners):
    """Signed distance to a polygon in the plane."""
    corners = np.asarray(corners, float)
    best, inside = np.full(x.shape, 1e9), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        s = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, (px - s * ex) ** 2 + (py - s * ey) ** 2)
        crossing = (ay > y) != (by > y)
        if ey:
            inside ^= crossing & (x < ax + ex * (y - ay) / ey)
    return np.sqrt(best) * np.where(inside, -1, 1)


def melt(a, b, k):
    """Union with a fillet of size k."""
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return mix(b, a, h) - k * h * (1 - h)


def union(parts):
    return np.minimum.reduce(parts)


# ------------------------------------------------------------------------------------------------------------------ people
class Person(Field):
    """Somebody of ``height`` metres, feet on the ground, who faces the frame's +z.

    ``pose``: stand, walk (with ``phase`` 0..1), crouch, sit.  ``wear``: jacket, coat or skirt.  ``air``: °C around.
    """

    def __init__(self, at, yaw=0.0, height=1.75, pose="walk", phase=0.2, jacket=(0.08, 0.09, 0.13), legs=(0.05, 0.05, 0.07),
                 wear="jacket", hair=(0.03, 0.02, 0.015), skin=(0.55, 0.34, 0.25), hood=False, pack=None, air=10.0,
                 warmth=0.5, seed=0, arms=None):  # fmt: skip
        self.air, self.warmth, self.seed, self.wear, self.hood, self.pack = air, warmth, seed, wear, hood, pack
        self.colors = {"jacket": jacket, "legs": legs, "hair": hair, "skin": skin}
        self.bones = self.pose(pose, phase, arms)
        box = (-0.55, -0.02, -0.85), (0.55, 1.95, 0.85)
        super().__init__(lambda p: union(self.parts(p)) * 0.8, *box, self.look, at=at, yaw=yaw, scale=height / 1.75)

    @staticmethod
    def pose(pose, phase, arms):
        """Joints (left, right) of thigh, knee, ankle, elbow and wrist."""
        swing = np.sin(2 * np.pi * phase)
        lift = np.cos(2 * np.pi * phase)
        if pose == "walk":
            thigh = np.array([0.42 * swing, -0.42 * swing]) + 0.05
            bend = np.array([0.12 + 0.75 * max(-lift, 0) * 0.6, 0.12 + 0.75 * max(lift, 0) * 0.6])
            reach, elbow, lean = np.array([-0.5 * swing, 0.5 * swing]), np.array([0.45, 0.45]), 0.05
        elif pose == "crouch":
            thigh, bend = np.array([1.75, 1.35]), np.array([2.35, 2.2])
            reach, elbow, lean = np.array([0.8, 0.6]), np.array([1.0, 1.3]), 0.5
        elif pose == "sit":
            thigh, bend = np.array([1.45, 1.5]), np.array([1.5, 1.45])
            reach, elbow, lean = np.array([0.5, 0.6]), np.array([1.0, 0.9]), 0.05
        else:
            thigh, bend = np.array([0.05, -0.06]), np.array([0.05, 0.03])
            reach, elbow, lean = np.array([0.05, 0.1]), np.array([0.25, 0.4]), 0.0
        if arms is not None:
            reach, elbow = np.array(arms[0]), np.array(arms[1])
        hip = np.array([0.0, 0.92, 0.0])
        joints = {}
        for k, side in enumerate((-1, 1)):
            top = hip + [0.095 * side, 0, 0]
            knee = top + 0.44 * np.array([0.02 * side, -np.cos(thigh[k]), np.sin(thigh[k])])
            shin = thigh[k] - bend[k]
            joints[side] = [top, knee, knee + 0.42 * np.array([0, -np.cos(shin), np.sin(shin)])]
        low = min(joints[s][2][1] for s in (-1, 1)) - 0.075
        drop = np.array([0, low, 0])
        along = np.array([0, np.cos(lean), np.sin(lean)])
        chest = hip + 0.38 * along
        for k, side in enumerate((-1, 1)):
            shoulder = hip + 0.50 * along + [0.185 * side, 0, 0]
            angle, fore = reach[k] + lean * 0.5, reach[k] + elbow[k]
            bow = shoulder + 0.29 * np.array([0.13 * side, -np.cos(angle), np.sin(angle)])
            joints[side] += [shoulder, bow, bow + 0.25 * np.array([-0.04 * side, -np.cos(fore), np.sin(fore)])]
            joints[side] = [j - drop for j in joints[side]]
        neck = hip + 0.55 * along
        head = neck + 0.165 * unit(along + [0, 0.6, 0]) + [0, 0, 0.02]
        return {"hip": hip - drop, "chest": chest - drop, "neck": neck - drop, "head": head - drop, **joints}

    def parts(self, p):
        """Distances to jacket, legs, skin, hair, shoes, pack."""
        b = self.bones
        flat = np.array([1.0, 1.0, 0.72])
        squeeze = lambda q, k: (q - b[k]) / flat + b[k]  # noqa: E731
        trunk = capsule(squeeze(p, "hip"), b["hip"] + [0, 0.06, 0], b["chest"], 0.155, 0.165) * 0.72
        trunk = melt(trunk, capsule(p, b[-1][3] - [0, 0.02, 0], b[1][3] - [0, 0.02, 0], 0.068), 0.09)
        if self.wear in ("coat", "skirt"):
            knees = (b[-1][1] + b[1][1]) / 2 + [0, 0.05, 0]
            skirt = capsule(squeeze(p, "hip"), b["hip"] + [0, 0.05, 0], knees, 0.15, 0.21) * 0.72
            skirt = np.maximum(skirt, knees[1] - p[:, 1])
            trunk = melt(trunk, skirt, 0.04) if self.wear == "coat" else trunk
        legs, shoes, hands = np.full(len(p), 9.0), np.full(len(p), 9.0), np.full(len(p), 9.0)
        for side in (-1, 1):
            top, knee, ankle, shoulder, elbow, wrist = b[side]
            legs = np.minimum(
                legs, melt(capsule(p, top, knee, 0.095, 0.066), capsule(p, knee, ankle, 0.066, 0.05), 0.04)
            )
            toe = ankle + [0.02 * side, -0.045, 0.15]
            shoes = np.minimum(shoes, capsule(p, ankle + [0, -0.035, -0.03], toe, 0.045, 0.038))
            arm = melt(capsule(p, shoulder, elbow, 0.062, 0.05), capsule(p, elbow, wrist, 0.05, 0.04), 0.03)
            trunk = melt(trunk, arm, 0.045)
            hands = np.minimum(hands, capsule(p, wrist, wrist + 0.45 * (wrist - elbow) * 0.6, 0.036, 0.03))
        legs = melt(legs, capsule(p, b[-1][0], b[1][0], 0.105), 0.05)
        if self.wear == "skirt":
            legs = np.minimum(legs, skirt)
        folds = (noise3(p * [16, 9, 16] + self.seed) - 0.5) * 0.022
        head = ellipsoid(p, b["head"], (0.078, 0.118, 0.098))
        skin = np.minimum(melt(head, capsule(p, b["neck"], b["head"], 0.055), 0.03), hands)
        nose = b["head"] + [0, -0.015, 0.095]
        skin = melt(skin, capsule(p, nose + [0, 0.03, -0.01], nose, 0.012, 0.018), 0.02)
        hair = ellipsoid(p, b["head"] + [0, 0.022, -0.022], (0.093, 0.118, 0.104))
        face = (p - b["head"]) @ np.array([0, -0.45, 0.9])
        hair = np.maximum(hair, face - 0.012) + (noise3(p * 45) - 0.5) * 0.012
        out = [trunk + folds, legs + folds, skin, hair, shoes]
        if self.pack is not None:
            out.append(rounded(p, b["chest"] + [0, 0.0, -0.2], (0.15, 0.22, 0.1), 0.07))
        return out

    def look(self, p, n):
        part = np.argmin(np.stack(self.parts(p)), axis=0)
        b, air, warm = self.bones, self.air, self.warmth
        cloth = 0.8 + 0.4 * noise3(p * 30 + self.seed)
        seam = 1 - 0.35 * step(0.012, 0.004, np.abs(p[:, 0])) * (n[:, 2] > 0.3)
        crease = fbm3(p * [14, 8, 14] + self.seed, 3)
        # clothes are warmest where they lie close: shoulders, chest, thighs; cool at hems and folds
        close = step(b["hip"][1] - 0.75, b["neck"][1], p[:, 1])
        jacket = air + warm * (31 - air) * (0.62 + 0.3 * close + 0.5 * (crease - 0.5))
        trousers = air + warm * (30 - air) * (0.75 + 0.55 * (crease - 0.5))
        level = p[:, 1] - b["head"][1]
        eyes = step(0.022, 0.008, np.hypot(np.abs(p[:, 0]) - 0.032, level - 0.018)) * (n[:, 2] > 0.3)
        mouth = step(0.03, 0.015, np.hypot(p[:, 0] * 0.8, (level + 0.062) * 2.2)) * (n[:, 2] > 0.2)
        face = tint(np.asarray(self.colors["skin"]), (0.12, 0.07, 0.06), np.clip(eyes * 0.75 + mouth * 0.4, 0, 1))
        cold_nose = step(0.03, 0.01, np.hypot(p[:, 0], level + 0.02)) * (n[:, 2] > 0.2) * (level > -0.2)
        hand = level < -0.25
        bare = mix(34.2, mix(air, 34, 0.8), 0.5 * cold_nose) - hand * 0.18 * (34 - air) + 0.6 * eyes
        bare = bare - 0.06 * (34 - air) * step(0.0, 0.06, np.abs(p[:, 0])) + 0.8 * (noise3(p * 22) - 0.5)
        hair_color = np.asarray(self.colors["jacket"]) * 0.9 if self.hood else np.asarray(self.colors["hair"])
        hair_warm = 0.45 if self.hood else 0.62
        surfaces = [
            Surface(np.asarray(self.colors["jacket"]) * (cloth * seam)[:, None], jacket, 0.95, gloss=0.08, sharp=12),
            Surface(np.asarray(self.colors["legs"]) * cloth[:, None], trousers, 0.95),
            Surface(face, bare, 0.98, gloss=0.15, sharp=14, through=0.08),
            Surface(
                hair_color * cloth[:, None], air + hair_warm * (33 - air) + 2 * (cloth - 1), 0.96, gloss=0.2, sharp=20
            ),
            Surface((0.03, 0.028, 0.026), air + 0.25 * (30 - air), 0.94, gloss=0.25),
        ]
        if self.pack is not None:
            surfaces.append(Surface(np.asarray(self.pack) * cloth[:, None], air + 0.12 * (30 - air), 0.94, gloss=0.1))
        return Surface.choose(part, surfaces)


def cyclist(at, yaw, air, jacket=(0.5, 0.08, 0.05), seed=3):
    """A rider on a bicycle: two things."""
    rider = Person(at, yaw, pose="sit", jacket=jacket, air=air, seed=seed, arms=([0.95, 0.95], [0.25, 0.3]), warmth=0.6)
    rider.bones = {k: ([j + [0, 0.42, -0.1] for j in v] if isinstance(v, list) else v + [0, 0.42, -0.1])
                   for k, v in _riding(rider.bones).items()}  # fmt: skip
    rider.hi = np.array([0.55, 2.2, 0.95])

    def frame(p):
        seat, bars, crank = (0, 0.98, -0.22), (0, 1.02, 0.42), (0, 0.30, -0.02)
        tubes = [(seat, crank), (crank, (0, 0.85, 0.36)), (seat, (0, 0.88, 0.36)), (bars, (0, 0.34, 0.55)),
                 (crank, (0, 0.34, -0.5)), ((0, 0.75, -0.16), (0, 0.34, -0.5))]  # fmt: skip
        rods = [capsule(p, a, b, 0.02) for a, b in tubes] + [capsule(p, (-0.25, 1.03, 0.4), (0.25, 1.03, 0.4), 0.018)]
        wheels = [ring(p, (0, 0.34, z), 0.33, 0.022) for z in (0.55, -0.5)]
        return union([*rods, *wheels]) * 0.9

    def skin(p, n):
        lamp = step(0.09, 0.05, np.sqrt(dot(p - [0, 0.95, 0.47], p - [0, 0.95, 0.47])))
        return Surface(
            (0.04, 0.04, 0.05), np.full(len(p), air), 0.9, gloss=0.4, glow=lamp[:, None] * np.array([8, 8, 7.0])
        )

    bicycle = Field(frame, (-0.3, 0, -0.9), (0.3, 1.1, 0.95), skin, at=at, yaw=yaw)
    return [rider, bicycle]


def _riding(bones):
    """Bend one leg less than the other, as pedals do."""
    out = dict(bones)
    for side, stretch in ((-1, 0.0), (1, -0.32)):
        top, knee, ankle, *arm = bones[side]
        out[side] = [top, knee + [0, stretch * 0.35, -0.03], ankle + [0, stretch * 0.9, -0.22], *arm]
    return out


# -------------------------------------------------------------------------------------------------------------------- cars
PROFILES = {
    "sedan": ((-2.2, 0.28), (-2.25, 0.62), (-2.12, 0.98), (-1.45, 1.03), (-0.85, 1.42), (0.25, 1.44), (1.0, 1.0), (1.95, 0.84),
              (2.2, 0.62), (2.18, 0.26)),
    "hatch": ((-1.95, 0.28), (-2.0, 0.7), (-1.9, 1.0), (-1.6, 1.5), (0.15, 1.54), (0.95, 1.06), (1.75, 0.9), (1.98, 0.64),
              (1.96, 0.27)),
    "van": ((-2.45, 0.32), (-2.5, 0.9), (-2.42, 1.95), (-2.2, 2.08), (1.1, 2.08), (1.75, 1.32), (2.3, 1.12), (2.45, 0.75),
            (2.42, 0.3)),
}  # fmt: skip


class Car(Field):
    """A car that faces the frame's +z.  ``running``: how hot the engine is, 0..1; ``lamps``: how bright, 0..1."""

    def __init__(self, at, yaw=0.0, kind="sedan", paint=(0.35, 0.04, 0.04), air=10.0, running=1.0, lamps=0.0, sun=0.0):
        self.profile, self.kind = np.array(PROFILES[kind]), kind
        self.paint, self.air, self.running, self.lamps, self.sun = paint, air, running, lamps, sun
        self.belt = 1.22 if kind == "van" else 0.97
        self.front, self.tail = self.profile[:, 0].max(), self.profile[:, 0].min()
        self.wheels = (self.front - 0.85, self.tail + 0.85)
        top = self.profile[:, 1].max()
        box = (-0.98, 0, self.tail - 0.1), (0.98, top + 0.06, self.front + 0.1)
        super().__init__(lambda p: union(self.parts(p)) * 0.82, *box, self.look, at=at, yaw=yaw, steps=90)

    def parts(self, p):
        side = np.abs(p[:, 0])
        flat = outline(p[:, 2], p[:, 1], self.profile) + 0.05
        taper = side + np.maximum(p[:, 1] - self.belt, 0) * 0.30 + 0.045 * (np.abs(p[:, 2]) / self.front) ** 4 - 0.85
        both = np.stack([flat, taper])
        body = np.minimum(both.max(0), 0) + np.hypot(*np.maximum(both, 0)) - 0.05
        wheel = np.full(len(p), 9.0)
        for z in self.wheels:
            body = np.maximum(body, 0.385 - np.hypot(p[:, 1] - 0.33, p[:, 2] - z) - 9 * (side < 0.55))
            wheel = np.minimum(
                wheel, disc(np.stack([side, p[:, 1], p[:, 2]], 1), (0.76, 0.33, z), 0.33 - 0.02, 0.10) - 0.02
            )
        mirror = ellipsoid(np.stack([side, p[:, 1], p[:, 2]], 1), (0.96, self.belt + 0.05, 0.72), (0.09, 0.07, 0.06))
        floor = rounded(p, (0, 0.3, 0), (0.7, 0.1, self.front - 0.25), 0.05)
        return [np.minimum(body, mirror), wheel, floor]

    def windows(self, p, n):
        """1 on glass, and on the black frames round it 0.5."""
        x, y, z = p.T
        pane = outline(z, y, self.profile) + 0.13 + np.where(y < self.belt, 9, 0)
        pillars = np.minimum(np.abs(z + 0.25), np.abs(z - 1.25 if self.kind == "van" else z + 1.35))
        if self.kind == "van":
            pane = np.where(z < 0.1, 9, pane)
            pillars = np.abs(z - 0.1)
        sides = (np.abs(n[:, 0]) > 0.6) & (pane < 0) & (pillars > 0.045)
        screen = (
            (n[:, 2] > 0.25) & (y > self.belt + 0.06) & (n[:, 1] < 0.93) & (np.abs(x) < 0.68 - 0.25 * (y - self.belt))
        )
        rear = (n[:, 2] < -0.25) & (y > self.belt + 0.08) & (n[:, 1] < 0.93) & (np.abs(x) < 0.6) & (self.kind != "van")
        return sides | screen | rear

    def look(self, p, n):
        part = np.argmin(np.stack(self.parts(p)), axis=0)
        x, y, z = p.T
        glass = self.windows(p, n)
        ahead, behind = n[:, 2] > 0.45, n[:, 2] < -0.45
        height = 0.78 if self.kind == "van" else 0.68
        lamp = ahead & (np.hypot((np.abs(x) - 0.62) / 0.17, (y - height) / 0.085) < 1) & (z > self.front - 0.4)
        brake = behind & (np.abs(np.abs(x) - 0.66) < 0.13) & (np.abs(y - 0.8) < 0.11)
        grille = ahead & (np.abs(x) < 0.42) & (np.abs(y - height + 0.02) < 0.09) & (z > self.front - 0.3)
        plate = (ahead & (np.abs(y - 0.42) < 0.055) | behind & (np.abs(y - 0.62) < 0.06)) & (np.abs(x) < 0.26)
        bumper = (y < 0.36) | (ahead & (np.abs(y - 0.42) < 0.07) & (np.abs(x) < 0.6))
        seams = np.minimum.reduce([np.abs(z - 0.85), np.abs(z + 0.28), np.abs(z + 1.3)]) < 0.012
        seams &= (np.abs(n[:, 0]) > 0.7) & (y < self.belt) & (y > 0.4)
        dirt = 0.75 + 0.25 * step(0.3, 0.8, y) + 0.08 * (fbm3(p * 6, 3) - 0.5)
        paint = np.asarray(self.paint) * dirt[:, None]
        color = tint(paint, np.asarray(self.paint) * 0.25, seams)
        color = tint(color, (0.03, 0.03, 0.032), bumper & ~plate)
        color = tint(color, (0.015, 0.015, 0.017), grille & (np.sin(y * 160) < 0.5))
        color = tint(color, (0.6, 0.6, 0.57), plate & ~((np.abs(np.sin(x * 40)) > 0.6) & (np.abs(x) < 0.22)))
        color = tint(color, (0.02, 0.025, 0.028), glass)
        color = tint(color, (0.7, 0.7, 0.7), lamp)
        color = tint(color, (0.35, 0.02, 0.02), brake)
        glow = tint((0, 0, 0), np.array([1.0, 0.95, 0.82]) * 30 * self.lamps, lamp)
        glow = glow + tint((0, 0, 0), np.array([1.0, 0.05, 0.03]) * 1.6 * min(self.lamps * 3, 1), brake)
        # engine under the bonnet, warm air behind the grille, heat of the road under the sills
        hood = step(0.55, self.front - 0.5, z) * (y < 1.1) * np.exp(-((x / 0.55) ** 2))
        sunny = self.sun * np.clip(0.35 + 0.65 * n[:, 1], 0, 1)
        warm = (
            self.air
            + self.running * (9 * hood + 16 * grille + 6 * step(0.6, 0.3, y))
            + sunny
            + 1.5 * (fbm3(p * 3, 2) - 0.5)
        )
        warm = np.where(lamp, self.air + 2 + 14 * self.lamps, warm)
        exhaust = behind & (np.hypot(x - 0.45, y - 0.33) < 0.1)
        warm = np.where(exhaust, self.air + 35 * self.running, warm)
        warm = np.where(glass, self.air + 2 * self.running + 0.6 * sunny, warm)
        metal = np.where(glass, 0.84, np.where(bumper | grille, 0.95, 0.88))
        body = Surface(
            color, warm, metal, gloss=np.where(glass, 1.0, np.where(bumper, 0.1, 0.7)), sharp=90.0, glow=glow
        )
        radius = np.min([np.hypot(y - 0.33, z - w) for w in self.wheels], axis=0)
        turn = np.arctan2(y - 0.33, z - np.where(z > 0, *self.wheels))
        rim = (radius < 0.2) & (np.abs(x) > 0.8)
        holes = rim & (np.cos(turn * 5) > 0.45) & (radius > 0.07)
        tyre = tint((0.02, 0.02, 0.02), (0.35, 0.35, 0.36), rim & ~holes)
        hot = self.air + self.running * (5 + 9 * (radius < 0.14) + 3 * (radius > 0.26)) + 0.5 * self.sun
        wheel = Surface(tyre, hot, 0.93, gloss=np.where(rim, 0.5, 0.05))
        under = Surface((0.012, 0.012, 0.012), self.air + 10 * self.running, 0.95)
        return Surface.choose(part, [body, wheel, under])

    def lamp_places(self):
        """World positions of the two head lamps."""
        height = 0.78 if self.kind == "van" else 0.68
        return [(np.array([s * 0.62, height, self.front + 0.02]) @ self.turn.T) + self.at for s in (-1, 1)]


# ------------------------------------------------------------------------------------------------------------------- plants
def rod(a, b, ra, rb, skin, grow=0.0):
    """A tapering rod between two world points (branch, pole, rail)."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    edge = max(ra, rb) + grow
    return Field(lambda p: capsule(p, a, b, ra, rb), np.minimum(a, b) - edge, np.maximum(a, b) + edge, skin, steps=40)


def rods(segments, skin, **pose):
    """Several tapering rods (a, b, ra, rb) as one body."""
    ends = np.array([[s[0], s[1]] for s in segments], float).reshape(-1, 3)
    edge = max(max(s[2], s[3]) for s in segments)
    distance = lambda p: union([capsule(p, *s) for s in segments])  # noqa: E731
    return Field(distance, ends.min(0) - edge, ends.max(0) + edge, skin, **pose)


def bark(color=(0.11, 0.085, 0.06), air=10.0):
    def skin(p, n):
        ridge = fbm3(p * [14, 3, 14], 4)
        return Surface(
            np.asarray(color) * (0.5 + ridge)[:, None],
            air - 0.3 + 1.2 * (ridge - 0.5),
            0.95,
            bump=(ridge - 0.5)[:, None] * n,
        )

    return skin


def foliage(
    centre, radii, count, size, rng, color=(0.07, 0.13, 0.03), air=10.0, hole=None, spread=0.35, shadow=True, clumps=26
):
    """Leaves of a crown or bush: clumps on an ellipsoid, darker inside.  ``hole(points)`` thins them out."""
    centre, radii = np.asarray(centre, float), np.asarray(radii, float)
    heart = unit(rng.normal(size=(clumps, 3))) * rng.uniform(0.45, 0.85, (clumps, 1))
    own = unit(rng.normal(size=(count, 3))) * rng.uniform(0.3, 1, (count, 1)) ** 0.4
    local = heart[rng.integers(0, clumps, count)] + own * spread * rng.uniform(0.7, 1.2, (count, 1))
    local = local[local[:, 1] > -0.8]
    if hole is not None:
        local = local[rng.random(len(local)) > hole(local * radii + centre)]
    depth = np.clip(np.sqrt(dot(local, local)), 0, 1.15)
    normals = unit(local * 0.9 + rng.normal(size=local.shape) * 0.6 + [0, 0.25, 0])
    # crowns shade themselves: inner and lower leaves get less of the sky
    inner = np.clip(0.25 + 0.75 * depth**2, 0, 1) * np.clip(0.8 + 0.3 * local[:, 1], 0.4, 1.1)
    hue = rng.normal(size=(len(local), 1)) * 0.12
    colors = np.asarray(color) * (inner * rng.uniform(0.65, 1.35, len(local)))[:, None] * (1 + hue * [1.4, 0.4, 0.2])
    celsius = air + 0.5 * local[:, 1] + rng.normal(size=len(local)) * 0.35 - 0.4

    def skin(items):
        return Surface(np.clip(colors[items], 0, 1), celsius[items], 0.96, through=0.35, gloss=0.06)

    return Leaves(local * radii + centre, size * rng.uniform(0.6, 1.3, len(local)), normals, skin, shadow)


def tree(at, height, crown, rng, color=(0.07, 0.13, 0.03), air=10.0, leaves=5000, size=0.13, bare=False, trunk=0.16):
    """Trunk, boughs and crown (``crown``: radius in metres)."""
    at = np.asarray(at, float)
    top = at + [rng.normal() * 0.2, height - crown * (0.7 if not bare else 0.2), rng.normal() * 0.2]
    parts = [(at - [0, 0.1, 0], at + [0, 0.3, 0], trunk * 1.35, trunk), (at, top, trunk, trunk * 0.5)]
    stack = [(top, unit(rng.normal(size=3) * 0.5 + [0, 1, 0]), crown * 0.6, trunk * 0.45, 0) for _ in range(3)]
    stack += [
        (at + (top - at) * s, unit(rng.normal(size=3) + [0, 0.6, 0]), crown * 0.6, trunk * 0.4, 0)
        for s in (0.55, 0.7, 0.85)
    ]
    while stack:
        start, way, length, thick, order = stack.pop()
        end = start + way * length
        parts.append((start, end, thick, thick * 0.5))
        if order < (3 if bare else 1):
            for _ in range(2):
                turned = unit(way + rng.normal(size=3) * 0.5 + [0, 0.12, 0])
                stack.append((end, turned, length * rng.uniform(0.55, 0.8), thick * 0.5, order + 1))
    out = [rods(parts[i : i + 12], bark(air=air)) for i in range(0, len(parts), 12)]
    if not bare:
        out.append(foliage(top + [0, crown * 0.25, 0], (crown, crown * 0.9, crown), leaves, size, rng, color, air))
    return out


def grass(
    x_range, z_range, count, rng, height=0.25, color=(0.10, 0.14, 0.04), air=10.0, ground=lambda x, z: 0 * x, where=None
):
    """Blades, each a row of small discs along a bent stalk."""
    x, z = rng.uniform(*x_range, count), rng.uniform(*z_range, count) ** 1.0
    if where is not None:
        keep = rng.random(count) < where(x, z)
        x, z = x[keep], z[keep]
    tall = height * rng.uniform(0.4, 1.3, len(x)) * (0.5 + fbm2(x * 0.7, z * 0.7, 3))
    lean = rng.normal(size=(len(x), 2)) * 0.35
    tone = (
        np.asarray(color) * rng.uniform(0.6, 1.4, (len(x), 1)) * (1 + rng.normal(size=(len(x), 1)) * [0.22, 0.08, 0.05])
    )
    s = np.linspace(0.1, 1, 7)
    centres = np.stack([
        x[:, None] + lean[:, :1] * tall[:, None] * s**2,
        ground(x, z)[:, None] + tall[:, None] * s,
        z[:, None] + lean[:, 1:] * tall[:, None] * s**2,
    ], -1).reshape(-1, 3)  # fmt: skip
    colors = (tone[:, None, :] * (0.35 + 0.75 * s[None, :, None])).reshape(-1, 3)
    celsius = (air + 0.8 * (fbm2(x * 0.5, z * 0.5, 3) - 0.5)[:, None] - 0.9 * s).ravel()
    normals = np.tile([0.0, 1.0, -0.2], (len(centres), 1)) + rng.normal(size=centres.shape) * 0.3

    def skin(items):
        return Surface(colors[items], celsius[items], 0.95, through=0.3)

    radii = np.repeat(tall[:, None] * (0.05 - 0.03 * s), 1, 0).ravel() + 0.004
    return Leaves(centres, radii, normals, skin, shadow=False)


# ------------------------------------------------------------------------------------------------------- ground and buildings
class Ground(Solid):
    """The plane y = ``level`` (or the height map ``relief(x, z)``), skin(p, n)."""

    def __init__(self, skin, level=0.0, relief=None, reach=900.0):
        super().__init__((-reach, level - 6, -50), (reach, level + (6 if relief else 1e-3), reach), skin)
        self.level, self.relief = level, relief

    def hit(self, o, d, near, far):
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.level - o[:, 1]) / d[:, 1]
        t = np.where((t >= near) & (t <= far * (1 + 1e-9) + 1e-3), t, 1e9)
        if self.relief is None:
            return t
        t, active = near.copy(), np.arange(len(o))
        out = np.full(len(o), 1e9)
        for _ in range(110):
            p = o[active] + t[active, None] * d[active]
            gap = p[:, 1] - self.relief(p[:, 0], p[:, 2])
            close = gap < 1e-3 * np.maximum(t[active], 1)
            out[active[close]] = t[active[close]]
            t[active] += np.maximum(0.55 * gap, 2e-3 * np.maximum(t[active], 1))
            active = active[~close & (t[active] < np.minimum(far[active], 250))]
        return out

    def normal(self, p):
        if self.relief is None:
            return np.broadcast_to([0.0, 1.0, 0.0], p.shape)
        h = 0.04
        slope = [
            (self.relief(p[:, 0] + a, p[:, 2] + b) - self.relief(p[:, 0] - a, p[:, 2] - b)) / (2 * h)
            for a, b in ((h, 0), (0, h))
        ]
        return unit(np.stack([-slope[0], np.ones(len(p)), -slope[1]], 1))


def facade(wall=(0.35, 0.3, 0.26), kind="plaster", cell=(2.6, 3.1), pane=(1.2, 1.6), air=10.0, lit=0.0, seed=0, leak=2.0,
           shop=False, sun=0.0, base=0.0):  # fmt: skip
    """Skin of a house wall: storeys of windows in brick or plaster; ``lit``: share of windows with light inside."""

    def skin(p, n):
        u = np.where(np.abs(n[:, 0]) > 0.7, p[:, 2], p[:, 0]) + 100 * cell[0]
        v = p[:, 1] - base
        column, row = np.floor(u / cell[0]), np.floor(v / cell[1])
        x, y = (u / cell[0] - column - 0.5) * cell[0], (v / cell[1] - row - 0.5) * cell[1]
        side = np.where(np.abs(n[:, 0]) > 0.7, 1, 0) + seed
        upright = np.abs(n[:, 1]) < 0.5
        half = np.array(pane) / 2
        inside = np.minimum(half[0] - np.abs(x), half[1] - np.abs(y))
        window = (inside > 0) & upright & ((row > 0) | (not shop))
        frame = window & ((inside < 0.06) | (np.abs(x) < 0.03) | (np.abs(y - half[1] * 0.35) < 0.03))
        glass = window & ~frame
        stain = fbm2(u * 0.6, v * 0.25 + seed, 4)
        fine = fbm2(u * 9, v * 9, 3)
        if kind == "brick":
            course = np.floor(v / 0.075)
            shift = u / 0.23 + 0.5 * (course % 2)
            mortar = (np.abs((v / 0.075) % 1 - 0.5) > 0.42) | (np.abs(shift % 1 - 0.5) > 0.46)
            tone = 0.75 + 0.5 * pick(np.floor(shift), course)
            color = tint(np.asarray(wall) * tone[:, None], (0.32, 0.3, 0.28), mortar * 0.7)
        else:
            color = np.asarray(wall) * (0.9 + 0.2 * fine)[:, None]
        streak = step(0.45, 0.75, fbm2(u * 2.5, v * 0.15 + 5, 3)) * step(3.0, 0.0, np.abs(y + half[1] + 0.8))
        color = color * (0.72 + 0.45 * stain - 0.15 * streak - 0.25 * step(1.2, 0.0, v))[:, None]
        sill = upright & (np.abs(y + half[1] + 0.05) < 0.07) & (np.abs(x) < half[0] + 0.12) & ((row > 0) | (not shop))
        ledge = upright & (np.abs(v - cell[1]) < 0.14)
        color = tint(color, np.asarray(wall) * 0.5 + 0.28, sill | ledge)
        color = tint(color, (0.45, 0.44, 0.42), frame)
        under = step(half[1], half[1] - 0.22, y)  # the lintel's shade on the pane
        room = pick(column, row, side)
        curtain = step(0.0, 0.1, np.abs(x) - half[0] * (0.25 + 0.7 * pick(column, row, side + 3)))
        color = tint(
            color, tint((0.02, 0.025, 0.03), (0.16, 0.15, 0.14), curtain * 0.8) * (0.4 + 0.6 * under)[:, None], glass
        )
        on = glass & (room < lit)
        hue = tint((1.0, 0.62, 0.28), (0.75, 0.85, 1.0), pick(column, row, side + 7) > 0.8)
        inner = (0.35 + 0.65 * fbm2(u * 3, v * 3, 2)) * (0.55 + 0.45 * step(-0.8, 0.9, y)) * (1 - 0.45 * curtain)
        glow = hue * (on * inner * (0.25 + 0.55 * pick(column, row, side + 11)))[:, None]
        # heat: walls leak through floors and lintels, glass is cool but warmer than the sky makes it look
        warm = air + leak * (0.25 + 0.6 * np.exp(-(((y - half[1] - 0.25) / 0.3) ** 2)) * (np.abs(x) < half[0] + 0.2))
        warm = (
            warm
            + 0.9 * leak * np.exp(-(((v / cell[1] - np.round(v / cell[1])) * cell[1] / 0.18) ** 2))
            + 2.2 * (stain - 0.5)
        )
        warm = warm + sun * np.clip(dot(n, unit([0.6, 0.5, -0.6])), 0, 1)
        warm = np.where(frame, air + 1.1 * leak, warm)
        heated = 1.6 * leak * (pick(column, row, side + 5) > 0.35) * (0.6 + 0.4 * step(half[1], -half[1], y))
        warm = np.where(glass, air + heated + 0.6 * leak * curtain, warm)
        gloss = np.where(glass, 1.0, 0.0)
        emissivity = np.where(glass, 0.86, 0.94)
        if shop:
            front = upright & (row == 0)
            show = front & (v > 0.5) & (v < 2.5) & (np.abs((u / 3.4) % 1 - 0.5) < 0.42)
            sign = front & (v > 2.6) & (v < 3.0) & (np.abs((u / 6.8) % 1 - 0.5) < 0.4)
            goods = fbm2(u * 2.2, v * 2.8, 4)
            color = tint(color, (0.03, 0.03, 0.03), show)
            shade = tint((0.22, 0.05, 0.05), (0.05, 0.12, 0.2), pick(np.floor(u / 6.8), 3) > 0.5)
            color = tint(color, shade, sign)
            open_shop = show & (pick(np.floor(u / 6.8), 9, seed) < lit * 1.4)
            glow = np.where(
                open_shop[:, None], np.array([1.0, 0.82, 0.55]) * (0.25 + 1.1 * step(0.35, 0.75, goods))[:, None], glow
            )
            letters = sign & (noise2(u * 7, np.floor(v * 3) * 5.0) > 0.52) & (np.abs(v - 2.8) < 0.12)
            glow = np.where((letters & (lit > 0))[:, None], np.array([1.0, 0.55, 0.3]) * 1.3, glow)
            color = tint(color, (0.75, 0.7, 0.6), letters)
            warm = np.where(show, air + 1.2 * leak + 2 * (goods - 0.5), warm)
            emissivity = np.where(show, 0.86, emissivity)
            gloss = np.where(show, 0.8, gloss)
        roof = n[:, 1] > 0.5
        warm = np.where(roof, air - 3 + sun, warm)
        return Surface(color, warm, emissivity, gloss=gloss, sharp=120.0, glow=glow, bump=n * 0)

    return skin


def plain(color, celsius, emissivity=0.93, gloss=0.05, rough=0.25, scale=3.0, swing=0.6, glow=(0, 0, 0)):
    """Skin of one material, mottled by noise."""

    def skin(p, n):
        spot = fbm3(p * scale, 4)
        color_ = np.asarray(color) * (1 + rough * 2 * (spot - 0.5))[:, None]
        return Surface(color_, celsius + swing * 2 * (spot - 0.5), emissivity, gloss=gloss, glow=glow)

    return skin


def road(
    half=3.5,
    walk=2.5,
    air=10.0,
    wet=0.0,
    sun=0.0,
    lane=True,
    tracks=1.5,
    snow=0.0,
    crossing=None,
    verge=(0.08, 0.10, 0.04),
):
    """Skin of a street along z: asphalt to ±half, kerb, pavement of slabs to half + walk, grass beyond."""

    def skin(p, n):
        x, z = p[:, 0], p[:, 2]
        far = np.clip(1 - z / 160, 0.05, 1)
        side = np.abs(x)
        grain = (fbm2(x * 28, z * 28, 2) - 0.5) * far
        patch = fbm2(x * 0.45, z * 0.16, 4)
        worn = np.exp(-((((side % half) - half * 0.28) / 0.35) ** 2)) + np.exp(
            -((((side % half) - half * 0.74) / 0.35) ** 2)
        )
        crack = step(0.035, 0.0, np.abs(fbm2(x * 0.9 + 7, z * 0.5, 4) - 0.5)) * (patch > 0.45)
        mended = (pick(np.floor(x / 1.7), np.floor(z / 6.5)) > 0.86) * 0.3
        tone = 0.085 + 0.035 * (patch - 0.5) + 0.05 * grain + 0.012 * worn - 0.04 * crack - 0.02 * mended
        color = tone[:, None] * np.array([1.0, 0.99, 0.96])
        asphalt = side < half
        wear = step(0.25, 0.6, fbm2(x * 5, z * 3, 3))
        if lane:
            dash = (side < 0.075) & ((z % 6) < 3) | (np.abs(side - half + 0.35) < 0.06)
            color = tint(color, (0.55, 0.54, 0.5), dash * wear)
        if crossing is not None:
            zebra = (np.abs(z - crossing) < 1.6) & ((x + 40) % 1.1 < 0.55) & (side < half - 0.5)
            color = tint(color, (0.6, 0.59, 0.56), zebra * wear)
        kerb = (side >= half) & (side < half + 0.18)
        pavement = (side >= half + 0.18) & (side < half + walk)
        slab_x, slab_z = x / 0.6, z / 0.6
        gap = (np.abs(slab_x % 1 - 0.5) > 0.47) | (np.abs(slab_z % 1 - 0.5) > 0.47)
        slab = (
            0.2
            + 0.05 * pick(np.floor(slab_x), np.floor(slab_z))
            + 0.05 * grain
            - 0.1 * gap * far
            + 0.08 * (patch - 0.5)
        )
        color = tint(color, slab[:, None] * np.array([1.0, 0.97, 0.92]), pavement)
        color = tint(color, (0.3 + 0.1 * grain)[:, None] * (1 - 0.6 * (z % 1.0 < 0.03))[:, None] * np.ones(3), kerb)
        meadow = fbm2(x * 2, z * 2, 4) + 0.6 * grain
        outer = side >= half + walk
        color = tint(color, np.asarray(verge) * (0.5 + meadow)[:, None], outer)
        puddle = step(0.5, 0.62, fbm2(x * 0.35 + 3, z * 0.12 + 8, 3)) * asphalt
        mirror = wet * (0.35 + 0.65 * puddle) * (side < half + walk)
        color = color * (1 - 0.45 * (mirror > 0) * wet)[:, None]
        ripple = 0.035 * (1 - 0.7 * puddle) * wet
        bump = np.stack(
            [(noise2(x * 14, z * 14) - 0.5) * ripple, 0 * x, (noise2(x * 14 + 50, z * 14) - 0.5) * ripple], 1
        )
        if snow:
            color = tint(color, (0.7, 0.72, 0.76), snow * step(0.3, 0.6, meadow) * ~asphalt)
        warm = air + 2.2 * asphalt + 1.2 * pavement - 0.8 * outer + 1.5 * (patch - 0.5) + tracks * worn * asphalt
        warm = warm + sun * (1.0 * asphalt + 0.7 * pavement + 0.35 * outer) + 0.8 * grain + 0.8 * (meadow - 0.5) * outer
        warm = warm + 0.6 * kerb - 1.2 * puddle * wet
        return Surface(color, warm, 0.95 - 0.06 * puddle * wet, mirror=mirror, bump=bump, gloss=0.25 * wet, sharp=24.0)

    return skin


def street_lamp(at, toward, color=(1.0, 0.72, 0.4), air=10.0, height=6.5, on=True):
    """A mast with an arm; returns (things, lamp position)."""
    at = np.asarray(at, float)
    head = at + [toward * 1.3, height, 0]
    mast = rods([(at, at + [0, height - 0.4, 0], 0.075, 0.05), (at + [0, height - 0.42, 0], head, 0.05, 0.04)],
                plain((0.12, 0.13, 0.13), air, 0.9))  # fmt: skip
    glow = np.asarray(color) * (12.0 if on else 0.0)
    lamp = Field(lambda p: ellipsoid(p, head + [toward * 0.2, 0, 0], (0.38, 0.09, 0.16)) * 0.6, head - 0.6, head + 0.6,
                 lambda p, n: Surface((0.4, 0.4, 0.4), air + (16 if on else 0) * (n[:, 1] < 0.2) + 3, 0.92,
                                      glow=glow * (n[:, 1:2] < 0)))  # fmt: skip
    lamp.shadow = False
    return [mast, lamp], head - [0, 0.15, 0]


def gable_roof(width, rise, depth, skin, **pose):
    """A roof whose ridge runs along x."""
    slope = rise / (depth / 2)
    planes = [(0, 1, slope, rise), (0, 1, -slope, rise), (0, -1, 0, 0), (1, 0, 0, width / 2), (-1, 0, 0, width / 2)]
    return Convex(planes, (-width / 2, 0, -depth / 2), (width / 2, rise, depth / 2), skin, **pose)


def tiles(color=(0.25, 0.09, 0.06), celsius=4.0):
    """Roof tiles; cold under a clear sky."""

    def skin(p, n):
        row, column = np.floor(p[:, 1] / 0.16), p[:, 0] / 0.25
        shade = 0.75 + 0.4 * pick(np.floor(column), row) - 0.35 * ((p[:, 1] / 0.16) % 1 < 0.18)
        shade = shade + 0.15 * np.sin(column * 2 * np.pi)
        return Surface(np.asarray(color) * shade[:, None], celsius + 1.5 * fbm3(p * 0.8, 3), 0.92, gloss=0.04)

    return skin
