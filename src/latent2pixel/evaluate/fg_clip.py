"""FG-CLIP 2 for long prompts, without code from its repository: its long mode is a SigLIP 2, which transformers has.

Shape letters: B batch, C channels, H height, W width, D feature width, T tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.evaluate.clip_score import ClipScorer
from latent2pixel.io.pipeline_folder import read_json, read_weights
from latent2pixel.io.safetensors_file import fingerprint_of_folders

MODEL = "qihoo360/fg-clip2-base"
"""The smallest of three sizes; any of them loads."""
KEEP_LEN, LONGTEXT_LEN = 20, 196
"""Positions that keep their first training, and tokens of the long mode (the defaults of its configuration)."""
MAX_PATCHES = (128, 256, 576, 784, 1024)
"""Sizes of a picture in patches (``determine_max_value`` of its README)."""
SHARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)
TEXT_KEYS = (*SHARED, "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
VISION_KEYS = (*SHARED, "num_channels", "num_patches", "patch_size")
"""What the two configurations have in common with SigLIP 2's, with the same defaults."""
POSITIONS = "text_model.embeddings.position_embedding"
OTHER_MODES = (f"{POSITIONS}.", "text_model.head.", "boxtext_head.", "dense_feature_head.")
"""Weights of short texts, boxes and dense features."""


