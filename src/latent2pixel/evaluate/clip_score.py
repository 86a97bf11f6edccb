"""CLIP score: how well pictures fit their prompts, long ones included.

Shape letters: B batch, C channels, H height, W width, D feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.evaluate.features import load_frozen, read_preprocessing
from latent2pixel.io.safetensors_file import fingerprint_of_folders


@dataclass(frozen=True, kw_only=True)
class ClipScorer:
    """A CLIP with its tokeniser; ``num_truncated`` of a prompt's tokens never enter a score unseen."""

    name: str
    """Stands in the result."""
    max_tokens: int
    """What the text tower can read: 77 for the first CLIPs, 248 for LongCLIP."""
    facts: dict[str, Any]
    """Fingerprint of the weights, input size."""
    model: Any
    """The ``CLIPModel``, frozen."""
    tokenizer: Any
    """Its tokeniser."""
    prepare: Any
    """From images in [-1, 1] to the model's input."""

    def scores(self, image_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return ``100 * max(cosine, 0)`` of each image and its prompt, (B,), float32, in [0, 100].

        Source:
            Hessel et al. 2021, "CLIPScore", equation 1, with the customary factor 100 in place of 2.5.
        """
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = self.model.device
        with torch.no_grad():
            text_BD = self.model.get_text_features(
                input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
            ).pooler_output
            image_BD = self.model.get_image_features(self.prepare(image_BCHW).to(device)).pooler_output
        return 100 * F.cosine_similarity(image_BD, text_BD).clamp(min=0).float().cpu()

    def num_truncated(self, prompts: Sequence[str]) -> int:
        """Return how many prompts are longer than the model can read; their ends count nothing."""
        return sum(len(ids) > self.max_tokens for ids in self.tokenizer(list(prompts)).input_ids)

    def as_json(self) -> dict[str, Any]:
        """Return name and facts as an object for a record."""
        return {"name": self.name, "max_tokens": self.max_tokens, **self.facts}


def load_clip(folder: Path, *, device: torch.device | str = "cpu") -> ClipScorer:
    """Load a CLIP of transformers; a LongCLIP in the same classes reads prompts of up to 248 tokens.

    Args:
        folder: Local folder with model, tokeniser and ``preprocessor_config.json``.
        device: Where it runs.

    Raises:
        ConfigError: No such folder (the message holds a download command), or it holds no CLIP.
        CheckpointError: The folder's files are damaged or incomplete.
    """
    from transformers import AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"The CLIP {folder} cannot be found",
            found="no config.json there" if folder.is_dir() else "no such folder",
            expected="a folder with a CLIPModel, its tokeniser and preprocessor_config.json",
            fix=f"Run `hf download zer0int/LongCLIP-L-Diffusers --local-dir {folder}` (248 tokens), or "
            f"`hf download openai/clip-vit-large-patch14 --local-dir {folder}` (77 tokens).",
        )
    prepare, resize = read_preprocessing(folder)
    model = load_frozen(folder).to(device)
    if not hasattr(model, "get_text_features") or not hasattr(model.config, "text_config"):
        raise ConfigError(
            f"The network {folder} cannot score prompts",
            found=type(model).__name__,
            expected="a CLIPModel, which knows texts and images",
            fix="Choose the folder of a CLIP.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The CLIP {folder} has no tokeniser that can be read",
            found=str(error).splitlines()[0],
            expected="tokenizer.json or vocab.json and merges.txt",
            fix="Download the model's folder again.",
        ) from error
    return ClipScorer(
        name=f"clip/{folder.name}",
        max_tokens=model.config.text_config.max_position_embeddings,
        facts={"weights": fingerprint_of_folders([folder]), "resize": resize},
        model=model,
        tokenizer=tokenizer,
        prepare=prepare,
    )
