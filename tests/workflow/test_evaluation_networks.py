"""Networks by their settings: an FG-CLIP 2 is known by its folder, and its numbers are explained."""

from tests.evaluate.test_fg_clip import folder as fg_clip_folder  # noqa: F401 (a fixture)
from tests.evaluate.tiny_clip import save_tiny_clip

from latent2pixel.evaluate.fg_clip import FgClipScorer
from latent2pixel.report.comparison_numbers import meanings_of
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.evaluation_networks import open_networks


def test_an_evaluation_takes_fg_clip_by_its_folder_and_explains_it(fg_clip_folder, tmp_path):  # noqa: F811
    networks = open_networks(EvaluationConfig(clip=str(fg_clip_folder)), device="cpu")
    assert isinstance(networks.clip, FgClipScorer)
    assert meanings_of({networks.clip.name: {"source": {}, "pixel": {}}})[0][0] == "fg-clip2-long"
    other = open_networks(EvaluationConfig(clip=str(save_tiny_clip(tmp_path / "tiny-clip"))), device="cpu").clip
    assert not isinstance(other, FgClipScorer)
