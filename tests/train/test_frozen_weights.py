"""Small frozen weights: the gradients that pass through them, the memory they take, and what they leave alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny import PROMPTS, noise, patch_px, tiny_pipeline, tiny_pixel_pipeline, whole_grid
from torch import nn

from latent2pixel.errors import ConfigError
from latent2pixel.families import load_family
from latent2pixel.model import freezing
from latent2pixel.model.predict import predict
from latent2pixel.model.trunk import is_under
from latent2pixel.train.frozen_weights import FrozenLinear, shrink_frozen, stored_bytes

REPOSITORY = Path(__file__).parents[2]
COSINES = {"int8": 0.999, "float8": 0.99, "nf4": 0.95}
"""Least cosine of the input side's gradients with the exact ones. The layer itself is tested to the last bit below:
wrong signs of all layers would cancel here, as each branch has two of them."""
SHARES = {"int8": 0.3, "float8": 0.3, "nf4": 0.15}
"""Most bytes of a tiny float32 matrix that stay: 8 or 4.1 of 32 bits, and scales, whose share grows in small ones."""
TABLE_BYTES = 1100
"""bitsandbytes keeps two tables of 16 and 256 floats with each matrix, whatever its size."""


def small_model(name, kind, **freeze):
    model = tiny_pixel_pipeline(name).transformer.train()
    names = freezing.trainable_names(model, **{"num_blocks": 1, **freeze})
    freezing.freeze_all_but(model, names)
    return model, shrink_frozen(model, kind)


def output_of(name, model, dtype=torch.float32):
    family, grid, px = load_family(name), whole_grid(name, (4, 6)), patch_px(name)
    encoded = family.encode(tiny_pipeline(name), PROMPTS)
    conditioning = family.collate(model, encoded, grid)
    image_BCHW = noise(2, 3, grid[0] * px, grid[1] * px).to(dtype)
    return predict(model, image_BCHW, torch.tensor([0.5, 0.9]), conditioning)


def gradients(name, model):
    """Return the gradients of what trains, by name."""
    model.zero_grad()
    output_BCHW = output_of(name, model)
    (output_BCHW * noise(*output_BCHW.shape, seed=3)).mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def input_side(name, found):
    """Return the gradients that have passed through the frozen blocks, as one vector."""
    family = load_family(name)
    ends = (*family.input_projections, f"{family.image_blocks[0]}.0")
    vector = torch.cat([grad.flatten().double() for key, grad in found.items() if is_under(key, ends)])
    return vector / vector.norm()


@pytest.mark.parametrize("kind", COSINES)
@pytest.mark.parametrize("name", ["z_image", "flux", "sd3", "qwen", "pixart", "hunyuan_dit", "krea2"])
def test_gradients_keep_their_direction_and_weights_shrink(name, kind):
    """HunyuanDiT reads weights beside their layers, Krea 2 has a matrix of two weights: both failed once."""
    exact, _ = small_model(name, "stored")
    model, replaced = small_model(name, kind)
    expected = gradients(name, exact)
    assert gradients(name, model).keys() == expected.keys()
    cosine = input_side(name, gradients(name, model)) @ input_side(name, expected)
    assert COSINES[kind] < cosine < 1
    sizes = [stored_bytes(of.get_submodule(layer)._parameters["weight"] for layer in replaced) for of in (model, exact)]
    tables = TABLE_BYTES * len(replaced) if kind == "nf4" else 0
    assert sizes[0] < SHARES[kind] * sizes[1] + tables
    assert sizes[1] > 0.5 * stored_bytes(p for p in exact.parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", COSINES)
def test_layer_is_the_linear_layer_of_its_full_weight_to_the_last_bit(kind):
    model, replaced = small_model("z_image", kind)
    layer = model.get_submodule(replaced[-1])
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.load_state_dict({"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias}))
    assert layer.weight.dtype == torch.float32
    values, seen = noise(2, 5, layer.in_features).requires_grad_(), []
    for of in (layer, plain):
        values.grad = None
        of(values).square().sum().backward()
        seen.append((of(values), values.grad))
    assert torch.equal(seen[0][0], seen[1][0])
    torch.testing.assert_close(seen[0][1], seen[1][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", COSINES)
def test_no_full_weight_is_kept_for_the_backward_pass(kind):
    """The libraries' own layers for inference keep one copy of every matrix in the dtype of the product."""
    model, replaced = small_model("z_image", kind)
    layers = nn.Sequential(*[model.get_submodule(name) for name in replaced if "to_q" in name])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layers(noise(2, layers[0].in_features).requires_grad_())
    assert 0 < len(kept) <= len(layers)
    assert stored_bytes(kept) <= stored_bytes(layer._parameters["weight"] for layer in layers)


