"""Soft Dice and cross-entropy against scalar loops, with ignored and absent classes."""

import itertools
import math

import pytest
import torch

from medstill.errors import LabelError, ShapeError, UnknownNameError
from medstill.losses import SegmentationLoss, cross_entropy, soft_dice
from medstill.losses.classsums import class_sums

SHAPES = [(2, 2, 3, 5), (2, 3, 3, 5), (1, 14, 2, 3, 4)]


def batch(shape, ignored=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator)
    places = (shape[0], *shape[2:])
    labels = torch.randint(0, shape[1], places, generator=generator)
    labels[torch.rand(places, generator=generator) < ignored] = 255
    return logits, labels.to(torch.uint8)


def entries(logits, labels, sample):
    """(probabilities, label) of each known place of a sample."""
    for place in itertools.product(*(range(n) for n in labels.shape[1:])):
        label = int(labels[(sample, *place)])
        if label != 255:
            e = [math.exp(float(logits[(sample, c, *place)])) for c in range(logits.shape[1])]
            yield [x / sum(e) for x in e], label


def slow_dice(logits, labels, over, smooth=1.0):
    samples = range(len(labels))
    groups = [samples] if over == "batch" else [[s] for s in samples]
    losses = []
    for group in groups:
        known = [entry for s in group for entry in entries(logits, labels, s)]
        per_class = []
        for c in range(1, logits.shape[1]):
            both = sum(p[c] for p, label in known if label == c)
            either = sum(p[c] + (label == c) for p, label in known)
            per_class.append(1 - (2 * both + smooth) / (either + smooth))
        losses.append(sum(per_class) / len(per_class))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("over", ["batch", "sample"])
@pytest.mark.parametrize("shape", SHAPES)
def test_dice_equals_scalar_loops(shape, over):
    logits, labels = batch(shape)
    assert soft_dice(logits, labels, over=over).item() == pytest.approx(
        slow_dice(logits, labels, over)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_equals_scalar_loops(shape):
    logits, labels = batch(shape)
    losses = [-math.log(p[c]) for s in range(len(labels)) for p, c in entries(logits, labels, s)]
    assert cross_entropy(logits, labels).item() == pytest.approx(sum(losses) / len(losses))


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_balanced_cross_entropy_equals_scalar_loops(shape, balance):
    logits, labels = batch(shape)
    labels[labels == 1] = 0
    labels.flatten()[0] = 1
    by_class = {}
    for sample in range(len(labels)):
        for p, c in entries(logits, labels, sample):
            by_class.setdefault(c, []).append(-math.log(p[c]))
    assert len(by_class[1]) == 1 < len(by_class[0])
    over_places = [loss for losses in by_class.values() for loss in losses]
    over_classes = [sum(losses) / len(losses) for losses in by_class.values()]
    expected = (1 - balance) * sum(over_places) / len(over_places)
    expected += balance * sum(over_classes) / len(over_classes)
    assert cross_entropy(logits, labels, balance=balance).item() == pytest.approx(expected)
    terms = SegmentationLoss(classes=shape[1], class_balance=balance)(logits, labels)
    assert terms["segmentation/cross_entropy"].item() == pytest.approx(expected)


def test_balanced_cross_entropy_of_one_channel_and_its_gradient():
    z = torch.randn(2, 1, 4, 5, dtype=torch.float64)
    labels = torch.zeros(2, 4, 5, dtype=torch.uint8)
    labels[0, 1, 2], labels[1, 0, 0] = 1, 255
    two = torch.cat((torch.zeros_like(z), z), dim=1)
    assert cross_entropy(z, labels, balance=1.0).item() == pytest.approx(
        cross_entropy(two, labels, balance=1.0).item()
    )
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, balance=0.7), (z,))
    (gradient,) = torch.autograd.grad(cross_entropy(z, labels, balance=1.0), z)
    # Half of the weight lies on the one place of the foreground.
    share = 1 - torch.sigmoid(z[0, 0, 1, 2])
    assert gradient[0, 0, 1, 2].item() == pytest.approx(-0.5 * share.item())
    assert gradient[1, 0, 0, 0] == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", [soft_dice, cross_entropy])
def test_gradient(loss, shape):
    logits, labels = batch(shape)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, labels), (logits.requires_grad_(),), fast_mode=True
    )


