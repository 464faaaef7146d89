"""The predict path must run on the core install alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "pytorch_lightning", "scipy", "matplotlib", "jinja2", "onnx", "PIL")


def imported_by(statement):
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import medstill.deploy.predict",
        "import medstill.deploy.runtime",
        "from medstill.deploy import load_model, predict_path, segment",
    ],
)
def test_nothing_heavy_is_imported(statement):
    modules = imported_by(statement)
    assert "medstill.deploy.contract" in modules
    assert sorted(modules.intersection(HEAVY)) == []


def test_the_check_sees_what_is_imported():
    assert "onnx" in imported_by("import onnx")
