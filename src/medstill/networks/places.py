"""Where a network in 8-bit integers rounds, read from the sequence of its operations.

The same rules are applied to what PyTorch runs and to the graph that it is exported to, so that
both give the same places in the same order. They are those of onnxruntime's static quantisation:
inputs and outputs of convolutions and concatenations are rounded; of a convolution that is
followed by an activation alone, the activation's output; what pooling gives is rounded already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["conv", "norm", "relu", "pool", "concat", "other"]
"""`conv`: not the transposed ones; `pool`: the greatest value; `other`: computed in float."""

Value = Hashable
"""A tensor on its way through a network, by number or name."""


@dataclass(frozen=True)
class Operation:
    """One step of a network: the values that it takes, weights left out, and the one it gives."""

    kind: Kind
    inputs: tuple[Value, ...]
    output: Value


def with_folded_norms(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The same with each norm as a part of the convolution before it, as an export folds them."""
    consumers = _consumers(operations)
    folded: list[Operation] = []
    for one in operations:
        last = folded[-1] if folded else None
        if (
            one.kind == "norm"
            and last is not None
            and one.inputs[:1] == (last.output,)
            and len(consumers[last.output]) == 1
            and last.kind == "conv"
        ):
            folded[-1] = replace(last, output=one.output)
        else:
            folded.append(one)
    return tuple(folded)


def rounded(operations: Sequence[Operation]) -> tuple[Value, ...]:
    """The values that are rounded to 8 bits, in the order in which they are met."""
    consumers = _consumers(operations)
    found: dict[Value, None] = {}
    fused: set[Value] = set()
    pooled: set[Value] = set()
    for one in operations:
        met: tuple[Value, ...] = ()
        if one.kind == "conv":
            met = (*one.inputs, one.output)
            if consumers[one.output] == ["relu"]:
                fused.add(one.output)
        elif one.kind == "concat":
            met = (*one.inputs, one.output)
        elif one.kind == "relu" and one.inputs[0] in {*found, *fused}:
            met = (one.output,)
        elif one.kind == "pool" and one.inputs[0] in {*found, *pooled}:
            pooled.add(one.output)
        found.update(dict.fromkeys(value for value in met if value not in {*fused, *pooled}))
    return tuple(found)


def _consumers(operations: Sequence[Operation]) -> dict[Value, list[Kind]]:
    found: dict[Value, list[Kind]] = defaultdict(list)
    for one in operations:
        for value in one.inputs:
            found[value].append(one.kind)
    return found
