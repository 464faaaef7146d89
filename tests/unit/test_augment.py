"""Augmentations with known answers."""

import math

import numpy as np
import pytest
import torch

from medstill.config import IGNORE, AugmentationConfig
from medstill.errors import ShapeError
from medstill.patches.augment import Augmentation, apply, draw
from medstill.patches.warp import sampling_matrix

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (3.0, 2.0, 1.0)
NOTHING = AugmentationConfig(
    affine_probability=0, gamma_probability=0, noise_probability=0, blur_probability=0
)
EVERYTHING = AugmentationConfig(
    affine_probability=1,
    gamma_probability=1,
    noise_probability=1,
    blur_probability=1,
    elastic_mm=2.0,
    mirror=("z", "y", "x"),
)


def sample(shape, seed: int = 0, classes: int = 4):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((2, *shape), generator=generator)
    return image, torch.randint(0, classes, shape, generator=generator, dtype=torch.uint8)


def turned(axis: int, degrees: float, scale: float = 1.0, spacing=ISOTROPIC) -> Augmentation:
    angles = [0.0, 0.0, 0.0]
    angles[axis] = degrees
    return Augmentation(spacing, matrix_zyx=sampling_matrix(tuple(angles), scale))


@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 16, 16)])
def test_a_quarter_turn_about_z_takes_x_to_y(shape) -> None:
    image, label = sample(shape)
    after, label_after = apply(image, label, turned(0, 90.0))
    torch.testing.assert_close(after, torch.rot90(image, 1, (3, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(label_after, torch.rot90(label, 1, (2, 1)))
    one = torch.zeros(1, 1, 3, 3)
    one[0, 0, 1, 2] = 1
    moved, _ = apply(one, one[0].to(torch.uint8), turned(0, 90.0))
    assert moved[0, 0, 2, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_about_each_axis_of_a_cube(axis) -> None:
    image, label = sample((9, 9, 9))
    towards, from_ = ((1, 2), (2, 0), (0, 1))[axis]
    after, label_after = apply(image, label, turned(axis, 90.0))
    expected = torch.rot90(image, 1, (1 + from_, 1 + towards))
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(label_after, torch.rot90(label, 1, (from_, towards)))


def test_a_turn_keeps_lengths_in_mm() -> None:
    spacing = (1.0, 2.0, 1.0)
    label = torch.zeros(1, 41, 81, dtype=torch.uint8)
    label[:, :, 30:51] = 1
    label[:, :10], label[:, 31:] = 0, 0
    image = label[None].float()
    after, label_after = apply(image, label, turned(0, 90.0, spacing=spacing))
    before_mm, after_mm = extent_mm(label, spacing), extent_mm(label_after, spacing)
    assert before_mm == (42.0, 21.0)
    assert after_mm == pytest.approx((21.0, 42.0), abs=2.0)
    assert float(after.sum()) == pytest.approx(float(image.sum()), rel=0.05)


def extent_mm(label_ZYX: torch.Tensor, spacing) -> tuple[float, float]:
    rows, columns = (label_ZYX[0].amax(dim=axis) for axis in (1, 0))
    return float(rows.sum()) * spacing[1], float(columns.sum()) * spacing[2]


@pytest.mark.parametrize("shape", [(1, 48, 48), (32, 32, 32)])
def test_a_scale_above_one_enlarges(shape) -> None:
    label = torch.zeros(shape, dtype=torch.uint8)
    middle = tuple(slice(size // 2 - 5, size // 2 + 5) for size in shape[1:])
    label[:, *middle] = 1
    if shape[0] > 1:
        label[: shape[0] // 2 - 5], label[shape[0] // 2 + 5 :] = 0, 0
    image = label[None].float()
    after, label_after = apply(image, label, turned(0, 0.0, scale=1.4))
    factor = 1.4 ** (2 if shape[0] == 1 else 3)
    assert int(label_after.sum()) == pytest.approx(factor * int(label.sum()), rel=0.01)
    assert float(after.sum()) == pytest.approx(factor * float(image.sum()), rel=0.03)


def test_shear_shifts_x_along_y_in_mm() -> None:
    label = torch.zeros(1, 21, 61, dtype=torch.uint8)
    label[:, :, 30] = 1
    matrix = sampling_matrix((0.0, 0.0, 0.0), 1.0, (0.0, 0.0, 0.5))
    _, after = apply(label[None].float(), label, Augmentation((1.0, 2.0, 1.0), matrix))
    assert [int(row.argmax()) for row in after[0]] == list(range(20, 41))


def test_what_comes_from_outside_is_the_pad_value_and_background() -> None:
    image, label = torch.full((1, 1, 16, 16), 3.0), torch.full((1, 16, 16), 2, dtype=torch.uint8)
    after, label_after = apply(image, label, turned(0, 0.0, scale=0.5), pad_value=-5.0)
    assert after[0, 0, 0, 0] == -5
    assert after[0, 0, 8, 8] == pytest.approx(3)
    assert label_after[0, 0, 0] == 0
    assert label_after[0, 8, 8] == 2


def test_ignored_voxels_are_warped_and_a_sample_without_labels_stays_ignored() -> None:
    image, label = sample((1, 16, 16))
    label[:] = IGNORE
    after, label_after = apply(image, label, turned(0, 10.0, scale=0.5))
    assert not torch.equal(after, image)
    assert (label_after == IGNORE).all()
    label[:, :8] = 1
    _, label_after = apply(image, label, turned(0, 0.0, scale=0.5))
    assert set(label_after.unique().tolist()) == {0, 1, IGNORE}
    assert (label_after[0, 9:12, 4:12] == IGNORE).all()


def test_mirror_reverses_the_axes_named() -> None:
    image, label = sample((3, 5, 7))
    after, label_after = apply(image, label, Augmentation(ANISOTROPIC, mirror=(0, 2)))
    torch.testing.assert_close(after, image.flip(1, 3))
    torch.testing.assert_close(label_after, label.flip(0, 2))


def test_blur_of_a_point_is_a_gaussian_in_mm() -> None:
    image = torch.zeros(1, 31, 41, 61)
    image[0, 15, 20, 30] = 1
    after, _ = apply(image, image[0].to(torch.uint8), Augmentation(ANISOTROPIC, blur_mm=4.0))
    assert float(after.sum()) == pytest.approx(1, abs=1e-4)
    for axis, spacing_mm in enumerate(ANISOTROPIC):
        others = tuple(other for other in range(3) if other != axis)
        profile = after[0].sum(dim=others).numpy()
        offsets_mm = (np.arange(len(profile)) - len(profile) // 2) * spacing_mm
        assert math.sqrt(float((profile * offsets_mm**2).sum())) == pytest.approx(4.0, abs=0.02)


def test_blur_keeps_a_constant_up_to_the_border() -> None:
    image, label = torch.full((1, 1, 12, 17), 2.5), torch.zeros((1, 12, 17), dtype=torch.uint8)
    after, _ = apply(image, label, Augmentation(ISOTROPIC, blur_mm=2.0))
    torch.testing.assert_close(after, image)


def test_gamma_keeps_the_extremes_of_each_channel() -> None:
    image = torch.tensor([[0.0, 0.25, 1.0], [-2.0, 0.0, 6.0]]).view(2, 1, 1, 3)
    after, _ = apply(
        image, torch.zeros(1, 1, 3, dtype=torch.uint8), Augmentation(ISOTROPIC, gamma=2.0)
    )
    expected = torch.tensor([[0.0, 0.0625, 1.0], [-2.0, -1.5, 6.0]]).view(2, 1, 1, 3)
    torch.testing.assert_close(after, expected)
    constant = torch.full((1, 1, 1, 3), 4.0)
    after, _ = apply(
        constant, torch.zeros(1, 1, 3, dtype=torch.uint8), Augmentation(ISOTROPIC, gamma=2.0)
    )
    torch.testing.assert_close(after, constant)


def test_noise_has_the_deviation_drawn_and_follows_the_seed_alone() -> None:
    image, label = torch.ones(1, 1, 200, 200), torch.zeros(1, 200, 200, dtype=torch.uint8)
    torch.manual_seed(0)
    first, _ = apply(image, label, Augmentation(ISOTROPIC, noise=0.3, noise_seed=5))
    torch.manual_seed(1)
    second, _ = apply(image, label, Augmentation(ISOTROPIC, noise=0.3, noise_seed=5))
    other, _ = apply(image, label, Augmentation(ISOTROPIC, noise=0.3, noise_seed=6))
    assert float((first - image).std()) == pytest.approx(0.3, rel=0.03)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(1, 64, 48), (20, 24, 30)])
def test_elastic_displacement_has_the_deviation_asked_for(shape) -> None:
    ramps = torch.stack(
        torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij")
    )
    label = torch.zeros(shape, dtype=torch.uint8)
    config = NOTHING.model_copy(
        update={
            "affine_probability": 1.0,
            "rotation_degrees": 0.0,
            "scale": (1.0, 1.0),
            "shear": 0.0,
            "elastic_mm": 0.5,
        }
    )
    inner = tuple(slice(size // 4, max(size - size // 4, 1)) for size in shape)
    shifts_mm = []
    for seed in range(40):
        drawn = draw(np.random.default_rng(seed), config, ANISOTROPIC, shape)
        after, _ = apply(ramps, label, drawn)
        spacing = torch.tensor(ANISOTROPIC).view(3, 1, 1, 1)
        shifts_mm.append(((after - ramps) * spacing)[:, *inner])
    deviation = torch.stack(shifts_mm).std(dim=(0, 2, 3, 4))
    moving = deviation if shape[0] > 1 else deviation[1:]
    assert moving.numpy() == pytest.approx(0.5, rel=0.15)
    if shape[0] == 1:
        assert float(deviation[0]) == 0


def test_elastic_displacement_does_not_fold() -> None:
    shape = (1, 64, 64)
    ramp = torch.arange(64.0).expand(1, 1, 64, 64).contiguous()
    config = EVERYTHING.model_copy(
        update={"rotation_degrees": 0.0, "scale": (1.0, 1.0), "shear": 0.0, "elastic_mm": 1e3}
    )
    for seed in range(20):
        drawn = draw(np.random.default_rng(seed), config, ISOTROPIC, shape)
        only = Augmentation(ISOTROPIC, elastic_zyx_mm=drawn.elastic_zyx_mm)
        after, _ = apply(ramp, torch.zeros(shape, dtype=torch.uint8), only)
        middle = after[0, 0, 16:48, 20:44]
        assert float(middle.diff(dim=1).min()) > 0


def test_draws_depend_on_the_generator_alone_and_switch_off_one_by_one() -> None:
    def drawn(config: AugmentationConfig, seed: int) -> Augmentation:
        return draw(np.random.default_rng(seed), config, ANISOTROPIC, (5, 16, 20))

    assert drawn(EVERYTHING, 3) == drawn(EVERYTHING, 3)
    assert drawn(EVERYTHING, 3) != drawn(EVERYTHING, 4)
    without = drawn(EVERYTHING.model_copy(update={"blur_probability": 0.0, "mirror": ()}), 3)
    assert without.blur_mm == 0
    assert without.mirror == ()
    assert without.matrix_zyx == drawn(EVERYTHING, 3).matrix_zyx
    assert without.noise_seed == drawn(EVERYTHING, 3).noise_seed


def test_draws_keep_to_the_limits_and_the_probabilities() -> None:
    config = AugmentationConfig(mirror=("x",))
    generator = np.random.default_rng(0)
    drawn = [draw(generator, config, ISOTROPIC, (1, 32, 32)) for _ in range(1500)]
    assert np.mean([d.matrix_zyx is not None for d in drawn]) == pytest.approx(0.8, abs=0.04)
    assert np.mean([d.gamma != 1 for d in drawn]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([d.noise > 0 for d in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([d.mirror == (2,) for d in drawn]) == pytest.approx(0.5, abs=0.05)
    assert {d.mirror for d in drawn} == {(), (2,)}
    assert all(0.8 <= d.gamma <= 1.25 and d.noise <= 0.05 and d.blur_mm <= 1.5 for d in drawn)
    forward = [np.linalg.inv(d.matrix_zyx) for d in drawn if d.matrix_zyx is not None]
    scales = [np.linalg.det(matrix[1:, 1:]) ** 0.5 for matrix in forward]
    assert min(scales) == pytest.approx(0.85, abs=0.01)
    assert max(scales) == pytest.approx(1.2, abs=0.01)
    assert all(matrix[0, 1:].any() == 0 and matrix[1:, 0].any() == 0 for matrix in forward)


def test_image_and_label_of_unequal_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"of equal size, but got \(1, 1, 8, 8\) and \(1, 8, 9\)"):
        apply(
            torch.zeros(1, 1, 8, 8),
            torch.zeros(1, 8, 9, dtype=torch.uint8),
            Augmentation(ISOTROPIC),
        )
