"""Search for bytes that the reader of exported files cannot cope with, guided by coverage.

    pip install atheris
    python scripts/fuzz_metadata.py MODEL.onnx [FOLDER] -max_total_time=600

MODEL.onnx is where the search begins, without its weights: libFuzzer cuts what is longer than
64 KiB, and a file that is cut is refused at once. Inputs that begin with a brace are read as the
contract inside a file, since few changes of a whole file leave its lengths intact. FOLDER keeps
inputs that reached new code. Any answer but a contract or a `ModelFileError` is a find, as is one
that takes more than 10 seconds or 2 GB. Further options are those of libFuzzer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

try:
    import atheris
except ModuleNotFoundError:
    sys.exit(
        "This needs the package 'atheris', which is not installed. "
        "Install it with: pip install atheris"
    )

with atheris.instrument_imports(include=["medstill.deploy", "medstill.config"]):
    from medstill.deploy.contract import METADATA_KEY, read_contract
    from medstill.deploy.digest import GRAPH_KEY
    from medstill.deploy.metadata import contract_in, text_of
    from medstill.errors import ModelFileError

NAME = Path("fuzzed.onnx")
LONGEST = 65536
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", f"-max_len={LONGEST}")


def look(content: bytes) -> None:
    """Read bytes as a file, or as the contract in one; our own refusal alone is accepted."""
    try:
        if content.startswith(b"{"):
            read_contract({METADATA_KEY: content.decode(errors="replace")}, NAME)
        else:
            contract_in(text_of(content, NAME), NAME)
    except ModelFileError as error:
        if not str(error).isprintable():
            raise RuntimeError("a message with control characters") from error


def without_weights(path: Path) -> bytes:
    """A file with one value in place of each array of its network, which the reader takes.

    It has no checksum either: no change would get past it.
    """
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key != GRAPH_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for entry in model.graph.initializer:
        one = np.zeros(1, numpy_helper.to_array(entry).dtype)
        entry.CopyFrom(numpy_helper.from_array(one, entry.name))
    content: bytes = model.SerializeToString()
    if len(content) > LONGEST:
        sys.exit(
            f"'{path}' has {len(content)} bytes without its weights, more than {LONGEST}. "
            "Give a smaller model, such as one of a small U-Net."
        )
    try:
        contract_in(text_of(content, NAME), NAME)
    except ModelFileError as error:
        sys.exit(f"'{path}' is refused itself, so the search would end at its beginning: {error}")
    return content


def main() -> None:
    """Fuzz from a copy of the given file, and from its contract."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"Expected an exported file to begin with.\n{__doc__}")
    seed, *others = sys.argv[1:]
    with tempfile.TemporaryDirectory() as beginning:
        content = without_weights(Path(seed))
        (Path(beginning) / "file").write_bytes(content)
        contract = text_of(content, NAME).metadata[METADATA_KEY]
        (Path(beginning) / "contract").write_text(contract, encoding="utf-8")
        folders = [text for text in others if not text.startswith("-")]
        options = [text for text in others if text.startswith("-")]
        for folder in folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *LIMITS, *options, *folders, beginning], look)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
