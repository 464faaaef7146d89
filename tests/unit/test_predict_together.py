"""Several predictions into one folder at once: each keeps what the others have noted."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_predict import model, write

from medstill import lock
from medstill.deploy.cases import PredictOptions
from medstill.deploy.foldersummary import FolderSummary
from medstill.deploy.predict import predict_path
from medstill.errors import RunError

PARTS = ("p1", "p2")


@pytest.fixture
def parts(tmp_path):
    for part in PARTS:
        for number in range(3):
            write(tmp_path / part / f"{part}-{number}.nii.gz")
    return [tmp_path / part for part in PARTS]


KEPT = (True, (), None)
"""Skipped, no warning, no error."""


def states(results):
    return {(one.skipped, one.warnings, one.error) for one in results}


def cases(folder):
    return sorted(json.loads((folder / "volumes.json").read_text())["cases"])


def together(parts, out):
    """Predict all parts at once; none ends its first case before all have claimed the folder."""
    met = threading.Barrier(len(parts), timeout=60)

    def predict(part):
        waited = []

        def on_case(_):
            if not waited:
                waited.append(met.wait())

        return predict_path(model(), part, out, on_case=on_case)

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(predict, parts))


@pytest.mark.parametrize("locks", [True, False])
def test_all_cases_of_predictions_at_the_same_time_are_known(parts, tmp_path, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(lock, "fcntl", None)
    out = tmp_path / "out"
    together(parts, out)
    if locks:
        assert cases(out) == sorted(f"{part}-{n}.nii.gz" for part in PARTS for n in range(3))
        for part in parts:
            assert states(predict_path(model(), part, out)) == {KEPT}
    assert [entry for entry in out.iterdir() if entry.name.startswith((".", "lock"))] == []


def test_only_one_at_a_time_has_its_turn(tmp_path):
    if lock.fcntl is None:
        pytest.skip("no locks for folders")
    inside, most = [], []

    def take(_):
        with lock.in_turn(tmp_path):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(12)))
    assert most == [1] * 12
    assert list(tmp_path.iterdir()) == []


def test_labels_that_another_prediction_made_meanwhile_are_known(parts, tmp_path, monkeypatch):
    out, first = tmp_path / "out", parts[0]
    plain, met = FolderSummary.open, []

    def opened(self, **how):
        plain(self, **how)
        if not met:  # the other begins and ends while this one has only claimed the folder
            met.append(1)
            predict_path(model(), first, out)

    monkeypatch.setattr(FolderSummary, "open", opened)
    assert states(predict_path(model(), first, out)) == {KEPT}


def test_replacing_some_labels_forgets_no_others_of_the_same_model(parts, tmp_path):
    out = tmp_path / "out"
    for part in parts:
        predict_path(model(), part, out, PredictOptions(overwrite=True))
    assert len(cases(out)) == 6


def test_a_folder_that_becomes_another_models_ends_this_prediction(parts, tmp_path):
    out = tmp_path / "out"

    def taken(_):
        predict_path(model(weights="fedcba98"), parts[1], out, PredictOptions(overwrite=True))

    with pytest.raises(RunError, match=r"holds predictions of another model \(weights_hash"):
        predict_path(model(), parts[0], out, on_case=taken)
    assert cases(out) == [f"p2-{n}.nii.gz" for n in range(3)]
