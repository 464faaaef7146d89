"""Good data and a good study, and the command line in this process."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bad_data import STUDY, Answer, World, ct_ZYX, spleen_ZYX, write

from medstill import cli


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    (found.data / "imagesTr").mkdir(parents=True)
    (found.data / "labelsTr").mkdir()
    for case in range(6):
        write(found.image(case), ct_ZYX(case))
        write(found.label(case), spleen_ZYX(case))
    found.describe()
    found.study.write_text(STUDY)
    return found


@pytest.fixture
def medstill(monkeypatch, capsys):
    """Runs a command in this process as the installed script does."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["medstill", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return Answer(int(caught.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def model(monkeypatch):
    """What `predict` loads from any file: a network that marks what is bright."""
    from medstill import deploy
    from medstill.deploy.contract import Contract, NetworkSummary, Origin
    from medstill.volumes.records import ChannelIntensity, Preparation
    from medstill.volumes.terms import terms_of

    preparation = Preparation(
        spatial_dims=2,
        spacing_zyx_mm=(None, 2.0, 1.0),
        intensity=(ChannelIntensity(kind="none"),),
        classes=("background", "spleen"),
        patch_zyx=(1, 16, 16),
    )
    found = Contract(
        network=NetworkSummary(name="bright", parameters=0, macs=0),
        preparation=preparation,
        terms=terms_of(preparation.classes, {}),
        training=Origin(study="feedbeef", weights="deadbeef"),
    )

    class Bright:
        contract = found

        def __call__(self, array):
            return (array[:, :1] > 100).astype(np.float32) - 0.5

    monkeypatch.setattr(deploy, "load_model", lambda *_, **__: Bright())
