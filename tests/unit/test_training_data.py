import pickle
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from medstill.training.data import PatchSamples, SampleSource, StepBatches, loader, plain_batches


@pytest.fixture(scope="module")
def source(tiny, tiny_with):
    material = tiny.material()
    recipe = tiny_with(training={"steps": 5, "batch_size": 3}).training
    root, train = material.prepared.root, material.split.train
    return SampleSource(root, train[:2], recipe, seed=1, spatial_dims=2)


@pytest.fixture(scope="module")
def mixed(source, tiny):
    others = tiny.material().split.train[2:]
    return replace(source, unlabelled=others, unlabelled_batch=2)


def equal(one, two):
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_an_item_is_an_image_and_a_label(source):
    image, label = PatchSamples(source)[0]
    assert image.shape == (1, 48, 48)
    assert image.dtype == torch.float32
    assert label.shape == (48, 48)
    assert label.dtype == torch.int64
    assert set(label.unique().tolist()) <= {0, 1, 2, 255}


def test_a_sample_is_a_function_of_seed_step_and_sample(source):
    samples = PatchSamples(source)
    forwards = [samples[number] for number in range(15)]
    torch.manual_seed(5)
    np.random.default_rng(5)
    again = PatchSamples(source)
    for number in reversed(range(15)):
        assert equal(again[number], forwards[number])
    images = {image.numpy().tobytes() for image, _ in forwards}
    assert len(images) == 15
    other = PatchSamples(replace(source, seed=2))
    assert not any(equal(other[number], forwards[number]) for number in range(15))


def test_each_rank_knows_which_of_its_samples_are_of_images_without_labels(mixed):
    samples, size = PatchSamples(mixed), mixed.samples_per_step
    ignored = torch.stack([(samples[number][1] == 255).all() for number in range(size)])
    assert torch.equal(mixed.bare(), ignored)
    assert mixed.bare().tolist() == [False, False, False, True, True]
    for rank in range(2):
        (numbers,) = StepBatches(mixed, 4, rank, 2)
        assert torch.equal(mixed.bare(rank, 2), ignored[[number - 4 * size for number in numbers]])


def test_the_number_of_steps_does_not_change_a_sample(source):
    longer = replace(source, recipe=source.recipe.model_copy(update={"steps": 50}))
    assert equal(PatchSamples(longer)[7], PatchSamples(source)[7])


def test_samples_cannot_read_cases_that_are_not_theirs(source, monkeypatch):
    from medstill.volumes.store import PreparedSet

    opened, really = [], PreparedSet.open
    monkeypatch.setattr(
        PreparedSet, "open", lambda self, name: (opened.append(name), really(self, name))[1]
    )
    samples = PatchSamples(source)
    for number in range(len(samples)):
        samples[number]
    assert set(opened) == set(source.labelled)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_a_later_start_gives_exactly_what_a_full_run_would_have_given(source, start):
    whole = list(StepBatches(source, 0))
    rest = StepBatches(source, start)
    assert list(rest) == whole[start:]
    assert len(rest) == 5 - start
    batches = list(loader(source, start, workers=0))
    for batch, expected in zip(batches, list(loader(source, 0, workers=0))[start:], strict=True):
        assert equal(batch, expected)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_divide_each_batch_among_them(mixed, ranks):
    shares = [list(StepBatches(mixed, 1, rank, ranks)) for rank in range(ranks)]
    whole = list(StepBatches(mixed, 1))
    for step, batch in enumerate(whole):
        seen = list(chain.from_iterable(share[step] for share in shares))
        assert sorted(seen) == batch


def test_unlabelled_samples_are_ignored_everywhere_and_leave_the_others_alone(source, mixed):
    for (image, label), (more_image, more_label) in zip(
        loader(source, 0, workers=0), loader(mixed, 0, workers=0), strict=True
    ):
        assert more_image.shape == (5, 1, 48, 48)
        assert equal((more_image[:3], more_label[:3]), (image, label))
        assert (more_label[3:] == 255).all()
        assert not torch.equal(more_image[3], more_image[4])


def test_unlabelled_samples_follow_no_label(mixed, monkeypatch):
    samples = PatchSamples(mixed)
    assert all(case.label_ZYX is None and not case.places for case in samples._unlabelled)


def test_samples_travel_to_a_spawned_process_without_their_arrays(source):
    samples = PatchSamples(source)
    used = samples[4]
    packed = pickle.dumps(samples)
    assert len(packed) < 4000
    assert equal(pickle.loads(packed)[4], used)


def test_a_loader_process_gives_the_same_batches(source):
    short = replace(source, recipe=source.recipe.model_copy(update={"steps": 2}))
    here = list(loader(short, 0, workers=0))
    there = list(loader(short, 0, workers=1))
    assert len(here) == len(there) == 2
    assert all(equal(one, two) for one, two in zip(here, there, strict=True))


def test_plain_batches_are_the_first_of_training(mixed):
    batches = list(plain_batches(mixed, batches=2))
    expected = [image for image, _ in loader(mixed, 0, workers=0)][:2]
    assert all(torch.equal(one, two) for one, two in zip(batches, expected, strict=True))
    assert len(list(plain_batches(mixed, batches=99))) == 5
