"""What is written about medstill must be true of it, as far as a machine can tell."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

import medstill
from medstill.cli import app
from medstill.config import content_hash
from medstill.errors import ConfigError
from medstill.study.gridfile import load_grid, parse_grid
from medstill.study.points import expand
from medstill.studyfile import load_study, parse_study, read_yaml
from medstill.training import check_networks
from medstill.volumes.preparation import resolve_preparation
from medstill.volumes.records import Dataset

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
STUDIES = sorted(ROOT.glob("studies/*.yaml"))
GROUP = typer.main.get_command(app)
COMMANDS = {
    f"{name} {below}".strip(): command
    for name, found in GROUP.commands.items()
    for below, command in {"": found, **getattr(found, "commands", {})}.items()
}
"""Every command, such as `run` and `study run`."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\[[^\]]+\]\(([^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:work|tmp|home|root|mnt|Users|private)\b|[A-Z]:\\")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
every_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)


def fences(text, *languages):
    return [block for language, block in FENCE.findall(text) if language in languages]


def fenced_commands(text):
    """The arguments of every `medstill ...` line in a block for the shell."""
    joined = "\n".join(fences(text, "", "bash", "sh", "shell", "console")).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if re.search(r"\bmedstill\b", line)]
    return [line[1:] for line in words if line and line[0].rsplit("/", 1)[-1] == "medstill"]


def mentioned_commands(text):
    """The words behind `medstill` in inline code."""
    return [found.split() for found in re.findall(r"`medstill ([a-z-][^`\n]*)`", text)]


def options_of(name):
    options = (p for p in COMMANDS[name].params if p.param_type_name == "option")
    return {opt for p in options for opt in (*p.opts, *p.secondary_opts)} | {"--help"}


def command_of(words):
    """The command that words begin with, and the rest of them; `-v` stands before it."""
    words = words[1:] if words[0] in ("-v", "--verbose") else words
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    name = " ".join(words[:length])
    assert name in COMMANDS, f"there is no command {name}"
    return name, words[length:]


def check_command(words):
    """Parse a command as the shell would give it, and check the study file that it names."""
    if words in (["--help"], ["--version"]):
        return
    name, rest = command_of(words)
    values = COMMANDS[name].make_context(name, list(rest)).params
    load = load_grid if name.startswith("study ") else load_study
    if "study_file" in values and (ROOT / values["study_file"]).exists():
        load(ROOT / values["study_file"], values["overrides"] or ())
    elif "study_file" in values:
        assert values["study_file"].parent.name != "studies", f"{values['study_file']} is missing"


def slugs(path):
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def draft_of(study):
    """The preparation of a study for imagined data that have its labels and modality."""
    sources = study.data.labels or {"foreground": ("foreground",)}
    names = ["background", *(name for merged in sources.values() for name in merged)]
    modality = "ct" if study.data.modality == "auto" else study.data.modality
    labels = {name: value for value, name in enumerate(names)}
    dataset = Dataset(Path("imagined"), "decathlon", (modality,), labels, None, ())
    return resolve_preparation(dataset, study.data, [(1.0, 1.0, 1.0)])


def check_study(study):
    check_networks(study, draft_of(study))


def studies_in(content, source):
    """The study that a file describes, or those of its runs."""
    if "base" not in content:
        return [parse_study(content, source=source)]
    base = content["base"]
    if isinstance(base, str):
        base = {k: v for k, v in read_yaml(ROOT / "studies" / base).items() if k != "name"}
    return [point.study for point in expand(parse_grid({**content, "base": base}, source=source))]


def studies_of(path):
    """The study in a file, or those of its runs."""
    if "base" not in read_yaml(path):
        return [load_study(path)]
    return [point.study for point in expand(load_grid(path))]


@pytest.fixture(scope="module")
def writer():
    path = ROOT / "scripts" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["study-file.md", "commands.md"])
def test_the_reference_is_what_the_code_says(writer, name):
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    message = "write it anew: python scripts/write_reference.py"
    assert committed == writer.PAGES[name](), message


