"""The command that scores: masks against masks, or the networks of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medstill.errors import ConfigError


def evaluate(
    prediction: Annotated[Path, typer.Argument(metavar="PRED", help="Masks, or a run folder.")],
    truth: Annotated[Path | None, typer.Argument(help="True masks of the same names.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data set of a run folder, in place of TRUTH.")
    ] = None,
    tolerance_mm: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Tolerance of the NSD of masks, 2 unless given; a run has its study's."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the scores of masks as JSON; a run keeps its."),
    ] = None,
) -> None:
    """Score a folder of masks against the true ones, or the networks of a run folder."""
    from medstill import pipeline, scoring, terminal

    console = terminal.console()
    if truth is not None:
        if data is not None:
            raise ConfigError(
                "--data belongs to a run folder, but these are two folders of masks, whose values "
                "are compared as they are. Leave it out."
            )
        tolerance_mm = 2.0 if tolerance_mm is None else tolerance_mm
        scores = pipeline.evaluate_masks(prediction, truth, tolerance_mm=tolerance_mm, save=output)
        terminal.show_scores(console, scores)
    elif data is not None:
        _refuse_options_of_masks(tolerance_mm, output)
        pipeline.evaluate(prediction, data)
        terminal.show_summary(console, *scoring.results(prediction))
    else:
        raise ConfigError(
            "medstill evaluate expects two folders of masks (PRED TRUTH), or a run folder with "
            "--data, but got one folder alone."
        )


def _refuse_options_of_masks(tolerance_mm: float | None, output: Path | None) -> None:
    if tolerance_mm is not None:
        raise ConfigError(
            "--tolerance-mm belongs to two folders of masks; a run is scored at its study's "
            "evaluation.nsd_tolerance_mm. Leave it out."
        )
    if output is not None:
        raise ConfigError(
            "-o belongs to two folders of masks; a run keeps its scores in its own folder: "
            "comparison.json, and test/scores.json of each network. Leave it out."
        )
