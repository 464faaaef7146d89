"""A real Ray of this machine: order, failures, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'medstill[cluster]'")

pytestmark = pytest.mark.slow
HALF = (os.cpu_count() or 2) / 2
"""CPUs of a job, so that two run side by side."""


def note(folder: str, name: str) -> None:
    """A job that says that it ran."""
    with (Path(folder) / "done.txt").open("a") as file:
        file.write(f"{name}\n")


def die_at_first(folder: str, times: int) -> None:
    """A job whose worker is killed so many times."""
    tries = Path(folder) / "tries.txt"
    with tries.open("a") as file:
        file.write("again\n")
    if len(tries.read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    note(folder, "survivor")


def diverge() -> None:
    """A job that fails."""
    from medstill.errors import TrainingError

    raise TrainingError("The loss is not finite. Lower the learning rate.")


def main(folder: str, deaths: int) -> None:
    """Run the jobs and print what failed; in a process of its own, which ends with its Ray."""
    from medstill.stages import Job
    from medstill.study import OnRay

    failures = []
    jobs = [
        Job("mortal", die_at_first, (folder, deaths)),
        Job("bad", diverge, ()),
        Job("never", note, (folder, "never"), ("bad",)),
        Job("after", note, (folder, "after"), ("mortal",)),
        Job("plain", note, (folder, "plain")),
    ]
    perform = OnRay("local", Path(folder), cpus=HALF)
    perform(jobs, lambda job, error, lost: failures.append((job, error, lost)))
    for job, error, lost in failures:
        names = [other.name for other in lost]
        sys.stdout.write(f"failed: {job.name} | {type(error).__name__} | {error} | {names}\n")


def run(folder: Path, deaths: int) -> tuple[set[str], list[str]]:
    """Names of the jobs that were done, and the lines about failures."""
    code = f"import test_ray\nif __name__ == '__main__':\n test_ray.main({str(folder)!r}, {deaths})"
    script = folder / "script.py"
    script.write_text(code)
    paths = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Ray itself tells of dead workers in between.
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    return set((folder / "done.txt").read_text().split()), sorted(failed)


BAD = "failed: bad | TrainingError | The loss is not finite. Lower the learning rate. | ['never']"


def test_a_worker_that_dies_is_replaced_and_failures_are_kept(tmp_path: Path) -> None:
    done, failures = run(tmp_path, deaths=2)
    assert done == {"survivor", "after", "plain"}
    assert failures == [BAD]
    assert list(tmp_path.glob("medstill-*.log"))


def test_a_job_whose_worker_dies_four_times_has_failed(tmp_path: Path) -> None:
    done, failures = run(tmp_path, deaths=9)
    assert done == {"plain"}
    assert failures[0] == BAD
    assert failures[1].startswith("failed: mortal | RunError | The worker of 'mortal' died 4 times")
    assert failures[1].endswith("| ['after']")
    assert (tmp_path / "tries.txt").read_text().split() == ["again"] * 4


def test_a_cluster_that_is_not_there_or_too_small_is_told(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom medstill.study import OnRay\n"
        "OnRay(sys.argv[1], Path('.'), cpus=float(sys.argv[2]))([])\n"
    )
    for address, cpus, told in (
        ("local", "9999", "A run asks for 9999 CPUs and 0 GPUs, but the cluster has"),
        ("127.0.0.1:1", "1", "No Ray cluster answers at '127.0.0.1:1'"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, address, cpus],
            cwd=tmp_path,
            env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert told in done.stderr
