"""What associations sent of a series, and what of it may be missing: functions without a disk."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from medstill.node.states import Arrival

RACE_S: Final = 0.5
"""A sender's new association may be seen so long before the end of the one that it aborted."""


@dataclass(eq=False)
class Session:
    """What one association has sent.

    Attributes:
        begun_s: When it began, on the clock of the arrivals.
        last_s: When its last instance came.
        stored: How many instances were acknowledged, repeats included.
        refused: How many were not.
        names: Series -> the instances of it that were acknowledged.
        lacking: Instance that was refused and has not been taken in since -> its series, None where
            that is not known.
    """

    begun_s: float
    last_s: float = -float("inf")
    stored: int = 0
    refused: int = 0
    names: dict[str, set[str]] = field(default_factory=dict)
    lacking: dict[str, str | None] = field(default_factory=dict)

    def note(self, series: str, name: str, now: float) -> None:
        """An instance was acknowledged."""
        self.names.setdefault(series, set()).add(name)
        self.lacking.pop(name, None)
        self.last_s = now
        self.stored += 1

    def refuse(self, series: str | None, name: str) -> None:
        """An instance was not; it may be of any of the session's series where that is not known."""
        self.lacking[name] = series
        self.refused += 1

    def series(self) -> set[str]:
        """All series that it sent some of, or tried to."""
        return {*self.names, *(one for one in self.lacking.values() if one is not None)}

    def lacks(self, series: str) -> set[str]:
        """The refused instances that are, or may be, of a series."""
        return {name for name, one in self.lacking.items() if one is None or one == series}


@dataclass
class Loss:
    """What a session may have left out of a series.

    Attributes:
        noticed_s: When its end was noticed.
        last_s: When its last instance came.
        broken: Whether it ended without a release, so that nobody knows what it still had to send.
        names: What it had sent of the series.
        lacking: What was refused of it and has not come since.
    """

    noticed_s: float
    last_s: float
    broken: bool
    names: frozenset[str]
    lacking: set[str]


def loss_of(session: Session, series: str, *, released: bool, now: float) -> Loss | None:
    """What a session that ends may have left out of a series; None: nothing.

    Args:
        session: The association.
        series: A series of it.
        released: Whether it ended by a release.
        now: The time at which the end was noticed.
    """
    lacking = session.lacks(series)
    if released and not lacking:
        return None
    names = frozenset(session.names.get(series, ()))
    return Loss(now, session.last_s, not released, names, lacking)


def is_healed(loss: Loss, by: Session, names: AbstractSet[str]) -> bool:
    """Whether nothing of a loss is left after a session that was released.

    What was refused must have come. What broke off is made good by a session that began after its
    end; where that was noticed late, by one that began after its last instance and sent all that
    it had sent.

    Args:
        loss: What may be missing.
        by: A session that was released.
        names: What `by` sent of the series.
    """
    if loss.lacking:
        return False
    if not loss.broken or by.begun_s > loss.noticed_s:
        return True
    if by.begun_s <= loss.last_s:
        return False  # both sent at the same time: each had a part
    return loss.names <= names or loss.noticed_s - by.begun_s <= RACE_S


def why_abandoned(arrival: Arrival, losses: Sequence[Loss], abandon_s: float) -> str:
    """Why a series was given up, and what to do.

    Args:
        arrival: What was known of it.
        losses: What may be missing of it; none after a restart of the node.
        abandon_s: How long nothing has come.
    """
    refused = len(set().union(*(one.lacking for one in losses)))
    causes = []
    if arrival.lacking:
        causes.append(
            "more of it came after it was done and its images deleted, and "
            f"{arrival.lacking} of the instances that it had have not come again"
        )
    if arrival.expected is not None and arrival.instances < arrival.expected:
        causes.append(
            f"its headers say that it has {arrival.expected} instances (0020,1209), and "
            f"{arrival.instances} came"
        )
    if refused:
        causes.append(f"{refused} of the instances sent with it were refused (the log says why)")
    if any(one.broken for one in losses):
        causes.append(
            "an association that sent some of it ended without a release: it was aborted, its line "
            "was lost, or it was idle for longer than network_s"
        )
    if not causes:
        causes.append("the node ended while it came in")
    return (
        f"The series is not complete: {'; '.join(causes)}. Nothing came for {abandon_s:g} s. "
        "Send the whole series again.\n"
    )
