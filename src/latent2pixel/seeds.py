"""Randomness as a function of a seed and of counters, not of what ran before."""

import torch


def step_generator(seed: int, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on the seed and on counters alone.

    Randomness that is a function of the step, not of what ran before it, needs no saving: a killed run that starts
    again draws the same numbers.

    Args:
        seed: Seed of the run.
        counters: Such as the step and the place of an image in its batch.
        device: Of the generator; other devices draw other numbers.
    """
    mixed = seed
    for counter in counters:
        # 6364136223846793005 is Knuth's multiplier for 64-bit linear congruential generators (MMIX).
        mixed = (mixed * 6364136223846793005 + counter + 1) % 2**63
    return torch.Generator(device).manual_seed(mixed)
