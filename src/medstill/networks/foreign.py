"""Networks of `monai.networks.nets` by name; MONAI is imported on first use (some seconds)."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Collection, Iterator
from typing import Any, Final

from torch import nn

from medstill.errors import ConfigError, require, unknown_name
from medstill.networks.request import Request

PREFIX = "monai:"
"""May stand before a name, for clarity."""

DIMS_PARAMETERS = ("spatial_dims", "dimensions")
IN_PARAMETERS = ("in_channels", "n_input_channels", "num_channels", "in_chans")
OUT_PARAMETERS = ("out_channels", "num_classes", "n_classes", "out_classes", "out_chans")

SHALLOW_FIRST = ("BasicUNetPlusPlus",)
"""Networks that with deep supervision do not give the answer of all their layers first."""

_TENSORS_ONLY: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""PyTorch's own switch, which holds whatever the code that loads says."""


def names() -> tuple[str, ...]:
    """Names of all MONAI networks from an image to channels, each under one of its spellings."""
    return tuple(sorted({found.__name__ for found in _classes().values()}))


def find(name: str, *, ours: Collection[str] = ()) -> type[nn.Module]:
    """The class of a name, with or without the prefix `monai:`.

    Raises:
        UnknownNameError: MONAI has no such network; the message also names `ours`.
    """
    found = _classes().get(name.removeprefix(PREFIX))
    if found is None:
        raise unknown_name("network", name.removeprefix(PREFIX), [*ours, *names()])
    return found


def build(request: Request, *, ours: Collection[str] = ()) -> nn.Module:
    """Build a MONAI network; dimensions and channels are filled in under the names it gives them.

    Weights are never downloaded unless the options ask for it with `pretrained: true`, and no code
    that is pickled with them is ever run.

    Raises:
        UnknownNameError: MONAI has no such network.
        ConfigError: Options the network does not take, needs or refuses, or a width factor.
    """
    found = find(request.name, ours=ours)
    if request.width != 1:
        raise ConfigError(
            f"network.width is for our own networks, but '{request.name}' is MONAI's and width is "
            f"{request.width}. Set its widths by its own options: {', '.join(_parameters(found))}."
        )
    arguments = _arguments(found, request)
    try:
        with _plain_weights_only():
            return found(**arguments)
    # A network's constructor may refuse its arguments by any exception.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"'{request.name}' refuses its options ({reason}). It was "
            f"given {arguments} and takes: {', '.join(_parameters(found))}."
        ) from error


@contextlib.contextmanager
def _plain_weights_only() -> Iterator[None]:
    """Let PyTorch load tensors alone, also where MONAI's code would load anything."""
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_TENSORS_ONLY]
        if before is not None:
            os.environ[_TENSORS_ONLY] = before


def _classes() -> dict[str, type[nn.Module]]:
    nets = require("monai.networks.nets", "train")
    return {
        name: found
        for name, found in vars(nets).items()
        if inspect.isclass(found) and issubclass(found, nn.Module) and _maps_channels(found)
    }


def _maps_channels(found: type[nn.Module]) -> bool:
    parameters = _parameters(found)
    return all(_first(parameters, known) for known in (IN_PARAMETERS, OUT_PARAMETERS))


def _parameters(found: type[nn.Module]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(found).parameters)


def _first(parameters: dict[str, inspect.Parameter], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in parameters), None)


def _arguments(found: type[nn.Module], request: Request) -> dict[str, Any]:
    parameters = _parameters(found)
    filled: dict[str, Any] = {"pretrained": False} if "pretrained" in parameters else {}
    decided = set()
    for known, value in (
        (DIMS_PARAMETERS, request.spatial_dims),
        (IN_PARAMETERS, request.in_channels),
        (OUT_PARAMETERS, request.out_channels),
    ):
        name = _first(parameters, known)
        if name is not None:
            filled[name] = value
            decided.add(name)
    _check_options(request, parameters, decided)
    if found.__name__ in SHALLOW_FIRST and request.options.get("deep_supervision"):
        raise ConfigError(
            f"'{request.name}' with deep_supervision gives the answer of its shallowest branch "
            "first, and the first answer alone is trained. Set network.options.deep_supervision "
            "to false."
        )
    arguments = filled | request.options
    missing = [name for name, p in parameters.items() if _needed(p) and name not in arguments]
    if missing:
        raise ConfigError(
            f"'{request.name}' needs {', '.join(missing)}, which network.options does not give. "
            f"It takes: {', '.join(parameters)}."
        )
    return arguments


def _check_options(
    request: Request, parameters: dict[str, inspect.Parameter], decided: set[str]
) -> None:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in request.options:
        if option in decided:
            raise ConfigError(
                f"network.options gives {option}, but the data decide it for '{request.name}'. "
                "Remove it."
            )
        if option not in parameters and not takes_any:
            raise unknown_name(f"option of '{request.name}'", option, set(parameters) - decided)


def _needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic
