"""Encodings come back as the encoder made them, and are made once."""

import pytest
import torch

from latent2pixel.data.encoded_cache import EncodedCache
from latent2pixel.errors import DataError

PROMPTS = ["a red circle", "two", "", "a red circle", "größe\n红 fox"]


class Encoder:
    """A deterministic encoder of variable length, which counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts):
        self.asked += prompts
        return [self.embed(prompt) for prompt in prompts]

    @staticmethod
    def embed(prompt):
        values = torch.tensor([float(ord(letter)) for letter in prompt] or [0.0])
        return {"embeds": torch.outer(values, torch.arange(4.0)).bfloat16(), "mask": values > 50}


def build(folder, encode, **changes):
    options = {"keys": PROMPTS, "batch_size": 2, "fingerprint": "encoder 1"} | changes
    return EncodedCache.build(folder, encode=encode, **options)


def test_embeddings_are_exact(tmp_path):
    cache = build(tmp_path, Encoder())
    assert len(cache) == 4
    for prompt in PROMPTS:
        expected = Encoder.embed(prompt)
        assert cache[prompt].keys() == expected.keys()
        for key, value in expected.items():
            assert cache[prompt][key].dtype == value.dtype
            assert torch.equal(cache[prompt][key], value)


def test_every_prompt_is_encoded_once(tmp_path):
    encoder = Encoder()
    build(tmp_path, encoder)
    assert encoder.asked == list(dict.fromkeys(PROMPTS))
    again = build(tmp_path, encoder, batch_size=3)
    assert len(encoder.asked) == 4
    assert torch.equal(again["two"]["embeds"], Encoder.embed("two")["embeds"])


@pytest.mark.parametrize("change", [{"fingerprint": "encoder 2"}, {"keys": PROMPTS[:2]}])
def test_another_encoder_or_set_is_another_cache(tmp_path, change):
    build(tmp_path, Encoder())
    encoder = Encoder()
    build(tmp_path, encoder, **change)
    assert encoder.asked


def test_interrupted_build_leaves_nothing(tmp_path):
    encoder = Encoder()

    def stop(prompts):
        if encoder.asked:
            raise KeyboardInterrupt
        return encoder(prompts)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "text", stop)
    assert not (tmp_path / "text").exists()
    assert len(build(tmp_path / "text", Encoder())) == 4


def test_encoder_that_drops_a_prompt_is_a_bug_at_once(tmp_path):
    """It used to give the dropped prompt an empty embedding, found much later or never."""
    with pytest.raises(ValueError, match="shorter"):
        build(tmp_path / "text", lambda prompts: Encoder()(prompts)[:1])
    assert not (tmp_path / "text").exists()


def test_unknown_prompt(tmp_path):
    with pytest.raises(DataError, match="no cached encoding"):
        build(tmp_path, Encoder())["three"]
