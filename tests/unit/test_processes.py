"""Scripts that worker processes read again."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from medstill.volumes.phantom import write_phantom
{guard}    write_phantom(Path({out!r}), patients=2, size_zyx=(8, 48, 48), workers=2)
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_needs_a_guard_and_is_told_so(tmp_path, guarded):
    script = tmp_path / "script.py"
    guard = "if __name__ == '__main__':\n" if guarded else "if True:\n"
    script.write_text(SCRIPT.format(guard=guard, out=str(tmp_path / "data")))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode == 0) == guarded, done.stderr
    asked = "put the lines that call medstill under `if __name__ == '__main__':`"
    assert (asked in done.stderr) != guarded
    assert len(list(tmp_path.rglob("*.nii.gz"))) == (4 if guarded else 0)
