"""What the networks of a study take to answer, measured side by side on this machine.

A time belongs to a machine, not to a result: it decides no hash and stands in no table. What was
measured, and on what, is kept in `times.json`, and the page of the study shows it.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medstill import deploy, training
from medstill.config import NetworkConfig, Record, Study, content_hash, study_hash
from medstill.errors import RunError
from medstill.evaluation.gridrecords import GridRow
from medstill.links import prepared_folder
from medstill.networks.ensemble import Ensemble
from medstill.refs import TEACHER, student_refs
from medstill.runs import MANIFEST_FILE, read_json, read_study, write_json
from medstill.stages import network_config
from medstill.study.folder import read_grid, run_folder
from medstill.study.status import is_alive
from medstill.study.table import TABLE_FILE
from medstill.volumes.records import Preparation
from medstill.volumes.store import PREPARATION_FILE
from medstill.volumes.terms import terms_of

TIMES_FILE = "times.json"
THREADS = 1
ROUNDS = 15
WARM_UP = 3
"""Rounds before those that count: the first calls allocate."""


class Time(Record):
    """How long a network of a row takes for one input."""

    row: str
    network: str
    """As the row calls it."""
    milliseconds: float
    """Median over the rounds."""
    low: float
    """Of the fastest round."""
    high: float
    size: tuple[int, ...]
    """Of the input, array order."""


class Times(Record):
    """`times.json`."""

    cpu: str
    runtime: str
    threads: int
    rounds: int
    networks: tuple[Time, ...]


@dataclass(frozen=True)
class _Subject:
    """A network to time."""

    config: NetworkConfig
    members: int
    """Of an ensemble; 0 for a single network."""
    study: Study
    preparation: Preparation

    @property
    def key(self) -> str:
        """Networks of one key are the same, but for their weights."""
        return content_hash(
            [
                self.config.model_dump(mode="json"),
                self.members,
                self.preparation.model_dump(mode="json"),
            ]
        )

    @property
    def size(self) -> tuple[int, ...]:
        """Of its input, array order."""
        return self.preparation.patch_zyx[3 - self.preparation.spatial_dims :]


def time_networks(root: Path, *, rounds: int = ROUNDS) -> Times:
    """Time the networks of every row of a study's table and keep it in `times.json`.

    Each is exported and answers one input of the patch size in onnxruntime with one thread; all of
    them take turns in every round, so that what slows the machine down slows all of them. Time
    depends on the network and not on its weights, so these are drawn anew: a study that was
    cleaned can be timed too. A second decoder is no part of what is exported.

    Args:
        root: Folder of a study whose table is written.
        rounds: How often each network answers.

    Raises:
        RunError: There is no table, the study is being computed, or no run of a row is there.
        ModelFileError: A network cannot be exported.
    """
    if is_alive(root):
        raise RunError(
            f"'{root}' is being computed at present, which would slow the networks down. Time "
            "them when that has ended."
        )
    users = _subjects(root)
    subjects = {subject.key: subject for subject in users.values()}
    spans = _measured(subjects, rounds)
    times = Times(
        cpu=_cpu(),
        runtime=f"onnxruntime {metadata.version('onnxruntime')}",
        threads=THREADS,
        rounds=rounds,
        networks=tuple(
            Time(
                row=row,
                network=network,
                milliseconds=round(statistics.median(spans[subject.key]), 4),
                low=round(min(spans[subject.key]), 4),
                high=round(max(spans[subject.key]), 4),
                size=subject.size,
            )
            for (row, network), subject in users.items()
        ),
    )
    write_json(root / TIMES_FILE, times.model_dump(mode="json"))
    return times


def _subjects(root: Path) -> dict[tuple[str, str], _Subject]:
    """Row and name of each network -> what it is."""
    path = root / TABLE_FILE
    if not path.exists():
        raise RunError(
            f"Expected the table of a study in '{root}', but there is none. Run 'medstill study "
            f"table {root}' first."
        )
    grid = read_grid(root)
    found = {}
    for row in [GridRow.model_validate(one) for one in read_json(path)["rows"]]:
        places = [
            run_folder(root, listed.name)
            for listed in grid.runs
            if row.values.items() <= dict(listed.values).items()
        ]
        run = next((place for place in places if (place / MANIFEST_FILE).exists()), None)
        if run is None:
            raise RunError(
                f"Expected a run of the row '{row.name}' in '{root}', but there is none. Repeat "
                "'medstill study run'."
            )
        study = read_study(run)
        content = read_json(prepared_folder(run) / PREPARATION_FILE)
        preparation = Preparation.model_validate(content)
        for ref in (TEACHER, *student_refs(study)):
            name = ref.student or study.teacher.network.name
            if any(model.student == name for model in row.models):
                members = study.teacher.folds if ref == TEACHER else 0
                subject = _Subject(network_config(study, ref), members, study, preparation)
                found[row.name, name] = subject
    return found


def _measured(subjects: Mapping[str, _Subject], rounds: int) -> dict[str, list[float]]:
    """Key of a network -> milliseconds of each round."""
    random = np.random.default_rng(0)
    images: dict[str, NDArray[np.float32]] = {}
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, subject in subjects.items():
            shape = (1, subject.preparation.channels, *subject.size)
            images[key] = random.random(shape, dtype=np.float32)
            path = Path(folder) / f"{key}.onnx"
            _export(subject, path, images[key])
            models[key] = deploy.load_model(path, threads=THREADS)
        spans: dict[str, list[float]] = {key: [] for key in subjects}
        for number in range(WARM_UP + rounds):
            for key, model in models.items():
                begun = time.perf_counter()
                model(images[key])
                if number >= WARM_UP:
                    spans[key].append(1000 * (time.perf_counter() - begun))
    return spans


def _export(subject: _Subject, path: Path, image_BC: NDArray[np.float32]) -> None:
    config, preparation = subject.config, subject.preparation
    members = [
        training.build_network(config, preparation, seed=seed)
        for seed in range(max(1, subject.members))
    ]
    network = Ensemble(members) if subject.members else members[0]
    facts = training.network_facts(config, preparation, members=subject.members)
    contract = deploy.Contract(
        network=deploy.NetworkSummary(
            name=facts["name"], parameters=facts["parameters"], macs=facts["macs"]
        ),
        preparation=preparation,
        terms=terms_of(preparation.classes, subject.study.data.terms),
        training=deploy.Origin(
            study=study_hash(subject.study), weights=training.weights_hash(network)
        ),
    )
    deploy.export_onnx(network.eval(), contract, path, deploy.Evidence([image_BC]))


def _cpu() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
