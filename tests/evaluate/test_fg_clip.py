"""A tiny FG-CLIP 2: SigLIP 2's real class with the names and the extra weights of FG-CLIP 2's files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.evaluate.tiny_clip import save_tiny_clip
from tests.tiny.parts import tokenizer
from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.fg_clip import load_fg_clip, long_mode_weights, max_patches
from latent2pixel.io.images import save_image
from latent2pixel.io.records import write_records

WIDTH, KEEP_LEN, LONG, SHORT = 16, 3, 10, 6
LAYERS = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**LAYERS, "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
VISION = {**LAYERS, "num_patches": 16, "patch_size": 16}
POSITIONS = "text_model.embeddings.position_embedding"
PROMPTS = ["A red Cat", "a blue dog on a table"]


def short_mode_model():
    torch.manual_seed(4)
    text = {**TEXT, "max_position_embeddings": SHORT}
    return Siglip2Model(Siglip2Config(text_config=text, vision_config=VISION)).eval()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tiny-fg-clip2"
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    weights = dict(short_mode_model().state_dict())
    weights[f"{POSITIONS}_ori.weight"] = torch.randn(LONG, WIDTH, generator=generator)
    weights[f"{POSITIONS}_res.weight"] = torch.randn(LONG, WIDTH, generator=generator)
    for name in ("longtext_head", "boxtext_head"):
        weights[f"{name}.weight"] = torch.randn(WIDTH, WIDTH, generator=generator)
        weights[f"{name}.bias"] = torch.randn(WIDTH, generator=generator)
    weights["dense_feature_head.probe"] = torch.randn(1, 1, WIDTH, generator=generator)
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "fgclip2",
        "auto_map": {"AutoModelForCausalLM": "modeling_fgclip2.Fgclip2Model"},
        "text_config": {**TEXT, "max_position_embeddings": SHORT, "keep_len": KEEP_LEN, "longtext_len": LONG},
        "vision_config": VISION,
    }
    (folder / "config.json").write_text(json.dumps(config))
    # Would end the process: the folder's own code must not run.
    (folder / "modeling_fgclip2.py").write_text("raise SystemExit(9)")
    tokenizer().save_pretrained(folder)
    Siglip2ImageProcessorPil().save_pretrained(folder)
    return folder


def images(height=64, width=48):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(6)) * 2 - 1


def test_scores_are_cosines_of_the_long_mode(folder):
    """By hand: positions from two tables, attention without a causal mask, the last token, the long mode's layer."""
    weights, model = load_file(folder / "model.safetensors"), short_mode_model()
    tokens = tokenizer()([prompt.lower() for prompt in PROMPTS], padding="max_length", max_length=LONG)
    ids_BT = torch.tensor(tokens.input_ids)
    mask_BT = torch.tensor(tokens.attention_mask)
    position_TD = torch.stack(
        [weights[f"{POSITIONS}_{'ori' if index < KEEP_LEN else 'res'}.weight"][index] for index in range(LONG)]
    )
    hidden_BTD = weights["text_model.embeddings.token_embedding.weight"][ids_BT] + position_TD
    mask_B11T = torch.where(mask_BT.bool(), 0.0, torch.finfo().min)[:, None, None]
    for layer in model.text_model.encoder.layers:
        hidden_BTD = layer(hidden_BTD, mask_B11T)
    last_BD = model.text_model.final_layer_norm(hidden_BTD)[:, -1]
    text_BD = last_BD @ weights["longtext_head.weight"].T + weights["longtext_head.bias"]
    bytes_BCHW = ((images() + 1) * 127.5).round().byte()
    shown = Siglip2ImageProcessorPil()(images=list(bytes_BCHW.numpy()), max_num_patches=128, return_tensors="pt")
    image_BD = model.get_image_features(**shown).pooler_output
    expected = 100 * torch.nn.functional.cosine_similarity(image_BD, text_BD).clamp(min=0)
    scorer = load_fg_clip(folder)
    torch.testing.assert_close(scorer.scores(images(), PROMPTS), expected.detach(), rtol=1e-4, atol=1e-3)
    assert expected.max() > 1  # both negative would be equal whatever is done
    assert (
        scorer.scores(images(), PROMPTS).tolist() == scorer.scores(images(), [one.upper() for one in PROMPTS]).tolist()
    )


def test_a_record_names_model_mode_and_weights(folder):
    scorer = load_fg_clip(folder)
    record = scorer.as_json()
    assert (record["name"], record["max_tokens"]) == ("fg-clip2-long/tiny-fg-clip2", LONG)
    assert len(record["weights"]) == 64
    assert json.loads(json.dumps(record)) == record


