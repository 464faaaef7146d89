"""The parts that several teachers leave out, and the mean of what they say."""

import math

import numpy as np
import pytest
import torch

from medstill.networks import Ensemble, Output, mean_logits, run
from medstill.volumes.records import Split
from medstill.volumes.splits import out_of_fold, teacher_splits


def patients(count, scans=1):
    cases = {f"p{p}-{scan}": f"p{p}" for p in range(count) for scan in range(scans)}
    names = tuple(sorted(cases))
    return Split(
        train=names, validation=(), test=(), student=names[:2], patients=cases, data_hash="x"
    )


@pytest.mark.parametrize("number", [2, 3, 5])
def test_each_training_patient_is_left_out_once(number):
    split = patients(5, scans=2)
    parts = teacher_splits(split, number, seed=3)
    left = [{split.patients[case] for case in set(split.train) - set(p.train)} for p in parts]
    assert sorted(name for part in left for name in part) == [f"p{p}" for p in range(5)]
    assert max(map(len, left)) - min(map(len, left)) <= 1
    assert all(set(part.student) == set(split.student) & set(part.train) for part in parts)
    assert teacher_splits(split, number, seed=3) == parts


def test_the_seed_of_the_division_decides_the_parts():
    split = patients(8)
    assert len({teacher_splits(split, 2, seed)[0].train for seed in range(6)}) > 1


def test_a_case_is_answered_by_those_that_never_saw_its_patient():
    split = patients(4, scans=2).model_copy(update={"unlabelled": ("new", "p1-bare")})
    split = split.model_copy(update={"patients": {**split.patients, "p1-bare": "p1"}})
    who, parts = out_of_fold(split, 2, seed=0), teacher_splits(split, 2, seed=0)
    assert set(who) == {*split.train, *split.unlabelled}
    assert who["new"] == (0, 1)
    assert who["p1-bare"] == who["p1-0"] == who["p1-1"]
    for case in split.train:
        (number,) = who[case]
        assert case not in parts[number].train
    for number, part in enumerate(parts):
        assert ("p1-bare" in part.unlabelled) == (number not in who["p1-bare"])


def slow_mean(logits_MC):
    """The logits of the mean of softmax (of sigmoid with one channel), number by number."""
    if len(logits_MC[0]) == 1:
        p = sum(1 / (1 + math.exp(-z)) for (z,) in logits_MC) / len(logits_MC)
        return [math.log(p / (1 - p))]
    sums = [0.0] * len(logits_MC[0])
    for logits_C in logits_MC:
        total = sum(math.exp(z) for z in logits_C)
        for c, z in enumerate(logits_C):
            sums[c] += math.exp(z) / total / len(logits_MC)
    return [math.log(value) for value in sums]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels_of_two", [1, 2])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_mean_is_that_of_probabilities(classes, channels_of_two, members):
    channels = channels_of_two if classes == 2 else classes
    generator = torch.Generator().manual_seed(members)
    logits = [3 * torch.randn(2, channels, 3, 5, generator=generator) for _ in range(members)]
    found_BC = mean_logits(logits)
    for b, y, x in np.ndindex(2, 3, 5):
        expected = slow_mean([one[b, :, y, x].tolist() for one in logits])
        assert found_BC[b, :, y, x].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_sure_members_stay_finite_and_half_precision_is_widened():
    sure = torch.tensor([[[[300.0, -300.0]]]])
    assert torch.equal(mean_logits([sure, sure]), sure)
    assert mean_logits([sure.bfloat16(), sure.bfloat16()]).dtype == torch.float32
    assert mean_logits([sure, -sure]).abs().max() < 1e-4


class Fixed(torch.nn.Module):
    """Answers with one logit and one image everywhere."""

    def __init__(self, logit, image):
        super().__init__()
        self.logit, self.image = logit, image

    def forward(self, x):
        return Output(torch.full_like(x, self.logit), torch.full_like(x, self.image))


def test_reconstructions_are_averaged_as_images():
    output = run(Ensemble([Fixed(0.0, 1.0), Fixed(0.0, 4.0)]), torch.zeros(1, 1, 2, 2))
    assert torch.equal(output.reconstruction, torch.full((1, 1, 2, 2), 2.5))
    assert torch.equal(output.logits, torch.zeros(1, 1, 2, 2))
