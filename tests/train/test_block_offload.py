"""Blocks in host memory: the same numbers, few copies at a time, and nothing else is touched."""

import pytest
import torch
from tests.tiny import tiny_pixel_pipeline
from tests.train.test_frozen_weights import gradients, output_of, small_model
from torch.multiprocessing.reductions import StorageWeakRef

from latent2pixel.errors import ConfigError
from latent2pixel.model import freezing
from latent2pixel.train.block_offload import offload_frozen_blocks


def recomputed_model(name="z_image", kind="stored", **freeze):
    model, _ = small_model(name, kind, **freeze)
    model.enable_gradient_checkpointing()
    return model


def parameters_of(model, names):
    return [parameter for name in names for parameter in model.get_submodule(name).parameters()]


@pytest.mark.parametrize("kind", ["stored", "int8", "float8"])
@pytest.mark.parametrize("name", ["z_image", "flux", "sd3"])
def test_outputs_and_gradients_are_the_same_to_the_last_bit(name, kind):
    expected_model, model = recomputed_model(name, kind), recomputed_model(name, kind)
    names = offload_frozen_blocks(model, "cpu")
    assert len(names) == 2
    assert torch.equal(output_of(name, model), output_of(name, expected_model))
    expected, found = gradients(name, expected_model), gradients(name, model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_blocks_run_on_copies_that_do_not_stay():
    """Every frozen block visits twice a step; while others run, and after the step, no copy of it is left."""
    model = recomputed_model()
    names = offload_frozen_blocks(model, "cpu")
    hosts = [id(parameter) for parameter in parameters_of(model, names)]
    visits, most = [], 0

    def entered(block, _):
        nonlocal most
        visits.append([StorageWeakRef(parameter.untyped_storage()) for parameter in block.parameters()])
        assert not {id(parameter) for parameter in block.parameters()} & set(hosts)
        most = max(most, sum(not all(copy.expired() for copy in copies) for copies in visits))

    for name in names:
        model.get_submodule(name).register_forward_pre_hook(entered)
    gradients("z_image", model)
    assert len(visits) == 2 * len(names)
    assert most == 1
    assert [id(parameter) for parameter in parameters_of(model, names)] == hosts
    assert all(copy.expired() for copies in visits for copy in copies)


def test_only_frozen_blocks_are_offloaded():
    model = recomputed_model()
    before = dict(model.named_parameters())
    names = offload_frozen_blocks(model, "cpu")
    assert names == ["layers.1", "layers.2"]
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for key, parameter in after.items():
        moved = key.startswith(("layers.1.", "layers.2."))
        assert (parameter is not before[key]) == moved
        assert parameter.requires_grad == before[key].requires_grad


@torch.no_grad()
def test_teacher_shares_host_memory():
    model = recomputed_model()
    names = offload_frozen_blocks(model, "cpu")
    teacher = freezing.frozen_copy(model)
    shared = zip(parameters_of(model, names), parameters_of(teacher, names), strict=True)
    assert all(own is other for own, other in shared)
    expected = output_of("z_image", model.eval())
    model.get_submodule("layers.0.attention.to_q").weight.add_(1.0)
    assert torch.equal(output_of("z_image", teacher), expected)
    shared = zip(parameters_of(model, names), parameters_of(teacher, names), strict=True)
    assert all(own is other for own, other in shared)


def test_a_block_that_fails_leaves_the_device():
    model = recomputed_model()
    names = offload_frozen_blocks(model, "cpu")
    hosts = [id(parameter) for parameter in parameters_of(model, names)]

    def fail(*_):
        raise ZeroDivisionError

    model.get_submodule(names[0]).attention.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        output_of("z_image", model)
    assert [id(parameter) for parameter in parameters_of(model, names)] == hosts


def test_what_would_keep_blocks_on_the_device_is_refused():
    model = tiny_pixel_pipeline("z_image").transformer
    freezing.freeze_all_but(model, freezing.trainable_names(model, num_blocks=1))
    with pytest.raises(ConfigError, match="gradient_checkpointing=true"):
        offload_frozen_blocks(model, "cpu")
    with pytest.raises(ConfigError, match="4 bits"):
        offload_frozen_blocks(recomputed_model(kind="nf4"), "cpu")
