"""The student leaves: export to one file, and prediction from it without PyTorch."""

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.deploy.contract import Contract, NetworkSummary, Origin, Scores
    from medstill.deploy.export import ExportReport, export_onnx
    from medstill.deploy.predict import CaseResult, Model, PredictOptions, predict_path
    from medstill.deploy.prepared import map_prepared, segment_prepared
    from medstill.deploy.runtime import OnnxModel, load_model
    from medstill.deploy.segmentation import Network, Segmentation, segment

__all__ = [
    "CaseResult",
    "Contract",
    "ExportReport",
    "Model",
    "Network",
    "NetworkSummary",
    "OnnxModel",
    "Origin",
    "PredictOptions",
    "Scores",
    "Segmentation",
    "export_onnx",
    "load_model",
    "map_prepared",
    "predict_path",
    "segment",
    "segment_prepared",
]

_HOMES = {
    "contract": ("Contract", "NetworkSummary", "Origin", "Scores"),
    "export": ("ExportReport", "export_onnx"),
    "predict": ("CaseResult", "Model", "PredictOptions", "predict_path"),
    "prepared": ("map_prepared", "segment_prepared"),
    "runtime": ("OnnxModel", "load_model"),
    "segmentation": ("Network", "Segmentation", "segment"),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
