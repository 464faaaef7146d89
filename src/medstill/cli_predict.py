"""Commands that use an exported network: the core install is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file, or a run folder.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="File, DICOM folder or folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File or folder to write.")],
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.99, help="Overlap of neighbouring patches; default: the file's."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches of one network call.")] = 2,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
    device: Annotated[str, typer.Option(help="What onnxruntime computes on, as cuda.")] = "cpu",
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirror images.")] = False,
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep the largest part of each class.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write class probabilities too.")
    ] = False,
    series: Annotated[
        str | None, typer.Option(help="UID or description of the DICOM series to take.")
    ] = None,
    format: Annotated[  # the name of the option
        str,
        typer.Option(help="Of the labels: nifti, dicom-seg, or auto: by the name of OUTPUT."),
    ] = "auto",
    rtstruct: Annotated[
        bool, typer.Option("--rtstruct", help="Write contours of a DICOM series too.")
    ] = False,
    capture: Annotated[
        bool, typer.Option("--capture", help="Write a picture of a DICOM series too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
) -> None:
    """Segment new scans: labels in the geometry of the input, volumes in ml."""
    from medstill import pipeline, terminal, terminal_predict
    from medstill.deploy.cases import PredictOptions

    options = PredictOptions(
        overlap=overlap,
        batch_size=batch_size,
        mirror=mirror,
        largest_component=largest_component,
        keep_probabilities=probabilities,
        overwrite=overwrite,
        threads=threads,
        device=device,
        format=format,
        rtstruct=rtstruct,
        capture=capture,
        series=series,
    )
    with terminal_predict.following(terminal.console()) as show:
        results = pipeline.predict(model, source, target, options=options, on_case=show)
    if any(result.error for result in results):
        raise typer.Exit(2)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Exported files; run folders, as RUN or RUN:STUDENT."
        ),
    ],
    source: Annotated[
        Path | None, typer.Option("--input", help="A scan; default: a drawn CT.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each model is measured.")] = 5,
    warm_up: Annotated[int, typer.Option(min=0, help="Rounds that do not count.")] = 1,
    slices: Annotated[int, typer.Option(min=1, help="Slices of the drawn CT.")] = 100,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the measurements as JSON.")
    ] = None,
) -> None:
    """Measure models side by side: time of network and phases, memory, share of the limit."""
    from medstill import handover, terminal, terminal_predict
    from medstill.deploy.benchmark import benchmark as measure
    from medstill.runs import write_json
    from medstill.storage import demand_writable

    if output is not None:
        demand_writable(output)
    found = measure(
        models,
        source,
        open_model=handover.open_model,
        threads=threads,
        rounds=rounds,
        warm_up=warm_up,
        slices=slices,
    )
    terminal_predict.show_benchmark(terminal.console(), found)
    if output is not None:
        write_json(output, found.model_dump(mode="json"))
