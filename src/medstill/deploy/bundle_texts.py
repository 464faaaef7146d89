"""What a MONAI bundle says about itself: its metadata, README and licence notice."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata as packages
from typing import Any, Final

from medstill.deploy.contract import Contract, Scores
from medstill.deploy.verification import FileAgreement
from medstill.printed import percent
from medstill.volumes.records import Preparation

SCHEMA: Final = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
VERSION: Final = "1.0.0"

LICENCE: Final = """\
The files in 'configs' and 'docs' were written by medstill, whose licence is Apache-2.0:
https://www.apache.org/licenses/LICENSE-2.0

The weights in 'models' belong to whoever trained them, on data with terms of their own. No licence
for them is granted here: ask who gave you this folder, or write the licence into this file if it
is you who passes it on.

Research use only, not a medical device.
"""


def bundle_metadata(contract: Contract, files: FileAgreement | None) -> dict[str, Any]:
    """All of `configs/metadata.json`.

    Args:
        contract: Of the network; it is kept whole under `medstill`.
        files: What was found from file to file; None if it was not tried.
    """
    preparation = contract.preparation
    classes = _numbered(preparation.classes)
    name, structures = contract.network.name, ", ".join(preparation.classes[1:])
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported by medstill {contract.medstill_version}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {"nibabel": _version("nibabel")},
        "name": f"{name}: {structures}",
        "task": f"Segmentation of {structures}",
        "description": (
            f"{name} with {contract.network.parameters} parameters, a {preparation.spatial_dims}-D "
            f"network trained and exported with medstill. Training {contract.training.study}, "
            f"weights {contract.training.weights}."
        ),
        "authors": "not recorded",
        "copyright": "not recorded; see LICENSE",
        "data_type": "nibabel",
        "image_classes": "one channel, prepared as configs/inference.json says",
        "pred_classes": ", ".join(f"{value} {label}" for value, label in classes.items()),
        "eval_metrics": {} if contract.scores is None else _metrics(contract.scores),
        "intended_use": contract.intended_use,
        "network_data_format": _data_format(contract),
        "spacing_xyz_mm": list(preparation.spacing_zyx_mm[::-1]),
        "labels": [
            {"value": value, "name": label, **term.model_dump(mode="json")}
            for value, (label, term) in enumerate(
                zip(preparation.classes[1:], contract.terms, strict=True), start=1
            )
        ],
        "medstill": {
            "contract": contract.model_dump(mode="json"),
            "from_file_to_file": None if files is None else asdict(files),
        },
    }


def readme(contract: Contract, files: FileAgreement | None) -> str:
    """All of `docs/README.md`."""
    preparation = contract.preparation
    parts = [
        f"# {', '.join(preparation.classes[1:])}: {contract.network.name}",
        contract.intended_use,
        _how_to_run(),
        "## Labels\n\n" + _table(("value", "class"), _numbered(preparation.classes).items()),
        "## Preparation\n\n" + _preparation(preparation),
        "## Scores\n\n" + _scores(contract.scores),
        "## Verification\n\n" + _verified(contract, files),
    ]
    return "\n\n".join(parts) + "\n"


def _how_to_run() -> str:
    return """\
## How to run it

In the folder of the bundle, with NIfTI files of one channel in `images`:

```sh
pip install monai nibabel fire
python -m monai.bundle run --config_file configs/inference.json
```

The label maps come to `labels`, under the names of the images and in their geometry.
`--dataset_dir DIR --output_dir DIR` name other folders, `--bundle_root DIR` is for another working
folder, `--device cpu` computes without a graphics card. The item `evaluator`, for programs that ask
for it, needs pytorch-ignite as well."""


def _preparation(preparation: Preparation) -> str:
    spacing = ", ".join(
        "as it is" if step is None else f"{step:g} mm" for step in preparation.spacing_zyx_mm[::-1]
    )
    how = preparation.intensity[0]
    scaled = {
        "ct-window": f"{how.low:g} to {how.high:g} become 0 to 1",
        "percentiles": f"percentiles {how.low:g} and {how.high:g} of each scan become 0 and 1",
    }.get(how.kind, "as they are")
    patch = " x ".join(str(edge) for edge in preparation.patch_zyx[::-1])
    return (
        f"LPS axes; intensities: {scaled}; spacing (x, y, z): {spacing}; patches (x, y, z) of "
        f"{patch}. Axes that become coarser are smoothed first. All of it is in "
        "`configs/inference.json`."
    )


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return "The training had no test patients, or they were not scored."
    text = (
        f"Mean Dice over {scores.patients} test patients: {scores.dice:.3f} "
        f"({percent(scores.confidence)} interval {scores.low:.3f} to {scores.high:.3f})."
    )
    rows = [(name, f"{dice:.3f}") for name, dice in scores.dice_by_class.items()]
    return f"{text}\n\n{_table(('class', 'Dice'), rows)}"


def _verified(contract: Contract, files: FileAgreement | None) -> str:
    found = contract.verification
    if found is None or files is None:
        return "Not verified: nobody knows whether it agrees with the network in PyTorch."
    return (
        f"On {found.cases} validation patients, in MONAI {_version('monai')}: the network gives "
        f"the labels of PyTorch at {found.label_agreement:.4%} of {found.voxels} voxels (mean Dice "
        f"{found.dice:.4f} against {found.dice_pytorch:.4f}). From file to file, on scans made of "
        f"them with another grid and other axes, MONAI gives medstill's labels at "
        f"{files.label_agreement:.4%} of {files.voxels} voxels (mean Dice {files.dice:.4f} against "
        f"{files.dice_medstill:.4f})."
    )


def _metrics(scores: Scores) -> dict[str, Any]:
    return {
        "mean_dice": scores.dice,
        "mean_dice_low": scores.low,
        "mean_dice_high": scores.high,
        "confidence": scores.confidence,
        "test_patients": scores.patients,
    }


def _data_format(contract: Contract) -> dict[str, Any]:
    preparation = contract.preparation
    kind = preparation.intensity[0].kind
    is_ct, one = kind == "ct-window", contract.output_channels == 1
    patch = list(preparation.patch_zyx[::-1])[: preparation.spatial_dims]
    classes = _numbered(preparation.classes)
    return {
        "inputs": {
            "image": {
                "type": "image",
                "format": "hounsfield" if is_ct else "magnitude",
                "modality": "CT" if is_ct else "n/a",
                "num_channels": preparation.channels,
                "spatial_shape": patch,
                "dtype": "float32",
                "value_range": [] if kind == "none" else [0, 1],
                "is_patch_data": True,
                "channel_def": {"0": "image"},
            }
        },
        "outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation" if one else "labels",
                "num_channels": contract.output_channels,
                "spatial_shape": patch,
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": True,
                "channel_def": {"0": preparation.classes[1]} if one else classes,
            }
        },
        "post_processed_outputs": {
            "pred": {
                "type": "image",
                "format": "segmentation",
                "num_channels": 1,
                "spatial_shape": ["*", "*", "*"],
                "dtype": "uint8",
                "value_range": [0, len(classes) - 1],
                "is_patch_data": False,
                "channel_def": classes,
            }
        },
    }


def _numbered(classes: tuple[str, ...]) -> dict[str, str]:
    return {str(value): name for value, name in enumerate(classes)}


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {first} | {second} |" for first, second in (head, ("---", "---"), *rows)]
    return "\n".join(lines)


def _version(package: str) -> str:
    # A build, such as +cpu, is no version that others could ask for.
    return packages.version(package).split("+")[0]
