"""A network that was loaded once and segments whatever it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.deploy.calls import Float32Array
from medstill.deploy.contract import Contract
from medstill.deploy.devices import CPU
from medstill.deploy.files import scan_files
from medstill.deploy.given import demand_array, scan_of_array, scan_of_image
from medstill.deploy.runtime import load_model
from medstill.deploy.segmentation import Segmentation, SegmentOptions, segment
from medstill.deploy.stopwatch import Stopwatch
from medstill.errors import ConfigError, GeometryError
from medstill.volumes.arriving import Arriving, opened


class Model(Protocol):
    """A network with its contract: an exported file, or a network of a run folder."""

    @property
    def contract(self) -> Contract:
        """How images become its input and its output becomes labels."""
        ...

    def __call__(self, array: Float32Array, /) -> Float32Array:
        """Logits of a batch of prepared patches."""
        ...


class Segmenter:
    """Segments images, one after the other or from several threads at a time.

    It keeps nothing of an image, so the same image always gives the same labels.

    Attributes:
        model: The network with its contract.
        options: How images are segmented.
    """

    def __init__(  # noqa: PLR0913  # all that a user may choose, in one place
        self,
        model: Path | str | Model,
        *,
        threads: int | None = None,
        device: str = CPU,
        overlap: float | None = None,
        batch_size: int = 2,
        mirror: bool = False,
        largest_component: bool = False,
        keep_probabilities: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: An exported file, or a model that is loaded already.
            threads: Threads to compute with; None takes all cores. Only for a file.
            device: `cpu`, or another device of the installed onnxruntime. Only for a file.
            overlap: Share of a patch by which neighbours overlap; None takes the contract's.
            batch_size: Patches of one network call.
            mirror: Average over mirror images; see `SegmentOptions`.
            largest_component: Keep only the largest connected component of each class.
            keep_probabilities: Give the class probabilities as well.

        Raises:
            ModelFileError: The file is not ours or damaged.
            ConfigError: It is neither, the device is not available, or a number is out of its
                range.
        """
        if not (isinstance(model, str | Path) or hasattr(model, "contract")):
            raise ConfigError(
                f"Expected an exported file or a loaded model, got {type(model).__name__}. Give "
                "the path of the file that 'medstill export' wrote."
            )
        if isinstance(model, str | Path):
            model = load_model(model, threads=threads, device=device)
        elif threads is not None or device != CPU:
            raise ConfigError(
                "Expected a model file where threads or device are chosen, got a loaded model, "
                "which has them already. Leave both out, or give the file."
            )
        self.model = model
        self.options = SegmentOptions(
            overlap=model.contract.overlap if overlap is None else overlap,
            batch_size=batch_size,
            mirror=mirror,
            largest_component=largest_component,
            keep_probabilities=keep_probabilities,
            # A PyTorch network has threads of its own, and none is promised to take two calls.
            workers=getattr(model, "calls", 1),
        )

    @property
    def contract(self) -> Contract:
        """How images become labels, and where the network comes from."""
        return self.model.contract

    def __call__(
        self,
        image: Path | str | sitk.Image | NDArray[Any],
        *,
        spacing_zyx_mm: tuple[float, float, float] | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: A file or a DICOM folder, of a channel file `CASE_0000` the other channels are
                found beside it; an image, 3-D, one component a channel; or raw values
                as an array `(Z, Y, X)`, or `(C, Z, Y, X)` for a model of several channels, whose z
                grows to the head, y to the back and x to the left of the patient (LPS).
            spacing_zyx_mm: Distance of neighbouring voxels; for an array, and only for it.

        Raises:
            DataError: The file cannot be read, or has other channels than the model.
            GeometryError: An array has no spacing, or an image that has one is given another.
            IntensityError: The image or array holds something else than finite numbers.
            ShapeError: The array has other axes, or no voxels.
        """
        has_grid = isinstance(image, Path | str | sitk.Image)
        if not has_grid:
            demand_array(image)
        if has_grid == (spacing_zyx_mm is not None):
            raise GeometryError(
                "Expected spacing_zyx_mm (in mm) with an array and only with it: an image has its "
                f"own. Got {type(image).__name__} and spacing_zyx_mm={spacing_zyx_mm}."
            )
        channels = self.contract.preparation.channels
        if isinstance(image, Path | str):
            return self.files(scan_files(Path(image), channels))
        if isinstance(image, sitk.Image):
            return self.scan(scan_of_image(image))
        return self.scan(scan_of_array(image, channels, spacing_zyx_mm))

    def files(self, paths: Sequence[Path]) -> Segmentation:
        """Segment one scan, one file a channel; reading goes on beside the network.

        Raises:
            DataError: A file cannot be read, or there are other channels than the model's.
        """
        with opened(paths) as scan:
            return self.scan(scan)

    def scan(self, scan: Arriving, watch: Stopwatch | None = None) -> Segmentation:
        """Segment a scan that may still be arriving; `watch` counts the phases of `segment`.

        Raises:
            DataError: See `files`.
        """
        return segment(scan, self.model, self.contract.preparation, self.options, watch)