def test_every_key_and_every_option_is_explained(writer):
    rows = [row for row in writer.study_file().splitlines() if row.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == []
    explained = writer.commands()
    options = {option for name in COMMANDS for option in options_of(name) - {"--help"}}
    assert sorted(option for option in options if f"`{option}`" not in explained) == []
    assert all(p.help for command in COMMANDS.values() for p in command.params if p.name != "help")


@every_page
def test_commands_are_such_as_there_are(page):
    text = page.read_text(encoding="utf-8")
    for words in fenced_commands(text):
        check_command(words)
    for words in mentioned_commands(text):
        if words[0].startswith("--"):
            continue
        name, rest = command_of(words)
        asked = {word.split("=")[0] for word in rest if word.startswith("-")}
        assert asked <= options_of(name)


@every_page
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(fences(text, "", "bash", "sh", "shell", "console"))
    asked = re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)
    assert {*asked, *re.findall(r"`make ([a-z-]+)", text)} <= targets


@every_page
def test_study_examples_are_valid(page):
    for block in fences(page.read_text(encoding="utf-8"), "yaml"):
        content = yaml.safe_load(block)
        for study in studies_in({"name": "example", **content}, f"{page.name}:\n{block}"):
            check_study(study)


@every_page
def test_python_examples_use_public_names(page):
    for block in fences(page.read_text(encoding="utf-8"), "python"):
        used = {
            node.attr
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "medstill"
        }
        assert used <= set(medstill.__all__)


@every_page
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in slugs(target), f"{link}: no such heading"


@every_page
def test_no_place_of_one_machine_is_named(page):
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


def test_the_drawn_house_is_the_one_that_is_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(
        c["layers"] for c in project["tool"]["importlinter"]["contracts"] if "layers" in c
    )
    drawn = fences((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), "text")[0]
    assert drawn.split("\n")[:-1] == [layer.replace("medstill.", "") for layer in layers]


def test_the_results_page_is_what_the_results_say():
    path = ROOT / "scripts" / "write_results.py"
    spec = importlib.util.spec_from_file_location("write_results", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == script.page(), "write it anew: python scripts/write_results.py"
    assert script.stale() == [], "tables of these: python scripts/write_results.py"


@every_study
def test_study_files_are_valid_and_their_names_known(path):
    # Runs that differ in patients or recipe alone have the same networks and losses to check.
    parts = {"data", "teacher", "students", "distillation"}
    different = {
        content_hash(study.model_dump(mode="json", include=parts)): study
        for study in studies_of(path)
    }
    for study in different.values():
        check_study(study)


def test_the_citation_is_valid():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    assert content["version"] == importlib.metadata.version("medstill")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("medstill run studies/smallest.yaml --data d", "out"),
        ("medstill predict model.onnx in out --no-such", "No such option"),
        ("medstill run studies/smallest.yaml --data d --out o --set training.step=3", "step"),
    ],
)
def test_a_wrong_command_is_found(block, message):
    (words,) = fenced_commands(f"```sh\n{block}\n```\n")
    with pytest.raises(Exception, match=message):
        check_command(words)


def test_a_command_over_two_lines_is_one():
    text = "```sh\n.venv/bin/medstill run a.yaml --data d \\\n    --out o  # new\nmake test\n```\n"
    assert fenced_commands(text) == [["run", "a.yaml", "--data", "d", "--out", "o"]]


def test_a_wrong_layer_in_an_example_is_found():
    term = {"loss": "supcon", "teacher_layer": "encoder.bottlenek"}
    study = parse_study({"name": "example", "distillation": {"features": {"B": term}}})
    with pytest.raises(ConfigError, match=r"encoder\.bottleneck"):
        check_study(study)


def test_a_place_of_one_machine_is_found():
    found = ["see /home/me/data", "`/tmp/x`", "C:\\data"]
    assert all(MACHINE_PATH.search(text) for text in found)
    assert not any(MACHINE_PATH.search(text) for text in ("a/tmp/b", "data/home", "and/or"))
