"""The weighted sum: names, weights, state, randomness, and batches of every kind."""

import pytest
import torch

from medstill.config import (
    DistillationConfig,
    FeatureTermConfig,
    MapTermConfig,
    TrainingConfig,
)
from medstill.errors import ConfigError, ShapeError, TrainingError, UnknownNameError
from medstill.losses import Objective

CHANNELS = {"E": 6, "B": 7, "D": 5}
TEACHER_CHANNELS = {"E": 12, "B": 9, "D": 11}
STRIDES = {"E": 4, "B": 8, "D": 1}


def make(config=None, classes=3, seed=0, **options):
    return Objective(
        config or DistillationConfig(),
        classes=classes,
        spatial_dims=2,
        student_channels=CHANNELS,
        teacher_channels=TEACHER_CHANNELS,
        seed=seed,
        **options,
    )


def features(channels, batch, size, generator):
    return {
        scale: torch.randn(batch, n, *(-(-s // STRIDES[scale]) for s in size), generator=generator)
        for scale, n in channels.items()
    }


def inputs(batch=3, size=(32, 40), classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(batch, *size, dtype=torch.uint8)
    for number in range(1, classes):
        start = 8 * number
        labels[:, 4:28, start : start + 8] = number
    return {
        "student_logits_BC": torch.randn(batch, classes, *size, generator=generator),
        "labels_B": labels,
        "student_features": features(CHANNELS, batch, size, generator),
        "teacher_logits_BC": 3 * torch.randn(batch, classes, *size, generator=generator),
        "teacher_features": features(TEACHER_CHANNELS, batch, size, generator),
    }


def fitted(config=None, **options):
    objective = make(config, **options)
    batch = inputs(seed=9, classes=options.get("classes", 3))
    objective.fit_embeddings([batch["teacher_features"]])
    return objective


def compute(objective, batch, seed=0):
    return objective(**batch, generator=torch.Generator().manual_seed(seed))


def test_the_default_is_the_thesis():
    objective = fitted()
    terms = compute(objective, inputs())
    assert objective.weights == {
        "segmentation/dice": 0.4,
        "segmentation/cross_entropy": 0.4,
        "E/supcon": 0.1,
        "B/supcon": 0.2,
        "D/supcon": 0.1,
        "maps/kl": 0.2,
    }
    assert terms.keys() == objective.weights.keys()
    expected = sum(objective.weights[name] * value.item() for name, value in terms.items())
    assert objective.total(terms).item() == pytest.approx(expected)
    assert all(value.item() > 0 for value in terms.values())


def test_same_generator_same_terms_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    config = DistillationConfig(features={"E": FeatureTermConfig(places=32)})
    one, two, other = (compute(fitted(config), inputs(), seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}
    assert one["E/supcon"].item() != other["E/supcon"].item()


def test_projectors_depend_on_the_seed_alone():
    one, two, other = make(seed=1), make(seed=1), make(seed=2)
    for (name, a), b, c in zip(
        one.named_parameters(), two.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert "norm" in name or not torch.equal(a, c)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unnamed = make(seed=None)
    assert all(
        torch.equal(a, b) for a, b in zip(one.parameters(), unnamed.parameters(), strict=True)
    )


def test_state_holds_projectors_embeddings_and_queues():
    objective = fitted()
    compute(objective, inputs())
    copy = make(seed=5)
    assert copy.needs_embeddings
    copy.load_state_dict(objective.state_dict())
    assert not copy.needs_embeddings
    one, two = (compute(x, inputs(seed=2), 3) for x in (objective, copy))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}
    parts = {name.split(".")[2] for name in objective.state_dict()}
    assert parts == {"space", "queue"}


def test_queue_grows_in_training_mode_only():
    objective = fitted().eval()
    compute(objective, inputs())
    queue = objective.features["E"].queue
    assert queue.filled_C.sum() == 0
    objective.train()
    compute(objective, inputs())
    assert queue.filled_C.sum() > 0


def test_a_forward_before_the_fit_is_refused():
    with pytest.raises(TrainingError, match="fit_embeddings"):
        compute(make(), inputs())
    with pytest.raises(TrainingError, match="saw 0 places"):
        make().fit_embeddings([])


def test_terms_without_embedding_need_no_fit():
    config = DistillationConfig(features={"E": FeatureTermConfig(loss="affinity")})
    objective = make(config)
    assert not objective.needs_embeddings
    objective.fit_embeddings([])
    assert compute(objective, inputs())["E/affinity"].item() > 0
    assert list(objective.parameters()) == []


def test_the_control_keeps_the_segmentation_weight_and_nothing_else():
    config = DistillationConfig(segmentation_weight=0.7)
    control = Objective.control(config, classes=3, spatial_dims=2)
    batch = inputs()
    terms = control(batch["student_logits_BC"], batch["labels_B"])
    assert control.weights == {"segmentation/dice": 0.7, "segmentation/cross_entropy": 0.7}
    assert list(control.parameters()) == []
    assert not control.needs_teacher
    assert not control.needs_embeddings
    distilled = compute(fitted(config), batch)
    assert {k: v.item() for k, v in terms.items()} == {k: distilled[k].item() for k in terms}


def test_dice_is_over_the_batch_in_2d_and_over_samples_in_3d():
    ways = [
        Objective.control(
            DistillationConfig(), classes=3, spatial_dims=n, recipe=TrainingConfig(dice_over=over)
        )
        for n, over in ((2, "auto"), (3, "auto"), (3, "batch"), (2, "sample"))
    ]
    assert [way.segmentation.dice_over for way in ways] == ["batch", "sample", "batch", "sample"]


def test_both_arms_balance_the_classes_as_the_recipe_says():
    batch, recipe = inputs(), TrainingConfig(class_balance=0.5)
    name = "segmentation/cross_entropy"
    plain = Objective.control(DistillationConfig(), classes=3, spatial_dims=2)
    control = Objective.control(DistillationConfig(), classes=3, spatial_dims=2, recipe=recipe)
    distilled = Objective(
        DistillationConfig(features={}),
        classes=3,
        spatial_dims=2,
        student_channels={},
        teacher_channels={},
        recipe=recipe,
    )
    values = [compute(one, batch)[name].item() for one in (control, distilled, plain)]
    assert values[0] == values[1] != values[2]


def test_an_unlabelled_batch_still_learns_from_the_teacher():
    batch = inputs()
    batch["labels_B"] = torch.full_like(batch["labels_B"], 255)
    batch["bare_B"] = torch.ones(len(batch["labels_B"]), dtype=torch.bool)
    regions = inputs()["labels_B"].long()
    batch["teacher_logits_BC"] = 9 * torch.nn.functional.one_hot(regions, 3).movedim(-1, 1).float()
    batch["student_logits_BC"].requires_grad_()
    terms = compute(fitted(), batch)
    assert terms["segmentation/dice"].item() == terms["segmentation/cross_entropy"].item() == 0
    assert terms["E/supcon"].item() > 0
    assert terms["maps/kl"].item() > 0


def test_no_place_of_known_class_gives_zero_with_a_gradient_path():
    batch = inputs()
    batch["labels_B"] = torch.full_like(batch["labels_B"], 255)
    batch["bare_B"] = torch.ones(len(batch["labels_B"]), dtype=torch.bool)
    batch["teacher_logits_BC"] = torch.zeros_like(batch["teacher_logits_BC"])
    objective = fitted()
    terms = compute(objective, batch)
    objective.total(terms).backward()
    assert terms["E/supcon"].item() == 0
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in objective.parameters())


def test_terms_of_one_loss_keep_apart_and_weight_zero_is_not_built():
    config = DistillationConfig(
        features={"E": FeatureTermConfig(weight=0.0)},
        maps=(
            MapTermConfig(weight=0.1),
            MapTermConfig(weight=0.2, boundary_weight=4.0),
            MapTermConfig(weight=0.3, temperature=1.0),
            MapTermConfig(loss="cwd", weight=0.0),
        ),
    )
    objective = make(config)
    terms = compute(objective, inputs())
    assert list(terms)[2:] == ["maps/kl", "maps/kl-boundary", "maps/kl#2"]
    assert [objective.weights[name] for name in list(terms)[2:]] == [0.1, 0.2, 0.3]
    assert len({round(value.item(), 6) for value in list(terms.values())[2:]}) == 3
    assert list(objective.parameters()) == []


@pytest.mark.parametrize("features", [True, False])
def test_a_wrong_name_is_answered_with_the_right_ones(features):
    wrong = (
        DistillationConfig(features={"E": FeatureTermConfig(loss="supcom")})
        if features
        else DistillationConfig(features={}, maps=(MapTermConfig(loss="klx"),))
    )
    expected = (
        r"feature loss is called 'supcom'.*'supcon'.*affinity"
        if features
        else r"map loss is called 'klx'.*'kl'.*cwd, dist"
    )
    with pytest.raises(UnknownNameError, match=expected):
        make(wrong)


def test_what_is_missing_is_named():
    extra = DistillationConfig(features={"X": FeatureTermConfig()})
    with pytest.raises(ConfigError, match=r"'X'.*\['B', 'D', 'E'\].*student_layer"):
        make(extra)
    batch = inputs()
    with pytest.raises(TrainingError, match="teacher's logits"):
        fitted()(batch["student_logits_BC"], batch["labels_B"])
    del batch["teacher_features"]["B"]
    with pytest.raises(TrainingError, match=r"'B' needs the teacher's feature"):
        compute(fitted(), batch)
    with pytest.raises(ShapeError, match=r"4 classes.*\(3, 3, 32, 40\)"):
        compute(make(classes=4), inputs())
    batch = inputs()
    batch["teacher_logits_BC"] = batch["teacher_logits_BC"][:, :2]
    with pytest.raises(ShapeError, match=r"\(3, 3, 32, 40\).*\(3, 2, 32, 40\)"):
        compute(fitted(), batch)


RAMPED = DistillationConfig(
    segmentation_weight=0.4,
    features={"E": FeatureTermConfig(loss="mse", weight=0.1, ramp_steps=4)},
    maps=(
        MapTermConfig(loss="kl", weight=0.2, ramp_steps=10),
        MapTermConfig(loss="kl", weight=0.8),
    ),
)


@pytest.mark.parametrize(
    ("step", "mse", "kl"), [(0, 0.0, 0.0), (1, 0.025, 0.02), (4, 0.1, 0.08), (99, 0.1, 0.2)]
)
def test_a_ramped_weight_is_a_function_of_the_step(step, mse, kl):
    found = fitted(RAMPED)
    expected = {
        "segmentation/dice": 0.4,
        "segmentation/cross_entropy": 0.4,
        "E/mse": mse,
        "maps/kl": kl,
        "maps/kl#2": 0.8,
    }
    assert found.weights_at(step) == pytest.approx(expected)
    terms = {name: torch.tensor(10.0**place) for place, name in enumerate(expected)}
    by_hand = sum(weight * 10.0**place for place, weight in enumerate(expected.values()))
    assert found.total(terms, step).item() == pytest.approx(by_hand)
    assert found.total(terms).item() == found.total(terms, 10**6).item()
