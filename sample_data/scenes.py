"""The scenes: each function takes a random generator and returns a Scene."""

import numpy as np
from noise import fbm2, mix, step, tint
from render import Convex, Light, Scene, unit
from things import (
    Car,
    Ground,
    Person,
    cyclist,
    facade,
    foliage,
    gable_roof,
    grass,
    plain,
    road,
    street_lamp,
    tiles,
    tree,
)


# ------------------------------------------------------------------------------------------------------------------- skies
def clouded(top, low, cloud=(0.9, 0.9, 0.92), amount=0.5, seed=0.0):
    """Visible sky: gradient with clouds."""

    def sky(d):
        up = np.clip(d[:, 1], 0.0, 1)
        base = tint(low, top, up**0.6)
        u, v = d[:, 0] / (up + 0.12) * 1.1 + seed, d[:, 2] / (up + 0.12) * 1.1
        puff = step(0.62 - 0.3 * amount, 0.85 - 0.15 * amount, fbm2(u, v, 6, 0.55)) * step(0.0, 0.1, up)
        shade = 0.75 + 0.25 * fbm2(u * 2 + 5, v * 2, 4)
        return tint(base, np.asarray(cloud) * shade[:, None], puff * 0.85)

    return sky


def cold_sky(top=-45.0, low=-2.0, cloud=12.0, seed=0.0):
    """Thermal sky: cold overhead, nearly air temperature at the horizon, clouds warmer."""

    def sky(d):
        up = np.clip(d[:, 1], 0.0, 1)
        u, v = d[:, 0] / (up + 0.12) * 1.1 + seed, d[:, 2] / (up + 0.12) * 1.1
        return mix(low, top, up**0.5) + cloud * (fbm2(u, v, 5) - 0.4) * step(0, 0.1, up)

    return sky


def house(at, size, **look):
    """A block with the facade skin; the frame's origin is its foot's middle."""
    return Convex.box(size, facade(**look), at=at)


