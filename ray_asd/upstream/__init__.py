"""Segments → embeddings: backbones, heads and losses, batches, mixup, the training step."""

from ray_asd.upstream.backbones import Backbone, build_backbone, register
from ray_asd.upstream.batches import (
    Batch,
    Composer,
    TargetPool,
    steps_per_epoch,
    worker_batch,
)
from ray_asd.upstream.checkpoints import load_checkpoint, load_state, save_checkpoint, state
from ray_asd.upstream.classes import AttributeClass, Classes
from ray_asd.upstream.clips import Clip, clips_of, crop_start, shuffled
from ray_asd.upstream.encoder import Encoder
from ray_asd.upstream.randomness import stable_rng
from ray_asd.upstream.step_metrics import StepMetrics, average
from ray_asd.upstream.training import DivergedError, Training, training_settings
from ray_asd.upstream.trunk import Trunk
from ray_asd.upstream.weights import load_weights, pack_weights, save_weights

__all__ = [
    "AttributeClass",
    "Backbone",
    "Batch",
    "Classes",
    "Clip",
    "Composer",
    "DivergedError",
    "Encoder",
    "StepMetrics",
    "TargetPool",
    "Training",
    "Trunk",
    "average",
    "build_backbone",
    "clips_of",
    "crop_start",
    "load_checkpoint",
    "load_state",
    "load_weights",
    "pack_weights",
    "register",
    "save_checkpoint",
    "save_weights",
    "shuffled",
    "stable_rng",
    "state",
    "steps_per_epoch",
    "training_settings",
    "worker_batch",
]
