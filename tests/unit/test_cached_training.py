import json
import logging
import pickle
from functools import partial

import pytest
import torch
from pydantic import ValidationError

from medstill import stages, training
from medstill.refs import ModelRef
from medstill.training import checkpoint
from medstill.training.assembly import train_student
from medstill.training.cache import CASE_FILE, VIEWS_FILE, ViewCache
from medstill.training.data import PatchSamples, loader
from medstill.training.frozen import FrozenTeacher

CONTROL = ModelRef("control", "unet-s1", 0)
DISTILLED = ModelRef("distilled", "unet-s1", 0)
RECIPE = {"steps": 6, "validate_every": 2, "views": 2}
TERMS = {
    "features": {
        "E": {"loss": "mse", "weight": 0.1},
        "B": {"loss": "supcon", "weight": 0.2},
        "D": {"loss": "infonce", "weight": 0.1},
    },
    "maps": [{"loss": name, "weight": 0.1} for name in ("kl", "cwd", "dist")],
    "unlabelled_batch": 2,
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study_with(tiny_with):
    def build(cache="off", **changes):
        return tiny_with(
            **{"training": RECIPE, "distillation": {**TERMS, "cache": cache}, **changes}
        )

    return build


@pytest.fixture(scope="module")
def teacher(study_with, tiny):
    return training.build_teacher(study_with(), tiny.material().preparation).eval()


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


def train(tiny, study, teacher, folder, caches, ref=DISTILLED, validate=lambda _: {"liver": 0.5}):
    material = tiny.material(study, validate=validate, caches=caches)
    result = train_student(material, ref, teacher, folder, {})
    weights = checkpoint.load(folder / "last.ckpt")["task"]
    return [entry["losses"] for entry in result.history], weights


@pytest.fixture(scope="module")
def online(tiny, study_with, teacher, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train(tiny, study_with(), teacher, tmp_path_factory.mktemp("online"), None)
    torch.set_num_threads(threads)


def all_equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", [DISTILLED, ModelRef("pseudo-labels", "unet-s1", 0)])
def test_with_float32_the_curve_is_that_of_the_teacher_itself(
    tiny, study_with, teacher, tmp_path, caches, kind
):
    expected = train(tiny, study_with(), teacher, tmp_path / "online", None, kind)
    found = train(tiny, study_with("float32"), teacher, tmp_path / "kept", caches, kind)
    assert found[0] == expected[0]
    assert all_equal(found[1], expected[1])


def test_with_float16_the_curve_is_almost_that(tiny, study_with, teacher, online, tmp_path, caches):
    curve, _ = train(tiny, study_with("float16"), teacher, tmp_path, caches)
    assert curve != online[0]
    for losses, expected in zip(curve, online[0], strict=True):
        assert losses == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_no_step_calls_the_teacher(tiny, study_with, teacher, tmp_path, caches, monkeypatch):
    train(tiny, study_with("float32"), teacher, tmp_path / "fill", caches)
    calls = []
    monkeypatch.setattr(FrozenTeacher, "__call__", lambda *_: calls.append(1))
    shown = []
    handle = teacher.register_forward_hook(lambda *_: shown.append(1))
    train(tiny, study_with("float32"), teacher, tmp_path / "again", caches)
    handle.remove()
    assert calls == []
    assert len(shown) == 1, "one pass of zeros that counts the channels"


class PowerCutError(Exception):
    """Ends a training between two validations."""


def test_a_resumed_training_ends_in_the_all_equal(
    tiny, study_with, teacher, online, tmp_path, caches
):
    calls = []

    def cut(last, _network):
        calls.append(1)
        if len(calls) > last:
            raise PowerCutError
        return {"liver": 0.5}

    study = study_with("float32")
    with pytest.raises(PowerCutError):
        train(tiny, study, teacher, tmp_path, caches, validate=partial(cut, 1))
    curve, weights = train(tiny, study, teacher, tmp_path, caches)
    assert curve == online[0]
    assert all_equal(weights, online[1])


def filled(tiny, study, teacher, folder, ref=DISTILLED):
    """The source of a training as it is handed to the loader, with its cache."""
    from medstill.training import assembly

    material = tiny.material(study)
    source = assembly.student_source(material, ref)
    if ref.arm == "control":
        return source
    student = assembly.student_config(study, ref)
    cache = assembly.filled_cache(study, student, teacher, source, folder)
    return assembly.replace(source, cache=cache)


def test_the_control_sees_the_same_views(tiny, study_with, teacher, caches):
    study = study_with("float16")
    distilled = filled(tiny, study, teacher, caches)
    control = filled(tiny, study, None, caches, CONTROL)
    pairs = zip(loader(distilled, 0, workers=0), loader(control, 0, workers=0), strict=True)
    for (image, label, said), (control_image, control_label) in pairs:
        assert torch.equal(image[:4], control_image)
        assert torch.equal(label[:4], control_label)
        assert (label[4:] == 255).all()
        assert said["logits"].dtype == torch.float16
        assert said["logits"].shape == (6, 48, 48, 3)


def test_features_are_kept_at_stride_4_or_more(tiny, study_with, teacher, caches):
    source = filled(tiny, study_with("float32"), teacher, caches)
    _, _, said = PatchSamples(source)[0]
    assert {name: tuple(part.shape[:2]) for name, part in said.items()} == {
        "logits": (48, 48),
        "feature-0": (3, 3),
        "feature-1": (12, 12),
        "feature-2": (12, 12),
    }


def test_samples_travel_to_a_spawned_process_without_their_arrays(
    tiny, study_with, teacher, caches
):
    samples = PatchSamples(filled(tiny, study_with("float32"), teacher, caches))
    image, _, said = samples[5]
    packed = pickle.dumps(samples)
    assert len(packed) < 5000
    again = pickle.loads(packed)[5]
    assert torch.equal(again[0], image)
    assert all_equal(again[2], said)


def case_folders(folder):
    return sorted(path.parent for path in folder.rglob(VIEWS_FILE))


def cut_short(folder):
    path = folder / VIEWS_FILE
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(folder):
    path = folder / VIEWS_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def of_another_case(folder):
    kept = json.loads((folder / CASE_FILE).read_text())
    (folder / CASE_FILE).write_text(json.dumps({**kept, "case": "somebody"}))


def without_its_record(folder):
    (folder / CASE_FILE).write_text("{")


def without_its_rows(folder):
    (folder / VIEWS_FILE).unlink()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut_short, "bytes in place of"),
        (flip_a_bit, "checksum"),
        (of_another_case, "another cache or case"),
        (without_its_record, "damaged"),
        (without_its_rows, "damaged"),
    ],
)
def test_what_is_damaged_is_computed_again(
    tiny, study_with, teacher, tmp_path, caplog, harm, reason
):
    study = study_with("float32")
    filled(tiny, study, teacher, tmp_path)
    folders = case_folders(tmp_path)
    before = {folder: (folder / VIEWS_FILE).read_bytes() for folder in folders}
    assert len(folders) == 3
    harm(folders[1])
    with caplog.at_level(logging.WARNING, "medstill"):
        filled(tiny, study, teacher, tmp_path)
    assert {folder: (folder / VIEWS_FILE).read_bytes() for folder in folders} == before
    assert len(caplog.records) == 1
    assert reason in caplog.text
    assert str(folders[1]) in caplog.text
    caplog.clear()
    filled(tiny, study, teacher, tmp_path)
    assert caplog.records == []


