"""Teacher and student networks, what they cost, and taps on their layers."""

from medstill.networks.encoder_decoder import without_reconstruction
from medstill.networks.ensemble import Ensemble, mean_logits
from medstill.networks.facts import (
    NetworkFacts,
    ReceptiveField,
    describe,
    macs,
    parameters,
    receptive_field,
)
from medstill.networks.fake_quantised import FakeQuantised
from medstill.networks.output import Output, run
from medstill.networks.places import Operation, rounded
from medstill.networks.prior import head_bias, names_its_head, set_prior
from medstill.networks.request import Request, request_of
from medstill.networks.sizes import check_size, size_multiple
from medstill.networks.table import (
    NETWORKS,
    SCALES,
    build,
    can_reconstruct,
    check_name,
    design_key,
    known_names,
)
from medstill.networks.taps import Taps, layer_names, preset_layer, tap_channels

__all__ = [
    "NETWORKS",
    "SCALES",
    "Ensemble",
    "FakeQuantised",
    "NetworkFacts",
    "Operation",
    "Output",
    "ReceptiveField",
    "Request",
    "Taps",
    "build",
    "can_reconstruct",
    "check_name",
    "check_size",
    "describe",
    "design_key",
    "head_bias",
    "known_names",
    "layer_names",
    "macs",
    "mean_logits",
    "names_its_head",
    "parameters",
    "preset_layer",
    "receptive_field",
    "request_of",
    "rounded",
    "run",
    "set_prior",
    "size_multiple",
    "tap_channels",
    "without_reconstruction",
]
