"""Search for bytes that the reader of exported files cannot cope with, guided by coverage.

    pip install atheris
    python scripts/fuzz_metadata.py MODEL.onnx [FOLDER] -max_total_time=600

MODEL.onnx is where the search begins; FOLDER keeps inputs that reached new code. Any answer but a
`ModelText` or a `ModelFileError` is a find, as is one that takes more than 10 seconds or 2 GB.
Further options are those of libFuzzer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ModuleNotFoundError:
    sys.exit(
        "This needs the package 'atheris', which is not installed. "
        "Install it with: pip install atheris"
    )

with atheris.instrument_imports(include=["medstill.deploy", "medstill.config"]):
    from medstill.deploy.metadata import contract_in, text_of
    from medstill.errors import ModelFileError

NAME = Path("fuzzed.onnx")
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=65536")


def look(content: bytes) -> None:
    """Read bytes as a model file; only our own refusal is an accepted failure."""
    try:
        contract_in(text_of(content, NAME), NAME)
    except ModelFileError as error:
        if not str(error).isprintable():
            raise RuntimeError("a message with control characters") from error


def main() -> None:
    """Fuzz from a copy of the given file."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"Expected an exported file to begin with.\n{__doc__}")
    seed, *others = sys.argv[1:]
    with tempfile.TemporaryDirectory() as beginning:
        (Path(beginning) / "seed").write_bytes(Path(seed).read_bytes())
        folders = [text for text in others if not text.startswith("-")]
        options = [text for text in others if text.startswith("-")]
        for folder in folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *LIMITS, *options, *folders, beginning], look)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
