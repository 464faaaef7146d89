"""What the networks of a study take: measured side by side, kept apart from every result."""

import shutil

import pytest
from typer.testing import CliRunner

from medstill import cli, pipeline
from medstill.errors import RunError
from medstill.runs import read_json
from medstill.study.cleaning import clean, leftovers
from medstill.study.status import alive
from medstill.study.table import write_table
from medstill.study.timing import TIMES_FILE, time_networks


@pytest.fixture
def out(finished_grid, tmp_path):
    folder = shutil.copytree(finished_grid[0], tmp_path / "out")
    write_table(folder)
    return folder


def test_a_cleaned_study_is_timed_and_its_table_stays_as_it_is(out):
    clean(out, leftovers(out))
    before = {name: (out / name).read_bytes() for name in ("table.json", "table.md", "grid.json")}
    done = CliRunner().invoke(cli.app, ["study", "time", str(out)])
    assert done.exit_code == 0, done.output
    times = read_json(out / TIMES_FILE)
    assert (times["threads"], times["rounds"]) == (1, 15)
    assert times["runtime"].startswith("onnxruntime ")
    found = {(one["row"], one["network"]): one for one in times["networks"]}
    rows = ("loss-none unet-s1", "loss-kl unet-s1")
    assert set(found) == {(row, name) for row in rows for name in ("unet-t1", "unet-s1")}
    for one in found.values():
        assert 0 < one["low"] <= one["milliseconds"] <= one["high"]
        assert one["size"] == [48, 48]
    # Rows with the same network have the same measurement.
    first, second = rows
    assert found[first, "unet-t1"]["milliseconds"] == found[second, "unet-t1"]["milliseconds"]
    write_table(out)
    assert {name: (out / name).read_bytes() for name in before} == before
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Dice against milliseconds of one input" in page
    assert f"in {times['runtime']} with 1 thread on " in page
    assert f"<td>{found[first, 'unet-s1']['milliseconds']:.2f}</td>" in page


def test_nothing_is_timed_while_the_study_runs_or_without_a_table(out):
    with alive(out), pytest.raises(RunError, match="which would slow the networks down"):
        time_networks(out)
    (out / "table.json").unlink()
    with pytest.raises(RunError, match="Run 'medstill study table"):
        time_networks(out)
    write_table(out)
    shutil.rmtree(out / "runs")
    with pytest.raises(RunError, match="Expected a run of the row 'loss-none unet-s1'"):
        time_networks(out)
    assert "milliseconds" not in pipeline.report(out).read_text(encoding="utf-8")
