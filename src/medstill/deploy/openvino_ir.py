"""From an ONNX graph to OpenVINO's own format, verified with OpenVINO before it is written."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medstill.deploy.contract import METADATA_KEY, Contract
from medstill.deploy.export import Evidence, ExportOptions, ExportReport, agreement, export_onnx
from medstill.deploy.runtime import load_model
from medstill.deploy.segmentation import Network
from medstill.deploy.translate import LogitsOnly
from medstill.errors import require
from medstill.runs import atomic_folder

MODEL_FILE: Final = "model.xml"
"""The graph; the weights stand beside it in `model.bin`."""

INFO_PATH: Final = METADATA_KEY.split(".")
"""Where the contract stands in the model's `rt_info`."""

_EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32"}
"""Some CPUs would compute in bfloat16 otherwise."""


def export_openvino(
    network: nn.Module,
    contract: Contract,
    path: Path,
    evidence: Evidence,
    options: ExportOptions,
) -> ExportReport:
    """Write a network and its contract as a folder of OpenVINO's intermediate representation.

    Weights stay in float32, those of int8 in 8 bits. The contract is a text of `rt_info`.

    Args:
        network: A network that `medstill.networks.run` understands, without projectors.
        contract: All else that prediction needs.
        path: The folder to write.
        evidence: What it is compared on, in OpenVINO's runtime.
        options: Precision, and whether to verify.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ModelFileError: The network cannot be exported, or OpenVINO disagrees with PyTorch;
            nothing is written.
    """
    openvino = require("openvino", "openvino")
    inference = LogitsOnly(copy.deepcopy(network).cpu()).eval()
    with atomic_folder(path) as draft, tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        report = export_onnx(network, contract, source, evidence, replace(options, verify=False))
        agreed = load_model(source).contract
        _convert(openvino, source, agreed, draft)
        comparison = verification = None
        if options.verify:
            model = opened(openvino, draft / MODEL_FILE)
            comparison, verification = agreement(inference, model, agreed, evidence, path)
        if verification is not None:
            verified = agreed.model_copy(update={"verification": verification})
            _convert(openvino, source, verified, draft)
        size_bytes = sum(file.stat().st_size for file in draft.iterdir())
    return replace(
        report,
        path=path,
        size_bytes=size_bytes,
        comparison=comparison,
        verification=verification,
    )


def _convert(openvino: ModuleType, source: Path, contract: Contract, folder: Path) -> None:
    # convert_model would do as well, but reports its use to the makers of OpenVINO.
    model = openvino.Core().read_model(source)
    del model.rt_info["framework"]  # it holds the contract from before the verification
    model.set_rt_info(contract.model_dump_json(), INFO_PATH)
    openvino.save_model(model, folder / MODEL_FILE, compress_to_fp16=False)


def opened(openvino: ModuleType, path: Path) -> Network:
    """A network that stands in a file, computed by OpenVINO on the CPU in float32."""
    compiled = openvino.Core().compile_model(path, "CPU", _EXACT)

    def call(image_BC: NDArray[np.float32]) -> NDArray[np.float32]:
        image_BC = np.ascontiguousarray(image_BC, dtype=np.float32)
        # A copy: OpenVINO's answer lies in memory that the next call writes.
        return np.array(compiled([image_BC])[0], dtype=np.float32)

    return call
