"""Tiny real models with random weights: complete stock pipelines that run on a CPU in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

FAMILIES = ["z_image"]
"""Families under the contract tests: modules of ``latent2pixel.families``."""
HEAD = (4, 4, 8, 8)
"""Four levels, so that patch 16 fits, with few channels."""
PROMPTS = ["red circle", "a blue square to the left of two green triangles"]
"""Of different length on purpose."""
WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangles",
    "two",
    "to",
    "the",
    "left",
    "of",
    "user",
    "assistant",
]


def tiny_pipeline(name: str, *, seed: int = 0) -> Any:
    """Return a stock latent pipeline of a family, float32, every weight random and none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = BUILDERS[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny_pipeline(name: str, folder: Path) -> Path:
    tiny_pipeline(name).save_pretrained(folder)
    return folder


def _z_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=32,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 64, 64],
    )
    # Pad tokens start at zero, which would hide a mistake in them.
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        nn.init.normal_(parameter, std=0.05)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
        vae=_vae(),
        text_encoder=_qwen3(),
        tokenizer=_tokenizer(),
        transformer=transformer.eval(),
    )


def _vae() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        # The stock pipeline adds the shift to latents before decoding.
        shift_factor=0.0,
    ).eval()


def _qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    return Qwen3Model(config).eval()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", padding_side="right"
    )
    wrapped.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    return wrapped


BUILDERS: dict[str, Callable[[], Any]] = {"z_image": _z_image}


def tiny_pixel_pipeline(name: str, *, seed: int = 0, **options: Any) -> Any:
    """Return the pixel pipeline of ``tiny_pipeline(name)``."""
    from latent2pixel.convert import build_pixel_pipeline

    pipe = build_pixel_pipeline(tiny_pipeline(name, seed=seed), **{"head": HEAD, **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_lift(*, seed: int = 0) -> Any:
    """Return a fit of random patches on random tokens of the tiny latent size: a linear, orthonormal VAE."""
    from latent2pixel.convert.initialise import LiftStatistics

    basis_Dd = torch.linalg.qr(noise(3 * 16**2, 16, seed=seed).double())[0]
    tokens_Nd = noise(3200, 16, seed=seed + 1).double()
    statistics = LiftStatistics(3 * 16**2, 16)
    statistics.add(2.5 * tokens_Nd @ basis_Dd.T, tokens_Nd)
    return statistics.fit()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def source_sample(name: str, batch: int, rows: int, columns: int) -> Any:
    """Return random latents in the layout of the source's transformer, for a grid of tokens."""
    return {"z_image": lambda: list(noise(batch, 4, 1, 2 * rows, 2 * columns))}[name]()


FINAL_LAYER = {"z_image": "all_final_layer.2-1"}
"""First module behind the source's last block."""


class OracleHead(nn.Module):
    """Stands in for a trained head: returns the network output whose velocity leads exactly to a known image."""

    def __init__(self, target_BCHW: torch.Tensor, *, sign: int, sigma: float) -> None:
        super().__init__()
        self.target_BCHW, self.sign, self.sigma = target_BCHW, sign, sigma

    def forward(self, noisy_BCHW: torch.Tensor, feature_BDhw: torch.Tensor) -> torch.Tensor:
        return self.sign * (noisy_BCHW - self.target_BCHW) / self.sigma
