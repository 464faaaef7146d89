"""The commands `medstill study ...`, for studies of many runs: one thin function each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Studies of many runs: a base and axes of changes to it.", no_args_is_help=True
)

StudyFolder = Annotated[Path, typer.Argument(metavar="OUT", help="What `study run` wrote.")]


@app.command()
def run(
    study_file: Annotated[
        Path, typer.Argument(metavar="STUDY.yaml", help="A study file with base and axes.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", help="Folder: new, or of the same study.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side; default: one per core.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each; default: the cores are shared.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="AXIS=VALUE", help="Run only those with this value."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the base."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check everything, list the runs, and stop.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad cases out and list them; go on.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--restart", help="Take interrupted trainings up again, or begin anew."
        ),
    ] = True,
) -> None:
    """Run every run of a study; finished ones are skipped, failed ones are tried again.

    One run's failure does not end the others: it is listed, and the exit code is then 1.
    """
    from medstill import terminal, terminal_study
    from medstill.study import GridOptions, load_grid, run_grid, watch
    from medstill.study.grid import check_grid
    from medstill.study.status import grid_status, view

    console = terminal.console()
    options = GridOptions(workers, threads, tuple(only or ()), skip_bad, resume)
    grid = load_grid(study_file, overrides or ())
    if check:
        terminal_study.show_check(console, check_grid(grid, data, options))
        return
    with watch(out, console, lambda: view(out)):
        outcome = run_grid(grid, data, out, options=options)
    terminal_study.show_status(console, grid_status(out))
    if outcome.failures:
        raise typer.Exit(1)


@app.command(name="status")
def show_status(out: StudyFolder) -> None:
    """Print how every run stands, what went wrong, and the time left while it runs."""
    from medstill import terminal, terminal_study
    from medstill.study.status import grid_status

    terminal_study.show_status(terminal.console(), grid_status(out))
