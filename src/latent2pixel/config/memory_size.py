"""Sizes of memory as users write them."""

import math
import re

from latent2pixel.errors import ConfigError

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
"""Bytes; 1 GB is a little less than 1 GiB, so a budget in GB is kept by those who meant GiB."""


def parse_memory(text: str) -> int:
    """Return the bytes of a size such as ``8GB``, ``800MB`` or ``7.5GiB``.

    Raises:
        ConfigError: If it is no number above 0 with a unit.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([KMGT]?I?B)", text.strip().upper())
    size = float(match[1]) * UNITS.get(match[2], 0) if match else 0
    if size < 1:
        raise ConfigError(
            "That is no size of memory",
            found=repr(text),
            expected="a number above 0 and MB, GB, MiB or GiB, without a space",
            fix="Write it such as 8GB or 800MB.",
        )
    return int(size)


def format_memory(num_bytes: int) -> str:
    """Return a size for ``parse_memory``, rounded up to whole MB."""
    return f"{math.ceil(num_bytes / UNITS['MB'])}MB"
