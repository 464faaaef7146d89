"""A training process is killed for real, taken up again, and ends in the same weights."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from medstill import pipeline, stages
from medstill.refs import TEACHER, ModelRef
from medstill.training import checkpoint
from medstill.training.checkpoint import BEST, LAST

DISTILLED = ModelRef("distilled", "unet-s1", 0)
STEPS = 24
PATIENCE_S = 120.0

TRAIN = """
import sys
from pathlib import Path
import torch
from medstill import stages
from medstill.refs import ModelRef
torch.set_num_threads(1)
arm, student, seed = sys.argv[2:]
stages.train(Path(sys.argv[1]), ModelRef(arm, student, int(seed)))
"""


def killed_behind_its_first_boundary(out, ref):
    """Train in a process of its own and kill it as soon as there is something to go on from."""
    command = [sys.executable, "-c", TRAIN, str(out), ref.arm, ref.student, str(ref.seed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = ref.folder(out) / LAST
    begun = time.monotonic()
    try:
        while not last.exists():
            assert process.poll() is None, "the training ended before its first boundary"
            assert time.monotonic() - begun < PATIENCE_S
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return checkpoint.load(last)["step"]


@pytest.fixture(scope="module")
def whole(phantom, tiny_with, tmp_path_factory):
    """A run whose teacher and distilled student (supcon: queues, embeddings) end undisturbed."""
    recipe = {"steps": STEPS, "validate_every": 4, "batch_size": 8}
    study = tiny_with(training=recipe, teacher={"training": recipe})
    out = tmp_path_factory.mktemp("whole") / "run"
    pipeline.prepare(study, phantom, out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for ref in (TEACHER, DISTILLED):
        stages.train(out, ref)
    torch.set_num_threads(threads)
    return out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
@pytest.mark.parametrize("ref", [TEACHER, DISTILLED], ids=lambda ref: ref.arm)
def test_a_killed_training_ends_in_the_same_weights(whole, tmp_path, one_thread, ref):
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(ref.folder(out))
    step = killed_behind_its_first_boundary(out, ref)
    assert 0 < step < STEPS
    assert step % 4 == 0
    result = stages.train(out, ref)
    assert result["weights"] == stages.train(whole, ref)["weights"]
    for name in (LAST, BEST):
        found, expected = (checkpoint.load(ref.folder(run) / name) for run in (out, whole))
        assert same(found, expected)


def same(found, expected):
    """Whether two checkpoints are equal bit for bit, but for times in their history."""
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    if isinstance(expected, dict):
        timed = {"data_wait_share", "steps_per_s"}
        keys = expected.keys() - timed
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in keys)
    if isinstance(expected, (list, tuple)):
        pairs = zip(found, expected, strict=True)
        return all(same(one, two) for one, two in pairs)
    return found == expected


def test_the_student_that_is_killed_has_a_queue_and_an_embedding(whole):
    state = checkpoint.load(DISTILLED.folder(whole) / LAST)["task"]
    queues = [value for name, value in state.items() if name.endswith("filled_C")]
    assert queues
    assert all(filled.sum() > 0 for filled in queues)
    assert all(bool(v) for name, v in state.items() if name.endswith("embedding.fitted"))
