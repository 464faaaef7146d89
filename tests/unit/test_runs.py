"""Run folders: all or nothing on disk, stages that know their own, folders of other studies."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medstill.config import Study, study_hash
from medstill.errors import RunError, StorageError
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.runs import (
    Stage,
    atomic,
    atomic_folder,
    log_to,
    open_run,
    read_json,
    read_study,
    versions,
    write_json,
)
from medstill.storage import storage_errors

FULL = OSError(errno.ENOSPC, "No space left on device")

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from medstill.runs import atomic
with atomic(Path(sys.argv[1])) as draft:
    draft.write_text("half of the ")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def study(**values):
    return Study.model_validate({"name": "one", **values})


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "below" / "scan.nii.gz"
    with atomic(path) as draft:
        draft.write_text("new")
        assert draft.name == path.name
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["scan.nii.gz"]


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half():
        with atomic(path) as draft:
            draft.write_text("half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "case"
    path.mkdir()
    (path / "old.npy").write_text("old")
    with atomic_folder(path) as draft:
        (draft / "new.npy").write_text("new")
        assert names(path) == ["old.npy"]
    assert names(path) == ["new.npy"]
    assert names(tmp_path) == ["case"]


def test_a_failing_writer_leaves_the_old_folder(tmp_path):
    path = tmp_path / "case"
    path.mkdir()
    (path / "old.npy").write_text("old")

    def write_half():
        with atomic_folder(path) as draft:
            (draft / "new.npy").write_text("new")
            raise FULL

    with pytest.raises(StorageError, match="No space left"):
        write_half()
    assert names(path) == ["old.npy"]
    assert names(tmp_path) == ["case"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_what_a_killed_writer_leaves_looks_like_nothing_and_is_swept(tmp_path):
    path = tmp_path / "teacher" / "history.json"
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert [name.startswith(".partial-") for name in names(path.parent)] == [True]
    Stage(path.parent, {"a": 1}).begin()
    assert names(path.parent) == ["stage.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_place_and_the_way_out(code):
    with (
        pytest.raises(StorageError, match=r"No space left while writing 'out/a'\. Free some space"),
        storage_errors(Path("out/a")),
    ):
        raise OSError(code, "full")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR])
def test_a_place_that_cannot_be_written_is_told(code):
    with (
        pytest.raises(StorageError, match=rf"Cannot write 'out/a': {os.strerror(code)}\. Choose"),
        storage_errors(Path("out/a")),
    ):
        raise OSError(code, os.strerror(code))


def test_a_full_disk_below_another_error_is_found():
    def raise_on_top():
        try:
            raise FULL
        finally:
            raise RuntimeError("enforce fail: unexpected pos 704 vs 598")

    with pytest.raises(StorageError, match="No space left"), storage_errors(Path("a")):
        raise_on_top()


@pytest.mark.parametrize("levels", [1, 2])
def test_a_full_disk_below_errors_without_a_number_is_found(levels):
    def raise_on_top(levels):
        try:
            raise FULL if levels == 0 else raise_on_top(levels - 1)
        except OSError as error:
            raise OSError("while writing an element") from error

    with pytest.raises(StorageError, match="No space left"), storage_errors(Path("a")):
        raise_on_top(levels - 1)


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), RuntimeError("else"), KeyError()])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, storage_errors(Path("a")):
        raise error
    assert caught.value is error


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=r"No space left while writing '.*stage\.json'"):
        Stage(tmp_path / "stage", {"a": 1}).finish()
    assert names(tmp_path / "stage") == []


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write '.*b\.json'"):
        write_json(tmp_path / "a" / "b.json", {})


def test_json_survives_and_damage_is_told(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, None], "a": "ä"})
    assert read_json(path) == {"b": [1, None], "a": "ä"}
    path.write_text(path.read_text()[:-4])
    with pytest.raises(RunError, match=r"a\.json' is damaged .* Delete its folder and repeat"):
        read_json(path)
    with pytest.raises(RunError, match=r"b\.json' cannot be read .* folder of a medstill run"):
        read_json(tmp_path / "b.json")


def test_a_stage_is_finished_once_with_its_result(tmp_path):
    stage = Stage(tmp_path / "teacher", {"steps": 3, "folder": Path("a")})
    assert not stage.finished()
    stage.begin()
    assert not stage.finished()
    stage.finish({"dice": 0.5})
    assert stage.finished()
    stage.begin()
    assert stage.result() == {"dice": 0.5}


@pytest.mark.parametrize("claim", [Stage.begin, Stage.finish])
def test_a_stage_of_another_key_is_refused_with_the_difference(tmp_path, claim):
    claim(Stage(tmp_path, {"training": {"steps": 3, "seed": 1}, "gone": True}))
    before = (tmp_path / "stage.json").read_bytes()
    other = Stage(tmp_path, {"training": {"steps": 4, "seed": 1}})
    with pytest.raises(RunError) as caught:
        other.begin()
    message = str(caught.value)
    assert "belongs to another study" in message
    assert "training.steps is 3 there and 4 now" in message
    assert "gone is True there and None now" in message
    assert "seed" not in message
    assert "Choose another output folder, or delete this one" in message
    assert (tmp_path / "stage.json").read_bytes() == before


def test_many_differences_are_counted(tmp_path):
    Stage(tmp_path, dict.fromkeys("abcde", 0)).begin()
    with pytest.raises(RunError, match=r"c is 0 there and 1 now \(and 2 more\)\."):
        Stage(tmp_path, dict.fromkeys("abcde", 1)).finished()


def test_a_run_folder_keeps_its_study(tmp_path):
    out = tmp_path / "new" / "run"
    open_run(out, study(seeds=[4, 2]))
    assert read_study(out) == study(seeds=[4, 2])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["study_hash"] == study_hash(study(seeds=[4, 2]))
    assert manifest["versions"] == versions()
    assert "python" in versions()
    assert names(out) == ["manifest.json", "stage.json"]


def test_a_run_is_opened_again_by_the_same_study_on_another_engine(tmp_path):
    open_run(tmp_path, study())
    open_run(tmp_path, study(engine={"workers": 2}, description="again"))
    assert read_study(tmp_path).engine.workers == 2


def test_the_folder_of_another_study_stays_as_it_is(tmp_path):
    open_run(tmp_path, study())
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(RunError, match=r"another study: study\.training\.steps is 4000"):
        open_run(tmp_path, study(training={"steps": 9}))
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_folder_of_something_else_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"is not empty and holds no medstill run\. Choose a new"):
        open_run(tmp_path, study())
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_is_no_run_folder(tmp_path):
    path = tmp_path / "run"
    path.write_text("text")
    with pytest.raises(RunError, match=r"Expected a folder to write into, found the file '.*run'"):
        open_run(path, study())
    assert path.read_text() == "text"


def test_drafts_of_a_killed_run_do_not_make_its_folder_foreign(tmp_path):
    (tmp_path / ".partial-x").mkdir()
    open_run(tmp_path, study())
    assert names(tmp_path) == ["manifest.json", "stage.json"]


def test_a_folder_without_a_run_has_no_study(tmp_path):
    with pytest.raises(RunError, match=r"manifest\.json' cannot be read"):
        read_study(tmp_path)


def test_networks_have_folders_of_their_own(tmp_path):
    refs = student_refs(study(seeds=[0, 3], students=[{"name": "compact"}, {"name": "unet-s1"}]))
    assert len(set(refs)) == 8
    assert len({ref.folder(tmp_path) for ref in (TEACHER, *refs)}) == 9
    assert ModelRef("control", "compact", 3).name == "students/compact/control/seed-3"
    assert TEACHER.folder(tmp_path) == tmp_path / "teacher"


def test_the_log_goes_into_a_file_too(tmp_path):
    handler = log_to(tmp_path / "new" / "medstill.log")
    logger = logging.getLogger("medstill")
    try:
        logger.getChild("part").info("seen %d", 3)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert "INFO seen 3" in (tmp_path / "new" / "medstill.log").read_text()