@dataclass(frozen=True, kw_only=True)
class FgClipScorer(ClipScorer):
    """FG-CLIP 2 in its long mode: 196 tokens, in lower case."""

    def scores(self, image_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return ``100 * max(cosine, 0)`` of each image in [-1, 1] and its prompt, (B,), float32, in [0, 100].

        Source:
            FG-CLIP 2's README (github.com/360CVGroup/FG-CLIP at commit b1af1cd), "long captions"; the clamp and the
            factor as in PixVerve's evaluation, the closest published code to L2P's table.
        """
        device = self.model.device
        tokens = self.tokenizer(
            _lowered(prompts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        with torch.no_grad():
            # With a mask of the padding if the tokeniser gives one, without if not: as the network was trained.
            text_BD = self.model.get_text_features(**tokens.to(device)).pooler_output
            image_BD = self.model.get_image_features(**self.prepare(image_BCHW).to(device)).pooler_output
        return 100 * F.cosine_similarity(image_BD, text_BD).clamp(min=0).float().cpu()

    def num_truncated(self, prompts: Sequence[str]) -> int:
        """Return how many prompts are longer than the model can read; their ends count nothing."""
        return super().num_truncated(_lowered(prompts))


def load_fg_clip(folder: Path, *, device: torch.device | str = "cpu") -> FgClipScorer:
    """Load an FG-CLIP 2; none of the code in its folder is run.

    Args:
        folder: Local folder with config.json, weights, tokeniser and ``preprocessor_config.json``.
        device: Where it runs.

    Raises:
        ConfigError: No such folder (the message holds a download command), or it holds another model.
        CheckpointError: The folder's files are damaged or incomplete, or their weights are not FG-CLIP 2's.
    """
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    if config.get("model_type") != "fgclip2":
        raise ConfigError(
            f"{folder} is no FG-CLIP 2",
            found=f"model_type {config.get('model_type')!r}" if config else "no config.json there",
            expected="a folder with model_type 'fgclip2' in its config.json",
            fix=f"Run `hf download {MODEL} --local-dir {folder}`; for other CLIPs there is load_clip.",
        )
    text_config = config.get("text_config") or {}
    max_tokens = text_config.get("longtext_len", LONGTEXT_LEN)
    model = _build(text_config, config.get("vision_config") or {}, max_tokens=max_tokens)
    _fill(model, folder, keep_len=text_config.get("keep_len", KEEP_LEN))
    tokenizer, processor = _load_readers(folder)

    def prepare(image_BCHW: Tensor) -> Any:
        bytes_BCHW = ((image_BCHW.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
        return processor(
            images=list(bytes_BCHW),
            max_num_patches=max_patches(*image_BCHW.shape[-2:]),
            input_data_format="channels_first",
            return_tensors="pt",
        )

    return FgClipScorer(
        name=f"fg-clip2-long/{folder.name}",
        max_tokens=max_tokens,
        facts={
            "weights": fingerprint_of_folders([folder]),
            "resize": f"whole image to at most {MAX_PATCHES[-1]} patches, bilinear by Pillow",
        },
        model=model.to(device),
        tokenizer=tokenizer,
        prepare=prepare,
    )


def max_patches(height: int, width: int) -> int:
    """Return how many patches an image of that size in pixels is resized to at most: what holds all of it, up to 1024.

    Source:
        FG-CLIP 2's README, ``determine_max_value``; its patches are 16 px wide in every size of the model.
    """
    whole = (width // 16) * (height // 16)
    return next((number for number in MAX_PATCHES if whole <= number), MAX_PATCHES[-1])


def long_mode_weights(weights: Mapping[str, Tensor], *, keep_len: int) -> dict[str, Tensor]:
    """Return the weights of the long mode under SigLIP 2's names.

    The first ``keep_len`` positions are those of the first training, the others stretched ones; the last layer is the
    long mode's own.

    Args:
        weights: Of FG-CLIP 2, whole.
        keep_len: Positions that are kept.

    Source:
        ``Fgclip2TextEmbeddings`` and ``get_text_features`` of FG-CLIP 2's model code.
    """
    kept = {key: value for key, value in weights.items() if not key.startswith(OTHER_MODES)}
    first_TD, stretched_TD = kept.pop(f"{POSITIONS}_ori.weight"), kept.pop(f"{POSITIONS}_res.weight")
    kept[f"{POSITIONS}.weight"] = torch.cat([first_TD[:keep_len], stretched_TD[keep_len:]])
    for name in ("weight", "bias"):
        kept[f"text_model.head.{name}"] = kept.pop(f"longtext_head.{name}")
    return kept


def _build(text: Mapping[str, Any], vision: Mapping[str, Any], *, max_tokens: int) -> Any:
    from transformers import Siglip2Config, Siglip2Model

    text_config = {key: text[key] for key in TEXT_KEYS if key in text}
    vision_config = {key: vision[key] for key in VISION_KEYS if key in vision}
    config = Siglip2Config(
        text_config=text_config | {"max_position_embeddings": max_tokens}, vision_config=vision_config
    )
    return Siglip2Model(config).eval().requires_grad_(False)


def _fill(model: Any, folder: Path, *, keep_len: int) -> None:
    """Load a folder's weights into a model, every one of them."""
    from safetensors.torch import load_file

    stored = set(read_weights(folder))
    needed = {f"{POSITIONS}_ori.weight", f"{POSITIONS}_res.weight", "longtext_head.weight", "longtext_head.bias"}
    own = {key for key in model.state_dict() if not key.startswith(OTHER_MODES)} | needed
    missing = sorted(own - stored)
    extra = sorted(key for key in stored - own if not key.startswith(OTHER_MODES))
    if missing or extra:
        raise _unfit(folder, f"{len(missing)} keys missing {missing[:3]}, {len(extra)} keys not expected {extra[:3]}")
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
    try:
        model.load_state_dict(long_mode_weights(weights, keep_len=keep_len))
    except RuntimeError as error:  # how torch tells of other shapes
        raise _unfit(folder, str(error).splitlines()[-1].strip()) from error


def _load_readers(folder: Path) -> tuple[Any, Any]:
    """Return tokeniser and image processor."""
    from transformers import AutoTokenizer, Siglip2ImageProcessorPil

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = Siglip2ImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not say how texts and pictures are read",
            found=str(error).splitlines()[0],
            expected="tokenizer.json with its configuration, and preprocessor_config.json",
            fix="Download the model's folder again.",
        ) from error
    return tokenizer, processor


def _lowered(prompts: Sequence[str]) -> list[str]:
    return [prompt.lower() for prompt in prompts]


def _unfit(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"The weights in {folder} are not those of an FG-CLIP 2",
        found=found,
        expected="what its config.json describes",
        fix=f"Run `hf download {MODEL} --local-dir {folder}` again.",
    )
