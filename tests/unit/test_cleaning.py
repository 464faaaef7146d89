"""Cleaning keeps away from a study that is being computed, also while it asks."""

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grids import AXES, tiny_grid
from medstill import cli
from medstill.errors import RunError
from medstill.links import link
from medstill.lock import alone, alone_in_run
from medstill.study.cleaning import clean, leftovers
from medstill.study.folder import claim, note_user, run_folder, share_with, shared_folder
from medstill.study.points import expand


@pytest.fixture
def grid(finished_grid, tmp_path):
    """A copy of a finished grid."""
    return shutil.copytree(finished_grid[0], tmp_path / "grid")


def test_nothing_is_cleaned_while_a_single_run_is_computed(grid):
    run = run_folder(grid, "fold-0_loss-kl")
    with alone_in_run(run), pytest.raises(RunError, match="shared' to be free"):
        leftovers(grid)


def test_nothing_is_cleaned_while_a_study_prepares(grid):
    found = leftovers(grid)
    # Without the file that says that networks are trained.
    with alone(grid):
        for look in (leftovers, lambda root: clean(root, found)):
            with pytest.raises(RunError, match="to be free, but another process computes"):
                look(grid)
        result = CliRunner().invoke(cli.app, ["study", "clean", str(grid), "--yes"])
        assert isinstance(result.exception, RunError)
    assert all(entry.path.exists() for entry in found)


def test_a_study_that_begins_while_cleaning_asks_loses_nothing(grid, monkeypatch):
    begun = []

    def answer(_):
        begun.append(alone(grid))
        begun[0].__enter__()
        return True

    monkeypatch.setattr("typer.confirm", answer)
    found = leftovers(grid)
    result = CliRunner().invoke(cli.app, ["study", "clean", str(grid)])
    begun[0].__exit__(None, None, None)
    assert isinstance(result.exception, RunError)
    assert all(entry.path.exists() for entry in found)


def test_what_a_study_needs_again_since_the_list_was_made_stays(grid):
    found = leftovers(grid)
    run = run_folder(grid, "fold-0_loss-kl")
    (run / "comparison.json").unlink()
    clean(grid, found)
    kept = {entry.path.name for entry in found if entry.path.exists()}
    assert kept == {"cases"}
    assert leftovers(grid) == ()


def test_a_folder_without_a_study_gets_no_lock(tmp_path):
    with pytest.raises(RunError, match="holds no study of many runs"):
        leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def found_through(root, grid):
    """What is found by one of the folder's paths, as it lies below the folder itself."""
    return {(entry.path.resolve().relative_to(grid), entry.what) for entry in leftovers(root)}


def test_the_same_is_cleaned_by_every_path_to_the_folder(grid, tmp_path):
    (tmp_path / "beside").mkdir()
    plain = found_through(grid, grid)
    assert not [what for _, what in plain if "no run uses" in what]
    assert found_through(tmp_path / "beside" / ".." / "grid", grid) == plain


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few users make symbolic links")
def test_the_same_is_cleaned_behind_symbolic_links(grid, tmp_path):
    plain = found_through(grid, grid)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(grid)
    (tmp_path / "far" / "inside").symlink_to(grid / "runs")
    for path in (tmp_path / "link", tmp_path / "far" / "inside" / ".."):
        assert found_through(path, grid) == plain


def other_study(root: Path, shared: Path, study) -> Path:
    """Another study that keeps a network of its own in a shared folder."""
    grid = tiny_grid(study, {"loss": AXES["loss"]}, name="other")
    points = expand(grid)
    claim(root, grid, points)
    share_with(root, shared)
    note_user(root)
    network = shared_folder(root) / "distilled-of-the-other"
    network.mkdir()
    (network / "last.ckpt").write_bytes(b"weights")
    link(run_folder(root, points[0].name) / "students/compact/distilled/seed-0", network)
    return network


def test_what_another_study_keeps_in_the_folder_of_one_stays(grid, tmp_path, tiny):
    alone_there = {entry.path for entry in leftovers(grid)}
    network = other_study(tmp_path / "other", grid / "shared", tiny.study)
    found = {entry.path for entry in leftovers(grid)}
    assert found
    assert found < alone_there
    assert {path.name for path in found} == {"last.ckpt", "predictions"}
    clean(grid, leftovers(grid))
    assert (network / "last.ckpt").is_file()
    assert leftovers(tmp_path / "other") == ()


def test_a_study_is_noted_once_by_a_path_that_can_be_moved(grid, tmp_path, tiny):
    other_study(tmp_path / "other", grid / "shared", tiny.study)
    note_user(tmp_path / "other")
    note_user(grid)
    assert (grid / "shared" / "users.json").read_text().split() == ["[", '"../../other"', "]"]


def test_a_damaged_list_of_users_ends_with_advice(grid):
    (grid / "shared" / "users.json").write_text("{}")
    with pytest.raises(RunError, match=r"users\.json' is damaged: expected a list .* Delete it"):
        leftovers(grid)


def test_a_study_cannot_share_its_whole_folder(grid):
    with pytest.raises(RunError, match=r"the folder of the study itself\. Leave --shared out"):
        share_with(grid, grid.parent / "grid")
