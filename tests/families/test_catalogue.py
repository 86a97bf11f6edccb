"""The catalogue of published sources: every family is in it, and the page in the docs is current."""

from pathlib import Path

import pytest
from tests.tiny import FAMILIES

from latent2pixel.families.catalogue import catalogue, full_config, markdown, releases

REPOSITORY = Path(__file__).parents[2]


def test_every_family_has_a_published_source():
    assert {release.family for release in releases()} == set(FAMILIES)


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.release)
def test_release_is_told_whole(release):
    assert release.repository.count("/") == 1
    assert release.licence
    assert release.config_from
    full_config(release)


def test_page_is_what_the_command_writes():
    """If this fails: `l2p families --markdown > docs/families.md`, and look at what has changed."""
    assert (REPOSITORY / "docs" / "families.md").read_text(encoding="utf-8") == markdown(catalogue())
