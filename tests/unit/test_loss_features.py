"""Losses on features against scalar loops: mse, InfoNCE, supervised contrast, affinity."""

import math

import pytest
import torch

from medstill.errors import ShapeError
from medstill.losses import affinity, feature_mse, infonce, supcon
from medstill.losses.supcon import ClassQueue


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def check_gradients(loss, student, teacher):
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach()), (student,))
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(7, 5), (2, 5, 3, 4), (1, 5, 2, 3, 4)])
def test_mse_equals_scalar_loops(shape):
    student, teacher = draw(*shape), draw(*shape, seed=1)
    a, b = (x.movedim(1, -1).reshape(-1, shape[1]).tolist() for x in (student, teacher))
    values = [
        sum((x - y) ** 2 for x, y in zip(unit(p), unit(q), strict=True))
        for p, q in zip(a, b, strict=True)
    ]
    assert feature_mse(student, teacher).item() == pytest.approx(sum(values) / len(values))
    check_gradients(feature_mse, student, teacher)


def test_mse_depends_neither_on_the_scale_of_features_nor_on_dead_ones():
    student, teacher = draw(7, 5), draw(7, 5, seed=1)
    one = feature_mse(student, teacher).item()
    assert feature_mse(100 * student, teacher).item() == pytest.approx(one)
    dead = torch.zeros(7, 5, requires_grad=True)
    feature_mse(dead, teacher.float()).backward()
    assert torch.isfinite(dead.grad).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_infonce_equals_scalar_loops(temperature):
    student, teacher = draw(6, 4), draw(6, 4, seed=1)
    a, b = ([unit(v) for v in x.tolist()] for x in (student, teacher))
    total = 0.0
    for i, anchor in enumerate(a):
        scores = [math.exp(dot(anchor, key) / temperature) for key in b]
        total -= math.log(scores[i] / sum(scores))
    got = infonce(student, teacher, temperature=temperature)
    assert got.item() == pytest.approx(total / 6)
    check_gradients(lambda s, t: infonce(s, t, temperature=temperature), student, teacher)


def test_infonce_of_a_blind_student_is_log_p_and_of_one_row_zero():
    same = torch.ones(6, 4)
    assert infonce(same, draw(6, 4).float()).item() > 0
    assert infonce(same, same).item() == pytest.approx(math.log(6))
    alone = torch.ones(1, 4, requires_grad=True)
    loss = infonce(alone, torch.rand(1, 4))
    loss.backward()
    assert loss.item() == 0
    assert alone.grad.abs().max() == 0


def slow_supcon(anchors, keys, anchor_classes, key_classes, temperature):
    keys = [unit(key) for key in keys.tolist()]
    values = []
    for anchor, mine in zip(anchors.tolist(), anchor_classes.tolist(), strict=True):
        scores = [math.exp(dot(unit(anchor), key) / temperature) for key in keys]
        positives = [s for s, c in zip(scores, key_classes.tolist(), strict=True) if c == mine]
        if positives:
            values.append(-sum(math.log(s / sum(scores)) for s in positives) / len(positives))
    return sum(values) / len(values)


@pytest.mark.parametrize("classes", [2, 3, 14])
def test_supcon_equals_scalar_loops(classes):
    anchors, keys = draw(20, 6), draw(31, 6, seed=1)
    generator = torch.Generator().manual_seed(2)
    of_anchors = torch.randint(0, classes, (20,), generator=generator)
    of_keys = torch.randint(0, classes, (31,), generator=generator)

    def loss(student, teacher):
        return supcon(student, teacher, anchor_classes_P=of_anchors, key_classes_K=of_keys)

    expected = slow_supcon(anchors, keys, of_anchors, of_keys, 0.1)
    assert loss(anchors, keys).item() == pytest.approx(expected)
    check_gradients(loss, anchors, keys)


def test_supcon_prefers_the_right_class_and_ignores_anchors_without_keys():
    keys = torch.eye(3)[[0, 0, 1, 1]]
    classes = torch.tensor([0, 0, 1, 1])
    right = supcon(
        torch.eye(3)[[0]], keys, anchor_classes_P=torch.tensor([0]), key_classes_K=classes
    )
    wrong = supcon(
        torch.eye(3)[[1]], keys, anchor_classes_P=torch.tensor([0]), key_classes_K=classes
    )
    assert right.item() == pytest.approx(math.log(2), abs=1e-3)
    assert wrong.item() == pytest.approx(10 + math.log(2), abs=1e-3)
    both = supcon(
        torch.eye(3)[[0, 2]], keys, anchor_classes_P=torch.tensor([0, 2]), key_classes_K=classes
    )
    assert both.item() == pytest.approx(right.item())
    none = torch.ones(2, 3, requires_grad=True)
    loss = supcon(none, keys, anchor_classes_P=torch.tensor([5, 6]), key_classes_K=classes)
    loss.backward()
    assert loss.item() == 0
    assert none.grad.abs().max() == 0


