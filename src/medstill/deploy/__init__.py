"""The student leaves: export to one file, and prediction from it without PyTorch."""

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.deploy.cases import CaseResult, PredictOptions
    from medstill.deploy.contract import Contract, NetworkSummary, Origin, Scores, Tuning
    from medstill.deploy.export import (
        Evidence,
        ExportOptions,
        ExportReport,
        Tuned,
        export_onnx,
    )
    from medstill.deploy.formats import check_target, export_network
    from medstill.deploy.metadata import ModelText, contract_in, read_metadata
    from medstill.deploy.predict import predict_path
    from medstill.deploy.prepared import map_prepared, segment_prepared
    from medstill.deploy.runtime import OnnxModel, load_model
    from medstill.deploy.segmentation import Network, Segmentation, SegmentOptions, segment
    from medstill.deploy.segmenter import Model, Segmenter
    from medstill.deploy.verification import Trial

__all__ = [
    "CaseResult",
    "Contract",
    "Evidence",
    "ExportOptions",
    "ExportReport",
    "Model",
    "ModelText",
    "Network",
    "NetworkSummary",
    "OnnxModel",
    "Origin",
    "PredictOptions",
    "Scores",
    "SegmentOptions",
    "Segmentation",
    "Segmenter",
    "Trial",
    "Tuned",
    "Tuning",
    "check_target",
    "contract_in",
    "export_network",
    "export_onnx",
    "load_model",
    "map_prepared",
    "predict_path",
    "read_metadata",
    "segment",
    "segment_prepared",
]

_HOMES = {
    "contract": ("Contract", "NetworkSummary", "Origin", "Scores", "Tuning"),
    "export": ("Evidence", "ExportOptions", "ExportReport", "Tuned", "export_onnx"),
    "formats": ("check_target", "export_network"),
    "metadata": ("ModelText", "contract_in", "read_metadata"),
    "cases": ("CaseResult", "PredictOptions"),
    "predict": ("predict_path",),
    "prepared": ("map_prepared", "segment_prepared"),
    "runtime": ("OnnxModel", "load_model"),
    "segmenter": ("Model", "Segmenter"),
    "segmentation": ("Network", "Segmentation", "SegmentOptions", "segment"),
    "verification": ("Trial",),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
