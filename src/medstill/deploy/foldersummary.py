"""What a folder of predictions says of itself: by which model, how, of what, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from medstill.config import Record
from medstill.deploy.cases import CaseResult, PredictOptions
from medstill.deploy.contract import Contract
from medstill.deploy.files import Job
from medstill.errors import RunError
from medstill.lock import in_turn
from medstill.runs import read_json, write_json
from medstill.storage import storage_errors

SUMMARY_FILE: Final = "volumes.json"
"""Written into the output folder of a folder of files."""


class InputFile(Record):
    """What tells that an image is still the one that was segmented."""

    name: str
    size: int
    modified_ns: int


class KnownCase(Record):
    """A case that an earlier or this call has dealt with.

    `files` are the names of the outputs that were made together: what else lies beside the label
    file may come from another image or model.
    """

    case: str
    inputs: tuple[InputFile, ...]
    files: tuple[str, ...] = ()
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    error: str | None

    @property
    def is_made(self) -> bool:
        """Whether its label file was made by this model; one that was left alone has no volumes."""
        return self.error is None and bool(self.volumes_ml)


class _Content(Record):
    """The file. Cases go by the name of their label file: `a.nii.gz` and `a.mha` are both `a`."""

    model: dict[str, Any]
    options: dict[str, Any]
    cases: dict[str, KnownCase]


class FolderSummary:
    """The summary of one output folder, written anew with each result.

    Several processes may predict into one folder, each a part of the images: what the others have
    noted meanwhile is kept.
    """

    def __init__(self, folder: Path, contract: Contract, options: PredictOptions) -> None:
        self._path = folder / SUMMARY_FILE
        self._model = {
            "network": contract.network.name,
            "study_hash": contract.training.study,
            "weights_hash": contract.training.weights,
            "precision": contract.precision,
            "tuning": contract.tuning and contract.tuning.model_dump(mode="json"),
            "intended_use": contract.intended_use,
        }
        self._options = {
            "overlap": contract.overlap if options.overlap is None else options.overlap,
            "mirror": options.mirror,
            "largest_component": options.largest_component,
        }
        self._classes = contract.preparation.classes
        self._cases: dict[str, KnownCase] = {}

    def open(self, *, overwrite: bool) -> None:
        """Claim the folder, and take over what it knows of finished cases.

        Raises:
            RunError: It holds predictions of another model or of other options, or its summary is
                damaged; not with `overwrite`.
            StorageError: It cannot be written.
        """
        folder = self._path.parent
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with in_turn(folder):
            try:
                self._cases = self._there()
            except RunError:
                if not overwrite:
                    raise
            self._write()

    def known(self, job: Job) -> KnownCase | None:
        """What is known of a case, its error included.

        Raises:
            RunError: The folder has become another model's, or its summary is damaged.
        """
        name = job.output.name
        return self._cases[name] if name in self._cases else self._there().get(name)

    def in_order(self, volumes_ml: Mapping[str, float]) -> dict[str, float]:
        """Volumes by class in the order of the classes, which the file does not keep."""
        return {name: volumes_ml[name] for name in self._classes if name in volumes_ml}

    def add(self, job: Job, result: CaseResult) -> None:
        """Note a result; of a case whose labels were left as they were nothing changes.

        Raises:
            RunError: The folder has become another model's, or its summary is damaged.
            StorageError: It cannot be written.
        """
        name = job.output.name
        before = self._cases.get(name)
        failed = result.error is not None
        if before and (result.skipped or (failed and before.is_made and job.output.exists())):
            return
        noted = KnownCase(
            case=result.case,
            inputs=input_files(job),
            files=() if failed else tuple(path.name for path in job.outputs),
            volumes_ml=result.volumes_ml,
            warnings=result.warnings,
            error=result.error,
        )
        with in_turn(self._path.parent):
            # Where nobody waits, an entry may have been lost: what is known here comes back.
            self._cases = {**self._cases, **self._there(), name: noted}
            self._write()

    def _there(self) -> dict[str, KnownCase]:
        """The cases that the folder knows by now."""
        if not self._path.exists():
            return {}
        found = self._read()
        self._demand_equal("another model", found.model, self._model)
        self._demand_equal("other options", found.options, self._options)
        return found.cases

    def _read(self) -> _Content:
        try:
            return _Content.model_validate(read_json(self._path))
        except ValidationError as error:
            raise RunError(
                f"'{self._path}' does not say which model made the labels beside it: it is damaged "
                "or of another version of medstill. Choose another folder, or allow the labels to "
                "be replaced (--overwrite)."
            ) from error

    def _demand_equal(self, of: str, there: dict[str, Any], asked: dict[str, Any]) -> None:
        differ = [
            f"{key} {there.get(key)} there and {value} now"
            for key, value in asked.items()
            if there.get(key) != value
        ]
        if differ:
            raise RunError(
                f"'{self._path.parent}' holds predictions of {of} ({'; '.join(differ)}). Choose "
                "another folder, or allow them to be replaced (--overwrite)."
            )

    def _write(self) -> None:
        content = _Content(model=self._model, options=self._options, cases=self._cases)
        write_json(self._path, content.model_dump(mode="json"))


def input_files(job: Job) -> tuple[InputFile, ...]:
    """Name, size and time of the images of a case, of those that are there."""
    return tuple(
        InputFile(name=path.name, size=about.st_size, modified_ns=about.st_mtime_ns)
        for path in job.inputs
        if path.exists()
        for about in [path.stat()]
    )
