"""Laws of grids, stitching and augmentation for whatever sizes come."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medstill.config import AugmentationConfig
from medstill.patches.augment import Augmentation, apply, draw
from medstill.patches.grid import Stitcher, covering, iterate_batches
from medstill.patches.sweep import Tiling, sweep
from medstill.patches.warp import sampling_matrix

shapes = st.tuples(*[st.integers(1, 19)] * 3)
patches = st.tuples(*[st.integers(1, 12)] * 3)
overlaps = st.floats(0.0, 0.85)
seeds = st.integers(0, 2**32 - 1)
spacings = st.tuples(*[st.floats(0.5, 5.0)] * 3)
quick = settings(max_examples=60, deadline=None)


@given(shapes, patches, overlaps)
@quick
def test_every_voxel_is_covered_and_no_patch_stands_outside(shape, patch, overlap) -> None:
    seen = np.zeros(shape, dtype=int)
    for start in covering(shape, patch, overlap):
        inside = tuple(slice(max(s, 0), s + length) for s, length in zip(start, patch, strict=True))
        seen[inside] += 1
        for s, length, size in zip(start, patch, shape, strict=True):
            assert 0 <= s <= size - length or s == -((length - size) // 2)
    assert seen.min() >= 1


@given(st.integers(1, 200), st.integers(1, 40), overlaps)
@settings(max_examples=300, deadline=None)
def test_an_axis_is_covered_evenly_and_symmetrically(size, patch, overlap) -> None:
    starts = np.array([x for _, _, x in covering((1, 1, size), (1, 1, patch), overlap)])
    room = size - patch
    if room <= 0:
        assert len(starts) == 1
        return
    assert starts[0] == 0
    assert starts[-1] == room
    assert np.abs(starts + starts[::-1] - room).max() <= 1
    stride = max(1, int(patch * (1 - overlap) + 1e-6))
    steps = np.diff(starts)
    assert steps.max() <= stride
    assert steps.max() - steps.min() <= 2


@given(shapes, patches, overlaps, st.integers(1, 7), seeds)
@quick
def test_a_network_that_changes_nothing_gives_the_image(
    shape, patch, overlap, batch_size, seed
) -> None:
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    tiling = Tiling(patch, overlap, batch_size, pad_value=-9.0)
    planes = list(sweep(image, lambda batch: batch, tiling))
    assert [z for z, _ in planes] == list(range(shape[0]))
    np.testing.assert_allclose(np.stack([p for _, p in planes], axis=1), image, atol=1e-5)


@given(shapes, patches, overlaps, seeds)
@quick
def test_the_order_of_patches_does_not_matter(shape, patch, overlap, seed) -> None:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(1, *shape)).astype(np.float32)
    pieces = [
        (generator.normal(size=batch.shape).astype(np.float32), starts)
        for batch, starts in iterate_batches(image, patch, overlap, 1, 0.0)
    ]
    results = []
    for order in (range(len(pieces)), generator.permutation(len(pieces))):
        stitcher = Stitcher(shape, 1, patch, overlap)
        for i in order:
            stitcher.add(*pieces[i])
        results.append(stitcher.result())
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def sample(shape, seed: int):
    generator = torch.Generator().manual_seed(seed % 2**31)
    image = torch.randn((2, *shape), generator=generator)
    return image, torch.randint(0, 3, shape, generator=generator, dtype=torch.uint8)


@given(shapes, spacings, seeds)
@quick
def test_with_all_probabilities_zero_nothing_changes(shape, spacing, seed) -> None:
    config = AugmentationConfig(
        affine_probability=0,
        gamma_probability=0,
        noise_probability=0,
        blur_probability=0,
        elastic_mm=3.0,
    )
    image, label = sample(shape, seed)
    after = apply(image, label, draw(np.random.default_rng(seed), config, spacing, shape))
    assert torch.equal(after[0], image)
    assert torch.equal(after[1], label)


everything = AugmentationConfig(
    affine_probability=1,
    gamma_probability=1,
    noise_probability=1,
    blur_probability=1,
    elastic_mm=1.0,
    mirror=("z", "y", "x"),
)


@given(shapes, spacings, seeds)
@quick
def test_the_same_numbers_give_the_same_result_and_spoil_no_input(shape, spacing, seed) -> None:
    image, label = sample(shape, seed)
    before = image.clone(), label.clone()
    drawn = draw(np.random.default_rng(seed), everything, spacing, shape)
    first, second = apply(image, label, drawn), apply(image, label, drawn)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.isfinite(first[0]).all()
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert first[0].shape == image.shape
    assert first[1].dtype == torch.uint8


@given(shapes, spacings, seeds)
@quick
def test_image_and_label_stay_aligned(shape, spacing, seed) -> None:
    """The nearest voxel has at least a quarter (2-D) or an eighth (3-D) of the linear weight."""
    _, label = sample(shape, seed)
    label = (label > 0).to(torch.uint8)
    config = everything.model_copy(
        update={"blur_probability": 0.0, "gamma_probability": 0.0, "noise_probability": 0.0}
    )
    drawn = draw(np.random.default_rng(seed), config, spacing, shape)
    image, after = apply(label[None].float(), label, drawn)
    share = 0.25 if shape[0] == 1 else 0.125
    assert (image[0][after == 1] >= share - 1e-3).all()
    assert (image[0][after == 0] <= 1 - share + 1e-3).all()


@given(shapes, st.sets(st.integers(0, 2)), seeds)
@quick
def test_mirroring_twice_is_the_identity(shape, axes, seed) -> None:
    image, label = sample(shape, seed)
    mirror = Augmentation((3.0, 2.0, 1.0), mirror=tuple(sorted(axes)))
    after = apply(*apply(image, label, mirror), mirror)
    assert torch.equal(after[0], image)
    assert torch.equal(after[1], label)


angles = st.tuples(*[st.floats(-180.0, 180.0)] * 3)


@given(angles, st.floats(0.5, 2.0))
@quick
def test_rotation_and_scale_change_all_lengths_alike(degrees, scale) -> None:
    forward = np.linalg.inv(sampling_matrix(degrees, scale))
    np.testing.assert_allclose(forward.T @ forward, scale**2 * np.eye(3), atol=1e-9)
    assert np.linalg.det(forward) > 0


@given(st.floats(-180.0, 180.0), st.floats(0.5, 3.0), st.floats(0.5, 3.0))
@quick
def test_a_round_object_stays_round_in_mm_for_every_angle(degrees, spacing_y, spacing_x) -> None:
    shape = (1, 48, 48)
    y, x = (torch.arange(48.0) - 23.5 for _ in range(2))
    distance_mm = torch.hypot(y[:, None] * spacing_y, x[None, :] * spacing_x)
    radius_mm = 12 * min(spacing_y, spacing_x)
    ball = torch.clamp(1 - distance_mm / radius_mm, min=0)[None, None]
    drawn = Augmentation((5.0, spacing_y, spacing_x), sampling_matrix((degrees, 0.0, 0.0), 1.0))
    after, _ = apply(ball, torch.zeros(shape, dtype=torch.uint8), drawn)
    assert float((after - ball).abs().max()) < 0.15
