"""The run of the paper: L2P (arXiv 2605.12013), section 3.3 and table 3."""

from latent2pixel.convert.config import ConversionConfig
from latent2pixel.recipes.recipe import Recipe
from latent2pixel.train.config import TrainConfig


def paper() -> Recipe:
    """Return the paper's run: patch 16, random projection and head, first and last 5 blocks train."""
    return Recipe(
        conversion=ConversionConfig(
            patch_size=16,
            head="1k",
            head_feature_norm="none",
            freezing="paper",
            num_blocks=5,
        ),
        training=TrainConfig(
            freezing="paper",
            num_blocks=5,
            learning_rate=5e-5,
            weight_decay=0.01,
            batch_size=8,
            image_size_px=1024,
            precision="bf16",
            gradient_checkpointing=None,
        ),
    )
