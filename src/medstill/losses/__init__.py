"""Losses: labels, output maps, features and contrast, and their weighted sum."""

from medstill.losses.affinity import affinity
from medstill.losses.boundary import boundary_weights
from medstill.losses.cwd import cwd
from medstill.losses.dist import dist
from medstill.losses.distance import SignedDistance, distance_loss, signed_distances
from medstill.losses.embedding import fit_pca
from medstill.losses.infonce import infonce
from medstill.losses.kl import kl
from medstill.losses.mse import feature_mse
from medstill.losses.numerics import as_class_logits
from medstill.losses.objective import Objective
from medstill.losses.reconstruction import mask_blocks, reconstruction_loss
from medstill.losses.segmentation import SegmentationLoss, cross_entropy, soft_dice
from medstill.losses.supcon import supcon
from medstill.losses.tables import FEATURE_LOSSES, MAP_LOSSES, feature_loss, map_loss

__all__ = [
    "FEATURE_LOSSES",
    "MAP_LOSSES",
    "Objective",
    "SegmentationLoss",
    "SignedDistance",
    "affinity",
    "as_class_logits",
    "boundary_weights",
    "cross_entropy",
    "cwd",
    "dist",
    "distance_loss",
    "feature_loss",
    "feature_mse",
    "fit_pca",
    "infonce",
    "kl",
    "map_loss",
    "mask_blocks",
    "reconstruction_loss",
    "signed_distances",
    "soft_dice",
    "supcon",
]
