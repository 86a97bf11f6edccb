"""The offline encoder and SemHash: what counts as alike, and who stays."""

# ruff: noqa: RUF001 (Chinese punctuation is meant)

import numpy as np
import pytest

from latent2pixel.data.prompting.near_duplicates import DIMENSION, NgramEncoder, load_encoder, near_duplicates
from latent2pixel.errors import SourceError

LIGHTHOUSE = (
    "An old lighthouse stands on a narrow spit of black rock, seen from a low boat in heavy rain. Waves break against "
    "its foot and throw white spray over the railing. A single warm lamp burns behind the glass at the top."
)
CHANGED = LIGHTHOUSE.replace("black", "dark").replace("low boat", "small boat").replace("foot", "base")
TOLD_OTHERWISE = (
    "In heavy rain an old lighthouse rises from a narrow spit of black rock. Seen from a low boat, waves crash at its "
    "foot and white spray flies over the railing, while one warm lamp burns behind the glass."
)
FOX = (
    "A red fox pauses on a snowy forest path at dusk, its breath visible in the cold air. Bare birch trunks rise on "
    "both sides, and a faint orange light glows between them. The picture is a watercolour with soft wet edges."
)
FOX_ZH = "一只红色的狐狸在黄昏的雪林小路上停下，呼出的气息在冷空气中清晰可见。两旁是光秃秃的白桦树干。"
FOX_ZH_CHANGED = "一只红色的狐狸在黄昏的雪林小径上停住，呼出的气息在寒冷空气中清晰可见。两旁是光秃秃的白桦树。"


def found(kept, new, threshold=0.75):
    return near_duplicates(list(kept.items()), list(new.items()), encoder=NgramEncoder(), threshold=threshold)


def test_rewordings_are_found_and_others_are_not():
    alike = found({}, {"a": LIGHTHOUSE, "b": CHANGED, "c": TOLD_OTHERWISE, "d": FOX, "e": FOX_ZH, "f": FOX_ZH_CHANGED})
    assert {name: other for name, (other, _) in alike.items()} == {"b": "a", "c": "a", "f": "e"}
    assert all(0.75 <= similarity < 1 for _, similarity in alike.values())


def test_unrelated_texts_are_far_apart():
    vectors = NgramEncoder().encode([LIGHTHOUSE, FOX, FOX_ZH, "A bowl of noodles on a wooden table."])
    assert vectors.shape == (4, DIMENSION)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.max(vectors @ vectors.T - np.eye(4)) < 0.3


def test_what_is_kept_stays_and_the_first_of_the_new_goes_before():
    assert found({"z": CHANGED}, {"a": LIGHTHOUSE}) == {"a": ("z", pytest.approx(0.85, abs=0.1))}
    # Two that are kept may be alike, from a run with another threshold: that is not asked here.
    assert set(found({"y": LIGHTHOUSE, "z": CHANGED}, {"a": FOX})) == set()
    assert set(found({}, {"z": LIGHTHOUSE, "a": CHANGED})) == {"a"}


def test_a_model2vec_model_from_a_folder(tmp_path):
    """A real static model with random vectors, written and read with model2vec itself."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "red", "fox", "blue", "bird", "the", "a"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    StaticModel(vectors, tokenizer).save_pretrained(tmp_path / "static")
    encoder = load_encoder(str(tmp_path / "static"))
    texts = [("a", "the red fox"), ("b", "the fox red"), ("c", "blue bird")]
    assert set(near_duplicates([], texts, encoder=encoder, threshold=0.99)) == {"b"}


def test_a_missing_model_is_told(tmp_path):
    with pytest.raises(SourceError, match="encoder"):
        load_encoder(str(tmp_path / "none"))