def slow_affinity(student, teacher, regions, present):
    values = []
    for b in range(student.shape[0]):
        matrices = []
        for features in (student, teacher):
            f = features[b].flatten(1)
            prototypes = {}
            for c in range(regions.shape[1]):
                share = regions[b, c].flatten()
                if present[b, c] and share.sum() > 0:
                    prototypes[c] = unit(((f * share).sum(dim=1) / share.sum()).tolist())
            matrices.append(
                {(i, j): dot(prototypes[i], prototypes[j]) for i in prototypes for j in prototypes}
            )
        for i, j in matrices[0]:
            if i != j:
                values.append((matrices[0][i, j] - matrices[1][i, j]) ** 2)
    return sum(values) / len(values)


@pytest.mark.parametrize(("classes", "size"), [(2, (3, 5)), (3, (3, 5)), (14, (3, 4, 5))])
def test_affinity_equals_scalar_loops(classes, size):
    student, teacher = draw(2, 4, *size), draw(2, 7, *size, seed=1)
    regions = draw(2, classes, *size, seed=2).softmax(dim=1)
    present = torch.ones(2, classes, dtype=torch.bool)
    if classes > 2:
        present[0, 1] = False
        regions[1, 2] = 0

    def loss(s, t):
        return affinity(s, t, regions_BC=regions, present_BC=present)

    expected = slow_affinity(student, teacher, regions, present)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    check_gradients(loss, student, teacher)


def test_affinity_without_a_second_class_is_zero():
    student = torch.randn(2, 4, 3, 5, requires_grad=True)
    regions = torch.rand(2, 3, 3, 5)
    present = torch.tensor([[True, False, False], [False, False, True]])
    loss = affinity(student, torch.randn(2, 7, 3, 5), regions_BC=regions, present_BC=present)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_errors_name_both_shapes():
    with pytest.raises(ShapeError, match=r"\(4, 5\).*\(4, 6\)"):
        feature_mse(torch.zeros(4, 5), torch.zeros(4, 6))
    with pytest.raises(ShapeError, match=r"\(4, 5\).*\(3, 5\)"):
        infonce(torch.zeros(4, 5), torch.zeros(3, 5))
    four = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"\(4, 5\).*\(4, 6\)"):
        supcon(torch.zeros(4, 5), torch.zeros(4, 6), anchor_classes_P=four, key_classes_K=four)
    regions, present = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, dtype=torch.bool)
    student, teacher = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5)
    with pytest.raises(ShapeError, match=r"\(1, 3, 4, 4\).*\(1, 3, 4, 5\).*\(1, 2, 4, 4\)"):
        affinity(student, teacher, regions_BC=regions, present_BC=present)


def test_queue_keeps_the_newest_of_each_class():
    queue = ClassQueue(classes=3, capacity=16, dimensions=1)
    for number in range(12):
        queue.push(torch.tensor([[float(number)], [-float(number)]]), torch.tensor([0, 2]))
    keys, classes = queue.contents()
    assert sorted(keys[classes == 0].flatten().tolist()) == [float(n) for n in range(12)]
    assert (classes == 1).sum() == 0
    for number in range(12, 20):
        queue.push(torch.tensor([[float(number)]]), torch.tensor([0]))
    keys, classes = queue.contents()
    assert sorted(keys[classes == 0].flatten().tolist()) == [float(n) for n in range(4, 20)]
    assert (classes == 2).sum() == 12


def test_queue_takes_an_eighth_of_its_capacity_at_most_and_may_be_off():
    queue = ClassQueue(classes=1, capacity=16, dimensions=1)
    queue.push(torch.arange(9.0).unsqueeze(1), torch.zeros(9, dtype=torch.long))
    assert queue.contents()[0].flatten().tolist() == [0.0, 1.0]
    off = ClassQueue(classes=1, capacity=0, dimensions=1)
    off.push(torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
    assert len(off.contents()[0]) == 0
