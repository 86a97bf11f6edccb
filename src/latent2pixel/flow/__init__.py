"""Flow matching on pixels: the path, its velocity, and the noise levels. Sigma is the only clock: 0 clean, 1 noise."""

from latent2pixel.flow.diffusion import DiffusionClock
from latent2pixel.flow.noise_levels import (
    sample_logit_normal_sigmas,
    sample_sigmas,
    shift_sigma,
    sigma_schedule,
    unshift_sigma,
)
from latent2pixel.flow.objectives import Objective, network_input, target, velocity_of
from latent2pixel.flow.path import MIN_SIGMA, add_noise, clean_from_velocity, velocity, velocity_from_clean

__all__ = [
    "MIN_SIGMA",
    "DiffusionClock",
    "Objective",
    "add_noise",
    "clean_from_velocity",
    "network_input",
    "sample_logit_normal_sigmas",
    "sample_sigmas",
    "shift_sigma",
    "sigma_schedule",
    "target",
    "unshift_sigma",
    "velocity",
    "velocity_from_clean",
    "velocity_of",
]
