"""Folders to mix in, as ``l2p train`` reads them."""

from pathlib import Path

import pytest

from latent2pixel.cli.train import shares_of
from latent2pixel.errors import ConfigError


def test_each_folder_has_its_share():
    assert shares_of(["real=0.5", "a=b/more=0.25"]) == {Path("real"): 0.5, Path("a=b/more"): 0.25}


@pytest.mark.parametrize(
    "mix", [["real"], ["real="], ["=0.5"], ["real=half"], ["real=0"], ["real=1"], ["a=.1", "a=.2"]]
)
def test_anything_else_is_refused(mix):
    with pytest.raises(ConfigError, match="FOLDER=SHARE") as error:
        shares_of(mix)
    assert repr(mix[-1]) in error.value.found
