"""The formats in which a network leaves: one visible table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from medstill.deploy.bundle import NEEDED, export_bundle
from medstill.deploy.contract import Contract, Format, Precision
from medstill.deploy.export import Evidence, ExportOptions, ExportReport, export_onnx
from medstill.deploy.openvino_ir import export_openvino
from medstill.errors import ConfigError, require
from medstill.storage import demand_writable

Write = Callable[[nn.Module, Contract, Path, Evidence, ExportOptions], ExportReport]


@dataclass(frozen=True)
class Form:
    """One format.

    Attributes:
        write: Writes a network, verified, or nothing.
        suffix: Of the file; None if it is a folder.
        precisions: Those that it can be written in.
        needs: Packages of an extra, which is called `extra`.
    """

    write: Write
    suffix: str | None
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    needs: tuple[str, ...] = ()
    extra: str = ""


FORMATS: Final[dict[Format, Form]] = {
    "onnx": Form(export_onnx, ".onnx"),
    "openvino": Form(export_openvino, None, needs=("openvino",), extra="openvino"),
    "monai": Form(export_bundle, None, ("fp32",), needs=NEEDED, extra="monai"),
}


def check_target(path: Path, options: ExportOptions) -> None:
    """Refuse before any work what would only fail at its end.

    Raises:
        ConfigError: The file has another suffix, the folder is there already, the format does not
            have the precision, or a network is to be tuned that does not leave in 8 bits.
        MissingExtraError: The format needs a package that is not installed.
        StorageError: Nothing can be written there.
    """
    form = FORMATS[options.format]
    suffix, precisions = form.suffix, form.precisions
    if options.precision not in precisions:
        raise ConfigError(
            f"The format '{options.format}' takes the precision {' or '.join(precisions)}, got "
            f"'{options.precision}'. Change --precision, or leave the format at 'onnx'."
        )
    if options.tune < 0 or (options.tune and options.precision != "int8"):
        raise ConfigError(
            f"Tuning is for int8 and takes 0 or more steps, but {options.tune} steps were asked "
            f"for with {options.precision}. Use --precision int8, or leave --tune out."
        )
    if suffix is not None and path.suffix != suffix:
        raise ConfigError(f"Expected a file name that ends in {suffix}, got '{path}'. Rename it.")
    if suffix is None and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(
            f"The format '{options.format}' is a folder, and '{path}' is there already. Give a new "
            "name, or delete it first."
        )
    demand_writable(path, folder=suffix is None)
    for package in form.needs:
        require(package, form.extra)


def export_network(
    network: nn.Module, contract: Contract, path: Path, evidence: Evidence, options: ExportOptions
) -> ExportReport:
    """Write a network and its contract in the format of `options`; see `export_onnx`.

    Raises:
        ConfigError, MissingExtraError, StorageError: See `check_target`.
        ModelFileError: The network cannot be exported, or what was written disagrees with
            PyTorch; nothing is left behind.
    """
    check_target(path, options)
    return FORMATS[options.format].write(network, contract, path, evidence, options)
