import csv
import logging
import math
from dataclasses import replace

import pytest
import torch
from judge import Judge

from medstill import training
from medstill.errors import RunError, TrainingError
from medstill.refs import TEACHER, ModelRef
from medstill.runs import read_json
from medstill.training import checkpoint
from medstill.training.assembly import build_network, build_teacher, student_task
from medstill.training.checkpoint import BEST, LAST, weights_hash
from medstill.training.data import SampleSource
from medstill.training.learner import Learner
from medstill.training.tasks import StudentTask

CONTROL = ModelRef("control", "unet-s1", 0)
DISTILLED = ModelRef("distilled", "unet-s1", 0)

pytestmark = pytest.mark.usefixtures("one_thread")


def network_of(path):
    return checkpoint.load(path)["network"]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("ref", [TEACHER, CONTROL, DISTILLED], ids=lambda ref: ref.arm)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(trained, tmp_path, ref):
    for folder in ("one", "two"):
        torch.manual_seed(len(folder) + len(list(tmp_path.iterdir())))
        trained(ref, folder=folder)
    one, two = (checkpoint.load(tmp_path / folder / LAST) for folder in ("one", "two"))
    assert same(one["task"], two["task"])
    losses = [[entry["losses"] for entry in state["history"]] for state in (one, two)]
    assert losses[0] == losses[1]


def test_another_seed_gives_other_weights(trained, tmp_path):
    trained(folder="one")
    trained(replace(CONTROL, seed=1), folder="two")
    assert not same(network_of(tmp_path / "one" / BEST), network_of(tmp_path / "two" / BEST))


def test_a_loader_process_changes_no_weight(trained, tmp_path):
    recipe = {"steps": 2}
    trained(folder="here", training=recipe)
    trained(folder="there", training=recipe, engine={"loader_workers": 1})
    assert same(network_of(tmp_path / "here" / BEST), network_of(tmp_path / "there" / BEST))


def test_validation_chooses_the_checkpoint(trained, tiny, tmp_path):
    judge = Judge(0.2, 0.9, 0.9, 0.5)
    result = trained(judge=judge, training={"steps": 8})
    assert (result.best.step, result.best.dice) == (4, 0.9)
    assert [entry["step"] for entry in result.history] == [2, 4, 6, 8]
    network = build_network(tiny.study.students[0], tiny.material().preparation)
    assert weights_hash(training.load_weights(network, tmp_path / "run")) == judge.shown[1]
    assert len(set(judge.shown)) == 4
    assert checkpoint.load(tmp_path / "run" / BEST)["step"] == 4
    assert checkpoint.load(tmp_path / "run" / LAST)["step"] == 8


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(5, 2, [2, 4, 5]), (3, 10, [3]), (4, 4, [4]), (2, 1, [1, 2]), (1, 1, [1])],
)
def test_the_last_step_is_validated_whatever_the_interval(trained, steps, every, expected):
    result = trained(training={"steps": steps, "validate_every": every, "batch_size": 2})
    assert [entry["step"] for entry in result.history] == expected


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_terms(trained, monkeypatch):
    really = StudentTask.compute

    def compute(self, image_BC, label_B, step, **more):
        result = really(self, image_BC, label_B, step, **more)
        if step < 3:
            return result
        terms = {**result.terms, "segmentation/dice": torch.tensor(math.nan)}
        return replace(result, total=result.total * math.nan, terms=terms)

    monkeypatch.setattr(StudentTask, "compute", compute)
    message = r"not finite at step 3 \(train/segmentation/dice, train/total\)\. Lower training\."
    with pytest.raises(TrainingError, match=message):
        trained()


def test_no_class_in_any_validation_patient_stops_with_advice(trained):
    with pytest.raises(TrainingError, match=r"no checkpoint can be chosen\. Use another split"):
        trained(judge=Judge({}))


def test_the_share_of_time_waiting_for_data_is_logged(trained, caplog):
    with caplog.at_level(logging.INFO, logger="medstill"):
        result = trained()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("% of the time waiting for data" in line for line in lines) == 2
    assert all(0 <= entry["data_wait_share"] <= 1 for entry in result.history)
    assert all(entry["steps_per_s"] > 0 for entry in result.history)


TERMS = {
    TEACHER: {"segmentation/dice", "segmentation/cross_entropy", "reconstruction", "total"},
    CONTROL: {"segmentation/dice", "segmentation/cross_entropy", "total"},
    DISTILLED: {"segmentation/dice", "segmentation/cross_entropy", "B/supcon", "maps/kl", "total"},
}