@pytest.mark.parametrize(
    "change",
    [
        {"distillation": {**TERMS, "cache": "float16"}},
        {"training": {**RECIPE, "views": 3}},
        {"training": {**RECIPE, "foreground_share": 0.25}},
        {"training": {**RECIPE, "augmentation": {"noise": 0.1}}},
        {"distillation": {**TERMS, "features": {"E": {"weight": 0.1}}, "cache": "float32"}},
    ],
)
def test_what_decides_the_answers_decides_the_folder(
    tiny, study_with, teacher, caches, change, monkeypatch
):
    monkeypatch.setattr(ViewCache, "fill", lambda *_: None)
    base = filled(tiny, study_with("float32"), teacher, caches).cache
    assert filled(tiny, study_with("float32"), teacher, caches).cache == base
    changed = study_with("float32", **change)
    if changed.distillation.cache == "off":
        changed = study_with(**{"cache": "float32", **change})
    assert filled(tiny, changed, teacher, caches).cache != base


def test_seed_student_and_steps_do_not_decide_the_folder(
    tiny, study_with, teacher, caches, monkeypatch
):
    monkeypatch.setattr(ViewCache, "fill", lambda *_: None)
    base = filled(tiny, study_with("float32"), teacher, caches).cache
    other = study_with(
        "float32", seeds=[4], students=[{"name": "unet-s2", "alias": "unet-s1"}], label_fraction=0.3
    )
    assert filled(tiny, other, teacher, caches, ModelRef("distilled", "unet-s1", 4)).cache == base


def test_another_teacher_has_another_folder(tiny, study_with, teacher, caches, monkeypatch):
    monkeypatch.setattr(ViewCache, "fill", lambda *_: None)
    study = study_with("float32")
    other = training.build_teacher(study_with(seeds=[7]), tiny.material().preparation)
    assert filled(tiny, study, teacher, caches).cache != filled(tiny, study, other, caches).cache


def test_a_run_keeps_its_cache_with_its_teacher(tiny, study_with, tmp_path):
    from medstill import pipeline

    recipe = {"steps": 2, "validate_every": 2, "batch_size": 4}
    study = study_with("float16", training={**recipe, "views": 1}, teacher={"training": recipe})
    out = tmp_path / "run"
    pipeline.prepare(study, tiny.data, out)
    pipeline.train_teacher(out)
    results = pipeline.distill(out)
    assert set(results) == {CONTROL.name, DISTILLED.name}
    assert len(case_folders(stages.cache_folder(out))) == 3
    assert case_folders(out) == case_folders(stages.cache_folder(out))


def test_a_cache_without_views_is_refused_with_the_way_out(tiny_with):
    with pytest.raises(ValidationError, match=r"cache is float16, but training\.views is 0.*set"):
        tiny_with(distillation={"cache": "float16"})


def test_the_check_says_how_much_disk_it_takes(tiny, study_with, teacher, tmp_path):
    from medstill import pipeline

    study = study_with("float16")
    found = pipeline.estimate(study, tiny.data)
    filled(tiny, study, teacher, tmp_path)
    taken = sum(path.stat().st_size for path in tmp_path.rglob(VIEWS_FILE))
    assert found.cache_mb == pytest.approx(taken / 1e6, rel=0.01)
    assert pipeline.estimate(study_with(), tiny.data).cache_mb == 0.0
