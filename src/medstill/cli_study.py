"""The commands `medstill study ...`, for studies of many runs: one thin function each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medstill.errors import ConfigError

if TYPE_CHECKING:
    from medstill.study.cluster import OnRay

app = typer.Typer(
    help="Studies of many runs: a base and axes of changes to it.", no_args_is_help=True
)

StudyFolder = Annotated[Path, typer.Argument(metavar="OUT", help="What `study run` wrote.")]

# What is run.
GridFile = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="A study file with base and axes.")
]
Data = Annotated[Path, typer.Option("--data", help="Folder of the data set.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="AXIS=VALUE", help="Run only those with this value."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the base."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad cases out and list them; go on.")
]
Check = Annotated[bool, typer.Option("--check", help="Check everything, list the runs, and stop.")]
Resume = Annotated[
    bool,
    typer.Option("--resume/--restart", help="Take interrupted trainings up again, or begin anew."),
]

# Where it is kept.
Out = Annotated[Path, typer.Option("--out", help="Folder: new, or of the same study.")]
Shared = Annotated[
    Path | None,
    typer.Option(help="Folder for what runs share, so that other studies use it as well."),
]

# Who computes: this machine, or a cluster.
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes side by side; default: one per core.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of each; default: the cores are shared.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Train on a Ray cluster: host:port, or local."),
]
CpusPerRun = Annotated[
    float | None, typer.Option("--cpus-per-run", min=0.1, help="With --ray; default: 1.")
]
GpusPerRun = Annotated[
    float | None, typer.Option("--gpus-per-run", min=0.0, help="With --ray; default: 0.")
]


@app.command()
def run(
    study_file: GridFile,
    data: Data,
    out: Out,
    workers: Workers = None,
    threads: Threads = None,
    only: Only = None,
    overrides: Overrides = None,
    check: Check = False,
    shared: Shared = None,
    skip_bad: SkipBad = False,
    resume: Resume = True,
    ray: RayAddress = None,
    cpus: CpusPerRun = None,
    gpus: GpusPerRun = None,
) -> None:
    """Run every run of a study; finished ones are skipped, failed ones are tried again.

    One run's failure does not end the others: it is listed, and the exit code is then 1.
    """
    from medstill import pipeline, terminal, terminal_study
    from medstill.study import GridOptions, load_grid, run_grid, watch
    from medstill.study.grid import check_grid
    from medstill.study.status import grid_status, view
    from medstill.study.table import write_table

    console = terminal.console()
    options = GridOptions(workers, threads, tuple(only or ()), skip_bad, resume, shared)
    grid = load_grid(study_file, overrides or ())
    perform = _performer(out, ray, cpus, gpus, threads)
    if check:
        terminal_study.show_check(console, check_grid(grid, data, options))
        return
    with watch(out, console, lambda: view(out)):
        outcome = run_grid(grid, data, out, options=options, perform=perform)
    terminal_study.show_status(console, grid_status(out))
    if outcome.finished:
        terminal_study.show_table(console, out, write_table(out))
        terminal.show_page(console, pipeline.report(out))
    if outcome.failures:
        raise typer.Exit(1)


def _performer(
    out: Path, ray: str | None, cpus: float | None, gpus: float | None, threads: int | None
) -> OnRay | None:
    """Who runs the jobs; None stands for this machine."""
    if ray is None:
        if cpus is not None or gpus is not None:
            raise ConfigError(
                "--cpus-per-run and --gpus-per-run are for --ray ADDRESS, but there is none. On "
                "this machine --workers and --threads say how the cores are shared."
            )
        return None
    from medstill.study.cluster import OnRay

    cpus = cpus or 1.0
    return OnRay(ray, out, cpus, gpus or 0.0, threads or max(1, int(cpus)))


@app.command(name="status")
def show_status(out: StudyFolder) -> None:
    """Print how every run stands, what went wrong, and the time left while it runs."""
    from medstill import terminal, terminal_study
    from medstill.study.status import grid_status

    terminal_study.show_status(terminal.console(), grid_status(out))


@app.command()
def table(out: StudyFolder) -> None:
    """Write table.json and table.md, and print the table, of the runs that are scored so far."""
    from medstill import terminal, terminal_study
    from medstill.study.table import write_table

    terminal_study.show_table(terminal.console(), out, write_table(out))


@app.command(name="time")
def time_networks(out: StudyFolder) -> None:
    """Measure the milliseconds of every network on this machine, for the plots of the report.

    All take turns in onnxruntime with one thread. Writes times.json; no table and no hash changes.
    """
    from medstill import pipeline, terminal, terminal_study
    from medstill.study import timing

    console = terminal.console()
    terminal_study.show_times(console, out, timing.time_networks(out))
    terminal.show_page(console, pipeline.report(out))


@app.command()
def select(
    out: StudyFolder,
    test: Annotated[
        bool, typer.Option("--test", help="Then judge the choice by the test patients.")
    ] = False,
) -> None:
    """Choose a row by the validation patients; writes selection.json and selection.md.

    No test score is read without --test. With it, the row that each fold's validation patients
    chose is scored on that fold's test patients: what the whole procedure is worth.
    """
    from medstill import terminal, terminal_study
    from medstill.study.choosing import choose, judge

    console = terminal.console()
    selection = choose(out)
    terminal_study.show_selection(console, out, selection)
    if test:
        terminal_study.show_rows(console, judge(out, selection))


@app.command()
def clean(
    out: StudyFolder,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without a question.")] = False,
) -> None:
    """Delete what can be computed again: checkpoints, masks, prepared cases; never a score.

    Further runs can still be added: teachers keep their weights.
    """
    from medstill import terminal, terminal_study
    from medstill.study import cleaning

    console = terminal.console()
    found = cleaning.leftovers(out)
    terminal_study.show_leftovers(console, out, found)
    if found and (yes or typer.confirm("Delete them?")):
        cleaning.clean(out, found)
        console.print("Deleted.")
