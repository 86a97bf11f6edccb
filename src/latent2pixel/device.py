"""Where models run."""

import os
import platform

import torch


def fastest_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine_name() -> str:
    """Return what seconds were measured on: the GPU's name, or how many of the cores torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"
