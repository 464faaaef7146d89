"""Write docs/reference from the code: every key of a study file, every command.

    python scripts/write_reference.py

A test fails when the committed pages are not what this writes.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from medstill import config
from medstill.cli import app
from medstill.config import Record, Study
from medstill.losses import FEATURE_LOSSES, MAP_LOSSES
from medstill.networks import NETWORKS
from medstill.volumes.intensity import INTENSITIES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by scripts/write_reference.py: change the code, not this page. -->"
NAMES = {
    ("IntensityConfig", "kind"): ("auto", *INTENSITIES),
    ("NetworkConfig", "name"): (*NETWORKS, "a MONAI network"),
    ("StudentConfig", "name"): (*NETWORKS, "a MONAI network"),
    ("FeatureTermConfig", "loss"): tuple(FEATURE_LOSSES),
    ("MapTermConfig", "loss"): tuple(MAP_LOSSES),
}
"""Keys whose values are names of a table."""
KINDS = {Path: "PATH", float: "NUMBER", int: "NUMBER", str: "NAME"}

STUDY_INTRODUCTION = """\
# The study file

A YAML file that says everything that decides a result, and nothing about where the data lie. Keys
may be left out: their defaults stand in. Unknown keys and wrong values are refused, all of them
at once; what depends on the data or on the networks is told after that, one by one.
`--set` replaces single values: `--set training.steps=200`; entries of a list that the file has,
counted from 0: `--set students.0.name=unet-s1`.

Lengths are in mm. Sizes and spacings are in array order: `[z, y, x]` in 3-D, `[y, x]` in 2-D.
"""
COMMANDS_INTRODUCTION = """\
# Commands

