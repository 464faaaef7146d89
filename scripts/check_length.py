"""Fail when a Python file has more than 300 lines and its first line gives no reason.

The reason stands in a first line such as `# long: one table of 400 rows`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMIT = 300
ROOT = Path(__file__).resolve().parent.parent


def too_long(path: Path) -> int | None:
    """The number of lines of a file that is too long without a reason, else None."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) <= LIMIT or lines[0].startswith("# long: "):
        return None
    return len(lines)


def main() -> None:
    """Check every Python file that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    wrong = {path: count for path in paths if path.exists() and (count := too_long(path))}
    for path, count in wrong.items():
        sys.stderr.write(f"{path.relative_to(ROOT)}: {count} lines, at most {LIMIT}\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
