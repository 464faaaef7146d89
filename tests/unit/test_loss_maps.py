"""Losses on output maps against scalar loops, and the laws they obey."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from medstill.errors import ShapeError
from medstill.losses import as_class_logits, boundary_weights, cwd, dist, kl

SHAPES = [(2, 2, 3, 5), (2, 3, 3, 5), (1, 14, 2, 3, 4)]
TEMPERATURES = [1.0, 4.0]
LOSSES = [kl, cwd, dist]


def maps(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return student, teacher


def weights(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape[0], *shape[2:], dtype=torch.float64, generator=generator) + 0.2


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def places_of(shape):
    return list(itertools.product(*(range(size) for size in shape[2:])))


def probabilities(logits: Tensor, temperature: float, sample: int):
    """place -> list over classes."""
    return {
        place: softmax(
            [float(logits[(sample, c, *place)]) / temperature for c in range(logits.shape[1])]
        )
        for place in places_of(logits.shape)
    }


def slow_kl(student, teacher, temperature, weight):
    total = mass = 0.0
    for sample in range(student.shape[0]):
        p = probabilities(teacher, temperature, sample)
        q = probabilities(student, temperature, sample)
        for place in places_of(student.shape):
            w = 1.0 if weight is None else float(weight[(sample, *place)])
            total += w * sum(a * math.log(a / b) for a, b in zip(p[place], q[place], strict=True))
            mass += w
    return total / mass * temperature**2


def slow_cwd(student, teacher, temperature, weight):
    values = []
    for sample in range(student.shape[0]):
        for c in range(1, student.shape[1]):
            sides = []
            for logits in (student, teacher):
                masses = []
                for place in places_of(logits.shape):
                    w = 1.0 if weight is None else float(weight[(sample, *place)])
                    masses.append(w * math.exp(float(logits[(sample, c, *place)]) / temperature))
                sides.append([mass / sum(masses) for mass in masses])
            q, p = sides
            values.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(values) / len(values) * temperature**2


def pearson(a, b, w):
    w = [x / sum(w) for x in w]
    mean_a = sum(x * y for x, y in zip(w, a, strict=True))
    mean_b = sum(x * y for x, y in zip(w, b, strict=True))
    cov = sum(x * (y - mean_a) * (z - mean_b) for x, y, z in zip(w, a, b, strict=True))
    var_a = sum(x * (y - mean_a) ** 2 for x, y in zip(w, a, strict=True))
    var_b = sum(x * (y - mean_b) ** 2 for x, y in zip(w, b, strict=True))
    return cov / math.sqrt(var_a * var_b)


def slow_dist(student, teacher, temperature, weight):
    classes = student.shape[1]
    within, between, mass = [], 0.0, 0.0
    for sample in range(student.shape[0]):
        p = probabilities(teacher, temperature, sample)
        q = probabilities(student, temperature, sample)
        places = places_of(student.shape)
        w = [1.0 if weight is None else float(weight[(sample, *place)]) for place in places]
        predicted = [max(range(classes), key=lambda c, at=place: p[at][c]) for place in places]
        for c in set(predicted) if len(set(predicted)) > 1 else ():
            rho = pearson([q[at][c] for at in places], [p[at][c] for at in places], w)
            within.append(1 - rho)
        for place, share in zip(places, w, strict=True):
            if classes >= 3:
                between += share * (1 - pearson(q[place], p[place], [1.0] * classes))
            mass += share
    return sum(within) / max(len(within), 1) + between / mass


SLOW = {kl: slow_kl, cwd: slow_cwd, dist: slow_dist}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_equals_scalar_loops(loss, shape, temperature, weighted):
    student, teacher = maps(shape)
    weight = weights(shape) if weighted else None
    got = loss(student, teacher, temperature=temperature, weight_B=weight)
    expected = SLOW[loss](student, teacher, temperature, weight)
    assert expected > 1e-3
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_right_and_the_teacher_gets_none(loss, shape, weighted):
    student, teacher = maps(shape)
    student.requires_grad_()
    teacher.requires_grad_()
    weight = weights(shape) if weighted else None
    assert torch.autograd.gradcheck(
        lambda s: loss(s, teacher.detach(), temperature=2.0, weight_B=weight),
        (student,),
        fast_mode=True,
    )
    loss(student, teacher, temperature=2.0, weight_B=weight).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_maps_give_nothing_and_weights_have_no_scale(loss):
    student, teacher = maps((2, 3, 17, 5))
    weight = weights(student.shape)
    assert loss(student, student, temperature=1.0).item() == pytest.approx(0, abs=1e-5)
    one = loss(student, teacher, temperature=1.0, weight_B=weight)
    assert loss(student, teacher, temperature=1.0, weight_B=7 * weight).item() == pytest.approx(
        one.item()
    )
    assert loss(student, teacher, temperature=1.0, weight_B=torch.ones_like(weight)).item() == (
        pytest.approx(loss(student, teacher, temperature=1.0).item())
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_one_channel_is_two_classes(loss):
    student, teacher = maps((2, 1, 7, 5))
    one = loss(student, teacher, temperature=2.0)
    two = loss(as_class_logits(student), as_class_logits(teacher), temperature=2.0)
    assert one.item() == two.item()
    assert one.item() > 0


def test_two_class_probabilities_of_one_channel_are_those_of_the_sigmoid():
    z = torch.linspace(-3, 3, 7).view(1, 1, 7)
    torch.testing.assert_close(as_class_logits(z).softmax(dim=1)[:, 1:], z.sigmoid())


@pytest.mark.parametrize("loss", LOSSES)
def test_error_names_both_shapes(loss):
    with pytest.raises(ShapeError, match=r"\(2, 3, 4, 5\).*\(2, 3, 4, 6\)"):
        loss(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 6))
    x = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ShapeError, match=r"\(2, 4, 5\).*\(2, 1, 4, 5\)"):
        loss(x, x, weight_B=torch.ones(2, 1, 4, 5))


def test_kl_does_not_depend_on_image_size_or_batch():
    student, teacher = maps((1, 3, 4, 5))
    one = kl(student, teacher)
    tiled = kl(student.repeat(3, 1, 2, 3), teacher.repeat(3, 1, 2, 3))
    assert tiled.item() == pytest.approx(one.item())


def test_dist_leaves_out_a_class_the_teacher_does_not_predict():
    student, teacher = maps((1, 2, 6, 5))
    teacher[:, 1] = teacher[:, 0] - 1 - teacher[:, 1].abs()
    student.requires_grad_()
    value = dist(student, teacher)
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


def test_dist_counts_only_the_samples_where_the_class_is():
    student, teacher = maps((2, 2, 6, 5))
    teacher[1, 1] = teacher[1, 0] - 1
    assert dist(student, teacher).item() == pytest.approx(dist(student[:1], teacher[:1]).item())


def test_dist_has_a_finite_gradient_for_a_constant_student():
    _, teacher = maps((1, 3, 6, 5))
    student = torch.zeros(1, 3, 6, 5, requires_grad=True)
    value = dist(student, teacher.float())
    value.backward()
    assert value.item() == pytest.approx(2.0, abs=1e-3)
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() > 0


def test_cwd_ignores_a_constant_added_to_a_channel():
    student, teacher = maps((2, 3, 4, 5))
    shifted = student + torch.tensor([0.0, 3.0, -2.0]).view(1, 3, 1, 1)
    assert cwd(shifted, teacher).item() == pytest.approx(cwd(student, teacher).item())


def test_a_place_without_weight_does_not_matter():
    student, teacher = maps((1, 3, 4, 5))
    weight = torch.ones(1, 4, 5, dtype=torch.float64)
    weight[0, 1, 2] = 0
    other = student.clone()
    other[0, :, 1, 2] += torch.tensor([5.0, -3.0, 1.0], dtype=torch.float64)
    for loss in LOSSES:
        first, second = (loss(s, teacher, weight_B=weight).item() for s in (student, other))
        assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("size", [(17, 23), (5, 7, 6)])
def test_band_equals_a_search_for_another_class_nearby(size, width):
    generator = torch.Generator().manual_seed(3)
    classes = torch.zeros(2, *size, dtype=torch.long)
    for number in (1, 2):
        at = [int(torch.randint(0, n - 2, (1,), generator=generator)) for n in size]
        classes[(0, *(slice(a, a + 2) for a in at))] = number
    got = boundary_weights(classes, extra=3.0, width=width)
    for sample in range(2):
        for place in itertools.product(*(range(n) for n in size)):
            window = tuple(slice(max(p - width, 0), p + width + 1) for p in place)
            near = (classes[(sample, *window)] != classes[(sample, *place)]).any()
            assert got[(sample, *place)].item() == (4.0 if near else 1.0)
    assert 1 < got.mean() < 4


def test_band_refuses_a_channel_axis_too_many():
    with pytest.raises(ShapeError, match=r"\(1, 1, 2, 3, 4\)"):
        boundary_weights(torch.zeros(1, 1, 2, 3, 4), extra=1.0, width=1)
