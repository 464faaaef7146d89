"""A study whose runs have several teachers: how long is left, and what can be cleaned away."""

import pytest

from medstill.config import Study
from medstill.links import link
from medstill.runs import open_run, write_json
from medstill.study import grid_status
from medstill.study.cleaning import leftovers
from medstill.study.folder import GridFolder, Listed, run_folder
from medstill.study.status import alive, view

STUDY = {
    "name": "g-one",
    "teacher": {"folds": 3, "training": {"steps": 200}, "pretraining": {"steps": 100}},
    "training": {"views": 4},
    "distillation": {"features": {}, "cache": "float16"},
}


@pytest.fixture
def root(tmp_path):
    """The folder of a study of one run, whose teacher lies in the shared folder."""
    listed = Listed(name="one", values=(("fold", "0"),), networks=("teacher",))
    grid = GridFolder(
        name="g",
        description="",
        hash="",
        versions={},
        axes=(("fold", ("0",)),),
        pooled=("fold",),
        runs=(listed,),
    )
    write_json(tmp_path / "grid.json", grid.model_dump(mode="json"))
    open_run(run_folder(tmp_path, "one"), Study.model_validate(STUDY))
    link(run_folder(tmp_path, "one") / "teacher", tmp_path / "shared" / "teacher-0123")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "step", "done"),
    [("fold-1", 50, 300 + 100 + 50), ("fold-2/pretraining", 40, 2 * 300 + 40)],
)
def test_the_time_left_counts_every_teacher_with_its_pretraining(root, place, step, done):
    path = root / "shared" / "teacher-0123" / place / "progress.json"
    steps = 100 if "pretraining" in place else 200
    write_json(path, {"step": step, "steps": steps, "steps_per_s": 10.0})
    with alive(root):
        found = grid_status(root)
        seen = view(root)
    (training,) = found.trainings.values()
    assert (training.state, training.step, training.steps) == ("running", done, 900)
    assert found.left_s == pytest.approx((900 - done) / 10)
    assert seen.bars == {path: f"one teacher {place.replace('/', ' ')}"}


def test_finished_teachers_took_as_long_as_all_of_them(root):
    folder = root / "shared" / "teacher-0123"
    write_json(folder / "stage.json", {"finished": True, "result": {}})
    write_json(folder / "history.json", [{"step": 200, "steps_per_s": 4.0}])
    (training,) = grid_status(root).trainings.values()
    assert training.duration_s == 3 * (100 + 200) / 4


def test_of_finished_teachers_the_last_checkpoints_go_and_the_weights_stay(root):
    folder = root / "shared" / "teacher-0123"
    for number in range(3):
        for name in ("last.ckpt", "best.ckpt"):
            (folder / f"fold-{number}").mkdir(parents=True, exist_ok=True)
            (folder / f"fold-{number}" / name).write_bytes(b"12345")
    assert leftovers(root) == ()
    for place in (folder, folder / "test"):
        write_json(place / "stage.json", {"finished": True, "result": {}})
    found = leftovers(root)
    assert {entry.path for entry in found} == {folder / f"fold-{n}" / "last.ckpt" for n in range(3)}
    assert {(entry.what, entry.size_bytes) for entry in found} == {
        ("checkpoint of a finished teacher", 5)
    }