@pytest.mark.parametrize("kind", COSINES)
def test_recomputed_activations_give_the_same_gradients(kind):
    model, _ = small_model("z_image", kind)
    expected = gradients("z_image", model)
    model.enable_gradient_checkpointing()
    found = gradients("z_image", model)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("kind", COSINES)
@torch.no_grad()
def test_teacher_shares_small_weights_and_stays_as_it_was(kind):
    model, replaced = small_model("z_image", kind)
    teacher = freezing.frozen_copy(model)
    before = output_of("z_image", teacher)
    assert torch.equal(before, output_of("z_image", model.eval()))
    for name in replaced:
        shared = [of.get_submodule(name)._parameters["weight"] for of in (model, teacher)]
        assert shared[0] is shared[1]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1)
    assert torch.equal(output_of("z_image", teacher), before)
    assert not torch.equal(output_of("z_image", model), before)


@pytest.mark.parametrize("kind", COSINES)
def test_a_teacher_that_ran_without_gradients_leaves_them_to_the_model(kind):
    """bitsandbytes' own layer repacks its weights for inference then, on some CPUs, and cannot train any more."""
    model, _ = small_model("z_image", kind)
    expected = gradients("z_image", model)
    with torch.no_grad():
        output_of("z_image", freezing.frozen_copy(model))
        output_of("z_image", model.eval())
    found = gradients("z_image", model.train())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("kind", COSINES)
def test_bfloat16_trunk_under_autocast(kind):
    found = {}
    for of in ("stored", kind):
        model = tiny_pixel_pipeline("z_image").transformer.to(torch.bfloat16).train()
        freezing.freeze_all_but(model, freezing.trainable_names(model, num_blocks=1))
        shrink_frozen(model, of)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        with torch.autocast("cpu", torch.bfloat16):
            found[of] = gradients("z_image", model)
    assert {grad.dtype for grad in found[kind].values()} == {torch.float32}
    cosine = input_side("z_image", found[kind]) @ input_side("z_image", found["stored"])
    assert COSINES[kind] - 0.01 < cosine < 1  # rounding to bfloat16 itself costs some thousandths


@pytest.mark.parametrize("kind", COSINES)
@torch.no_grad()
def test_moving_the_model_keeps_small_weights(kind):
    """Not while a graph holds them: torch then refuses to exchange the weights."""
    model, replaced = small_model("z_image", kind)
    teacher = freezing.frozen_copy(model)
    before = output_of("z_image", model)
    model.to("cpu").to(torch.float32)
    assert all(type(model.get_submodule(name)) is FrozenLinear for name in replaced)
    assert torch.equal(output_of("z_image", model), before)
    assert torch.equal(output_of("z_image", teacher.to("cpu")), before)


def test_what_the_source_keeps_exact_and_what_is_new_stay():
    model, replaced = small_model("kandinsky5", "int8")
    exact = set(model._keep_in_fp32_modules)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert any(exact & set(name.split(".")) for name in linears)
    assert not any(exact & set(name.split(".")) for name in replaced)
    model, replaced = small_model("z_image", "int8", preset="output")
    assert not model.get_submodule("all_x_embedder.2-1").weight.requires_grad
    assert not any(is_under(name, model.trunk.new_parts) for name in replaced)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not {f"{name}.weight" for name in replaced} & trained
    assert "layers.0.attention.to_q" in replaced


def test_stored_weights_are_left_alone():
    model, replaced = small_model("z_image", "stored")
    assert replaced == []
    assert not any(isinstance(module, FrozenLinear) for module in model.modules())


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_missing_library_is_named(kind, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=f"package {library}"):
        small_model("z_image", kind)


def test_two_processes_have_the_gradient_of_one():
    """Frozen weights are broadcast by neither, trained ones are; see ``two_processes.py``."""
    script = REPOSITORY / "tests" / "train" / "two_processes.py"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
