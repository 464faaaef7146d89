"""The command `medstill`: one thin function per command."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medstill.cli_evaluate import evaluate
from medstill.cli_node import serve
from medstill.cli_predict import benchmark, predict
from medstill.cli_study import app as study_app
from medstill.ending import WRONG, end_with

if TYPE_CHECKING:
    from medstill.config import Study

app = typer.Typer(
    help="Distil a large medical image segmentation network into a tiny one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(study_app, name="study")
app.command()(predict)
app.command()(benchmark)
app.command()(serve)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the data set.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder: new, or of the same study.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the study file."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad cases out and list them; go on.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--restart", help="Take interrupted trainings up again, or begin anew."),
]


@app.command()
def run(
    study_file: StudyFile,
    data: Data,
    out: Out,
    overrides: Overrides = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check everything, estimate the cost, and stop.")
    ] = False,
    skip_bad: SkipBad = False,
    resume: Resume = True,
) -> None:
    """Prepare, split, train teacher, control and student, evaluate, export, report."""
    from medstill import pipeline, scoring, terminal, terminal_data
    from medstill.stages import open_prepared
    from medstill.study import perform_for, watch

    study = _study(study_file, overrides)
    console = terminal.console()
    if check:
        from medstill.volumes.inspect import demand_sound

        pipeline.check(study, data, skip_bad=skip_bad)
        problems = demand_sound(data, skip_bad=skip_bad, workers=study.engine.workers)
        terminal_data.show_problems(console, problems)
        terminal.show_estimate(console, study, pipeline.estimate(study, data))
        return
    with watch(out, console):
        page = pipeline.run(
            study, data, out, perform=perform_for(study, out), skip_bad=skip_bad, resume=resume
        )
    terminal.show_summary(console, *scoring.results(out))
    terminal_data.show_skipped(console, open_prepared(out).prepared.skipped)
    models = [out / pipeline.MODELS / f"{student.called}.onnx" for student in study.students]
    terminal.show_page(console, page, models)


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="Folder of a data set, or a CSV file.")],
) -> None:
    """Print cases, patients, spacing, sizes, labels, intensities and every problem found.

    Ends with exit code 2 where there are problems.
    """
    from medstill import terminal, terminal_data
    from medstill.volumes.inspect import inspect as look

    found = look(data)
    terminal_data.show_inspection(terminal.console(), found)
    if found.problems:
        raise typer.Exit(WRONG)


@app.command()
def prepare(
    study_file: StudyFile,
    data: Data,
    out: Out,
    overrides: Overrides = None,
    skip_bad: SkipBad = False,
) -> None:
    """Bring all cases to one grid and intensity scale, and divide the patients."""
    from medstill import pipeline, terminal, terminal_data

    study = _study(study_file, overrides)
    prepared = pipeline.prepare(study, data, out, skip_bad=skip_bad)
    terminal_data.show_prepared(terminal.console(), out, prepared)


@app.command(name="train-teacher")
def train_teacher(run_folder: RunFolder, resume: Resume = True) -> None:
    """Train the teacher of a prepared run on all training patients."""
    from medstill import pipeline, terminal
    from medstill.study import watch

    console = terminal.console()
    with watch(run_folder, console):
        result = pipeline.train_teacher(run_folder, resume=resume)
    terminal.show_training(console, {"teacher": result})


@app.command()
def distill(
    run_folder: RunFolder,
    student: Annotated[str | None, typer.Option(help="One of the study's students.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM", help="Train these alone: control, distilled or a reference; repeatable."
        ),
    ] = None,
    resume: Resume = True,
) -> None:
    """Train the students of a run, control and distilled by one recipe."""
    from medstill import pipeline, terminal
    from medstill.study import watch

    console = terminal.console()
    with watch(run_folder, console):
        results = pipeline.distill(run_folder, student=student, arms=arm or None, resume=resume)
    terminal.show_training(console, results)


app.command()(evaluate)


@app.command()
def export(
    run_folder: RunFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .onnx file or folder.")],
    student: Annotated[
        str | None, typer.Option(help="One of the study's students, or 'teacher'.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option(metavar="fp32|int8", help="Of the convolutions."),
    ] = "fp32",
    verify: Annotated[bool, typer.Option(help="Refuse a file that disagrees with PyTorch.")] = True,
    file_format: Annotated[
        Literal["onnx", "openvino", "monai"],
        typer.Option("--format", metavar="onnx|openvino|monai", help="One file, or a folder."),
    ] = "onnx",
    tune: Annotated[
        int,
        typer.Option(
            metavar="STEPS",
            min=0,
            help="Let a student learn to answer in int8 for so many steps; 0: leave it as it is.",
        ),
    ] = 0,
) -> None:
    """Write a network of a run, by default as one ONNX file, verified on validation patients."""
    from medstill import pipeline, terminal
    from medstill.deploy import ExportOptions
    from medstill.study import watch

    options = ExportOptions(precision, verify, file_format, tune)
    console = terminal.console()
    with TemporaryDirectory() as name, watch(Path(name), console):
        scratch = Path(name)
        report = pipeline.export(
            run_folder, output, student=student, options=options, scratch=scratch
        )
    terminal.show_export(console, report)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of a run, or of a study of many runs.")
    ],
) -> None:
    """Write the report page of a run or of a study: one HTML file that needs no network."""
    from medstill import pipeline, terminal

    terminal.show_page(terminal.console(), pipeline.report(folder))


@app.command()
def info(model: Annotated[Path, typer.Argument(help="An exported .onnx file.")]) -> None:
    """Print what an exported file says about itself."""
    from medstill import terminal
    from medstill.deploy.metadata import contract_in, read_metadata

    text = read_metadata(model)
    terminal.show_model(terminal.console(), text, contract_in(text, model))


@app.command()
def networks(
    dims: Annotated[int, typer.Option(min=2, max=3, help="Spatial dimensions.")] = 2,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the input.")] = 1,
    classes: Annotated[int, typer.Option(min=2, help="Classes, background included.")] = 2,
    size: Annotated[int | None, typer.Option(min=16, help="Edge of the image in pixels.")] = None,
    name: Annotated[str | None, typer.Option(help="One network, MONAI's included.")] = None,
) -> None:
    """List networks with parameters, multiply-adds and measured receptive field."""
    from medstill import terminal, training

    rows = training.network_table(name, dims, channels, classes, size)
    terminal.show_networks(terminal.console(), rows)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=48, help="Pixels of a slice's edge.")] = 160,
    slices: Annotated[int, typer.Option(min=8, help="Slices of a volume.")] = 40,
) -> None:
    """Make a data set of synthetic abdominal CTs with labels."""
    from medstill import terminal
    from medstill.volumes.phantom import write_phantom

    write_phantom(out, patients=patients, seed=seed, size_zyx=(slices, size, size))
    terminal.show_phantom(terminal.console(), out, patients)


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log.")] = False,
) -> None:
    """Distil a large medical image segmentation network into a tiny one."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"medstill {version_of('medstill')}")
        raise typer.Exit
    from medstill.runs import LOG_FORMAT

    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    if verbose:
        # What other packages tell of their work is not the log that was asked for.
        logging.getLogger("medstill").setLevel(logging.INFO)


def _study(path: Path, overrides: list[str] | None) -> Study:
    from medstill.studyfile import load_study

    return load_study(path, overrides or ())


def main() -> None:
    """Run the command line."""
    end_with(app)
