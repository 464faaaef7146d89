"""The teacher's PCA and the student's projector."""

import numpy as np
import pytest
import torch

from medstill.errors import ShapeError, TrainingError
from medstill.losses import fit_pca
from medstill.losses.embedding import EmbeddingSpace, FeatureSizes, Moments, spread_rows
from medstill.losses.projector import Projector


def features(n=400, channels=7):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator)
    return torch.randn(n, channels, generator=generator) @ mixing + 5


def test_pca_equals_the_singular_value_decomposition_whatever_the_batches():
    x = features()
    pca = fit_pca(x.split([100, 37, 263]), 3)
    centred = (x - x.mean(dim=0)).double().numpy()
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    scale = np.sqrt((s**2).sum() / len(x))
    got = pca.axes_DC.numpy() * scale
    for mine, theirs in zip(got, axes[:3], strict=True):
        assert abs(float(mine @ theirs)) == pytest.approx(1, abs=1e-4)
        assert mine[np.abs(mine).argmax()] > 0
    torch.testing.assert_close(pca.mean_C, x.mean(dim=0))


def test_a_full_pca_is_a_rotation_about_the_mean():
    x = features()
    pca = fit_pca([x], 99)
    embedded = (x - pca.mean_C) @ pca.axes_DC.T
    assert embedded.shape == x.shape
    assert embedded.square().sum(dim=1).mean().item() == pytest.approx(1, rel=1e-4)
    ratio = torch.cdist(embedded, embedded)[0, 1:] / torch.cdist(x, x)[0, 1:]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-6)


def test_features_that_teach_nothing_are_refused():
    with pytest.raises(TrainingError, match="saw 0 places"):
        fit_pca([], 3)
    with pytest.raises(TrainingError, match=r"saw 50 places with a total variance"):
        fit_pca([torch.full((50, 4), 3.0)], 3)
    with pytest.raises(TrainingError, match="finite"):
        fit_pca([torch.full((50, 4), float("nan"))], 3)
    with pytest.raises(ShapeError, match=r"4 channels.*\(50, 5\)"):
        Moments(4).add(torch.zeros(50, 5))


def test_rows_are_spread_over_the_batch():
    x = torch.arange(2 * 1 * 6 * 5.0).view(2, 1, 6, 5)
    assert spread_rows(x).flatten().tolist() == list(range(60))
    few = spread_rows(x, most=3).flatten().tolist()
    assert few[0] == 0
    assert few[-1] == 59
    assert len(few) == 3


@pytest.mark.parametrize("places", [1, 2, 4096, 4097, 18_432, 25_088, 401_408, 2**24])
def test_the_places_that_trainings_so_far_have_seen_are_still_the_same(places):
    flat = torch.arange(places, dtype=torch.float32)
    before = torch.linspace(0, places - 1, min(places, 4096)).round()
    assert torch.equal(spread_rows(flat.view(1, 1, places)).flatten(), before)


def test_rows_of_more_places_than_float32_can_count_are_spread():
    numbers = torch.arange(8.0).view(8, 1, 1, 1, 1).expand(8, 1, 112, 160, 128)
    rows = spread_rows(numbers).flatten()
    assert torch.equal(rows, torch.arange(8.0).repeat_interleave(512))


def test_an_embedding_must_be_fitted_and_travels_with_the_state():
    space = EmbeddingSpace(4, FeatureSizes(2, 3, 7), torch.Generator().manual_seed(0))
    student, teacher = torch.rand(9, 3), features(9)
    with pytest.raises(TrainingError, match="fit_embeddings"):
        space(student, teacher)
    moments = Moments(7)
    moments.add(features())
    space.embedding.fit(moments)
    other = EmbeddingSpace(4, FeatureSizes(2, 3, 7), torch.Generator().manual_seed(1))
    other.load_state_dict(space.state_dict())
    for mine, theirs in zip(space(student, teacher), other(student, teacher), strict=True):
        assert mine.shape == (9, 4)
        torch.testing.assert_close(mine, theirs)
    assert {name for name, _ in space.named_parameters()} == {
        name for name in space.state_dict() if name.startswith("projector.")
    }


def test_the_embedding_keeps_no_more_dimensions_than_the_teacher_has_channels():
    space = EmbeddingSpace(128, FeatureSizes(2, 3, 7), torch.Generator())
    assert space.embedding.dimensions == 7


def test_a_projector_works_row_by_row_and_draws_from_its_own_generator():
    state = torch.get_rng_state()
    one, two = (Projector(5, 8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    x = torch.rand(6, 5)
    assert torch.equal(one(x), two(x))
    torch.testing.assert_close(one(x)[2:3], one(x[2:3]))
    assert one(x[:0]).shape == (0, 8)
