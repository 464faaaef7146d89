"""What the node does with a series: read it, segment it, write a DICOM segmentation."""

from __future__ import annotations

from pathlib import Path

from medstill.node.work import Handle


def segmenting(model: Path, *, threads: int | None = None) -> Handle:
    """A function that segments the one series in a folder into a DICOM SEG.

    Args:
        model: An exported file.
        threads: Threads of the model; None: all cores.

    Raises:
        ModelFileError: The model is not ours or damaged.
    """
    from medstill.deploy.dicom import write_seg
    from medstill.deploy.segmenter import Segmenter
    from medstill.volumes.dicom import choose_series, read_series
    from medstill.volumes.io import check_values

    segmenter = Segmenter(model, threads=threads)

    def handle(folder: Path, result: Path) -> tuple[str, ...]:
        found = read_series(choose_series(folder, None))
        check_values(found.image, folder)
        segmented = segmenter(found.image)
        write_seg(segmented.label, found.sources, segmenter.contract, result)
        return segmented.warnings

    return handle
