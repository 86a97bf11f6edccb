"""Tiny networks of the classes that judge pictures, with random weights, saved as their users have them."""

from pathlib import Path

import torch
from tests.tiny.parts import WIDTH

# Labels as the published detector has them, so in part other words than GenEval's.
COCO_LABELS = (
    "person|bicycle|car|motorbike|aeroplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|"
    "bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|"
    "skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|"
    "cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|sofa|"
    "pottedplant|bed|diningtable|toilet|tvmonitor|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|"
    "refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush"
)


def save_mask2former(folder: Path, *, labels: str = COCO_LABELS, sees: str | None = None) -> Path:
    """Save a Mask2Former; one that ``sees`` a label finds it wherever its random masks are positive."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    names = labels.split("|")
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        window_size=2,
        out_features=stages,
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,  # the pixel decoder's group norms have 32 groups
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    if sees is not None:
        # Above the random logits of the other classes, which are within 1 of zero.
        model.class_predictor.bias.data[names.index(sees)] = 8.0
    model.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """Save a CLIP with a tokenizer of whole words, the ten colours among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "object", "colored", "-", "bench", "cat", "red", "orange"]
    words += ["yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
    whole = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", padding_side="right"
    )
    layers = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**layers, "vocab_size": len(words), "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
    config = CLIPConfig(
        text_config=text, vision_config={**layers, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
