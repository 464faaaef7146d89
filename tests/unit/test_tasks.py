import pytest
import torch
from torch import nn

from medstill.config import IGNORE, NetworkConfig, ReconstructionConfig
from medstill.losses import SegmentationLoss, mask_blocks
from medstill.networks import Output, build
from medstill.refs import ModelRef
from medstill.training.assembly import build_network, build_teacher, student_task
from medstill.training.checkpoint import weights_hash
from medstill.training.seeds import torch_generator
from medstill.training.tasks import Place, TeacherTask, with_answers


class TwoHeads(nn.Module):
    """Answers with its input: a network whose losses can be written down by hand."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return Output(x * self.scale.view(1, 3, *[1] * (x.ndim - 2)), 0.5 * x)


def teacher_task(network, **settings):
    segmentation = SegmentationLoss(classes=3, dice_over="batch")
    return TeacherTask(network, segmentation, ReconstructionConfig(**settings), seed=3)


def batch(shape=(4, 1, 48, 48)):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(shape, generator=generator)
    return image, (image[:, 0] * 3).long()


@pytest.mark.parametrize("shape", [(4, 1, 12, 16), (2, 1, 5, 7, 9)])
def test_the_teachers_loss_is_segmentation_and_a_fifth_of_the_squared_error(shape):
    network, (image, label) = TwoHeads(), batch(shape)
    task = teacher_task(network)
    result = task.compute(image, label, step=0)
    segmentation = sum(task.segmentation(network(image).logits, label).values())
    error = ((0.5 * image - image) ** 2).mean()
    assert result.total.item() == pytest.approx((segmentation + 0.2 * error).item(), rel=1e-6)
    assert result.terms["reconstruction"].item() == pytest.approx(error.item(), rel=1e-6)
    assert len(result.terms) == 3


def test_the_teacher_reconstructs_the_clean_image_from_a_masked_one():
    network, (image, label) = TwoHeads(), batch((2, 1, 16, 16))
    task = teacher_task(network, mask_ratio=0.5, mask_block=4)
    result = task.compute(image, label, step=9)
    (seen,) = network.seen
    assert torch.equal(seen, mask_blocks(image, 0.5, 4, torch_generator("loss", 3, 9)))
    assert 0.3 < (seen == 0).float().mean() < 0.7
    expected = ((0.5 * seen - image) ** 2).mean()
    assert result.terms["reconstruction"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_mask_is_a_function_of_the_step():
    image, label = batch((2, 1, 16, 16))
    network = TwoHeads()
    task = teacher_task(network, mask_ratio=0.5, mask_block=4)
    for step in (4, 5, 4):
        task.compute(image, label, step)
    assert torch.equal(network.seen[0], network.seen[2])
    assert not torch.equal(network.seen[0], network.seen[1])


def test_a_single_task_teacher_has_no_second_term():
    network, (image, label) = TwoHeads(), batch((2, 1, 8, 8))
    result = teacher_task(network, weight=0.0, mask_ratio=0.5).compute(image, label, 0)
    assert torch.equal(network.seen[0], image)
    assert "reconstruction" not in result.terms
    assert result.total.item() == pytest.approx(sum(result.terms.values()).item())


def test_both_decoders_of_the_teacher_learn_from_one_loss():
    config = NetworkConfig(name="unet-t1", width=0.0625)
    network = build(config, spatial_dims=2, in_channels=1, out_channels=3, reconstruction=True)
    teacher_task(network).compute(*batch((2, 1, 16, 16)), 0).total.backward()
    assert all(p.grad is not None for p in network.parameters())


def ref(arm, seed=0):
    return ModelRef(arm, "unet-s1", seed)


@pytest.fixture(scope="module")
def arms(tiny):
    """Control and distilled student of one seed, and their teacher."""
    preparation = tiny.material().preparation
    teacher = build_teacher(tiny.study, preparation)
    control = student_task(tiny.study, preparation, ref("control", 5), None)
    distilled = student_task(tiny.study, preparation, ref("distilled", 5), teacher)
    distilled.before_training(Place(torch.device("cpu"), 2), [batch()[0]])
    return control, distilled


def test_a_control_has_the_segmentation_terms_with_their_weight_alone(arms):
    control, _ = arms
    result = control.compute(*batch(), 0)
    assert set(result.terms) == {"segmentation/dice", "segmentation/cross_entropy"}
    expected = 0.4 * sum(result.terms.values())
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert list(control.objective.parameters()) == []


def test_a_distilled_student_has_every_term_of_the_study(arms):
    _, distilled = arms
    result = distilled.compute(*batch(), 0)
    weights = {
        "segmentation/dice": 0.4,
        "segmentation/cross_entropy": 0.4,
        "B/supcon": 0.2,
        "maps/kl": 0.2,
    }
    assert set(result.terms) == set(weights)
    expected = sum(weight * result.terms[name] for name, weight in weights.items())
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-6)
    result.total.backward()
    assert all(p.grad is not None for p in distilled.objective.parameters())


def test_arms_share_the_segmentation_terms_of_the_first_step(arms):
    control, distilled = (arm.eval().compute(*batch(), 0).terms for arm in arms)
    for name, value in control.items():
        assert torch.equal(distilled[name], value)


def class_of(logits_C):
    """The class of one place, as a sigmoid or an arg max would give it, with plain Python."""
    if len(logits_C) == 1:
        return int(logits_C[0] > 0)
    return max(range(len(logits_C)), key=lambda c: (logits_C[c], -c))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("space", [(4, 5), (2, 3, 4)])
def test_only_images_without_any_label_take_the_teachers_answers(channels, space):
    generator = torch.Generator().manual_seed(channels)
    teacher = torch.randn((3, channels, *space), generator=generator)
    label = torch.randint(0, 2, (3, *space), generator=generator)
    label[0].flatten()[:7] = IGNORE
    # A patch of a labelled image may be ignored as a whole.
    label[1:] = IGNORE
    found = with_answers(label, teacher, torch.tensor([False, False, True]))
    assert torch.equal(found[:2], label[:2])
    rows = teacher[2].flatten(1).T.tolist()
    assert found[2].flatten().tolist() == [class_of(row) for row in rows]


def test_pseudo_labels_enter_the_segmentation_terms_and_nothing_else_is_learnt(tiny):
    preparation = tiny.material().preparation
    teacher = build_teacher(tiny.study, preparation)
    task = student_task(tiny.study, preparation, ref("pseudo-labels", 5), teacher).eval()
    image, label = batch()
    label[2:] = IGNORE
    bare = torch.arange(4) >= 2
    result = task.compute(image, label, 0, bare_B=bare)
    teacher.eval()
    answers = with_answers(label, teacher(image).logits, bare)
    assert (answers[2:] != IGNORE).all()
    control = student_task(tiny.study, preparation, ref("control", 5), None).eval()
    expected = control.compute(image, answers, 0)
    assert set(result.terms) == set(expected.terms)
    assert all(torch.equal(result.terms[name], expected.terms[name]) for name in expected.terms)
    assert torch.equal(result.total, expected.total)
    assert not torch.equal(result.total, control.compute(image, label, 0).total)
    assert all(p.grad is None for p in teacher.parameters())


def test_loss_sampling_is_a_function_of_the_step(tiny, tiny_with):
    study = tiny_with(distillation={"features": {"B": {"loss": "infonce", "places": 8}}})
    preparation = tiny.material().preparation
    teacher = build_teacher(study, preparation)
    task = student_task(study, preparation, ref("distilled"), teacher).eval()
    task.before_training(Place(torch.device("cpu"), 2), [batch()[0]])
    values = [task.compute(*batch(), step).terms["B/infonce"].item() for step in (1, 2, 1)]
    assert values[0] == values[2] != values[1]


def test_embeddings_are_fitted_before_the_first_step_and_not_at_a_resume(tiny):
    preparation = tiny.material().preparation
    teacher = build_teacher(tiny.study, preparation)
    task = student_task(tiny.study, preparation, ref("distilled"), teacher)
    place = Place(torch.device("cpu"), 2)
    task.before_training(place, None)
    assert task.objective.needs_embeddings
    task.before_training(place, [batch()[0]])
    assert not task.objective.needs_embeddings


def test_initial_weights_follow_the_seed_and_not_the_global_state(tiny):
    preparation, config = tiny.material().preparation, tiny.study.students[0]
    torch.manual_seed(1)
    one = weights_hash(build_network(config, preparation, seed=4))
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)
    assert weights_hash(build_network(config, preparation, seed=4)) == one
    assert weights_hash(build_network(config, preparation, seed=5)) != one