def test_prompts_beyond_the_limit_are_counted(folder):
    scorer = load_fg_clip(folder)
    length = len(tokenizer()("a").input_ids)
    fits = "a " * (LONG - length + 1)
    assert len(tokenizer()(fits).input_ids) == LONG
    assert scorer.num_truncated([fits, fits + "a", "a"]) == 1


@pytest.mark.parametrize(
    ("size_px", "expected"),
    [
        ((16, 16), 128), ((128, 256), 128), ((144, 256), 256), ((256, 256), 256), ((256, 272), 576), ((384, 384), 576),
        ((384, 400), 784), ((448, 448), 784), ((448, 464), 1024), ((4096, 4096), 1024), ((271, 271), 256),
    ],
)  # fmt: skip
def test_larger_pictures_get_more_patches(size_px, expected):
    assert max_patches(*size_px) == expected
    assert max_patches(*size_px[::-1]) == expected


def test_pictures_keep_their_form(folder):
    shown = load_fg_clip(folder).prepare(images(height=160, width=320))
    assert shown["pixel_values"].shape == (2, 256, 3 * 16 * 16)
    rows, columns = shown["spatial_shapes"][0].tolist()
    assert rows < columns
    assert rows * columns <= 256


def test_positions_come_from_two_tables():
    rows = torch.arange(4.0)[:, None]
    weights = {f"{POSITIONS}_ori.weight": rows, f"{POSITIONS}_res.weight": rows + 10, "x": rows}
    weights |= {"longtext_head.weight": rows, "longtext_head.bias": rows, "boxtext_head.bias": rows}
    kept = long_mode_weights(weights | {f"{POSITIONS}.weight": rows - 5}, keep_len=1)
    assert kept[f"{POSITIONS}.weight"].flatten().tolist() == [0, 11, 12, 13]
    assert set(kept) == {f"{POSITIONS}.weight", "x", "text_model.head.weight", "text_model.head.bias"}


def test_other_folders_are_refused_with_the_way_to_the_right_one(folder, tmp_path):
    with pytest.raises(ConfigError, match="no FG-CLIP 2") as error:
        load_fg_clip(tmp_path / "absent")
    assert f"hf download qihoo360/fg-clip2-base --local-dir {tmp_path / 'absent'}" in error.value.fix
    with pytest.raises(ConfigError) as error:
        load_fg_clip(save_tiny_clip(tmp_path / "clip"))
    assert error.value.found == "model_type 'clip'"


def test_a_comparison_of_folders_takes_it_as_its_clip(folder, tmp_path):
    for side in ("source", "pixel"):
        for number, image_CHW in enumerate(images()):
            save_image(tmp_path / side / f"{number}.png", image_CHW)
        records = [{"file_name": f"{number}.png", "prompt": PROMPTS[number], "seed": 0} for number in range(2)]
        write_records(tmp_path / side / "metadata.jsonl", records)
    scorer = load_fg_clip(folder)
    settings = ComparisonSettings(num_crops=1)
    result = compare_folders(tmp_path / "source", tmp_path / "pixel", settings=settings, clip=scorer)
    told = result["results"]["fg-clip2-long/tiny-fg-clip2"]
    # Pictures lie on disk as bytes, as the network reads them, so nothing is lost on the way.
    assert told["source"]["value"] == pytest.approx(scorer.scores(images(), PROMPTS).mean().item(), rel=1e-5)
    assert told["pixel_over_source"]["value"] == 1.0
    assert told["num_truncated"] == 0


def changed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_weights_that_do_not_fit_are_refused(folder):
    changed(folder, lambda weights: weights.pop("longtext_head.bias"))
    with pytest.raises(CheckpointError) as error:
        load_fg_clip(folder)
    assert error.value.found == "1 keys missing ['longtext_head.bias'], 0 keys not expected []"
    changed(folder, lambda weights: weights.update({"longtext_head.bias": torch.zeros(3), "more": torch.zeros(1)}))
    with pytest.raises(CheckpointError) as error:
        load_fg_clip(folder)
    assert error.value.found == "0 keys missing [], 1 keys not expected ['more']"
    changed(folder, lambda weights: weights.pop("more"))
    with pytest.raises(CheckpointError, match="not those of an FG-CLIP 2") as error:
        load_fg_clip(folder)
    assert "size mismatch for text_model.head.bias" in error.value.found


@pytest.mark.parametrize("pattern", ["tokenizer*", "preprocessor_config.json"])
def test_a_folder_without_readers_is_refused(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()
    with pytest.raises(CheckpointError, match="does not say how texts and pictures are read"):
        load_fg_clip(folder)
