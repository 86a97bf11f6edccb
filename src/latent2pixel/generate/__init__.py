"""Sampling from pixel models."""

from latent2pixel.generate.load import load_pipeline

__all__ = ["load_pipeline"]
