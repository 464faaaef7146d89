"""Numbers and names as every table and page prints them."""

from __future__ import annotations

LEAST_P = 0.001
_MOST_DIGITS = 8


def p_text(p: float, confidence: float = 0.95) -> str:
    """A p-value, with as many digits as it takes to see that it is below one minus the confidence.

    >>> p_text(0.0312), p_text(0.0004), p_text(0.0497), p_text(0.05)
    ('0.031', '< 0.001', '0.0497', '0.050')
    """
    if p < LEAST_P:
        return f"< {LEAST_P}"
    # 1 - 0.95 is a little more than 0.05.
    alpha = round(1 - confidence, 12)
    texts = (f"{p:.{digits}f}" for digits in range(3, _MOST_DIGITS + 1))
    return next((text for text in texts if (float(text) < alpha) == (p < alpha)), f"< {alpha:g}")


def percent(share: float) -> str:
    """A share in percent, without digits that say nothing.

    >>> percent(0.95), percent(0.975), percent(0.995)
    ('95%', '97.5%', '99.5%')
    """
    return f"{100 * share:g}%"


def plain(text: object) -> str:
    """A text that can stand in a line or a table of Markdown and is no HTML there.

    >>> plain("a | b\\n <c>")
    'a / b &lt;c>'
    """
    return " ".join(str(text).split()).replace("|", "/").replace("<", "&lt;")
