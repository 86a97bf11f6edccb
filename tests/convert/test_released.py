"""Published checkpoints in and out: names, pixel order, dtypes, bit for bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import HEAD, noise, save_tiny_pipeline, tiny_lift, tiny_pixel_pipeline

from latent2pixel.convert.released import export_released, import_released
from latent2pixel.errors import CheckpointError, OutputFolderError, SourceError
from latent2pixel.families import load_family, load_pixel_class
from latent2pixel.families.released import released_name
from latent2pixel.generate import load_pipeline

NAME = "z_image"
HEAD_4K = (4, 4, 4, 8, 8, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_pipeline(NAME, tmp_path_factory.mktemp("base") / "base")


def released_state(*, patch=16, head=HEAD):
    """Return a state dict as the released code would save it, named by hand: mixed dtypes."""
    levels = ["1", "2", "3", "4"] if len(head) == 4 else ["0", "0b", "1", "2", "3", "4"]
    model = tiny_pixel_pipeline(NAME, head=head, patch_size=patch).transformer
    state = {}
    for key, value in model.state_dict().items():
        value = value.contiguous() if "layers.1." in key else value.contiguous().bfloat16()
        key = key.replace("all_x_embedder.2-1", f"all_x_embedder.{patch}-1").replace("head.", "local_decoder.")
        for index, level in enumerate(levels):
            key = key.replace(f".enc.{index}.", f".enc{level}.", 1).replace(f".dec.{index}.", f".dec{level}.", 1)
            key = key.replace(f".up.{index}.", f".up{level}.1.", 1)
        state[key] = value
    return state


@pytest.mark.parametrize(("patch", "head"), [(16, HEAD), (64, HEAD_4K)])
def test_import_then_export_is_the_same_file_bit_for_bit(base, tmp_path, patch, head):
    state = released_state(patch=patch, head=head)
    save_file(state, tmp_path / "released.safetensors")
    folder = import_released(tmp_path / "released.safetensors", base, tmp_path / "pixel")
    export_released(folder, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == state.keys()
    assert {value.dtype for value in back.values()} == {torch.float32, torch.bfloat16}
    for key in state:
        assert back[key].dtype == state[key].dtype
        assert torch.equal(back[key], state[key])


@torch.no_grad()
def test_imported_projection_sees_pixels_as_the_released_code_cuts_them(base, tmp_path):
    state = released_state()
    save_file(state, tmp_path / "released.safetensors")
    pipe = load_pipeline(import_released(tmp_path / "released.safetensors", base, tmp_path / "pixel"))
    model, image_BCHW = pipe.transformer, noise(1, 3, 32, 48)
    # (row, column, channel) within a patch, patches row by row
    patches_LD = image_BCHW[0].unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 3, 4, 0).reshape(6, -1)
    weight, bias = (state[f"all_x_embedder.16-1.{name}"].float() for name in ("weight", "bias"))
    expected_Lw = patches_LD @ weight.T + bias
    family = load_family(NAME)
    tokens_BDhw = family.tokens(torch.nn.functional.pixel_unshuffle(image_BCHW, model.factor))
    projection = model.get_submodule(family.input_projections[0]).float()
    found_Lw = projection(tokens_BDhw.flatten(2).transpose(1, 2))[0]
    torch.testing.assert_close(found_Lw, expected_Lw, atol=1e-4, rtol=1e-4)


def test_same_import_again_writes_nothing(base, tmp_path):
    save_file(released_state(), tmp_path / "released.safetensors")
    for _ in range(2):
        folder = import_released(tmp_path / "released.safetensors", base, tmp_path / "pixel")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    import_released(tmp_path / "released.safetensors", base, tmp_path / "pixel")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("patch", "head", "num_tensors"), [(16, "1k", 545), (64, "4k", 557)])
def test_names_and_shapes_at_full_size(patch, head, num_tensors):
    """The published 1K file has 545 tensors, 28 of them the head's; each of two more levels has 6."""
    import diffusers
    from accelerate import init_empty_weights

    from latent2pixel.model.head import HEAD_CHANNELS

    channels = HEAD_CHANNELS[head]
    with init_empty_weights():
        source = diffusers.ZImageTransformer2DModel()
    model = load_pixel_class(NAME).from_config_of(source.config, pixel_patch_size=patch, head_channels=channels)
    shapes = {
        released_name(key, patch_size=patch, num_levels=len(channels)): tuple(value.shape)
        for key, value in model.state_dict().items()
    }
    assert len(shapes) == num_tensors
    assert sum(key.startswith("local_decoder.") for key in shapes) == 28 + num_tensors - 545
    assert shapes[f"all_x_embedder.{patch}-1.weight"] == (3840, 3 * patch**2)
    last = "local_decoder.enc4.0.weight"
    assert shapes[last] == (512, 256, 3, 3)
    assert shapes["local_decoder.up1.1.weight"] == (64, 64, 3, 3)
    assert shapes["local_decoder.out_conv.weight"][0] == 3
    if head == "4k":
        assert shapes["local_decoder.enc0b.0.weight"] == (32, 16, 3, 3)
    assert not any("final_layer" in key or key.startswith("head.") for key in shapes)


def test_what_is_no_published_checkpoint_is_refused(base, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no published pixel checkpoint"):
        import_released(tmp_path / "other.safetensors", base, tmp_path / "pixel")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(CheckpointError):
        import_released(tmp_path / "pickle.safetensors", base, tmp_path / "pixel")
    state = released_state()
    save_file({key: value for key, value in state.items() if "layers.2." not in key}, tmp_path / "short.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its base"):
        import_released(tmp_path / "short.safetensors", base, tmp_path / "pixel")
    with pytest.raises(SourceError, match="cannot be found"):
        import_released(tmp_path / "none.safetensors", base, tmp_path / "pixel")
    save_file(state, tmp_path / "released.safetensors")
    flux = save_tiny_pipeline("flux", tmp_path / "flux")
    with pytest.raises(SourceError, match="not of the published checkpoint's family"):
        import_released(tmp_path / "released.safetensors", flux, tmp_path / "pixel")
    assert not (tmp_path / "pixel").exists()


def test_export_refuses_what_has_no_published_name(tmp_path):
    tiny_pixel_pipeline("flux").save_pretrained(tmp_path / "flux")
    with pytest.raises(SourceError, match="one family's pixel models"):
        export_released(tmp_path / "flux", tmp_path / "out.safetensors")
    tiny_pixel_pipeline(NAME, lift=tiny_lift(NAME)).save_pretrained(tmp_path / "lifted")
    with pytest.raises(SourceError, match="parts of a lift"):
        export_released(tmp_path / "lifted", tmp_path / "out.safetensors")
    tiny_pixel_pipeline(NAME).save_pretrained(tmp_path / "pixel")
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(OutputFolderError, match="exists already"):
        export_released(tmp_path / "pixel", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "mine"
