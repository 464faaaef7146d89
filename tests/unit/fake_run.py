"""A finished run folder without any training: blurred copies of the truth stand in for networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medstill.config import (
    DistillationConfig,
    EvaluationConfig,
    SplitConfig,
    StudentConfig,
    Study,
)
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.comparison import Entry, summarise
from medstill.evaluation.scores import CaseScore, ModelScores, save_scores, score_case
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.runs import open_run, write_json
from medstill.volumes.io import write_image
from medstill.volumes.pictures import picture_of
from medstill.volumes.records import ChannelIntensity, Preparation, Split

SPACING_ZYX = (3.0, 2.0, 1.0)
ERRORS = {
    "teacher": 0.08,
    "control": 0.3,
    "distilled": 0.22,
    "all-labels": 0.15,
    "pseudo-labels": 0.25,
}
PARAMETERS = {"unet-t1": 43_236_036, "compact": 57_010, "unet-s1": 57_297}


class FakeRun:
    """Builds a run folder; `orientation` is the one that scans and predictions are stored in."""

    def __init__(
        self,
        folder: Path,
        *,
        size_zyx: tuple[int, int, int] = (17, 23, 31),
        classes: tuple[str, ...] = ("spleen", "left kidney"),
        students: tuple[str, ...] = ("compact",),
        patients: int = 4,
        first: int = 0,
        label_fraction: float = 0.5,
        seeds: tuple[int, ...] = (0, 1),
        orientation: str = "RAI",
        kind: str = "ct-window",
        references: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.size_zyx, self.classes = folder, size_zyx, classes
        self.orientation = orientation
        self.cases = tuple(f"case_{index:03d}" for index in range(first, first + patients))
        self.study = Study(
            name="fake-study",
            label_fraction=label_fraction,
            seeds=seeds,
            students=tuple(StudentConfig(name=name) for name in students),
            split=SplitConfig(kind="fractions"),
            distillation=DistillationConfig(unlabelled_batch=2),
            references=references,
            evaluation=EvaluationConfig(resamples=99),
        )
        channels = 3 if kind == "colour" else 1
        self.preparation = Preparation(
            spatial_dims=2,
            spacing_zyx_mm=(None, 2.0, 1.0),
            intensity=(ChannelIntensity(kind=kind, low=-160.0, high=240.0),) * channels,
            classes=("background", *classes),
            patch_zyx=(1, 16, 16),
        )

    def build(self) -> FakeRun:
        """Write everything that the stages of the pipeline write."""
        self.claim()
        write_json(
            self.folder / "prepared" / "preparation.json", self.preparation.model_dump(mode="json")
        )
        write_json(
            self.folder / "prepared" / "skipped.json",
            [{"id": "case_900", "reason": "'/home/somebody/scans/case_900.nii.gz' is cut off."}],
        )
        entries: list[Entry] = []
        for ref in (TEACHER, *student_refs(self.study)):
            collapsed = ("left kidney",) if ref.name.endswith("control/seed-1") else ()
            self._training(ref, [name for name in collapsed if name in self.classes])
            entries += self._scores(ref, collapsed)
        summary = summarise(entries, self.study.evaluation)
        write_json(self.folder / "comparison.json", summary.model_dump(mode="json"))
        for case in self.cases:
            path = self.folder / "gallery" / f"{case}.npz"
            path.parent.mkdir(exist_ok=True)
            picture = picture_of(self.image(case), self.truth(case), self.preparation)
            np.savez_compressed(path, **picture)
        return self

    def claim(self) -> FakeRun:
        """Write what a preparation leaves: whose folder it is, and who does what."""
        open_run(self.folder, self.study)
        self._split()
        return self

    def truth_ZYX(self, case: str) -> np.ndarray[Any, Any]:
        """Truth in the LPS frame: ellipsoids at the right front, no two cases alike."""
        number = self.cases.index(case)
        grid = np.meshgrid(*[np.linspace(0, 1, n) for n in self.size_zyx], indexing="ij")
        truth_ZYX = np.zeros(self.size_zyx, np.uint8)
        for value in range(1, len(self.classes) + 1):
            centre = (0.3 + 0.03 * number, 0.25 + 0.14 * (value - 1), 0.25 + 0.2 * (value - 1))
            radius = (0.25, 0.13, 0.14 + 0.01 * number)
            parts = zip(grid, centre, radius, strict=True)
            distance = sum(((axis - c) / r) ** 2 for axis, c, r in parts)
            truth_ZYX[(distance < 1) & (truth_ZYX == 0)] = value
        return truth_ZYX

    def predicted_ZYX(self, ref: ModelRef, case: str) -> np.ndarray[Any, Any]:
        """The truth moved and worn, more so for worse networks."""
        truth_ZYX = self.truth_ZYX(case)
        number = self.cases.index(case)
        rng = np.random.default_rng((number, ref.seed, len(ref.arm)))
        noise = sitk.GetImageFromArray(rng.normal(size=self.size_zyx).astype(np.float32))
        smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(noise, 1.5))
        level = np.quantile(smooth, ERRORS[ref.arm] * (0.5 + number / len(self.cases)))
        worn = np.where(smooth > level, truth_ZYX, 0)
        shift = 0 if ref.arm == "teacher" else 1 + number % 2 * (ref.arm == "control")
        return np.roll(worn, shift, axis=2).astype(np.uint8)

    def stored(self, array_ZYX: np.ndarray[Any, Any]) -> sitk.Image:
        """An array of the LPS frame as an image in the orientation of the files."""
        image = sitk.GetImageFromArray(array_ZYX, isVector=array_ZYX.ndim == 4)
        image.SetSpacing(SPACING_ZYX[::-1])
        return sitk.DICOMOrient(image, self.orientation)

    def image(self, case: str) -> sitk.Image:
        """A scan in which the structures differ a little from what is around them."""
        rng = np.random.default_rng(self.cases.index(case))
        truth_ZYX = self.truth_ZYX(case)
        grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in self.size_zyx[1:]], indexing="ij")
        body_YX = (grid[0] / 0.85) ** 2 + (grid[1] / 0.95) ** 2 < 1
        image_ZYX = np.where(body_YX, 40.0, -1000.0) + 60.0 * truth_ZYX
        image_ZYX = image_ZYX + rng.normal(0, 12, self.size_zyx)
        if len(self.preparation.intensity) == 3:
            gray = np.clip(image_ZYX, 0, 255).astype(np.uint8)
            return self.stored(np.stack([gray, gray // 2, gray // 3], axis=-1))
        return self.stored(image_ZYX.astype(np.int16))

    def truth(self, case: str) -> sitk.Image:
        """The truth in the orientation of the files."""
        return self.stored(self.truth_ZYX(case))

    def _split(self) -> None:
        others = [f"case_{index:03d}" for index in range(100, 110)]
        split = Split(
            train=tuple(others[:8]),
            validation=tuple(others[8:]),
            test=self.cases,
            student=tuple(others[: round(8 * self.study.label_fraction)]),
            patients={case: case for case in (*others, *self.cases)},
            data_hash="0123456789abcdef",
        )
        write_json(self.folder / "split.json", split.model_dump(mode="json"))

    def _training(self, ref: ModelRef, collapsed: list[str]) -> None:
        name = ref.student or self.study.teacher.network.name
        facts = {
            "name": name,
            "spatial_dims": 2,
            "parameters": PARAMETERS[name],
            "macs": 2_400_000_000 if not ref.student else 110_000_000,
            "size": [16, 16],
            "receptive_field": {"size": [188, 188], "lower_bound": not ref.student},
            "size_multiple": 16,
        }
        rng = np.random.default_rng((len(ref.arm), ref.seed))
        top = 1 - ERRORS[ref.arm]
        history = []
        for index in range(1, 9):
            dice = top * (1 - np.exp(-index / 2)) + rng.normal(0, 0.01)
            losses = {"train/segmentation": 1.2 * np.exp(-index / 3), "train/total": 1 / index}
            if ref.arm == "distilled":
                losses |= {"train/map_kl": 0.4 / index, "train/feature_B_supcon": 3 - 0.2 * index}
            if ref == TEACHER:
                losses["train/reconstruction"] = 0.05 / index
            history.append(
                {
                    "step": 500 * index,
                    "dice": float(dice),
                    "dice_by_class": dict.fromkeys(self.classes, float(dice)),
                    "losses": {key: float(value) for key, value in losses.items()},
                    "data_wait_share": 0.02,
                    "steps_per_s": 3.5,
                }
            )
        best = max(history, key=lambda entry: entry["dice"])
        result = {
            "best_step": best["step"],
            "best_dice": best["dice"],
            "collapsed": collapsed,
            "weights": "fedcba9876543210",
            "facts": facts,
        }
        folder = ref.folder(self.folder)
        write_json(folder / "history.json", history)
        write_json(folder / "stage.json", {"finished": True, "hash": "", "result": result})

    def _scores(self, ref: ModelRef, collapsed: tuple[str, ...]) -> list[Entry]:
        test = ref.folder(self.folder) / "test"
        cases: list[CaseScore] = []
        for case in self.cases:
            found_ZYX = self.predicted_ZYX(ref, case)
            write_image(self.stored(found_ZYX), test / "predictions" / f"{case}.nii.gz")
            truth_ZYX = self.truth_ZYX(case)
            cases.append(
                score_case(truth_ZYX, found_ZYX, SPACING_ZYX, self.classes, case=case, patient=case)
            )
        scores = ModelScores(model=ref.name, cases=tuple(cases), nsd_tolerance_mm=2.0)
        save_scores(scores, test / "scores.json")
        if ref == TEACHER:
            rows = [{"case": case, "psnr_db": 31.5, "ssim": 0.951} for case in self.cases]
            write_json(test / "reconstruction.json", rows)
        arms = [ref.arm]
        if ref.arm in FILTERED:
            arms.append(FILTERED[ref.arm])
        return [
            Entry.model_validate(
                {
                    "student": ref.student or self.study.teacher.network.name,
                    "arm": arm,
                    "seed": ref.seed,
                    "scores": scores,
                    "collapsed": collapsed,
                }
            )
            for arm in arms
        ]