A message of what was expected, what was found and what to do, and exit code 2, stand for anything
that you can put right. The same text is shown by `medstill --help` and `medstill run --help`.
"""


def study_file() -> str:
    """The page of study keys."""
    schema = Study.model_json_schema()
    homes = _homes(schema)
    parts = [NOTE, STUDY_INTRODUCTION, *_section("", "Study", schema, homes)]
    return "\n".join(parts).rstrip() + "\n"


def commands() -> str:
    """The page of commands."""
    group: Any = typer.main.get_command(app)
    parts = [NOTE, COMMANDS_INTRODUCTION, _command("medstill", group)]
    parts += [_command(name, found) for name, found in _below("medstill", group)]
    return "\n".join(parts).rstrip() + "\n"


def _below(name: str, group: Any) -> Iterator[tuple[str, Any]]:
    for below, command in group.commands.items():
        yield f"{name} {below}", command
        if hasattr(command, "commands"):
            yield from _below(f"{name} {below}", command)


PAGES = {"study-file.md": study_file, "commands.md": commands}


def docstrings(record: str) -> dict[str, str]:
    """Key -> the text below it in the source of a record of `config`, or of one it extends."""
    bases = [one.__name__ for one in getattr(config, record).__bases__ if one is not Record]
    inherited = {key: text for base in bases for key, text in docstrings(base).items()}
    tree = ast.parse(inspect.getsource(config))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == record)
    found = inherited
    for node, after in zip(body, [*body[1:], None], strict=True):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Constant):
            found[ast.unparse(node.target)] = " ".join(str(text.value).split())
    return found


def _homes(schema: Mapping[str, Any]) -> dict[str, str]:
    """Record -> the path of keys under which it is explained: the shortest one."""
    homes: dict[str, str] = {}
    open_paths = [("", "Study")]
    while open_paths:
        path, record = open_paths.pop(0)
        if record not in homes:
            homes[record] = path
            open_paths += list(_records_below(path, _definition(schema, record)))
    return homes


def _definition(schema: Mapping[str, Any], record: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = schema if record == "Study" else schema["$defs"][record]
    return found


def _records_below(path: str, definition: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, entry in definition["properties"].items():
        below = f"{path}.{key}" if path else key
        if "$ref" in entry:
            yield below, _name(entry)
        elif "$ref" in _element(entry):
            sign = "[]" if entry.get("type") == "array" else ".*"
            yield below + sign, _name(_element(entry))


def _element(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = entry.get("items", entry.get("additionalProperties", {}))
    return inner if isinstance(inner, dict) else {}


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["$ref"]).rsplit("/", 1)[-1]


def _section(
    path: str, record: str, schema: Mapping[str, Any], homes: Mapping[str, str]
) -> Iterator[str]:
    yield f"## {f'`{path}`' if path else 'The study'}\n"
    if homes[record] != path:
        yield f"The same keys and defaults as [`{homes[record]}`](#{_anchor(homes[record])}).\n"
        return
    definition = _definition(schema, record)
    yield f"{definition.get('description', '')}\n"
    yield "| key | values | default | meaning |\n|---|---|---|---|"
    texts = docstrings(record)
    for key, entry in definition["properties"].items():
        row = [f"`{key}`", _shown(record, key, entry), _default(record, key), texts[key]]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""
    for below, inner in _records_below(path, definition):
        yield from _section(below, inner, schema, homes)


def _anchor(path: str) -> str:
    return "".join(sign for sign in path.lower() if sign.isalnum() or sign in "_-")


def _shown(record: str, key: str, entry: Mapping[str, Any]) -> str:
    return ", ".join(f"`{n}`" for n in NAMES.get((record, key), ())) or _values(entry)


def _default(record: str, key: str) -> str:
    field = getattr(config, record).model_fields[key]
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, Record):
        return "see below"
    return f"`{json.dumps(_plain(field.default), ensure_ascii=False)}`"


def _plain(value: Any) -> Any:
    """Plain data that say what a default sets; what a record leaves out is its own default."""
    if isinstance(value, Record):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _values(entry: Mapping[str, Any]) -> str:
    if "$ref" in entry:
        return "a record"
    if "anyOf" in entry:
        return " or ".join(_values(one) for one in entry["anyOf"])
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    kind = entry.get("type")
    if kind == "array":
        return _list(entry)
    if kind == "object":
        inner = _element(entry)
        what = "a record" if "$ref" in inner else _values(inner) if inner else "anything"
        return f"names, each with {what}"
    names = {"number": "number", "integer": "whole number", "string": "text"}
    names |= {"boolean": "`true`, `false`", "null": "none"}
    if "const" in entry:
        return f"`{entry['const']}`"
    return names[str(kind)] + _limits(entry)


def _list(entry: Mapping[str, Any]) -> str:
    if "prefixItems" in entry:
        return "[" + ", ".join(_values(one) for one in entry["prefixItems"]) + "]"
    inner = _element(entry)
    return "list of records" if "$ref" in inner else f"list of {_values(inner)}"


def _limits(entry: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {entry[key]:g}" for key, sign in signs.items() if key in entry]
    return f" {', '.join(parts)}" if parts else ""


def _command(name: str, command: Any) -> str:
    shown = [one for one in command.params if one.name != "help"]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    usage = [name, *([] if not options else ["[OPTIONS]"]), *map(_argument, arguments)]
    usage += ["COMMAND"] if hasattr(command, "commands") else []
    lines = [f"## {name}\n", f"{inspect.cleandoc(command.help or '')}\n"]
    lines += [f"    {' '.join(usage)}\n"]
    lines += ["| | | default |\n|---|---|---|"] if shown else []
    lines += [_row(f"`{_argument(one)}`", one) for one in arguments]
    lines += [_row(_option(one), one) for one in options]
    return "\n".join(lines) + "\n"


def _argument(parameter: Any) -> str:
    name = parameter.metavar or str(parameter.name).upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
    if parameter.is_flag:
        return ", ".join(names)
    value = parameter.metavar or KINDS[parameter.type_descriptor.annotation]
    return f"{', '.join(names)} {value}"


def _row(what: str, parameter: Any) -> str:
    default = getattr(parameter, "default", None)
    if parameter.required:
        shown = "required"
    elif isinstance(default, bool) and parameter.secondary_opts:
        shown = f"`{(parameter.opts if default else parameter.secondary_opts)[0]}`"
    else:
        shown = "" if default is None or isinstance(default, bool) else f"`{default}`"
    more = " Can be repeated." if parameter.multiple else ""
    return f"| {what} | {parameter.help or ''}{more} | {shown} |".replace("  ", " ")


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
