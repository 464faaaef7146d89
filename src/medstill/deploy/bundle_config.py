"""The inference of a contract in MONAI's words: the content of a bundle's `configs/inference.json`.

Arrays in MONAI have the axes C X Y Z.
"""

from __future__ import annotations

from typing import Any, Final

from medstill.deploy.bundle_expressions import GRID, PERCENTILES, SMOOTHING, TILING
from medstill.deploy.contract import Contract
from medstill.errors import ModelFileError
from medstill.patches.grid import SIGMA_SHARE
from medstill.volumes.gridsize import SAME_SPACING
from medstill.volumes.records import ChannelIntensity, Preparation

Config = dict[str, Any]

MODEL_FILE: Final = "model.ts"
BATCH: Final = 8
"""Patches of one network call."""


def inference_config(contract: Contract) -> Config:
    """All of `configs/inference.json`.

    Raises:
        ModelFileError: The preparation cannot be said in MONAI's words.
    """
    preparation = contract.preparation
    demand_expressible(preparation)
    return {
        "imports": ["$import glob", "$import math"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": (
            "$sorted(glob.glob(@dataset_dir + '/*.nii') + glob.glob(@dataset_dir + '/*.nii.gz'))"
        ),
        "network_def": (
            f"$torch.jit.load(@bundle_root + '/models/{MODEL_FILE}', map_location='cpu')"
        ),
        "network": "$@network_def.to(@device).eval()",
        "spacing_mm": [0.0 if step is None else step for step in preparation.spacing_zyx_mm[::-1]],
        "same_spacing": SAME_SPACING,
        **GRID,
        **SMOOTHING,
        **_scaling(preparation.intensity[0]),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [*_loading(preparation.intensity[0]), *_resampling()],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        **_tiling(contract),
        "postprocessing": {"_target_": "Compose", "transforms": _restoring(contract)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "predict": (
            "$torch.no_grad()(lambda case: @inferer(case['image'][None].to(@device), @network)[0])"
        ),
        "segment": "$lambda case: @postprocessing({**case, 'pred': @predict(case)})",
        "run": ["$[@segment(case)['image'].meta['filename_or_obj'] for case in @dataset]"],
    }


def demand_expressible(preparation: Preparation) -> None:
    """Refuse what MONAI cannot prepare from a NIfTI file.

    Raises:
        ModelFileError: The images are pictures, have several channels, or are cropped.
    """
    wrong = []
    if preparation.channels != 1:
        wrong.append(f"images of one channel, this network takes {preparation.channels}")
    kinds = {one.kind for one in preparation.intensity} - set(_SCALINGS)
    if kinds:
        wrong.append(
            f"intensities of the kinds {', '.join(_SCALINGS)}, found {', '.join(sorted(kinds))}"
        )
    if preparation.crop_to_body:
        wrong.append("whole scans, this network was trained with data.crop_to_body")
    if wrong:
        raise ModelFileError(
            f"A MONAI bundle takes {'; and '.join(wrong)}. Leave the format at 'onnx'."
        )


def _scaling(intensity: ChannelIntensity) -> Config:
    if intensity.kind != "percentiles":
        return {}
    return {"percentiles": [intensity.low, intensity.high], **PERCENTILES}


def _window(intensity: ChannelIntensity) -> list[Config]:
    return [
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": intensity.low,
            "a_max": intensity.high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        }
    ]


def _by_percentiles(_: ChannelIntensity) -> list[Config]:
    return [{"_target_": "Lambdad", "keys": "image", "func": "@scale"}]


def _unscaled(_: ChannelIntensity) -> list[Config]:
    return []


_SCALINGS: Final = {
    "ct-window": _window,
    "percentiles": _by_percentiles,
    "none": _unscaled,
}
"""Kind of intensity -> the transforms that scale it."""


def _loading(intensity: ChannelIntensity) -> list[Config]:
    return [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
        },
        {
            "_target_": "Orientationd",
            "keys": "image",
            "axcodes": "LPS",
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
        *_SCALINGS[intensity.kind](intensity),
    ]


def _resampling() -> list[Config | str]:
    return [
        "$lambda case: {**case, 'grid': @grid(case['image'], @factors(case['image']))}",
        {
            "_target_": "Lambdad",
            "keys": "image",
            "func": "$lambda image: @smooth(image, @factors(image))",
        },
        {
            "_target_": "ResampleToMatchd",
            "keys": "image",
            "key_dst": "grid",
            "mode": "bilinear",
            "padding_mode": "border",
        },
    ]


def _tiling(contract: Contract) -> Config:
    preparation = contract.preparation
    patch_xyz = list(preparation.patch_zyx[::-1])
    on_slices = "lambda patches: network(patches[..., 0])[..., None]"
    return {
        "patch": patch_xyz,
        "sigma_share": SIGMA_SHARE,
        "strides": [max(1, int(round(edge * (1.0 - contract.overlap), 6))) for edge in patch_xyz],
        **TILING,
        "inferer": (
            "$lambda inputs, network, *others, **named: monai.inferers.sliding_window_inference("
            f"inputs, @patch, {BATCH}, "
            f"{on_slices if preparation.spatial_dims == 2 else 'network'}, "
            "@overlaps(inputs.shape[2:]), roi_weight_map=@weights, padding_mode='constant', "
            f"cval={preparation.pad_value})"
        ),
    }


def _restoring(contract: Contract) -> list[Config]:
    one = contract.output_channels == 1
    return [
        {
            "_target_": "Activationsd",
            "keys": "pred",
            **({"sigmoid": True} if one else {"softmax": True}),
        },
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        {
            "_target_": "AsDiscreted",
            "keys": "pred",
            **({"threshold": 0.5} if one else {"argmax": True}),
        },
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "",
            "output_dtype": "uint8",
            "separate_folder": False,
        },
    ]