def night_street(rng):
    air = 6.0
    things = [Ground(road(4.0, 2.8, air, wet=0.55, tracks=2.0))]
    for k, (z, height, depth, wall, kind) in enumerate([
        (9, 12.4, 13, (0.30, 0.17, 0.12), "brick"), (24, 15.5, 16.5, (0.34, 0.31, 0.27), "plaster"),
        (42, 12.4, 18, (0.28, 0.26, 0.25), "plaster"), (64, 18.6, 24, (0.25, 0.15, 0.11), "brick"),
    ]):  # fmt: skip
        things.append(house((-6.9 - 5 - 0.15 * (k % 2), 0, z), (10, height, depth), wall=wall, kind=kind, air=air, lit=0.28,
                            seed=k, leak=2.6, shop=True))  # fmt: skip
    for k, (z, height, depth, wall, kind) in enumerate([
        (12, 15.5, 15, (0.33, 0.27, 0.2), "plaster"), (28, 12.4, 15.5, (0.27, 0.15, 0.1), "brick"),
        (49, 18.6, 25, (0.3, 0.29, 0.29), "plaster"),
    ]):  # fmt: skip
        things.append(house((6.9 + 5 + 0.2 * (k % 2), 0, z), (10, height, depth), wall=wall, kind=kind, air=air, lit=0.22,
                            seed=k + 20, leak=2.4, shop=k != 1))  # fmt: skip
    things.append(house((0, 0, 100), (60, 14, 10), wall=(0.2, 0.18, 0.16), air=air, lit=0.3, seed=40))
    lights = []
    for k, z in enumerate((7, 21, 37, 55)):
        for side in (-1, 1):
            if (k + (side > 0)) % 2:
                continue
            bodies, lamp = street_lamp((side * 4.5, 0, z), -side, air=air)
            things += bodies
            lights.append(Light(lamp, np.array([1.0, 0.66, 0.34]) * 17, beam=((0, -1, 0), 0.12)))
    coming = Car((-1.9, 0, 17), 180, "sedan", (0.22, 0.23, 0.25), air, 1.0, lamps=1.0)
    parked = Car((3.0, 0, 8.2), 0, "hatch", (0.03, 0.05, 0.12), air, 0.0)
    parked2 = Car((3.05, 0, 13.4), 0, "sedan", (0.28, 0.28, 0.27), air, 0.12)
    leaving = Car((1.75, 0, 33), 0, "van", (0.4, 0.4, 0.38), air, 1.0, lamps=0.35)
    things += [coming, parked, parked2, leaving]
    people = [
        Person(
            (0.35, 0, 9.4),
            82,
            pose="walk",
            phase=0.22,
            jacket=(0.022, 0.022, 0.026),
            legs=(0.02, 0.02, 0.025),
            air=air,
            seed=1,
        ),
        Person(
            (-5.3, 0.0, 8.0),
            170,
            1.68,
            "walk",
            0.3,
            (0.16, 0.05, 0.04),
            (0.04, 0.04, 0.06),
            "coat",
            (0.1, 0.05, 0.02),
            air=air,
            seed=2,
        ),
        Person((-5.75, 0.0, 8.5), 175, 1.8, "walk", 0.78, (0.04, 0.05, 0.07), air=air, seed=3),
        Person(
            (5.2, 0.0, 12.0), 200, 1.78, "stand", 0, (0.02, 0.03, 0.025), (0.03, 0.03, 0.03), hood=True, air=air, seed=4
        ),
        Person((5.6, 0.0, 19.0), 10, 1.7, "walk", 0.2, (0.1, 0.1, 0.1), air=air, seed=5, pack=(0.2, 0.06, 0.03)),
        Person((-5.0, 0.0, 23.0), 0, 1.75, "walk", 0.7, (0.03, 0.03, 0.05), air=air, seed=6),
    ]
    things += people
    flares = []
    for lamp in coming.lamp_places():
        lights.append(Light(lamp + [0, 0, -0.1], np.array([1.0, 0.93, 0.8]) * 30, beam=((0.06, -0.075, -1), 0.86), shadow=lamp[0] < -1.9,
                            shadow_view=(lamp + [0, -0.1, -5], 70), size=500))  # fmt: skip
        flares.append((lamp + [0, 0, -0.05], np.array([1.0, 0.94, 0.82]) * 1.6, 9.0))
    return Scene(
        "night_street", 480, 360, (0.9, 1.75, 0), (-0.35, 2.0, 14), things, 56,
        sky=lambda d: tint((0.018, 0.016, 0.02), (0.004, 0.006, 0.014), np.clip(d[:, 1] * 2, 0, 1)),
        sky_celsius=cold_sky(-38, -6, 6), ambient=(0.030, 0.032, 0.042), bounce=(0.02, 0.016, 0.012), lights=lights, flares=flares,
        air=air, exposure=1.0, bloom=0.35, grain=0.016, celsius=(-6, 32), fog=0.004, fog_color=(0.03, 0.026, 0.024),
    )  # fmt: skip


