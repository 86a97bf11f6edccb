"""Training on a GPU; skipped where there is none."""

import numpy as np
import pytest
import torch
from tests.train.run_tiny import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

STEPS = 6
# Rounded weights give other losses; on CPUs, test_frozen_weights.py bounds the rounding itself.
WAYS = {
    "int8": ({"frozen_weights": "int8"}, 0.02),
    "float8": ({"frozen_weights": "float8"}, 0.05),
    "nf4": ({"frozen_weights": "nf4"}, 0.2),
    "8-bit AdamW": ({"optimizer": "adamw_8bit"}, 0.02),
    "offload": ({"block_offload": True, "gradient_checkpointing": True}, 1e-5),
    "compiled": ({"compile": True}, 1e-3),
    "recomputed": ({"gradient_checkpointing": True}, 1e-5),
    "bfloat16": ({"precision": "bf16"}, 0.02),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Losses of a plain run."""
    return run(tmp_path_factory.mktemp("plain"), STEPS)[1].losses


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_hold_a_model_has_the_losses_of_the_plain_run(way, plain, tmp_path):
    settings, tolerance = WAYS[way]
    losses = run(tmp_path / "run", STEPS, **settings)[1].losses
    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, plain, rtol=tolerance)


@pytest.mark.parametrize("settings", [{"freezing": "output"}, {"lora_rank": 2}, {"objective": "source"}])
def test_other_trainings_run(settings, tmp_path):
    losses = run(tmp_path / "run", STEPS, **settings)[1].losses
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()


def test_a_run_is_repeatable(plain, tmp_path):
    np.testing.assert_allclose(run(tmp_path / "again", STEPS)[1].losses, plain, rtol=1e-6)
