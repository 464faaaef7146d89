"""Signed distances: known ones by hand, all of them against a slow search, and their loss."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medstill.config import IGNORE
from medstill.losses import SignedDistance, distance_loss, signed_distances


def slowly(label, classes, spacing, limit):
    """Every place against every other one."""
    places = list(itertools.product(*map(range, label.shape)))
    target = np.ones((classes - 1, *label.shape))
    known = np.ones_like(target, dtype=bool)
    for value, place in itertools.product(range(1, classes), places):
        inside = label[place] == value
        others = [p for p in places if (label[p] == value) != inside]
        ignored = [p for p in places if label[p] == IGNORE]
        to_border = min([*(length(place, other, spacing) for other in others), limit])
        to_ignored = min([*(length(place, other, spacing) for other in ignored), np.inf])
        target[(value - 1, *place)] = (-1 if inside else 1) * to_border / limit
        known[(value - 1, *place)] = to_ignored >= to_border and to_ignored > 0
    return target, known


def length(one, two, spacing):
    return sum(((a - b) * step) ** 2 for a, b, step in zip(one, two, spacing, strict=True)) ** 0.5


def test_distances_on_a_row_of_pixels_by_hand():
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 1, 0]]])
    target, known = signed_distances(label, 2, (5.0, 2.0), 10.0)
    expected = torch.tensor([6.0, 4.0, 2.0, -2.0, -4.0, -4.0, -2.0, 2.0]) / 10
    torch.testing.assert_close(target, expected.view(1, 1, 1, 8))
    assert known.all()


@pytest.mark.parametrize(("axis", "step"), [(0, 3.0), (1, 2.0), (2, 1.0)])
def test_each_axis_is_measured_with_its_own_spacing(axis, step):
    label = torch.zeros(1, 9, 9, 9, dtype=torch.long)
    label[0, 4, 4, 4] = 1
    target, _ = signed_distances(label, 2, (3.0, 2.0, 1.0), 100.0)
    along = target[0, 0].movedim(axis, 0)[:, 4, 4] * 100
    expected = step * (torch.arange(9) - 4.0).abs()
    expected[4] = -1.0
    torch.testing.assert_close(along, expected)


def test_distances_are_cut_off_at_the_limit_and_a_missing_structure_is_far():
    label = torch.zeros(2, 1, 40, dtype=torch.long)
    label[0, 0, :20] = 2
    target, _ = signed_distances(label, 3, (1.0, 1.5), 6.0)
    assert (target[:, 0] == 1).all()
    assert (target[1] == 1).all()
    assert (target[0, 1, 0, 24:] == 1).all()
    assert (target[0, 1, 0, :16] == -1).all()
    assert target[0, 1, 0, 19:21].tolist() == [-0.25, 0.25]


def test_a_structure_that_fills_the_patch_is_deep_inside():
    target, known = signed_distances(torch.ones(1, 4, 5, dtype=torch.long), 2, (1.0, 1.0), 3.0)
    assert (target == -1).all()
    assert known.all()


@given(
    label=st.integers(0, 2**32 - 1),
    dims=st.sampled_from([2, 3]),
    limit=st.sampled_from([2.5, 6.0, 50.0]),
    ignored=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_distances_equal_those_of_a_slow_search(label, dims, limit, ignored):
    generator = np.random.default_rng(label)
    shape, spacing = ((7, 9), (2.0, 0.7)) if dims == 2 else ((3, 5, 6), (3.0, 1.5, 0.8))
    array = (generator.random(shape) < 0.3) * generator.integers(1, 3, shape)
    if ignored:
        array[generator.random(shape) < 0.05] = IGNORE
    target, known = signed_distances(torch.from_numpy(array)[None], 3, spacing, limit)
    expected, sure = slowly(array, 3, spacing, limit)
    np.testing.assert_allclose(target[0].numpy(), expected, atol=1e-5)
    # Ties between an ignored place and a border are decided by rounding.
    near = np.abs(np.abs(expected) * limit - _to_ignored(array, spacing)) < 1e-4
    assert ((known[0].numpy() == sure) | near).all()


def _to_ignored(array, spacing):
    places = list(itertools.product(*map(range, array.shape)))
    ignored = [p for p in places if array[p] == IGNORE]
    found = [min([*(length(p, q, spacing) for q in ignored), np.inf]) for p in places]
    return np.reshape(found, array.shape)


def test_ignored_places_and_those_that_hang_on_them_do_not_count():
    label = torch.tensor([[[1, 0, 0, 0, 0, IGNORE, 0, 0]]])
    target, known = signed_distances(label, 2, (1.0, 1.0), 4.0)
    assert known[0, 0, 0].tolist() == [True, True, True, False, False, False, False, False]
    assert target[0, 0, 0, :3].tolist() == [-0.25, 0.25, 0.5]


def test_a_sample_without_labels_gives_no_loss_and_no_gradient():
    answer = torch.rand(1, 2, 4, 5, requires_grad=True)
    target, known = signed_distances(torch.full((1, 4, 5), IGNORE), 3, (1.0, 1.0), 10.0)
    assert not known.any()
    loss = distance_loss(answer, target, known)
    loss.backward()
    assert loss.item() == 0
    assert (answer.grad == 0).all()


def test_the_loss_is_the_mean_absolute_error_of_what_is_known():
    answer = torch.tensor([[[0.5, -0.5, 0.0, 1.0]]])
    target = torch.tensor([[[0.25, 0.5, 0.0, -1.0]]])
    known = torch.tensor([[[True, True, True, False]]])
    assert distance_loss(answer, target, known).item() == pytest.approx((0.25 + 1.0) / 3)
    assert distance_loss(answer.bfloat16(), target, known).dtype == torch.float32


def head(dims=2, seed=3, channels=4):
    spacing = (3.0, 2.0, 1.0)[3 - dims :]
    generator = torch.Generator().manual_seed(seed)
    return SignedDistance(channels, 3, spacing_mm=spacing, limit_mm=5.0, generator=generator)


@pytest.mark.parametrize("shape", [(8, 10), (4, 6, 8)])
def test_the_module_is_a_convolution_and_tanh_against_the_distances(shape):
    module = head(len(shape))
    features = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(0))
    label = (features[:, 0] > 0.8).long() + (features[:, 1] > 0.8).long()
    weight = module.head.weight.flatten(1)
    answer = torch.einsum("kc,bc...->bk...", weight, features).tanh()
    target, _ = signed_distances(label, 3, module.spacing_mm, 5.0)
    expected = (answer - target).abs().mean()
    assert module(features, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_features_of_half_the_resolution_are_brought_to_the_grid_of_the_labels():
    module = head()
    features, label = torch.randn(2, 4, 4, 5), torch.zeros(2, 8, 10, dtype=torch.long)
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    expected = (up(module.head(features)).tanh() - 1).abs().mean()
    assert module(features, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_heads_weights_follow_the_generator_and_not_the_global_state():
    torch.manual_seed(1)
    one = head(seed=5).head.weight
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(head(seed=5).head.weight, one)
    assert not torch.equal(head(seed=6).head.weight, one)
