"""Conversion: a latent source pipeline becomes a pixel pipeline, without training."""

from latent2pixel.convert.config import ConversionConfig
from latent2pixel.convert.convert import ConversionReport, build_pixel_pipeline, convert
from latent2pixel.convert.plan import ConversionPlan, plan_conversion

__all__ = [
    "ConversionConfig",
    "ConversionPlan",
    "ConversionReport",
    "build_pixel_pipeline",
    "convert",
    "plan_conversion",
]
