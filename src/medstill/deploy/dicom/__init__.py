"""A label map as DICOM objects that stand beside the images that it was made from.

It needs the extra `dicom` (pydicom and highdicom), which is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from medstill.errors import require
from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.deploy.dicom.seg import write_seg

__all__ = ["write_seg"]

_HOMES = {"write_seg": "seg"}
_find = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOMES.items()})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("highdicom", "dicom")
    return _find(name)
