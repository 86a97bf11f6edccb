"""Sampling from pixel models."""

from latent2pixel.generate.load import load_pipeline
from latent2pixel.generate.prepare import prepare_for_sampling, remembering

__all__ = ["load_pipeline", "prepare_for_sampling", "remembering"]
