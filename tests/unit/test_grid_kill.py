"""A study of many runs is killed with all its processes, repeated, and ends in the same table."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from grids import AXES, run_all, tiny_grid
from medstill.study.table import write_table

PATIENCE_S = 120.0
AFTER = (1, 3)
"""How many checkpoints lie there when the study is killed."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_a_killed_study_ends_in_the_same_table(finished_grid, phantom, tiny_with, tmp_path):
    grid = tiny_grid(tiny_with())
    file, out = tmp_path / "grid.yaml", tmp_path / "out"
    content = {"name": grid.name, "base": grid.base, "axes": AXES}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "medstill", "study", "run", str(file)]
    command += ["--data", str(phantom), "--out", str(out), "--workers", "1", "--threads", "1"]
    moments = random.Random(7)
    for count in AFTER:
        run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_S
        while len(list(out.glob("shared/*/last.ckpt"))) < count:
            assert run.poll() is None, "the study ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.2))
        os.killpg(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    outcome, done = run_all(grid, phantom, out)
    assert len(outcome.finished) == 4
    assert 0 < len(done) < len(finished_grid[2])
    write_table(out)
    whole = tmp_path / "whole"
    shutil.copytree(finished_grid[0], whole)
    write_table(whole)
    for name in ("table.json", "table.md"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
