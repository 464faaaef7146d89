"""Cleaning keeps away from a study that is being computed, also while it asks."""

import shutil

import pytest
from typer.testing import CliRunner

from medstill import cli
from medstill.errors import RunError
from medstill.lock import alone, alone_in_run
from medstill.study.cleaning import clean, leftovers
from medstill.study.folder import run_folder


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
