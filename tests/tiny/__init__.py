"""Tiny real models with random weights: complete stock pipelines that run on a CPU in milliseconds."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

FAMILIES = [
    "z_image",
    "flux",
    "sd3",
    "pixart",
    "hunyuan_dit",
    "cogview3",
    "qwen",
    "krea2",
    "nucleus",
    "sana",
    "lumina2",
    "auraflow",
    "qwen21",
    "prx",
    "ideogram4",
    "hunyuan_image",
    "cogview4",
    "hidream",
    "flux2",
    "ernie",
    "chroma",
    "kandinsky5",
    "ovis",
    "longcat",
    "bria",
    "bria_fibo",
    "bria_fibo2",
    "glm",
]
"""Families under the contract tests: modules of ``latent2pixel.families``, and of ``tests.tiny.sources``."""
EXAMPLES = ["z_image"]
"""Those on which everything else is tested."""
HEAD = (4, 4, 8, 8)
"""Four levels, so that patch 16 fits, with few channels."""
PROMPTS = ["red circle", "a blue square to the left of two green triangles"]
"""Of different length on purpose."""
GRID = (4, 6)
"""Token rows and columns: not square, and 24 is no multiple of 32, so Z-Image pads."""


def tiny_source(name: str) -> Any:
    """Return the module that builds a family's tiny pipeline."""
    return importlib.import_module(f"tests.tiny.sources.{name}")


def patch_px(name: str) -> int:
    """Return the pixels per token and axis of a source; 16 unless its module says otherwise."""
    return getattr(tiny_source(name), "PATCH_PX", 16)


def full_prompts(name: str) -> list[str]:
    """Return two prompts of different length that reach every part of a source."""
    return getattr(tiny_source(name), "FULL_PROMPTS", PROMPTS)


def whole_grid(name: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Return a token grid with each side rounded up to what the source's pipeline can make."""
    multiple = getattr(tiny_source(name), "GRID_MULTIPLE", 1)
    rows, columns = (-(-size // multiple) * multiple for size in grid)
    return rows, columns


def size_px(name: str, grid: tuple[int, int] = GRID) -> dict[str, int]:
    """Return height and width of an image of so many tokens, as a pipeline takes them."""
    return {"height": grid[0] * patch_px(name), "width": grid[1] * patch_px(name)}


def tiny_pipeline(name: str, *, seed: int = 0) -> Any:
    """Return a stock latent pipeline of a family, float32, every weight random and none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = tiny_source(name).build()
        # Gates and pad tokens start at zero, which would hide a mistake in them; some start as they lie in memory.
        for parameter in pipe.transformer.parameters():
            if not parameter.isfinite().all() or not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    pipe.transformer.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny_pipeline(name: str, folder: Path) -> Path:
    tiny_pipeline(name).save_pretrained(folder)
    return folder


def tiny_pixel_pipeline(name: str, *, seed: int = 0, **options: Any) -> Any:
    """Return the pixel pipeline of ``tiny_pipeline(name)``."""
    from latent2pixel.convert import build_pixel_pipeline

    patch = patch_px(name)
    head = HEAD if patch == 16 else (*HEAD, 8)
    pipe = build_pixel_pipeline(tiny_pipeline(name, seed=seed), **{"head": head, "patch_size": patch, **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_lift(name: str = "z_image", *, seed: int = 0, patch: int | None = None) -> Any:
    """Return a fit of random patches on random tokens of the tiny latent size: a linear, orthonormal VAE."""
    from latent2pixel.convert.initialise import LiftStatistics

    patch_dim, token_dim = 3 * (patch or patch_px(name)) ** 2, token_dim_of(name)
    basis_Dd = torch.linalg.qr(noise(patch_dim, token_dim, seed=seed).double())[0]
    tokens_Nd = noise(200 * token_dim, token_dim, seed=seed + 1).double()
    statistics = LiftStatistics(patch_dim, token_dim)
    statistics.add(2.5 * tokens_Nd @ basis_Dd.T, tokens_Nd)
    return statistics.fit()


def token_dim_of(name: str) -> int:
    """Return the values of a source's latent token."""
    from latent2pixel.families import load_family

    return load_family(name).token_dim(tiny_pipeline(name).transformer.config)


def running_latents(name: str, map_BZHW: torch.Tensor) -> Any:
    """Lay a latent map out as a stock pipeline keeps its running sample."""
    from latent2pixel.families import load_family
    from latent2pixel.families.base import TokenFamily

    family, source = load_family(name), tiny_source(name)
    if hasattr(source, "running"):
        return source.running(map_BZHW)
    return family.sample(map_BZHW, {}) if isinstance(family, TokenFamily) else map_BZHW


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class OracleHead(nn.Module):
    """Stands in for a trained head: returns the network output that leads exactly to a known image.

    Args:
        target_BCHW: The image.
        family: Tells sign and objective.
        sigma: Noise level of the next call; set anew before another.
    """

    def __init__(self, target_BCHW: torch.Tensor, *, family: Any, sigma: float) -> None:
        super().__init__()
        self.target_BCHW, self.family, self.sigma = target_BCHW, family, sigma

    def forward(self, noisy_BCHW: torch.Tensor, feature_BDhw: torch.Tensor) -> torch.Tensor:
        sigma, clean = float(self.sigma), self.target_BCHW
        if self.family.objective == "flow":
            return self.family.sign * (noisy_BCHW - clean) / sigma
        image, noise = ((1 - sigma) ** 2 + sigma**2) ** -0.5 * torch.tensor([1 - sigma, sigma])
        eps = (noisy_BCHW - image * clean) / noise
        return eps if self.family.objective == "eps" else image * eps - noise * clean
