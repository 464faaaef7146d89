"""What every entry of the loss tables must obey, in 2-D and in 3-D."""

import pytest
import torch

from medstill.config import DistillationConfig, FeatureTermConfig, MapTermConfig
from medstill.losses import FEATURE_LOSSES, MAP_LOSSES, Objective

NAMES = [f"features/{name}" for name in FEATURE_LOSSES] + [f"maps/{name}" for name in MAP_LOSSES]
NAMES += [f"boundary/{name}" for name in MAP_LOSSES]
SIZES = {2: (17, 24), 3: (9, 16, 12)}
STUDENT, TEACHER = 5, 9


def objective(name, dims, classes=3):
    kind, loss = name.split("/")
    if kind == "features":
        config = DistillationConfig(
            features={"E": FeatureTermConfig(loss=loss, purity=0.5, weight=1.0)}, maps=()
        )
    else:
        extra = 3.0 if kind == "boundary" else 0.0
        term = MapTermConfig(loss=loss, weight=1.0, boundary_weight=extra)
        config = DistillationConfig(features={}, maps=(term,))
    made = Objective(
        config,
        classes=classes,
        spatial_dims=dims,
        student_channels={"E": STUDENT},
        teacher_channels={"E": TEACHER},
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    made.fit_embeddings([{"E": torch.randn(2, TEACHER, *SIZES[dims], generator=generator)}])
    return made


def inputs(dims, batch=3, classes=3, seed=0):
    size, generator = SIZES[dims], torch.Generator().manual_seed(seed)
    labels = torch.zeros(batch, *size, dtype=torch.uint8)
    for number in range(1, classes):
        labels[..., 8 * (number - 1) : 8 * (number - 1) + 6] = number
    regions = torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1)
    channels = classes if classes > 2 else 1
    noise = torch.randn(2, batch, channels, *size, generator=generator)
    half = tuple(-(-n // 2) for n in size)
    return {
        "student_logits_BC": noise[0].requires_grad_(),
        "labels_B": labels,
        "student_features": {
            "E": torch.randn(batch, STUDENT, *size, generator=generator).requires_grad_()
        },
        "teacher_logits_BC": (noise[1] + 4 * regions[:, -channels:]).requires_grad_(),
        "teacher_features": {
            "E": torch.randn(batch, TEACHER, *half, generator=generator).requires_grad_()
        },
    }


def value(made, batch, seed=0):
    terms = made(**batch, generator=torch.Generator().manual_seed(seed))
    return list(terms.values())[2]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_it_teaches_the_student_and_leaves_the_teacher_alone(name, dims, classes):
    batch = inputs(dims, classes=classes)
    loss = value(objective(name, dims, classes), batch)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss.item() > 0
    taught = "student_logits_BC" if not name.startswith("features") else "student_features"
    tensor = batch[taught]["E"] if isinstance(batch[taught], dict) else batch[taught]
    assert torch.isfinite(tensor.grad).all()
    assert tensor.grad.abs().max() > 0
    assert batch["teacher_logits_BC"].grad is None
    assert batch["teacher_features"]["E"].grad is None


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_value(name):
    one, two = (value(objective(name, 2), inputs(2), 4) for _ in range(2))
    assert one.item() == two.item()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_works_after_a_larger_one(name, dims):
    made = objective(name, dims)
    value(made, inputs(dims))
    loss = value(made, inputs(dims, batch=1))
    loss.backward()
    assert torch.isfinite(loss)
    assert (loss.item() > 0) == ("pooled" not in name)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_labels_works(name):
    batch = inputs(2)
    batch["labels_B"] = torch.full_like(batch["labels_B"], 255)
    batch["bare_B"] = torch.ones(len(batch["labels_B"]), dtype=torch.bool)
    loss = value(objective(name, 2), batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss.item() > 0


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened(name):
    made, batch = objective(name, 2), inputs(2)
    whole = value(made.eval(), batch).item()
    rounded = {
        key: tensor.bfloat16() if key.endswith("logits_BC") else tensor
        for key, tensor in batch.items()
    }
    for side in ("student_features", "teacher_features"):
        rounded[side] = {"E": batch[side]["E"].bfloat16()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = value(made, rounded)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(whole, rel=0.05, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_that_sees_one_class_only_gives_finite_gradients(name):
    batch = inputs(2)
    batch["labels_B"] = torch.zeros_like(batch["labels_B"])
    confident = torch.zeros(3, 3, *SIZES[2])
    confident[:, 0] = 50.0
    batch["teacher_logits_BC"] = confident
    batch["student_logits_BC"] = confident.clone().requires_grad_()
    loss = value(objective(name, 2), batch)
    loss.backward()
    gradients = [batch["student_logits_BC"].grad, batch["student_features"]["E"].grad]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
