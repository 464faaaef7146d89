"""The smoke study, killed at random moments and repeated, ends in an undisturbed one's table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medstill.runs import cores

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
TABLES = ("table.json", "table.md")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL"),
]


def medstill(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "medstill", *arguments]


def study(data: Path, out: Path, *more: str) -> list[str]:
    file = str(ROOT / "studies" / "smoke.yaml")
    return medstill("study", "run", file, "--data", str(data), "--out", str(out), *more)


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients of 12 slices of 64 x 64."""
    data = tmp_path_factory.mktemp("smoke") / "data"
    sizes = ("--patients", "8", "--size", "64", "--slices", "12")
    subprocess.run(medstill("phantom", str(data), *sizes), check=True)
    return data


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a study that nobody killed, and how many seconds it took."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    begun = time.monotonic()
    subprocess.run(study(data, out), check=True, stdout=subprocess.DEVNULL)
    return out, time.monotonic() - begun


def test_the_smoke_study_killed_at_random_moments_ends_in_the_same_table(
    data: Path,
    undisturbed: tuple[Path, float],
    tmp_path: Path,
    record_property: pytest.FixtureRequest,
) -> None:
    whole, duration_s = undisturbed
    record_property("undisturbed_s", round(duration_s, 1))
    out, moments = tmp_path / "out", random.Random(20260701)
    killed = 0
    for _ in range(KILLS):
        run = subprocess.Popen(study(data, out), start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            # What was finished before a kill is kept: three of the longest leave a tenth to do.
            run.wait(moments.uniform(0.1, 0.3) * duration_s)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            killed += 1
    assert killed >= KILLS // 2, "the study ended before it could be killed"
    subprocess.run(study(data, out), check=True, stdout=subprocess.DEVNULL)
    assert tables(out) == tables(whole)
    assert b"fold" in tables(out)["table.json"]


def ray_workers(driver: int) -> dict[int, str]:
    """Ray's workers below `driver` that train a run of the smoke study, with their titles."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            title = (folder / "cmdline").read_text().rstrip("\0")
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        titles[int(folder.name)] = title

    def below(process: int) -> bool:
        while process in parents and process != driver:
            process = parents[process]
        return process == driver

    # What a worker starts bears its title for a while, but Ray's own daemon starts the workers.
    return {
        process: title
        for process, title in titles.items()
        if title.startswith("ray::fold-")
        if below(process) and "raylet" in titles.get(parents[process], "").split()[0]
    }


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's workers in /proc")
def test_on_ray_a_worker_that_is_killed_is_replaced(
    data: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'medstill[cluster]'")
    out = tmp_path / "out"
    # Two at once, each with one thread: sums over several are not bit for bit the same.
    two = ("--cpus-per-run", str(cores() / 2), "--threads", "1")
    run = subprocess.Popen(
        study(data, out, "--ray", "local", *two),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 600
    try:
        while not list(out.glob("shared/*/last.ckpt")):
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < end, "no training began"
            time.sleep(0.02)
        workers = ray_workers(run.pid)
        assert 1 <= len(workers) <= 2, workers
        os.kill(next(iter(workers)), signal.SIGKILL)
        text, _ = run.communicate(timeout=600)
    finally:
        run.kill()
    assert run.returncode == 0, text
    assert tables(out) == tables(undisturbed[0])
