"""Texts that people complete by hand: what they wrote is never written over."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from medstill.reporting.templating import write_text

logger = logging.getLogger(__name__)

_MARK = re.compile(r"\n<!-- Written by medstill: ([0-9a-f]{16})\. .* -->\n?\Z")


def write_unless_edited(path: Path, text: str) -> Path:
    """Write a generated text, beside its file where a person has changed that.

    The last line of the file is a comment with the hash of what was generated. A file whose text
    has another hash, or that lost the comment, was changed by a person.

    Args:
        path: Such as `compact.claim.md`; beside it means `compact.claim.new.md`.
        text: What is generated now.

    Returns:
        The file with the text; a changed one as it is, where it was begun from this text.

    Raises:
        StorageError: It cannot be written.
    """
    hashed, target = _hash(text), path
    if path.exists():
        kept, begun_from = _parts(path)
        if kept != text and _hash(kept) != begun_from:
            if begun_from == hashed:
                return path
            target = path.with_name(f"{path.stem}.new{path.suffix}")
            logger.warning(
                "'%s' was changed by hand and stays as it is. What the run says now is in '%s': "
                "take over what you need, and its last line.",
                path,
                target.name,
            )
    comment = f"<!-- Written by medstill: {hashed}. Once changed, it is never written over. -->"
    return write_text(target, f"{text}\n{comment}\n")


def _parts(path: Path) -> tuple[str, str]:
    """The text of a file, and the hash that its last line holds, or an empty one."""
    content = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(content)
    return (content[: mark.start()], mark.group(1)) if mark else (content, "")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
