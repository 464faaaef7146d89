"""The organs of the CT phantom: what is drawn for each patient, and the tissues that follow.

Coordinates are those of `phantom_shapes`: `u` to the left, `v` to the back, `w` to the head, in mm
of a standard body. Arrays are `Z Y X`.

Liver, spleen, stomach, bowel and muscle get nearly the same HU on purpose, and vessels run through
liver and spleen alike: which organ a place belongs to follows from where in the body it lies.
"""

from __future__ import annotations

import numpy as np

from medstill.volumes.phantom_bowel import fill_with_gas, lay_bowel
from medstill.volumes.phantom_shapes import Body, Field, Point, around, ellipsoid, tube
from medstill.volumes.phantom_tissues import Anatomy, Tissue

HALF_WIDTH_MM = 160.0
HALF_DEPTH_MM = 112.0
"""Half axes of the standard body in `u` and `v`."""


def build_anatomy(rng: np.random.Generator, body: Body) -> Anatomy:
    """Draw one patient's organs and lay them into the body, later ones over earlier ones."""
    shape = body.u.shape
    anatomy = Anatomy(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
    inside = _trunk(rng, body, anatomy)
    # Anterior contents first: what lies behind or is firmer displaces them.
    lay_bowel(rng, body, anatomy, inside)
    _stomach(rng, body, anatomy, inside)
    _spleen(rng, body, anatomy, inside)
    _liver(rng, body, anatomy, inside)
    _kidneys(rng, body, anatomy, inside)
    _spine(rng, body, anatomy)
    _great_vessels(rng, body, anatomy)
    _chest(rng, body, anatomy, inside)
    return anatomy


def _sized(rng: np.random.Generator, half: Point, low: float, high: float) -> Point:
    common, own = rng.uniform(low, high), rng.uniform(0.94, 1.06, size=3)
    return half[0] * common * own[0], half[1] * common * own[1], half[2] * common * own[2]


def _trunk(rng: np.random.Generator, body: Body, anatomy: Anatomy) -> Field:
    """Skin, fat, muscle wall and ribs; returns the depth in mm below the inner wall."""
    shape = np.float32(rng.uniform(2.1, 2.5))
    narrowing = 1 - np.float32(rng.uniform(0.0, 0.0006)) * body.w
    x, y = np.abs(body.u) / narrowing, np.abs(body.v)
    level = (x / HALF_WIDTH_MM) ** shape + (y / HALF_DEPTH_MM) ** shape + np.float32(1e-6)
    radius = np.sqrt(x**2 + y**2)
    depth = radius * (level ** (-1 / shape) - 1)
    fat, wall = np.float32(rng.uniform(9, 24)), np.float32(rng.uniform(9, 14))
    front = np.clip(-body.v / HALF_DEPTH_MM, -0.2, 1)
    fat = fat * (1 + np.float32(rng.uniform(-0.2, 0.5)) * front) + body.fields[0] * 1.5
    anatomy.paint(depth > 0, Tissue.FAT)
    anatomy.paint((depth > 0) & (depth < 2.0), Tissue.MUSCLE)
    anatomy.paint((depth > fat) & (depth < fat + wall), Tissue.MUSCLE)
    # The three layers of the lateral wall are parted by thin fat.
    seam = np.abs(depth - fat - wall * 0.5 + body.fields[1] * 1.2) < 0.8
    anatomy.paint(seam & (np.abs(body.u) > 60), Tissue.FAT)
    inside = np.asarray(depth - fat - wall, dtype=np.float32)
    _back(rng, body, anatomy)
    _ribs(rng, body, anatomy, inside + wall * 0.5)
    anatomy.paint((inside > 0) & (anatomy.tissue_ZYX != Tissue.MUSCLE), Tissue.FAT)
    return inside


def _back(rng: np.random.Generator, body: Body, anatomy: Anatomy) -> None:
    size = rng.uniform(0.85, 1.15)
    for side in (-1.0, 1.0):
        back = ellipsoid(body, (side * 33, 82, 0), (31 * size, 19 * size, 400), side * 0.15)
        belly = np.clip((30 - body.w) / 110, 0, 1)
        psoas = ellipsoid(body, (side * 37, 50, 0), (17 * size, 21 * size, 400), side * 0.5)
        flank = ellipsoid(body, (side * 68, 66, -60), (20 * size, 9 * size, 75), side * -0.6)
        ripple = body.fields[2] * 1.5
        anatomy.paint(back + ripple < 0, Tissue.MUSCLE)
        anatomy.paint(psoas + ripple + (1 - belly) * 17 * size < 0, Tissue.MUSCLE)
        anatomy.paint(flank + ripple < 0, Tissue.MUSCLE)


def _ribs(rng: np.random.Generator, body: Body, anatomy: Anatomy, off_centre: Field) -> None:
    angle = np.arctan2(np.abs(body.u), body.v)
    pitch, phase = rng.uniform(24, 30), rng.uniform(0, 1)
    # Ribs run forwards and downwards from the spine.
    turn = (body.w + angle * np.float32(rng.uniform(22, 34))) / np.float32(pitch) + np.float32(
        phase
    )
    along = (turn - np.round(turn)) * np.float32(pitch)
    ring = np.sqrt((off_centre / 4.0) ** 2 + (along / 6.5) ** 2)
    lowest = -75 + 52 * angle
    present = (body.w > lowest) & (angle < 2.5) & (np.abs(body.u) > 30)
    anatomy.paint(present & (ring < 1), Tissue.COMPACT_BONE)
    anatomy.paint(present & (ring < 0.55), Tissue.SPONGY_BONE)


def _spine(rng: np.random.Generator, body: Body, anatomy: Anatomy) -> None:
    height, phase, size = rng.uniform(31, 37), rng.uniform(0, 1), rng.uniform(0.9, 1.12)
    turn = body.w / np.float32(height) + np.float32(phase)
    along = np.abs(turn - np.round(turn)) * np.float32(height)
    disc = along > height / 2 - 5
    column = ellipsoid(body, (0, 55, 0), (24 * size, 19 * size, 4000))
    arch = ellipsoid(body, (0, 80, 0), (17 * size, 13 * size, 4000))
    spinous = ellipsoid(body, (0, 92, 0), (4 * size, 13 * size, 4000))
    wings = np.maximum(
        ellipsoid(body, (0, 79, 0), (42 * size, 4.5 * size, 4000)),
        np.asarray(along - 8, dtype=np.float32),
    )
    back = np.minimum(np.minimum(arch, wings), np.where(along < 11, spinous, 9))
    anatomy.paint(back < 0, Tissue.COMPACT_BONE)
    anatomy.paint((back < -3) & ~disc, Tissue.SPONGY_BONE)
    anatomy.paint((column < 0) & disc, Tissue.DISC)
    anatomy.paint((column < 0) & ~disc, Tissue.COMPACT_BONE)
    anatomy.paint((column < -2.5) & ~disc & (along < height / 2 - 7), Tissue.SPONGY_BONE)
    anatomy.paint(ellipsoid(body, (0, 79, 0), (9.5, 8, 4000)) < 0, Tissue.BILE)


def _stomach(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    full = rng.uniform(0.72, 1.2)
    points = [
        around(rng, (58, 18, 66), 7),
        around(rng, (62, -28, 34), 8),
        around(rng, (46, -52, 2), 8),
        around(rng, (-6, -52, -8), 8),
    ]
    radii = [32 * full, 33 * full, 24 * full, 14 * full]
    stomach = np.maximum(tube(body, points, radii) + body.fields[3] * 3.5, 3 - inside)
    anatomy.paint(stomach < 4, Tissue.FAT)
    anatomy.paint(stomach < 0, Tissue.STOMACH, "stomach")
    fill_with_gas(body, anatomy, stomach < -4, rng.uniform(-0.1, 0.45))


def _spleen(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    half = _sized(rng, (29, 50, 50), 0.85, 1.2)
    centre = around(rng, (99, 38, 44), 8)
    spleen = ellipsoid(body, centre, half, rng.uniform(0.1, 0.55)) + body.fields[7] * 4
    spleen = np.maximum(spleen, 2.5 - inside)
    anatomy.paint(spleen < 3, Tissue.FAT)
    anatomy.paint(spleen < 0, Tissue.SPLEEN, "spleen")


def _liver(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    right = ellipsoid(body, around(rng, (-80, -4, 36), 8), _sized(rng, (72, 84, 76), 0.9, 1.1))
    left_half = _sized(rng, (78, 36, 38), 0.8, 1.1)
    left = ellipsoid(body, around(rng, (-2, -54, 50), 9), left_half, rng.uniform(-0.3, 0.1))
    caudate = ellipsoid(body, around(rng, (-28, 6, 44), 5), (28, 26, 30))
    liver = np.minimum(np.minimum(right, left), caudate) + body.fields[6] * 4
    # The fissure between the lobes, and the hollow of the great vessels and the spine.
    notch = tube(body, [(-22, -100, 0), (-26, -12, 26), (-44, 12, -6)], [3, 7, 12])
    behind = ellipsoid(body, (0, 58, 30), (42, 40, 400))
    liver = np.maximum(np.maximum(liver, -np.minimum(notch, behind)), 2.5 - inside)
    anatomy.paint(liver < 3, Tissue.FAT)
    anatomy.paint(liver < 0, Tissue.LIVER, "liver")
    size = rng.uniform(0.5, 1.15)
    gall = ellipsoid(body, around(rng, (-42, -42, -2), 7), (14 * size, 19 * size, 24 * size), 0.4)
    anatomy.paint((gall < 0) & (inside > 3), Tissue.BILE)
    # Vessels are the lines where two fields are zero together.
    lines = body.fields[3] ** 2 + body.fields[7] ** 2 < 0.022
    organs = np.isin(anatomy.tissue_ZYX, (Tissue.LIVER, Tissue.SPLEEN))
    anatomy.tissue_ZYX[lines & organs] = Tissue.VEIN


def _kidneys(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    size = rng.uniform(0.88, 1.12)
    for side, name, level in ((-1.0, "right kidney", -18.0), (1.0, "left kidney", -4.0)):
        centre = around(rng, (side * 61, 44, level), 7)
        own = size * rng.uniform(0.94, 1.06)
        turn = side * rng.uniform(0.3, 0.7)
        kidney = ellipsoid(body, centre, (23 * own, 29 * own, 50 * own), -turn)
        kidney = np.maximum(kidney + body.fields[5] * 1.5, 4 - inside)
        hilum = (centre[0] - side * 17 * own, centre[1] - 10 * own, centre[2])
        sinus = ellipsoid(body, hilum, (17 * own, 11 * own, 24 * own), side * 0.5)
        sinus = sinus + body.fields[4] * 1.5
        anatomy.paint((kidney < rng.uniform(3, 9)) & (inside > 1), Tissue.FAT)
        anatomy.paint(kidney < 0, Tissue.CORTEX, name)
        pyramids = (kidney < -6) & (body.fields[8] > -0.3)
        anatomy.paint(pyramids, Tissue.MEDULLA, name)
        anatomy.paint((sinus < 0) & (kidney < 2), Tissue.FAT)


def _great_vessels(rng: np.random.Generator, body: Body, anatomy: Anatomy) -> None:
    bend, radius = rng.uniform(2, 12), rng.uniform(9, 12.5)
    aorta: list[Point] = [(bend + 4, 28, 200), (bend, 25, 20), (bend * 0.5, 26, -200)]
    cava: list[Point] = [(-30, 4, 200), (-26, 16, 20), (-19, 26, -200)]
    vein = tube(body, cava, rng.uniform(10, 13.5, size=3)) + body.fields[4]
    anatomy.paint(vein < 0, Tissue.VEIN)
    artery = tube(body, aorta, [radius * 1.1, radius, radius * 0.85])
    anatomy.paint(artery < 3, Tissue.FAT)
    anatomy.paint(artery < 0, Tissue.ARTERY, "aorta")


def _chest(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    """Lungs above the diaphragm, which rises to a dome on each side, and the base of the heart."""
    top, rim = rng.uniform(74, 86), rng.uniform(55, 80)
    dome_right = top - rim * (((body.u + 72) / 92) ** 2 + ((body.v + 12) / 100) ** 2)
    dome_left = top - 10 - rim * (((body.u - 72) / 92) ** 2 + ((body.v + 6) / 100) ** 2)
    saddle = top - 12 - rim * ((body.u / 84) ** 2 + ((body.v + 40) / 80) ** 2)
    dome = np.maximum(np.maximum(dome_right, dome_left), saddle)
    above = body.w - dome + body.fields[0] * 2
    firm = (Tissue.MUSCLE, Tissue.COMPACT_BONE, Tissue.SPONGY_BONE, Tissue.DISC, Tissue.ARTERY)
    soft = (above > 0) & (inside > 0) & ~np.isin(anatomy.tissue_ZYX, firm)
    middle = soft & (np.abs(body.u) < 24) & (body.v > 10)
    anatomy.paint(middle & (anatomy.tissue_ZYX != Tissue.VEIN), Tissue.FAT)
    soft &= ~middle
    anatomy.paint(soft & (above < 4), Tissue.MUSCLE)
    anatomy.paint(soft & (above >= 4), Tissue.LUNG)
    heart = ellipsoid(body, around(rng, (22, -36, 106), 6), (64, 52, 46), 0.4)
    anatomy.paint(soft & (above >= 4) & (heart < 5), Tissue.FAT)
    anatomy.paint(soft & (above >= 4) & (heart < 0), Tissue.VEIN)
