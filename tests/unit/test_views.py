from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medstill.errors import DataError
from medstill.patches import sampling
from medstill.training import data, views
from medstill.training.data import PatchSamples, SampleSource
from medstill.training.views import ANYWHERE, ViewDraw, ViewMemory, make_view, view_kinds


@pytest.fixture(scope="module")
def recipe(tiny_with):
    return tiny_with(training={"steps": 40, "batch_size": 4, "views": 2}).training


@pytest.fixture(scope="module")
def source(tiny, recipe):
    material = tiny.material()
    train = material.split.train
    return SampleSource(material.prepared.root, train[:2], recipe, seed=1, spatial_dims=2)


@pytest.fixture(scope="module")
def case(tiny):
    material = tiny.material()
    return material.prepared.open(material.split.train[0])


@pytest.fixture(scope="module")
def preparation(tiny):
    return tiny.material().preparation


def images_of(source):
    samples = PatchSamples(source)
    return Counter(samples[number][0].numpy().tobytes() for number in range(len(samples)))


def all_views(case, preparation, recipe):
    kinds = view_kinds(case, preparation, recipe)
    return [
        make_view(case, number, int(kind), preparation, recipe) for number, kind in enumerate(kinds)
    ]


def test_each_slice_has_so_many_views_and_batches_draw_among_them(source, tiny, recipe):
    material = tiny.material()
    known = set()
    for name in source.labelled:
        case = material.prepared.open(name)
        assert len(view_kinds(case, material.preparation, recipe)) == 2 * 8
        known |= {
            image.numpy().tobytes() for image, _ in all_views(case, material.preparation, recipe)
        }
    assert len(known) == 2 * 2 * 8
    drawn = images_of(source)
    assert set(drawn) == known
    assert sum(drawn.values()) == 160


def test_another_seed_draws_the_same_views_in_another_order(source):
    here, there = (PatchSamples(replace(source, seed=seed)) for seed in (1, 2))
    assert set(images_of(source)) == set(images_of(replace(source, seed=2)))
    assert not all(torch.equal(here[number][0], there[number][0]) for number in range(20))


def test_views_are_those_of_a_smaller_number_of_views_and_more(case, preparation, recipe):
    more = all_views(case, preparation, recipe.model_copy(update={"views": 3}))
    for few, many in zip(all_views(case, preparation, recipe), more, strict=False):
        assert torch.equal(few[0], many[0])
        assert torch.equal(few[1], many[1])


def test_a_view_belongs_to_its_case(case, preparation, recipe, tiny):
    material = tiny.material()
    other = material.prepared.open(material.split.train[1])
    renamed = replace(case, info=case.info.model_copy(update={"id": other.info.id}))
    one, two = (make_view(c, 3, ANYWHERE, preparation, recipe)[0] for c in (case, renamed))
    assert not torch.equal(one, two)


def test_a_view_of_a_class_contains_it_before_it_is_augmented(
    case, preparation, recipe, monkeypatch
):
    seen = []
    really = sampling.extract
    monkeypatch.setattr(views, "extract", lambda *a: (seen.append(really(*a)), seen[-1])[1])
    kinds = view_kinds(case, preparation, recipe)
    assert Counter(kinds.tolist()) == {ANYWHERE: 8, 1: 4, 2: 4}
    all_views(case, preparation, recipe)
    for kind, (_, label_ZYX) in zip(kinds.tolist(), seen, strict=True):
        assert kind == ANYWHERE or (label_ZYX == kind).any()


def test_a_view_is_made_once_and_stays_the_same(source, monkeypatch):
    made = []
    monkeypatch.setattr(data, "make_view", lambda *a: (made.append(a[:2]), make_view(*a))[1])
    samples = PatchSamples(source)
    first = [samples[number] for number in range(len(samples))]
    assert len(made) == 2 * 2 * 8
    again = [PatchSamples(source)[number] for number in range(len(samples))]
    for (image, label), (new_image, new_label) in zip(first, again, strict=True):
        assert torch.equal(image, new_image)
        assert torch.equal(label, new_label)


def test_views_beyond_the_limit_are_made_again():
    made = []

    def make():
        made.append(None)
        return torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)

    memory = ViewMemory(limit_bytes=100)
    for name in ("one", "two", "one", "two"):
        memory(name, make)
    assert len(made) == 3


def test_views_without_labels_look_at_no_label(case, preparation, recipe):
    bare = replace(case, label_ZYX=None, places={})
    changed = replace(case, label_ZYX=np.zeros_like(case.label_ZYX), places={})
    other = replace(changed, label_ZYX=None)
    assert set(view_kinds(bare, preparation, recipe).tolist()) == {ANYWHERE}
    pairs = zip(
        all_views(bare, preparation, recipe), all_views(other, preparation, recipe), strict=True
    )
    for (image, label), (other_image, _) in pairs:
        assert torch.equal(image, other_image)
        assert (label == 255).all()
    seen = {image.numpy().tobytes() for image, _ in all_views(case, preparation, recipe)}
    without = {image.numpy().tobytes() for image, _ in all_views(bare, preparation, recipe)}
    # Slices outside the body have few different views.
    assert len(seen & without) < len(seen) / 4


def test_unlabelled_samples_are_views_of_the_other_cases(source, tiny):
    material = tiny.material()
    others = material.split.train[2:]
    mixed = replace(source, unlabelled=others, unlabelled_batch=2)
    samples = PatchSamples(mixed)
    bare = replace(material.prepared.open(others[0]), label_ZYX=None, places={})
    known = {
        image.numpy().tobytes() for image, _ in all_views(bare, material.preparation, source.recipe)
    }
    for number in range(4, 6 * 40, 6):
        image, label = samples[number]
        assert image.numpy().tobytes() in known
        assert (label == 255).all()
    plain = PatchSamples(source)
    assert torch.equal(samples[6][0], plain[4][0])


def test_in_3d_there_are_as_many_views_as_patches_cover_the_case(case, preparation, recipe):
    volume = preparation.model_copy(update={"spatial_dims": 3, "patch_zyx": (4, 32, 24)})
    assert len(view_kinds(case, volume, recipe)) == 2 * (2 * 2 * 2)
    image, label = make_view(case, 0, ANYWHERE, volume, recipe)
    assert image.shape == (1, 4, 32, 24)
    assert label.shape == (4, 32, 24)


@given(
    share=st.floats(0, 1), seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 9), min_size=1)
)
def test_what_is_drawn_is_a_view_that_exists(share, seed, sizes):
    draw = ViewDraw(tuple(np.arange(size, dtype=np.uint8) % 3 for size in sizes))
    index, number = draw(np.random.default_rng(seed), share)
    assert 0 <= number < sizes[index]


def test_a_rare_class_is_drawn_as_often_as_a_common_one():
    """Class 2 is in one of three cases: its views come as often as those of class 1."""
    rows = ([0, 1, 0, 1], [0, 1, 0, 1], [0, 2, 0, 2])
    draw = ViewDraw(tuple(np.array(row, dtype=np.uint8) for row in rows))
    generator = np.random.default_rng(0)
    drawn = Counter()
    for _ in range(4000):
        index, number = draw(generator, 0.5)
        drawn[rows[index][number]] += 1
    assert drawn[0] == pytest.approx(2000, abs=120)
    assert drawn[1] == pytest.approx(1000, abs=120)
    assert drawn[2] == pytest.approx(1000, abs=120)


def test_without_views_to_draw_from_the_error_says_so():
    with pytest.raises(DataError, match="at least one case"):
        ViewDraw(())(np.random.default_rng(0), 0.5)
