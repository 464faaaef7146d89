"""What a network can be computed on: the execution providers of the installed onnxruntime."""

from __future__ import annotations

from typing import Final

import onnxruntime

from medstill.errors import ConfigError

CPU: Final = "cpu"

_SUFFIX: Final = "ExecutionProvider"
_REMOTE: Final = "azure"
"""It sends inputs to a service: nothing that medstill would ever do."""


def devices() -> dict[str, str]:
    """Name of each device, as `cpu` or `cuda` -> its provider in onnxruntime."""
    found = {
        provider.removesuffix(_SUFFIX).lower(): provider
        for provider in onnxruntime.get_available_providers()
    }
    found.pop(_REMOTE, None)
    return found


def provider_of(device: str) -> str:
    """The provider of a device.

    Raises:
        ConfigError: The installed onnxruntime has no such device.
    """
    known = devices()
    if device.lower() not in known:
        raise _unavailable(device, "it was built for")
    return known[device.lower()]


def check_running(device: str, used: list[str]) -> None:
    """Demand that a session runs on its device: onnxruntime goes back to the CPU in silence.

    Raises:
        ConfigError: It runs elsewhere.
    """
    if provider_of(device) not in used:
        raise _unavailable(device, "its driver or libraries are missing; it was built for")


def _unavailable(device: str, why: str) -> ConfigError:
    return ConfigError(
        f"The device '{device}' is not available in onnxruntime {onnxruntime.__version__}: {why} "
        f"{', '.join(devices())}. Choose one of these, or install the onnxruntime of your device "
        "(for example onnxruntime-gpu)."
    )
