"""Loggers by name: what they write, where, and what is said when their package is missing."""

import csv
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from medstill import errors
from medstill.config import EngineConfig
from medstill.errors import MissingExtraError
from medstill.training import checkpoint, loggers
from medstill.training.checkpoint import LAST
from medstill.training.checks import check_networks

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = get_args(get_args(EngineConfig.model_fields["loggers"].annotation)[0])


def test_every_name_that_a_study_may_say_is_in_the_table():
    assert tuple(loggers.LOGGERS) == NAMES
    with pytest.raises(ValidationError, match="'csv', 'tensorboard', 'mlflow' or 'wandb'"):
        EngineConfig(loggers=("tensorbord",))


@pytest.mark.parametrize("names", [(), ("csv",), ("tensorboard",)])
def test_the_named_ones_alone_write(trained, tmp_path, names):
    trained(engine={"loggers": names}, training={"steps": 1})
    found = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert found == set(names)


def test_loggers_change_no_weight(trained, tmp_path):
    trained(folder="with")
    trained(folder="without", engine={"loggers": ()})
    one, two = (checkpoint.load(tmp_path / name / LAST)["task"] for name in ("with", "without"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_the_command_before_any_work(
    tiny, tiny_with, monkeypatch, name
):
    really = errors.importlib.import_module

    def absent(module):
        if module == name:
            raise ModuleNotFoundError(name=module)
        return really(module)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    study = tiny_with(engine={"loggers": [name]})
    with pytest.raises(MissingExtraError, match=rf"pip install 'medstill\[{name}\]'"):
        check_networks(study, tiny.material().preparation)
    check_networks(tiny_with(), tiny.material().preparation)


def logged_in_csv(folder):
    with (folder / "csv" / "from-step-0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row["train/total"]) for row in rows if row["train/total"]]


@pytest.mark.filterwarnings("default")
def test_mlflow_writes_a_store_of_files_into_the_folder(trained, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    trained(engine={"loggers": ["csv", "mlflow"]}, training={"steps": 2})
    store = tmp_path / "run" / "mlflow" / "from-step-0"
    client = mlflow.MlflowClient(store.as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("medstill").experiment_id])
    assert run.info.run_name == "students/unet-s1/control/seed-0 from-step-0"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/total")
    assert [point.value for point in history] == pytest.approx(logged_in_csv(tmp_path / "run"))
    assert run.data.metrics["validation/dice"] == 0.5
    assert run.data.metrics["validation/dice_by_class/liver"] == 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.filterwarnings("default")
def test_wandb_stays_offline_and_ends_with_its_training(trained, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        trained(folder=folder, engine={"loggers": ["wandb"]}, training={"steps": 2})
        assert wandb.run is None
        (run,) = (tmp_path / folder / "wandb" / "from-step-0" / "wandb").glob("offline-run-*")
        assert (run / f"run-{run.name.rsplit('-', 1)[1]}.wandb").stat().st_size > 0
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


@pytest.mark.parametrize(("mode", "offline"), [(None, True), ("online", False)])
def test_a_mode_that_the_user_chose_is_kept(tmp_path, monkeypatch, mode, offline):
    pytest.importorskip("wandb")
    asked = []
    monkeypatch.setattr(loggers, "WandbLogger", lambda **values: asked.append(values))
    monkeypatch.setenv("WANDB_MODE", str(mode))
    if mode is None:
        monkeypatch.delenv("WANDB_MODE")
    engine = EngineConfig(loggers=("wandb",))
    loggers.begin_loggers(engine, loggers.Place("teacher", tmp_path, "from-step-0"))
    assert [values["offline"] for values in asked] == [offline]
    assert asked[0]["save_dir"] == tmp_path / "wandb" / "from-step-0"
