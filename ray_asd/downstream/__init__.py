"""Detectors on embeddings: the protocol, KNN, LOF, GMM, and the reference set beneath them."""

from ray_asd.downstream.detector import Detector, fit, kinds, register, restore, score_clips
from ray_asd.downstream.gmm import Gmm
from ray_asd.downstream.knn import Knn
from ray_asd.downstream.lof import Lof
from ray_asd.downstream.neighbours import Neighbours
from ray_asd.downstream.reference import Mixes, ReferenceSet, draw, pseudo_normals

__all__ = [
    "Detector",
    "Gmm",
    "Knn",
    "Lof",
    "Mixes",
    "Neighbours",
    "ReferenceSet",
    "draw",
    "fit",
    "kinds",
    "pseudo_normals",
    "register",
    "restore",
    "score_clips",
]
