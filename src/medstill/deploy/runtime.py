"""Networks from exported files, run by onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from medstill.deploy.contract import Contract
from medstill.deploy.devices import CPU, check_running, provider_of
from medstill.deploy.metadata import INPUT_NAME, OUTPUT_NAME, contract_in, read_content, text_of
from medstill.errors import ConfigError, ModelFileError, ShapeError
from medstill.runs import cores

_SILENT: Final = 4


class OnnxModel:
    """An exported network with its contract; call it with prepared arrays.

    Attributes:
        path: The file.
        contract: How images become its input and its output becomes labels.
        calls: How many calls from threads of their own use the device best. Small networks are
            faster with one thread a call and a call a core than with all cores in one call.
        call_threads: Threads of one call.
    """

    def __init__(
        self,
        path: Path,
        contract: Contract,
        session: Any,
        calls: int = 1,
        call_threads: int = 1,
    ) -> None:
        """Hold a session whose inputs and outputs have been checked; see `load_model`."""
        self.path = path
        self.contract = contract
        self.calls = calls
        self.call_threads = call_threads
        self._session = session

    def __call__(self, array: NDArray[np.floating], /) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            array: `(B, C, Y, X)` in 2-D, `(B, C, Z, Y, X)` in 3-D, prepared intensities.

        Returns:
            Logits `(B, K, ...)` of the same sizes; K = 1 stands for a sigmoid.

        Raises:
            ShapeError: The axes or the channels are not those of the network.
            ModelFileError: The network cannot be computed on an array of this size.
        """
        preparation = self.contract.preparation
        if array.ndim != preparation.spatial_dims + 2 or array.shape[1] != preparation.channels:
            axes = "(B, C, Y, X)" if preparation.spatial_dims == 2 else "(B, C, Z, Y, X)"
            raise ShapeError(
                f"The network of '{self.path}' takes {axes} with C = {preparation.channels}, but "
                f"got an array of shape {array.shape}."
            )
        feed = {INPUT_NAME: np.ascontiguousarray(array, dtype=np.float32)}
        try:
            logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], feed)[0]
        except Exception as error:  # onnxruntime's errors share no base class but this
            raise ModelFileError(
                f"The network of '{self.path}' cannot be computed on an array of shape "
                f"{array.shape}: {_first_line(error)}. It was made for patches of "
                f"{preparation.patch_zyx} (z, y, x)."
            ) from error
        return logits


def load_model(path: Path | str, *, threads: int | None = None, device: str = CPU) -> OnnxModel:
    """Load a network written by `medstill export`.

    The file is read once and looked at before onnxruntime gets its bytes.

    Args:
        path: The `.onnx` file.
        threads: Threads to compute with; None takes all cores.
        device: `cpu`, or another one of `medstill.deploy.devices`.

    Raises:
        ConfigError: The device is not available, or the threads are less than one.
        ModelFileError: The file is missing, damaged, not ours, of another contract version, or
            its network does not fit its contract.
    """
    path = Path(path)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be 1 or more, or None for all cores; got {threads}.")
    content = read_content(path)
    contract = contract_in(text_of(content, path), path)
    calls, each = _division(threads or cores(), contract) if device == CPU else (1, 1)
    return OnnxModel(path, contract, _open(content, path, each, device), calls, each)


def _division(threads: int, contract: Contract) -> tuple[int, int]:
    """Calls side by side and threads of each: many slices are there, large patches may be few."""
    return (threads, 1) if contract.preparation.spatial_dims == 2 else (min(threads, 2), threads)


def _open(content: bytes, path: Path, threads: int, device: str) -> Any:
    provider = provider_of(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    try:
        session = onnxruntime.InferenceSession(content, sess_options=options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no base class but this
        raise ModelFileError(
            f"'{path}' is no ONNX network that onnxruntime {onnxruntime.__version__} can load: "
            f"{_first_line(error)}. Give the .onnx file that 'medstill export' wrote, or export "
            "it again if it was cut short."
        ) from error
    check_running(device, session.get_providers())
    return session


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")
