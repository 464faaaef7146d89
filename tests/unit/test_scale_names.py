"""A feature term's scale may be called as anything, also as what torch keeps for itself."""

import pytest
import torch

from medstill.config import DistillationConfig, FeatureTermConfig
from medstill.losses import Objective

NAMES = ["encoder.blocks.2", "keys", "values", "type", "forward", "decoder 1"]


@pytest.mark.parametrize("scale", NAMES)
def test_a_scale_may_have_any_name(scale):
    term = FeatureTermConfig(loss="mse")
    objective = Objective(
        DistillationConfig(features={scale: term, "B": term}),
        classes=2,
        spatial_dims=2,
        student_channels={scale: 3, "B": 4},
        teacher_channels={scale: 5, "B": 6},
    )
    generator = torch.Generator().manual_seed(0)
    maps = {n: torch.rand((2, n, 4, 4), generator=generator) for n in (2, 3, 4, 5, 6)}
    objective.fit_embeddings([{scale: maps[5], "B": maps[6]}])
    terms = objective(
        maps[2],
        torch.zeros(2, 4, 4, dtype=torch.long),
        student_features={scale: maps[3], "B": maps[4]},
        teacher_logits_BC=maps[2],
        teacher_features={scale: maps[5], "B": maps[6]},
        generator=generator,
    )
    assert terms[f"{scale}/mse"].item() > 0
    # Under the plain name where that can be: so it stands in checkpoints of earlier editions.
    modules = {name.split(".")[1] for name in objective.state_dict()}
    assert "B" in modules
    assert (scale in modules) == (scale == "decoder 1")
