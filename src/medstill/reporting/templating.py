"""Pages and texts from the templates beside the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medstill import printed
from medstill.errors import require
from medstill.reporting import wording
from medstill.reporting.overlays import colour_of
from medstill.runs import atomic

FILTERS = {
    "fixed": wording.fixed,
    "spread": wording.spread,
    "quantity": wording.quantity,
    "percent": wording.percent,
    "plural": wording.plural,
    "p_text": printed.p_text,
    "plain": printed.plain,
    "teachers": wording.teachers,
    "gain_text": wording.change_text,
    "interval_text": wording.interval_text,
    "arm_name": wording.arm_name,
    "class_colour": colour_of,
}


def filled(template: str, content: Mapping[str, Any]) -> str:
    """A template with its content.

    Args:
        template: Name of a file in `templates`; what goes into HTML is escaped, into Markdown not.
        content: All that the template shows, by name; what is missing is an error.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medstill", "reporting/templates"),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(FILTERS)
    text: str = environment.get_template(template).render(**content)
    return text


def write_text(path: Path, text: str) -> Path:
    """Write a page or a text, all or nothing.

    Raises:
        StorageError: It cannot be written.
    """
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path
