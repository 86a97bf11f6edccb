"""Keeps the tests on one core, off the network, and apart from each other."""

import os

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_attention_backend():
    """Undo what ``set_attention_backend`` of one model does to all that are built after it in the process."""
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
