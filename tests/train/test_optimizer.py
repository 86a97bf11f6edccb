"""AdamW with states of 8 bits against AdamW on the same tiny run."""

import sys

import pytest
import torch
from accelerate import Accelerator
from tests.tiny import GRID, PROMPTS, noise, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import ConfigError
from latent2pixel.families import load_family
from latent2pixel.model import freezing
from latent2pixel.model.predict import predict
from latent2pixel.train.optimizer import optimizer_class

STEPS = 12
MIN_WEIGHTS = 4096
"""bitsandbytes keeps float32 states for smaller tensors, of which a tiny model has many."""


class Run:
    """A model that learns one batch by heart; stops and goes on through a file, as the trainer does."""

    def __init__(self, name):
        self.model = tiny_pixel_pipeline("z_image").transformer
        # All blocks, so that many of the matrices are large enough for states of 8 bits.
        freezing.freeze_all_but(self.model, freezing.trainable_names(self.model, num_blocks=2))
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [{"params": trainable[:20], "rate_factor": 1.0}, {"params": trainable[20:], "rate_factor": 0.5}]
        optimizer = optimizer_class(name)(groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
        self.optimizer = Accelerator().prepare(optimizer)
        family = load_family("z_image")
        self.conditioning = family.collate(self.model, family.encode(tiny_pipeline("z_image"), PROMPTS), GRID)
        self.image_BCHW = noise(2, 3, GRID[0] * 16, GRID[1] * 16)

    def losses(self, steps):
        found = []
        for _ in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = 1e-3 * group["rate_factor"]
            output_BCHW = predict(self.model, self.image_BCHW, torch.tensor([0.5, 0.9]), self.conditioning)
            loss = (output_BCHW - 0.3).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            found.append(loss.item())
        return found

    def state_bytes(self):
        """Return the bytes of the states of matrices that are large enough for 8 bits."""
        trainable = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states = self.optimizer.state_dict()["state"]
        return sum(_bytes_of(states[index]) for index, p in enumerate(trainable) if p.numel() >= MIN_WEIGHTS)


def _bytes_of(state):
    if isinstance(state, dict):
        return sum(_bytes_of(value) for value in state.values())
    return state.nbytes if isinstance(state, torch.Tensor) else 0


def test_eight_bits_learn_as_fast_and_take_a_third_of_the_memory():
    exact, small = Run("adamw"), Run("adamw_8bit")
    expected, found = exact.losses(STEPS), small.losses(STEPS)
    assert expected[-1] < 0.95 * expected[0]
    decrease = (found[0] - found[-1]) / (expected[0] - expected[-1])
    assert 0.99 < decrease < 1.01  # measured: 0.99999
    assert found != expected
    assert 0 < small.state_bytes() < exact.state_bytes() / 3


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_a_run_that_stopped_goes_on_to_the_last_bit(name, tmp_path):
    whole = Run(name).losses(6)
    first, second = Run(name), Run(name)
    start = first.losses(3)
    torch.save(first.optimizer.state_dict(), tmp_path / "optimizer.pt")
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True, map_location="cpu"))
    assert start + second.losses(3) == whole


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="package bitsandbytes"):
        optimizer_class("adamw_8bit")