@pytest.mark.parametrize("over", ["batch", "sample"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_terms_together_are_those_of_the_two_functions(shape, over):
    logits, labels = batch(shape)
    logits.requires_grad_()
    module = SegmentationLoss(classes=shape[1], dice_over=over, class_balance=0.3)
    together = sum(module(logits, labels).values())
    apart = soft_dice(logits, labels, over=over) + cross_entropy(logits, labels, balance=0.3)
    assert together.item() == pytest.approx(apart.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (together, apart)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_the_sums_is_that_of_autograd(shape):
    logits, labels = batch(shape)
    logits.requires_grad_()
    classes = torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    truth, known = labels.unsqueeze(1) == classes, (labels != 255).unsqueeze(1)
    p, surprise = logits.softmax(dim=1), -logits.log_softmax(dim=1)
    sums = class_sums(logits, labels)
    expected = [(p * truth).flatten(2).sum(2), (p * known).flatten(2).sum(2)]
    expected.append((surprise * truth).flatten(2).sum(2))
    assert torch.equal(sums.count, truth.flatten(2).sum(2).double())
    for index, (found, slow) in enumerate(
        zip((sums.both, sums.mass, sums.surprise), expected, strict=True)
    ):
        torch.testing.assert_close(found, slow)
        weights = torch.randn(found.shape, dtype=torch.float64) + index
        gradients = [
            torch.autograd.grad((weights * value).sum(), logits, retain_graph=True)[0]
            for value in (found, slow)
        ]
        torch.testing.assert_close(*gradients)


def test_half_precision_in_any_memory_format_gives_the_same():
    logits, labels = batch((2, 3, 17, 5))
    logits = logits.bfloat16()
    values = [
        soft_dice(other, labels) + cross_entropy(other, labels)
        for other in (logits, logits.to(memory_format=torch.channels_last), logits.float())
    ]
    assert values[0] == values[1] == values[2]
    assert values[0].dtype == torch.float32


def test_batch_and_sample_differ():
    logits, labels = batch((2, 3, 3, 5))
    labels[1] = 0
    assert soft_dice(logits, labels, over="batch") != soft_dice(logits, labels, over="sample")


@pytest.mark.parametrize("loss", [soft_dice, cross_entropy])
def test_ignored_places_have_no_say(loss):
    logits, labels = batch((2, 3, 17, 5))
    logits.requires_grad_()
    loss(logits, labels).backward()
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("over", "balance"), [("batch", 0.0), ("sample", 0.0), ("batch", 1.0)])
def test_a_batch_without_labels_gives_zero_and_no_gradient(over, balance, channels):
    logits = torch.randn(2, channels, 4, 5, requires_grad=True)
    labels = torch.full((2, 4, 5), 255, dtype=torch.uint8)
    loss = SegmentationLoss(classes=max(channels, 2), dice_over=over, class_balance=balance)
    terms = loss(logits, labels)
    torch.stack(list(terms.values())).sum().backward()
    assert [value.item() for value in terms.values()] == [0, 0]
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("over", ["batch", "sample"])
def test_an_unlabelled_image_in_the_batch_changes_nothing(over):
    logits, labels = batch((3, 3, 4, 5))
    labels[2] = 255
    assert soft_dice(logits, labels, over=over).item() == pytest.approx(
        soft_dice(logits[:2], labels[:2], over=over).item()
    )
    assert cross_entropy(logits, labels).item() == pytest.approx(
        cross_entropy(logits[:2], labels[:2]).item()
    )


def test_an_absent_class_still_punishes_false_positives():
    labels = torch.zeros(1, 4, 5, dtype=torch.uint8)
    quiet = torch.stack((torch.full((4, 5), 9.0), torch.full((4, 5), -9.0))).unsqueeze(0)
    loud = quiet.clone()
    loud[0, :, :2] = loud[0, :, :2].flip(0)
    assert soft_dice(quiet, labels).item() == pytest.approx(0, abs=1e-5)
    assert soft_dice(loud, labels).item() == pytest.approx(1 - 1 / 11, abs=1e-4)


def test_a_perfect_answer_gives_nothing_and_a_blind_one_log_c():
    labels = torch.tensor([[[0, 1, 2, 1]]], dtype=torch.uint8)
    logits = 40 * torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1).float()
    assert soft_dice(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert cross_entropy(torch.zeros(1, 3, 1, 4), labels).item() == pytest.approx(math.log(3))


def test_one_channel_is_two_classes():
    z = torch.randn(2, 1, 4, 5)
    labels = torch.randint(0, 2, (2, 4, 5))
    two = torch.cat((torch.zeros_like(z), z), dim=1)
    assert soft_dice(z, labels).item() == soft_dice(two, labels).item()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels.float())
    assert cross_entropy(z, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [soft_dice, cross_entropy])
def test_errors(loss):
    with pytest.raises(ShapeError, match=r"\(2, 3, 4, 5\).*\(2, 4, 5\).*\(2, 1, 4, 5\)"):
        loss(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5, dtype=torch.uint8))
    with pytest.raises(LabelError, match=r"0 to 2.* there is a 7"):
        loss(torch.zeros(1, 3, 4, 5), torch.full((1, 4, 5), 7, dtype=torch.uint8))


def test_module_refuses_another_class_count_and_another_way_to_sum():
    with pytest.raises(ShapeError, match=r"4 classes.*\(1, 3, 4, 5\)"):
        SegmentationLoss(classes=4)(torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 5))
    with pytest.raises(UnknownNameError, match=r"'patch'.*batch, sample"):
        SegmentationLoss(classes=4, dice_over="patch")
    with pytest.raises(UnknownNameError, match=r"'patch'.*batch, sample"):
        soft_dice(torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 5), over="patch")
