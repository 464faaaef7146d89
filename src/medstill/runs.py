"""Run folders: atomic writes, stages that are recognised when finished, the manifest, the log."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from medstill.config import NOT_DECIDING, Study, content_hash, deciding, study_hash
from medstill.errors import RunError
from medstill.storage import storage_errors

STAGE_FILE = "stage.json"
MANIFEST_FILE = "manifest.json"
LOCK_FILE = "lock"
"""It stays; the operating system knows whether a process holds it (`medstill.lock`)."""
DRAFT_PREFIX = ".partial-"
"""Folders of this prefix hold what is being written; a killed writer leaves its own behind."""

VERSIONED = ("medstill", "numpy", "SimpleITK", "torch", "pytorch-lightning", "monai", "onnxruntime")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` that replaces it when the block ends well.

    The temporary name keeps the suffixes, since writers choose the format by them.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=path.parent))
        try:
            draft = scratch / path.name
            yield draft
            draft.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends well."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=path.parent))
        try:
            draft = scratch / path.name
            draft.mkdir()
            yield draft
            if path.exists():
                path.replace(scratch / "replaced")
            draft.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def sweep(drafts: Iterable[Path]) -> None:
    """Remove folders of drafts that a killed writer left behind."""
    for draft in list(drafts):
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Any, *, sort_keys: bool = True) -> None:
    """Write plain data as JSON, all or nothing."""
    with atomic(path) as draft:
        text = json.dumps(content, indent=1, sort_keys=sort_keys)
        draft.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            f"'{path}' cannot be read ({error.strerror}). Is this the folder of a medstill run, "
            "and has the stage that writes it finished?"
        ) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def read_rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Read JSON that is a list of objects.

    Raises:
        RunError: The file is missing or damaged.
    """
    content = read_json(path)
    if not (isinstance(content, list) and all(isinstance(row, dict) for row in content)):
        raise _damaged(path, "expected a list of objects, found something else")
    return tuple(content)


def _damaged(path: Path, found: str) -> RunError:
    return RunError(f"'{path}' is damaged ({found}). Delete its folder and repeat the command.")


@dataclass(frozen=True)
class Stage:
    """A part of a run with a folder of its own, recognised by the hash of all that decides it."""

    folder: Path
    key: Mapping[str, Any]

    def finished(self) -> bool:
        """Whether the stage was finished with the same key.

        Raises:
            RunError: The folder holds the same stage of another study, or is damaged.
        """
        if not (self.folder / STAGE_FILE).exists():
            return False
        found = read_stage(self.folder)
        if found.get("hash") == content_hash(dict(self.key)):
            return bool(found.get("finished"))
        raise RunError(
            f"'{self.folder}' belongs to another study: {_difference(found.get('key'), self.key)}. "
            "Choose another output folder, or delete this one to compute it anew."
        )

    def begin(self) -> None:
        """Claim the folder for this key, and sweep what a killed writer left in it."""
        if not self.finished():
            sweep(self.folder.rglob(DRAFT_PREFIX + "*"))
            self._write(finished=False, result={})

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """Mark the stage as finished and keep its small result."""
        self._write(finished=True, result=result or {})

    def result(self) -> dict[str, Any]:
        """The small result kept by `finish`."""
        return dict(read_stage(self.folder)["result"])

    def _write(self, *, finished: bool, result: Mapping[str, Any]) -> None:
        key = json.loads(json.dumps(dict(self.key), default=str))
        content = {"hash": content_hash(dict(self.key)), "key": key}
        write_json(
            self.folder / STAGE_FILE, {**content, "finished": finished, "result": dict(result)}
        )


def is_finished(folder: Path) -> bool:
    """Whether the stage of a folder is finished, whatever decided it."""
    return (folder / STAGE_FILE).exists() and bool(read_stage(folder).get("finished"))


def read_stage(folder: Path) -> dict[str, Any]:
    """What `stage.json` of a folder says: `hash`, `key`, `finished` and `result`.

    Raises:
        RunError: The file is missing or damaged.
    """
    content = read_json(folder / STAGE_FILE)
    if not (isinstance(content, dict) and isinstance(content.get("result"), dict)):
        raise _damaged(folder / STAGE_FILE, "expected an object with a result, got another")
    return content


def _difference(found: Any, asked: Mapping[str, Any]) -> str:
    old = dict(_leaves(found or {}))
    new = dict(_leaves(json.loads(json.dumps(dict(asked), default=str))))
    parts = [
        f"{key} is {old.get(key)!r} there and {new.get(key)!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    more = f" (and {len(parts) - 3} more)" if len(parts) > 3 else ""
    return "; ".join(parts[:3]) + more


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


UNCLAIMED = (
    *("prepared", "prepared.link", "split.json", "medstill.log", "failure.json"),
    *(MANIFEST_FILE, LOCK_FILE),
)
"""What a preparation may leave in a folder that no study has claimed yet."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check_run(folder: Path, study: Study) -> bool:
    """Whether `folder` is already this study's; a new folder, or one it may become, is not yet.

    A preparation that failed leaves its cases behind and claims nothing, so that the study may be
    corrected.

    Raises:
        RunError: The folder belongs to another study or to something else.
    """
    known = Stage(folder, _run_key(study)).finished()
    strange = [
        entry
        for entry in _entries(folder)
        if entry.name not in UNCLAIMED and not entry.name.startswith(DRAFT_PREFIX)
    ]
    if not known and strange:
        raise RunError(
            f"'{folder}' is not empty and holds no medstill run. Choose a new output folder."
        )
    return known


def open_run(folder: Path, study: Study) -> None:
    """Claim `folder` for a study, or find that it is already that study's.

    Raises:
        RunError: The folder belongs to another study or to something else.
    """
    known = check_run(folder, study)
    sweep(folder.glob(DRAFT_PREFIX + "*"))
    write_json(
        folder / MANIFEST_FILE,
        {
            "study": study.model_dump(mode="json"),
            "study_hash": study_hash(study),
            "versions": versions(),
        },
    )
    if not known:
        Stage(folder, _run_key(study)).finish()


def _run_key(study: Study) -> dict[str, Any]:
    return {"study": deciding(study, NOT_DECIDING)}


def _entries(folder: Path) -> list[Path]:
    if folder.exists() and not folder.is_dir():
        raise RunError(
            f"Expected a folder to write into, found the file '{folder}'. Choose another."
        )
    return list(folder.iterdir()) if folder.exists() else []


def read_study(folder: Path) -> Study:
    """The study of a run folder.

    Raises:
        RunError: The folder holds no run, or is damaged.
    """
    content = read_json(folder / MANIFEST_FILE)
    try:
        return Study.model_validate(content["study"])
    except (TypeError, LookupError) as error:
        raise _damaged(folder / MANIFEST_FILE, "expected an object with a study") from error


LOG_FORMAT = "%(levelname)s: %(message)s"
"""Of the log on the terminal."""


def is_log_shown() -> bool:
    """Whether the log of this process was asked for (`medstill --verbose`)."""
    return logging.getLogger("medstill").isEnabledFor(logging.INFO)


def log_to(path: Path) -> logging.Handler:
    """Send the package's log to a file as well; close the handler when done."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("medstill")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler
