"""One training shared by two processes, as Lightning's strategies do it."""

import pytest
import torch

from medstill import training
from medstill.refs import ModelRef
from medstill.training import checkpoint
from medstill.training.assembly import build_teacher


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_processes_share_a_training(tiny, tiny_with, tmp_path):
    study = tiny_with(engine={"devices": 2, "strategy": "ddp_spawn"})
    material = tiny.material(study)
    teacher = build_teacher(study, material.preparation)
    ref = ModelRef("distilled", "unet-s1", 0)
    result = training.train_student(material, ref, teacher, tmp_path / "run", {})
    assert [entry["step"] for entry in result.history] == [2, 4]
    last = checkpoint.load(tmp_path / "run" / "last.ckpt")
    assert last["step"] == 4
    best = checkpoint.load(tmp_path / "run" / "best.ckpt")
    network = training.build_network(study.students[0], material.preparation)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best["network"])
    changed = [not torch.equal(before[name], v) for name, v in network.state_dict().items()]
    assert any(changed)
    # A repeat finds it finished, whatever the number of processes.
    again = training.train_student(tiny.material(tiny_with()), ref, teacher, tmp_path / "run", {})
    assert again == result
