"""What a pipeline folder tells of itself."""

import shutil

import pytest
from tests.tiny import EXAMPLES, save_tiny_pipeline

from latent2pixel.data.source_facts import SourceFacts, source_facts
from latent2pixel.errors import SourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_pipeline(EXAMPLES[0], tmp_path_factory.mktemp("source") / "tiny")


def test_folder_has_a_name_and_a_fingerprint(folder, tmp_path):
    facts = source_facts(folder)
    assert (facts.source, facts.licence) == ("tiny", "")
    shutil.copytree(folder, tmp_path / "copy")
    assert source_facts(tmp_path / "copy").revision == facts.revision
    weights = next((tmp_path / "copy" / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert source_facts(tmp_path / "copy").revision != facts.revision


def test_snapshot_of_the_hub(folder, tmp_path):
    snapshot = tmp_path / "models--owner--some-name" / "snapshots" / "0123abc"
    shutil.copytree(folder, snapshot)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert source_facts(snapshot) == SourceFacts(source="owner/some-name", revision="0123abc", licence="apache-2.0")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: other\nlicense_name: some-terms", "some-terms"),
        ("license: other", "other"),
        ("tags: [a]", ""),
        ("license: [unclosed", ""),
        ("- a list", ""),
    ],
)
def test_licence_of_the_card(folder, tmp_path, front, licence):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text(f"---\n{front}\n---\ntext\n")
    assert source_facts(tmp_path / "copy").licence == licence


def test_folder_without_a_pipeline(tmp_path):
    with pytest.raises(SourceError):
        source_facts(tmp_path)
