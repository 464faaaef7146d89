"""Study files: YAML in, a validated study out, every mistake named at once."""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from medstill.config import NAME, Study
from medstill.errors import ConfigError, unknown_name

MANY_RUNS = {"base", "axes"}
"""Keys of a file that describes many runs; see `medstill.study.gridfile`."""


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read a study file and apply `a.b=c` overrides.

    Args:
        path: A YAML file.
        overrides: Texts such as `training.steps=200`; the value is read as YAML.

    Raises:
        ConfigError: The file is missing or no YAML, or keys or values are wrong; all are named.
    """
    content = read_yaml(Path(path))
    if MANY_RUNS & content.keys():
        raise ConfigError(
            f"'{path}' describes many runs (it has the key '{min(MANY_RUNS & content.keys())}'). "
            f"Run it with 'medstill study run {path}'."
        )
    for text in overrides:
        override(content, text)
    return parse_study(content, source=str(path))


def read_yaml(
    path: Path, *, kind: str = "study file", example: str = "one of the files in studies/"
) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Args:
        path: The file.
        kind: What it is, for messages.
        example: From what one may start, for messages.

    Raises:
        ConfigError: The file is missing, no YAML, has a key twice, or holds something else.
    """
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except _TwiceError as error:
        raise ConfigError(f"The {kind} '{path}' has {error}.") from error
    except OSError as error:
        raise ConfigError(f"Cannot read the {kind} '{path}': {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The {kind} '{path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"The {kind} '{path}' must hold keys and values, but holds "
            f"{type(content).__name__}. Start from {example}."
        )
    return content


class _TwiceError(yaml.YAMLError):
    """A mapping has a key twice; YAML itself would keep the last in silence."""


class _Loader(yaml.SafeLoader):
    """Plain data alone, and no key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in seen and isinstance(key, yaml.ScalarNode):
                raise _TwiceError(
                    f"the key '{key.value}' twice in one place, in line {seen[name]} and in line "
                    f"{line}: keep one of them"
                )
            seen[name] = line
        return node


def _parsed(text: str) -> Any:
    return yaml.load(text, _Loader)


def parse_study(content: Mapping[str, Any], *, source: str = "the study") -> Study:
    """Validate plain data as a study.

    Raises:
        ConfigError: Lists every wrong key and value at once.
    """
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise problems_error(problems_of(error, Study), source) from error


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Every wrong key and value of a record that was refused, each with its place."""
    return [_explain(problem, model) for problem in _causes(error.errors())]


def problems_error(problems: Sequence[str], source: str) -> ConfigError:
    """The error that lists every problem of a file at once."""
    noun = "problem" if len(problems) == 1 else "problems"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(f"{len(problems)} {noun} in {source}:{lines}")


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Without lists that count as too short only because their items are wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(_lies_below(place, problem["loc"]) for place in places)
    ]


def _lies_below(place: Sequence[Any], parent: Sequence[Any]) -> bool:
    return len(place) > len(parent) and place[: len(parent)] == parent


def override(content: dict[str, Any], text: str) -> None:
    """Apply one text such as `training.steps=200` to the content of a file; the value is YAML.

    Raises:
        ConfigError: It is no such text, or there is no such place.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set expects KEY=VALUE such as training.steps=200, but got '{text}'.")
    try:
        parsed = _parsed(value)
    except _TwiceError as error:
        raise ConfigError(f"--set {text}: the value has {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {text}: the value is not valid YAML. Put it in quotes."
        ) from error
    set_value(content, key, parsed, source=f"--set {text}")


def set_value(content: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Set the value of a dotted key in place; a position counts the entries of a list from 0.

    Raises:
        ConfigError: There is no such place, or no such list yet; it begins with `source`.
    """
    parts = key.split(".")
    last = parts[-1]
    node: Any = content
    for part, following in itertools.pairwise(parts):
        if following.isdigit() and isinstance(node, dict) and node.get(part) is None:
            raise ConfigError(
                f"{source}: the file has no list '{part}', so it has no entry {following}. Write "
                f"the list into the file, or set all of it: --set '{part}=[...]'."
            )
        node = _child(node, part, source)
    if isinstance(node, list):
        node[_position(node, last, source)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"{source}: there is nothing to set below a single value.")


def _child(node: Any, part: str, source: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, source)]
    if not isinstance(node, dict):
        raise ConfigError(f"{source}: '{part}' lies below a single value.")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _position(node: list[Any], part: str, source: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"{source}: '{part}' must be a position from 0 to {len(node) - 1} of that list."
        )
    return int(part)


def _explain(problem: Any, model: type[BaseModel]) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        parent = list(problem["loc"][:-1])
        known = list(_keys_at(model, parent))
        return f"{location}: {unknown_name('key', str(problem['loc'][-1]), known)}"
    value, message = problem["input"], problem["msg"].removeprefix("Value error, ")
    # A whole record says nothing about which of its values is meant.
    got = "" if problem["type"] == "missing" or isinstance(value, dict) else f" (got {value!r})"
    if problem["type"] == "tuple_type":
        message = f"must be a list, such as [{value}]" if _is_single(value) else "must be a list"
    elif problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME:
        message = f"may hold small letters, digits and hyphens alone, as in '{_as_name(value)}'"
    return f"{location}: {message}{got}" if location else message


def _is_single(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _as_name(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or "my-study"


def _keys_at(model: type[BaseModel], parents: Sequence[Any]) -> Iterator[str]:
    for part in parents:
        field = model.model_fields.get(str(part))
        found = list(_models(field.annotation)) if field else []
        model = found[0] if found else model
    yield from model.model_fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (tuple, dict, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _models(argument)