def day_street(rng):
    air, sun = 21.0, unit([-0.55, 0.62, -0.42])
    things = [Ground(road(4.0, 3.4, air, sun=9.0, crossing=11.5, tracks=1.0))]
    for k, (z, height, depth, wall, kind) in enumerate([
        (8, 9.3, 14, (0.55, 0.42, 0.28), "plaster"), (24, 12.4, 17, (0.36, 0.16, 0.1), "brick"),
        (46, 9.3, 26, (0.5, 0.48, 0.42), "plaster"), (80, 15.5, 40, (0.4, 0.38, 0.36), "plaster"),
    ]):  # fmt: skip
        things.append(house((-13.5 + 0.2 * (k % 2), 0, z), (10, height, depth), wall=wall, kind=kind, air=air, seed=k, leak=1.0,
                            shop=k < 2, sun=2.0))  # fmt: skip
    for k, (z, height, depth, wall, kind) in enumerate([
        (13, 12.4, 18, (0.5, 0.46, 0.38), "plaster"), (34, 9.3, 22, (0.42, 0.22, 0.14), "brick"), (68, 12.4, 44, (0.48, 0.4, 0.3), "plaster"),
    ]):  # fmt: skip
        things.append(
            house((13.6, 0, z), (10, height, depth), wall=wall, kind=kind, air=air, seed=k + 20, leak=1.0, sun=9.0)
        )
    for k, (x, z, crown) in enumerate(
        [(-6.3, 14, 2.1), (-6.2, 24, 2.4), (6.1, 18, 2.2), (6.2, 30, 2.6), (-6.2, 36, 2.5), (6.3, 44, 2.4)]
    ):
        things += tree(
            (x, 0, z), 6.2 + 0.4 * (k % 3), crown, rng, (0.10, 0.19, 0.035), air + 1, leaves=7000, size=0.085
        )
    things += [
        Car((-1.9, 0, 24), 180, "sedan", (0.45, 0.03, 0.03), air, 1.0, sun=12),
        Car((2.0, 0, 17.5), 0, "hatch", (0.55, 0.56, 0.56), air, 1.0, sun=9),
        Car((-3.05, 0, 33), 180, "van", (0.6, 0.6, 0.58), air, 0.0, sun=12),
        Car((3.1, 0, 26), 0, "sedan", (0.05, 0.08, 0.2), air, 0.1, sun=16),
        Person((-1.3, 0, 11.2), 95, 1.7, "walk", 0.25, (0.5, 0.42, 0.1), (0.08, 0.11, 0.22), air=air, seed=1, warmth=0.8, hair=(0.2, 0.1, 0.04)),
        Person((0.7, 0, 11.9), 268, 1.82, "walk", 0.72, (0.12, 0.2, 0.4), (0.2, 0.18, 0.15), air=air, seed=2, warmth=0.75, pack=(0.3, 0.05, 0.04)),
        Person((-5.4, 0, 9.6), 170, 1.66, "walk", 0.2, (0.5, 0.1, 0.12), (0.4, 0.08, 0.1), "skirt", (0.05, 0.03, 0.02), air=air, seed=3, warmth=0.85),
        Person((5.0, 0, 14.2), 190, 1.76, "walk", 0.3, (0.6, 0.6, 0.62), (0.06, 0.06, 0.08), air=air, seed=4, warmth=0.8),
        Person((5.9, 0, 22.0), 20, 1.74, "walk", 0.8, (0.2, 0.05, 0.2), air=air, seed=5, warmth=0.8),
        Person((-5.2, 0, 19.0), 5, 1.74, "stand", 0, (0.1, 0.25, 0.12), (0.25, 0.22, 0.18), air=air, seed=6, warmth=0.8),
    ]  # fmt: skip
    lights = [
        Light(sun, np.array([1.0, 0.93, 0.8]) * 1.9, sun=True, shadow=True, shadow_view=((0, 0, 26), 64), size=1500)
    ]
    return Scene(
        "day_street", 480, 360, (1.3, 2.5, 1.0), (-0.4, 1.9, 16), things, 58, sky=clouded((0.16, 0.34, 0.75), (0.62, 0.72, 0.85), amount=0.45, seed=3.1),
        sky_celsius=cold_sky(-30, 8, 14, 3.1), ambient=(0.34, 0.42, 0.56), bounce=(0.2, 0.17, 0.13), lights=lights, air=air,
        exposure=0.62, bloom=0.08, grain=0.007, celsius=(2, 44), fog=0.0012, fog_color=(0.6, 0.7, 0.82),
    )  # fmt: skip


def fog_road(rng):
    """A country road in fog: a cyclist, walkers and an oncoming van that only the infrared shows."""
    air = 5.0
    things = [Ground(road(3.4, 1.2, air, wet=0.35, tracks=1.2))]
    for z in (9, 16, 25, 36, 50):
        for x in (-7.4, 7.2):
            things += tree(
                (x + 0.5 * np.sin(z), 0, z + x * 0.2), 7.0, 2.4, rng, (0.08, 0.11, 0.04), air, leaves=5000, size=0.1
            )
    things += cyclist((1.5, 0, 17.0), 180, air)
    things += [
        Person((-2.7, 0, 12.5), 10, 1.74, "walk", 0.25, (0.08, 0.09, 0.12), air=air, seed=2),
        Person((-3.2, 0, 24.0), 175, 1.7, "walk", 0.7, (0.3, 0.28, 0.25), air=air, seed=3),
        Car((-1.6, 0, 31), 180, "van", (0.5, 0.5, 0.48), air, 1.0, lamps=0.7),
        Car((1.7, 0, 46), 0, "sedan", (0.1, 0.1, 0.12), air, 1.0, lamps=0.3),
    ]
    return Scene(
        "fog_road", 480, 360, (0.4, 1.7, 0), (-0.3, 1.7, 14), things, 54, sky=lambda d: np.ones_like(d) * [0.62, 0.64, 0.66],
        sky_celsius=lambda d: -2 - 10 * np.clip(d[:, 1], 0, 1), ambient=(0.5, 0.52, 0.55), bounce=(0.2, 0.2, 0.2), air=air,
        exposure=0.8, bloom=0.15, grain=0.008, celsius=(-4, 26), fog=0.085, fog_color=(0.62, 0.64, 0.66), fog_ir=0.004,
    )  # fmt: skip


def forest_edge(rng):
    """Two people in the bushes at a forest's edge: green on green by eye, bright in the infrared; a gray camera."""
    air = 14.0
    things = [Ground(plain((0.09, 0.11, 0.05), air + 1.5, rough=0.7, scale=2.0, swing=1.2))]
    things += [grass((-9, 9), (4, 26), 9000, rng, 0.34, (0.10, 0.14, 0.04), air + 1)]
    for k in range(13):
        x, z = -10 + 1.7 * k + rng.uniform(-0.5, 0.5), 17 + rng.uniform(-2.5, 5)
        things += tree((x, 0, z), 8.5 + rng.uniform(-1, 1.5), 2.7, rng, (0.06, 0.10, 0.03), air, leaves=4200, size=0.12)
    for x, z, w in ((-4.2, 10.5, 1.3), (-2.7, 11.6, 1.0), (2.4, 10.2, 1.4), (4.5, 11.5, 1.2), (0.3, 14.5, 1.2)):
        things += [foliage((x, 0.55, z), (w, 0.75, 0.9), 2600, 0.08, rng, (0.07, 0.12, 0.03), air)]
    things += [
        Person(
            (-3.4, 0, 12.3), 190, 1.78, "stand", 0, (0.07, 0.09, 0.04), (0.06, 0.07, 0.04), air=air, seed=2, warmth=0.8
        ),
        Person(
            (2.5, 0, 11.2), 160, 1.76, "crouch", 0, (0.08, 0.09, 0.05), (0.06, 0.07, 0.04), air=air, seed=5, warmth=0.8
        ),
        Person(
            (6.1, 0, 15.5), 240, 1.74, "walk", 0.3, (0.06, 0.08, 0.05), (0.05, 0.05, 0.04), air=air, seed=7, warmth=0.8
        ),
    ]
    lights = [
        Light(
            unit([0.5, 0.7, -0.35]),
            np.array([1.0, 0.95, 0.85]) * 1.3,
            sun=True,
            shadow=True,
            shadow_view=((0, 0, 14), 34),
        )
    ]
    return Scene(
        "forest_edge", 400, 300, (0, 1.7, 0), (0, 1.6, 12), things, 52, sky=clouded((0.35, 0.45, 0.6), (0.7, 0.74, 0.8), amount=0.7, seed=9),
        sky_celsius=cold_sky(-12, 4, 8), ambient=(0.34, 0.38, 0.42), bounce=(0.12, 0.13, 0.08), lights=lights, air=air, exposure=0.7,
        bloom=0.05, grain=0.012, celsius=(6, 34), gray=True,
    )  # fmt: skip


def car_park(rng):
    """A car park at dusk, infrared as counts of 0.01 K: which cars came last, who waits behind them."""
    air = 9.0
    things = [Ground(road(12.0, 3.0, air, lane=False, tracks=0.6))]
    for k, (kind, paint, running) in enumerate([
        ("sedan", (0.4, 0.4, 0.42), 0.0), ("hatch", (0.3, 0.03, 0.03), 1.0), ("van", (0.5, 0.5, 0.5), 0.2),
        ("sedan", (0.04, 0.06, 0.16), 0.0), ("hatch", (0.08, 0.2, 0.1), 0.7),
    ]):  # fmt: skip
        things.append(Car((-6.2 + 3.1 * k, 0, 13.5), 180, kind, paint, air, running))
    for k, running in enumerate((0.0, 0.3, 1.0)):
        things.append(Car((-5.2 + 4.4 * k, 0, 24), 0, ("hatch", "sedan", "van")[k], (0.25, 0.26, 0.28), air, running))
    things += [
        house((0, 0, 46), (60, 12.4, 10), wall=(0.36, 0.3, 0.25), air=air, lit=0.35, seed=8, leak=3.0),
        Person((-2.9, 0, 9.6), 120, 1.75, "walk", 0.25, (0.05, 0.05, 0.06), air=air, seed=3),
        Person((4.6, 0, 17.5), 200, 1.7, "stand", 0, (0.1, 0.07, 0.05), air=air, seed=4),
        Person((8.0, 0, 19.0), 250, 1.82, "walk", 0.7, (0.04, 0.05, 0.08), air=air, seed=6),
    ]
    lights = []
    for x in (-8.0, 8.5):
        bodies, lamp = street_lamp((x, 0, 18), -np.sign(x), air=air, color=(0.9, 0.95, 1.0))
        things += bodies
        lights.append(Light(lamp, np.array([0.85, 0.92, 1.0]) * 16, beam=((0, -1, 0), 0.1)))
    return Scene(
        "car_park", 400, 300, (0.0, 3.4, 0), (0.2, 1.2, 14), things, 56,
        sky=lambda d: tint((0.30, 0.20, 0.20), (0.05, 0.08, 0.18), np.clip(d[:, 1] * 2.5, 0, 1)), sky_celsius=cold_sky(-32, -4, 8),
        ambient=(0.08, 0.09, 0.12), bounce=(0.04, 0.035, 0.03), lights=lights, air=air, exposure=1.0, bloom=0.2, grain=0.014, celsius=None,
    )  # fmt: skip


