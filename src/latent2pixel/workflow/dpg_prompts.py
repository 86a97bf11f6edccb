"""DPG-Bench's prompts as those of any other set, so that pictures of them are drawn as any others."""

import re

from latent2pixel.data.prompts import Prompt
from latent2pixel.evaluate.dpg.bench import DPGBench

MAJOR_CLASS = "dpg"


def dpg_prompts(bench: DPGBench) -> list[Prompt]:
    """Return the prompts by the names of their items, each in the sub-class of the collection that it comes from.

    The name of an item is that of its collection with a number behind it; the ones without a name are called "other".
    """
    return [
        Prompt(id=item, prompt=text, major_class=MAJOR_CLASS, sub_class=re.sub(r"\d+$", "", item) or "other")
        for item, text in sorted(bench.prompts.items())
    ]
