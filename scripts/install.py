"""Install what the Makefile needs into the running interpreter, at the pinned versions."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {"runtime": ("train", "report", "dicom"), "dev": ("dev", "monai")}
BUILD = ("hatchling",)


def requirements(group: str) -> list[str]:
    """The project's dependencies and those of the group's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"], *BUILD] if group == "runtime" else []
    for extra in GROUPS[group]:
        found += extras[extra]
    return found


def main() -> None:
    """Install one group: `runtime` or `dev`."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *requirements(sys.argv[1])]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
