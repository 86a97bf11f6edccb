"""Keeps the tests on one core and off the network."""

import os

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
torch.set_num_threads(1)