@pytest.mark.parametrize("ref", TERMS, ids=lambda ref: ref.arm)
def test_logs_and_history_hold_every_term_by_name(trained, tmp_path, ref):
    trained(ref)
    expected = {f"train/{name}" for name in TERMS[ref]}
    with (tmp_path / "run" / "csv" / "from-step-0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = {"validation/dice", "validation/dice_by_class/liver", "validation/dead_classes"}
    assert expected | named <= set(rows[0])
    assert all(rows[0][name] for name in expected)
    history = read_json(tmp_path / "run" / "history.json")
    assert [set(entry["losses"]) for entry in history] == [expected] * 2
    assert all(entry["dice_by_class"] == {"liver": 0.5, "kidneys": 0.5} for entry in history)
    assert expected | {"validation/dice", "time/data_wait_share"} <= tensorboard_names(
        tmp_path / "run" / "tensorboard" / "from-step-0"
    )


def tensorboard_names(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_the_history_holds_the_mean_loss_since_the_last_validation(trained):
    steps = trained(training={"validate_every": 1}, folder="steps").history
    pairs = trained(training={"validate_every": 2}, folder="pairs").history
    totals = [entry["losses"]["train/total"] for entry in steps]
    for index, entry in enumerate(pairs):
        mean = (totals[2 * index] + totals[2 * index + 1]) / 2
        assert entry["losses"]["train/total"] == pytest.approx(mean, rel=1e-6)


def test_nothing_is_written_outside_of_the_folder(trained, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    trained(DISTILLED)
    assert list(elsewhere.iterdir()) == []
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "history.json", "csv", "tensorboard"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "elsewhere"}


def interrupted(trained, ref=CONTROL, at=4, **changes):
    """A training that ends with an error at its validation of step `at`."""

    class StopError(Exception):
        pass

    class Kill(Judge):
        def __call__(self, network):
            if len(self.shown) == at // 2 - 1:
                raise StopError
            return super().__call__(network)

    with pytest.raises(StopError):
        trained(ref, judge=Kill(0.5), training={"steps": 6}, **changes)


@pytest.mark.parametrize("ref", [TEACHER, CONTROL, DISTILLED], ids=lambda ref: ref.arm)
def test_a_resumed_training_ends_like_an_uninterrupted_one(trained, tmp_path, ref):
    changes = {"teacher": {"training": {"steps": 6}}}
    whole = trained(ref, folder="whole", training={"steps": 6}, **changes)
    interrupted(trained, ref, **changes)
    assert checkpoint.load(tmp_path / "run" / LAST)["step"] == 2
    resumed = trained(ref, training={"steps": 6}, **changes)
    one, two = (checkpoint.load(tmp_path / name / LAST) for name in ("whole", "run"))
    assert same(one["task"], two["task"])
    assert [e["step"] for e in resumed.history] == [e["step"] for e in whole.history] == [2, 4, 6]
    assert [e["losses"] for e in resumed.history] == [e["losses"] for e in whole.history]


def test_logs_of_a_resumed_training_go_on_at_the_true_step(trained, tmp_path):
    interrupted(trained)
    trained(training={"steps": 6})
    rows = {}
    for start in (0, 2):
        with (tmp_path / "run" / "csv" / f"from-step-{start}" / "metrics.csv").open() as file:
            rows[start] = [int(row["step"]) for row in csv.DictReader(file)]
    assert rows == {0: [0, 2], 2: [2, 4, 6]}


def test_two_kills_at_one_boundary_leave_one_log(trained, tmp_path):
    interrupted(trained)
    interrupted(trained, at=2)
    trained(training={"steps": 6})
    folders = sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert folders == ["from-step-0", "from-step-2"]
    assert len(list((tmp_path / "run" / "tensorboard" / "from-step-2").glob("events*"))) == 1


def test_a_checkpoint_of_another_recipe_is_refused(trained):
    trained()
    with pytest.raises(RunError, match=r"last\.ckpt' is the checkpoint of another recipe"):
        trained(key="another")


def test_a_checkpoint_of_another_teacher_is_refused(trained, tiny, tiny_with):
    interrupted(trained, DISTILLED)
    other = build_teacher(tiny_with(seeds=[7]), tiny.material().preparation)
    with pytest.raises(RunError, match="distilled from a teacher of other weights"):
        trained(DISTILLED, guide=other, training={"steps": 6})


def test_a_finished_training_is_not_done_again(trained):
    first = trained(judge=Judge(0.3, 0.2))
    judge = Judge(0.9)
    again = trained(judge=judge)
    assert judge.shown == []
    assert again == first


def test_without_resume_it_begins_anew(trained, tmp_path):
    trained(judge=Judge(0.9))
    judge = Judge(0.2)
    result = trained(judge=judge, resume=False)
    assert len(judge.shown) == 2
    assert [entry["dice"] for entry in result.history] == [0.2, 0.2]
    assert checkpoint.load(tmp_path / "run" / BEST)["dice"] == 0.2


def test_too_many_processes_for_a_batch_are_refused(tiny, tiny_with):
    from types import SimpleNamespace

    from medstill.training.learner import Learner

    material = tiny.material()
    source = SampleSource(material.prepared.root, (), tiny.study.training, 0, 2)
    learner = Learner(torch.nn.Identity(), source, 0)
    learner._trainer = SimpleNamespace(world_size=3)
    with pytest.raises(TrainingError, match=r"batch of 4 samples cannot be shared by 3 processes"):
        learner.train_dataloader()


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("rmsprop", "RMSprop")])
def test_the_optimizer_is_the_one_of_the_recipe(tiny, tiny_with, name, kind):
    recipe = {"optimizer": name, "learning_rate": 0.01, "weight_decay": 0.02, "betas": [0.8, 0.7]}
    study, material = tiny_with(training=recipe), tiny.material()
    task = student_task(study, material.preparation, CONTROL, None)
    source = SampleSource(
        material.prepared.root, material.split.student, study.training, 0, spatial_dims=2
    )
    optimiser = Learner(task, source, 0).configure_optimizers()
    assert type(optimiser).__name__ == kind
    assert (optimiser.defaults["lr"], optimiser.defaults["weight_decay"]) == (0.01, 0.02)
    assert optimiser.defaults.get("betas") == ((0.8, 0.7) if name == "adamw" else None)


def test_the_optimizer_decides_the_weights(trained, tmp_path):
    for name in ("adamw", "rmsprop"):
        trained(folder=name, training={"optimizer": name})
    assert not same(*(network_of(tmp_path / name / BEST) for name in ("adamw", "rmsprop")))
    states = checkpoint.load(tmp_path / "rmsprop" / LAST)["optimiser"]["state"].values()
    assert all("square_avg" in state for state in states)
