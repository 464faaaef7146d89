"""A label map as DICOM objects that stand beside the images that it was made from.

It needs the extra `dicom` (pydicom and highdicom), which is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from medstill.errors import require
from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.deploy.dicom.capture import write_capture
    from medstill.deploy.dicom.rtstruct import write_rtstruct
    from medstill.deploy.dicom.seg import write_seg

__all__ = ["write_capture", "write_rtstruct", "write_seg"]

_HOMES = {"write_capture": "capture", "write_rtstruct": "rtstruct", "write_seg": "seg"}
_find = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOMES.items()})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("highdicom", "dicom")
    return _find(name)
