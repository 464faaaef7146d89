"""Jobs side by side in spawned processes: order, errors, deaths, interrupts."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medstill import pipeline
from medstill.config import Study
from medstill.errors import RunError, StorageError, TrainingError
from medstill.refs import most_at_once
from medstill.stages import Job
from medstill.study import SideBySide, perform_for
from medstill.study.runner import perform_job

PATIENCE_S = 60.0


def note(folder, name):
    """A job that says when it ran."""
    with (Path(folder) / "order.txt").open("a") as file:
        file.write(f"{name}\n")


def wait_for(path):
    """A job that ends when another one has run."""
    end = time.monotonic() + PATIENCE_S
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.01)


def touch(path):
    Path(path).touch()


def diverge():
    raise TrainingError("The loss is not finite at step 3. Lower the learning rate.")


def stumble():
    raise ZeroDivisionError("nobody thought of this")


def fill_disk():
    raise OSError(28, "No space left on device")


def eat_memory():
    raise MemoryError


def tell():
    logging.getLogger("medstill.somewhere").info("students/compact/control/seed-0: step %d", 5)


def die():
    os._exit(9)


def write_and_wait(folder):
    """A job of hours, which holds a draft open."""
    from medstill.runs import atomic

    with atomic(Path(folder) / "half.txt") as draft:
        draft.write_text("half")
        touch(Path(folder) / "started")
        time.sleep(PATIENCE_S)


def side_by_side(folder, workers=1):
    return SideBySide(workers, 1, folder / "medstill.log")


def test_jobs_wait_for_what_they_need_and_an_unforeseen_error_is_explained(tmp_path):
    jobs = [
        Job("never", note, (tmp_path, "never"), needs=("bad",)),
        Job("bad", stumble, (), needs=("last",)),
        Job("last", note, (tmp_path, "last"), needs=("middle", "first")),
        Job("middle", note, (tmp_path, "middle"), needs=("first",)),
        Job("first", note, (tmp_path, "first")),
    ]
    with pytest.raises(RunError, match=r"'bad' ended with an unexpected ZeroDivisionError: nobody"):
        side_by_side(tmp_path)(jobs)
    assert (tmp_path / "order.txt").read_text().split() == ["first", "middle", "last"]
    log = (tmp_path / "medstill.log").read_text()
    assert "'bad' failed" in log
    assert "Traceback" in log


def test_what_needs_itself_cannot_start(tmp_path):
    jobs = [Job("a", note, (tmp_path, "a"), needs=("b",)), Job("b", note, (), needs=("a",))]
    with pytest.raises(RunError, match=r"Nothing can start of: \['a', 'b'\]"):
        side_by_side(tmp_path)(jobs)
    assert not (tmp_path / "order.txt").exists()


def test_no_jobs_are_done_at_once(tmp_path):
    side_by_side(tmp_path)([])
    assert not (tmp_path / "order.txt").exists()


def test_a_failure_is_told_while_others_run_and_ends_what_waits(tmp_path):
    class Release(logging.Handler):
        """Lets the long job end when the failure of the other one is told."""

        def emit(self, record):
            told.append(record.getMessage())
            touch(tmp_path / "go")

    told = []
    jobs = [
        Job("long", wait_for, (tmp_path / "go",)),
        Job("bad", diverge, ()),
        Job("next", note, (tmp_path, "next"), needs=("bad",)),
    ]
    release, logger = Release(), logging.getLogger("medstill.study.schedule")
    logger.addHandler(release)
    try:
        with pytest.raises(TrainingError, match=r"not finite at step 3\. Lower the learning rate"):
            side_by_side(tmp_path, workers=2)(jobs)
    finally:
        logger.removeHandler(release)
    assert len(told) == 1
    assert told[0].startswith("'bad' failed: The loss is not finite")
    assert not (tmp_path / "order.txt").exists()


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (fill_disk, StorageError, "No space left while writing"),
        (eat_memory, RunError, r"Memory ran out in 'job'.*engine\.workers=1"),
        (diverge, TrainingError, "Lower the learning rate"),
        (stumble, RunError, r"traceback is in '.*medstill\.log'.*Finished work is kept"),
    ],
)
def test_every_failure_of_a_job_says_what_to_do(tmp_path, function, kind, message):
    with pytest.raises(kind, match=message):
        perform_job(Job("job", function, ()), tmp_path / "medstill.log")


def test_a_dead_worker_is_told(tmp_path):
    with pytest.raises(RunError, match=r"A worker process died.*memory.*engine\.workers=1"):
        side_by_side(tmp_path)([Job("bad", die, ())])


def test_an_interrupt_ends_the_workers_at_once(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_runner as jobs\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    job = jobs.Job('long', jobs.write_and_wait, (folder,))\n"
        "    jobs.side_by_side(folder)([job])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    run = subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "started")
    begun = time.monotonic()
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - begun < PATIENCE_S / 2
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / "half.txt").exists()


def test_one_worker_a_core_unless_the_study_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("medstill.study.runner.cores", lambda: 6)
    two = Study.model_validate({"name": "one", "engine": {"workers": 2}})
    assert perform_for(two, tmp_path).threads == 3
    many = Study.model_validate({"name": "one", "engine": {"workers": 9, "threads": 2}})
    assert perform_for(many, tmp_path) == SideBySide(9, 2, tmp_path / "medstill.log")


@pytest.mark.parametrize(
    ("values", "at_once"),
    [
        # The control beside the teacher, then beside the distilled student.
        ({}, 2),
        ({"references": ["all-labels"]}, 3),
        # Of three trainings, two wait for the teacher.
        ({"references": ["pseudo-labels"], "distillation": {"unlabelled_batch": 1}}, 3),
        ({"seeds": [0, 1, 2]}, 6),
        ({"seeds": [0, 1], "students": [{"name": "compact"}, {"name": "unet-s1"}]}, 8),
    ],
)
def test_cores_are_shared_among_the_trainings_that_can_run_at_once(
    tmp_path, monkeypatch, values, at_once
):
    study = Study.model_validate({"name": "one", **values})
    assert most_at_once(study) == at_once == widest(pipeline.jobs(study, tmp_path, tmp_path))
    for found, threads in ((1, 1), (2, 1), (8, 8 // at_once), (25, 25 // at_once)):
        monkeypatch.setattr("medstill.study.runner.cores", lambda found=found: found)
        assert perform_for(study, tmp_path) == SideBySide(found, threads, tmp_path / "medstill.log")


def widest(jobs):
    """The most trainings of which none needs another, tried out one set after the other."""
    needs = {job.name: set(job.needs) for job in jobs if "scores" not in job.name}
    most = 0
    for bits in range(1, 2 ** len(needs)):
        chosen = {name for place, name in enumerate(needs) if bits >> place & 1}
        if not any(needs[name] & chosen for name in chosen):
            most = max(most, len(chosen))
    return most


def test_what_a_job_logs_names_its_run(tmp_path):
    jobs = [Job("one", tell, (), run="fold-0_loss-kl"), Job("two", tell, (), ("one",))]
    SideBySide(1, 1, tmp_path / "medstill.log")(jobs)
    lines = (tmp_path / "medstill.log").read_text(encoding="utf-8").splitlines()
    text = "students/compact/control/seed-0: step 5"
    assert [line.split(" INFO ")[1] for line in lines] == [f"fold-0_loss-kl {text}", text]


@pytest.mark.parametrize("shown", [False, True])
def test_what_workers_log_is_shown_on_request(tmp_path, capfd, caplog, shown):
    with caplog.at_level(logging.INFO if shown else logging.WARNING, "medstill"):
        SideBySide(1, 1, tmp_path / "medstill.log")([Job("one", tell, ())])
    assert ("INFO: students/compact/control/seed-0: step 5" in capfd.readouterr().err) == shown
