"""The command `medstill serve`: a DICOM node."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[Path, typer.Argument(help="An exported .onnx file.")],
    config: Annotated[Path, typer.Option("--config", metavar="SERVE.yaml", help="The node.")],
    aet: Annotated[str | None, typer.Option(help="AE title, in place of the file's.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, in place of the file's.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check file and model, echo the receivers, and stop.")
    ] = False,
) -> None:
    """Run a DICOM node: series come in, are segmented, and the segmentations are sent on."""
    from medstill.errors import require

    require("pynetdicom", "dicom")
    from medstill import node, terminal

    found = node.load_config(config, aet=aet, port=port)
    handle = node.segmenting(model, threads=found.threads)
    if not check:
        logging.getLogger("medstill").setLevel(logging.INFO)
        node.serve(found, handle)
        return
    node.keep_libraries_quiet()
    answers = node.echo(found)
    terminal.show_receivers(terminal.console(), answers)
    if any(answers.values()):
        raise typer.Exit(2)