def corridor(rng):
    """Indoors, an odd size: a corridor half of whose lamps failed; a person in the dark end, warm pipes on the ceiling."""
    air = 20.0
    wall, floor = (
        plain((0.55, 0.53, 0.47), air, scale=1.5, rough=0.12),
        plain((0.2, 0.19, 0.18), air - 0.6, gloss=0.25, rough=0.2),
    )
    things = [
        Ground(floor),
        Convex.box((0.2, 3, 40), wall, at=(-1.7, 0, 15)), Convex.box((0.2, 3, 40), wall, at=(1.7, 0, 15)),
        Convex.box((4, 0.2, 40), plain((0.6, 0.6, 0.58), air + 0.5), at=(0, 2.7, 15)), Convex.box((4, 3, 0.2), wall, at=(0, 0, 24)),
        Convex.box((0.14, 0.14, 40), plain((0.5, 0.5, 0.5), 41.0, swing=2), at=(-1.35, 2.42, 15)),
        Convex.box((0.1, 0.1, 40), plain((0.45, 0.4, 0.35), 30.0, swing=1), at=(-1.12, 2.46, 15)),
        Convex.box((0.1, 0.7, 1.1), plain((0.8, 0.8, 0.78), 44.0, swing=3), at=(1.56, 0.15, 6.5)),
    ]  # fmt: skip
    for z, x in ((5, -1), (10, 1), (15, -1), (20, 1)):
        things.append(
            Convex.box((0.06, 2.1, 0.95), plain((0.2, 0.12, 0.07), air - 0.4, rough=0.3), at=(1.585 * x, 0, z))
        )
    lights = []
    for z, on in ((4.0, 1.0), (9.0, 0.5), (14.0, 0.0), (19.0, 0.03)):
        lamp = plain((0.8, 0.8, 0.8), air + 14 * on, glow=np.array([1.0, 0.97, 0.9]) * 2.2 * on)
        things.append(Convex.box((0.3, 0.05, 1.2), lamp, at=(0, 2.62, z)))
        if on:
            lights.append(Light((0, 2.5, z), np.array([1.0, 0.97, 0.9]) * 1.6 * on))
    things += [
        Person(
            (-0.65, 0, 6.2), 165, 1.78, "walk", 0.2, (0.12, 0.16, 0.3), (0.1, 0.09, 0.08), air=air, seed=2, warmth=0.9
        ),
        Person(
            (0.6, 0, 15.5), 190, 1.72, "stand", 0, (0.03, 0.03, 0.035), (0.03, 0.03, 0.03), air=air, seed=4, warmth=0.9
        ),
    ]
    return Scene(
        "corridor", 333, 251, (0.15, 1.6, 0.4), (0.05, 1.3, 12), things, 60, sky=lambda d: np.zeros_like(d),
        sky_celsius=lambda d: np.full(len(d), air), ambient=(0.035, 0.035, 0.035),
        bounce=(0.02, 0.02, 0.018), lights=lights, air=air, exposure=1.0, bloom=0.15, grain=0.02, celsius=(16, 38),
    )  # fmt: skip


def back_yard(rng):
    """A house in the evening sun with open and closed windows, people on the grass, a dog-walker's path; summer colours."""
    air, sun = 24.0, unit([0.75, 0.42, -0.35])
    things = [Ground(plain((0.10, 0.17, 0.05), air + 3, rough=0.5, scale=2.5, swing=1.5))]
    things += [grass((-10, 10), (4, 22), 7000, rng, 0.16, (0.12, 0.2, 0.05), air + 2)]
    things += [
        house((-3.5, 0, 24), (15, 6.2, 9), wall=(0.6, 0.5, 0.38), air=air, seed=4, leak=1.5, sun=6.0),
        gable_roof(15.6, 2.6, 9.6, tiles((0.32, 0.1, 0.06), air + 16), at=(-3.5, 6.2, 24)),
        Car((8.2, 0, 18), 205, "hatch", (0.05, 0.12, 0.35), air, 0.6, sun=14),
    ]
    for x, z in ((-9.5, 15), (7.5, 26), (12, 21)):
        things += tree((x, 0, z), 7.5, 2.8, rng, (0.11, 0.2, 0.04), air + 1, leaves=8000, size=0.09)
    things += [
        Person((-1.6, 0, 9.5), 200, 1.76, "walk", 0.25, (0.5, 0.5, 0.5), (0.1, 0.14, 0.3), air=air, seed=2, warmth=0.8),
        Person(
            (2.3, 0, 12.5),
            150,
            1.66,
            "stand",
            0,
            (0.45, 0.08, 0.1),
            (0.4, 0.35, 0.3),
            "skirt",
            air=air,
            seed=3,
            warmth=0.85,
        ),
        Person(
            (4.8, 0, 10.8), 250, 1.3, "walk", 0.7, (0.55, 0.45, 0.1), (0.1, 0.12, 0.3), air=air, seed=6, warmth=0.85
        ),
    ]
    lights = [
        Light(sun, np.array([1.0, 0.86, 0.64]) * 2.0, sun=True, shadow=True, shadow_view=((0, 0, 17), 44), size=1300)
    ]
    return Scene(
        "back_yard", 480, 360, (1.0, 1.8, 0), (0.3, 1.9, 12), things, 56, sky=clouded((0.2, 0.38, 0.72), (0.8, 0.76, 0.68), amount=0.5, seed=5),
        sky_celsius=cold_sky(-22, 10, 12, 5), ambient=(0.3, 0.36, 0.45), bounce=(0.16, 0.17, 0.1), lights=lights, air=air, exposure=0.66,
        bloom=0.08, grain=0.007, celsius=(8, 48),
    )  # fmt: skip


def snow_night(rng):
    """A park path in snow at night: one lamp, walkers outside its light."""
    air = -4.0
    things = [Ground(road(1.8, 0.6, air, snow=0.9, lane=False, verge=(0.6, 0.62, 0.66)))]
    for x, z in ((-4.2, 9), (4.6, 12), (-5.0, 17), (5.5, 21), (-3.9, 26), (6.5, 30)):
        things += tree((x, 0, z), 7.0, 2.3, rng, (0.05, 0.05, 0.04), air, bare=True)
    bodies, lamp = street_lamp((2.6, 0, 14), -1, air=air, height=4.5)
    things += bodies
    things += [
        Person((0.3, 0, 12.5), 175, 1.76, "walk", 0.25, (0.04, 0.05, 0.07), hood=True, air=air, seed=2),
        Person((-4.0, 0, 13.5), 120, 1.74, "stand", 0, (0.03, 0.03, 0.03), hood=True, air=air, seed=3),
        Person((-1.0, 0, 24.0), 10, 1.7, "walk", 0.7, (0.1, 0.03, 0.03), wear="coat", air=air, seed=5),
        house((0, 0, 60), (50, 9.3, 8), wall=(0.3, 0.27, 0.24), air=air, lit=0.4, seed=3, leak=4.0),
    ]
    lights = [Light(lamp, np.array([1.0, 0.74, 0.45]) * 9, beam=((0, -1, 0), 0.05))]
    return Scene(
        "snow_night", 400, 300, (-0.4, 1.7, 0), (0.2, 1.7, 13), things, 54,
        sky=lambda d: tint((0.03, 0.03, 0.04), (0.006, 0.008, 0.016), np.clip(d[:, 1] * 2, 0, 1)), sky_celsius=cold_sky(-45, -18, 6),
        ambient=(0.035, 0.04, 0.055), bounce=(0.03, 0.03, 0.035), lights=lights, air=air, exposure=1.0, bloom=0.25, grain=0.018,
        celsius=(-16, 26),
    )  # fmt: skip


SCENES = [night_street, day_street, fog_road, forest_edge, car_park, corridor, back_yard, snow_night]
