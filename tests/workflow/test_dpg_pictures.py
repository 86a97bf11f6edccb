"""From prompts to a score: drawn by a real tiny pipeline, laid out in grids, judged."""

import pytest
import torch
from tests.evaluate.dpg.small_bench import PROMPTS, ColourJudge, small_bench
from tests.tiny import EXAMPLES, tiny_pixel_pipeline

from latent2pixel.data.synthesize import image_seed, synthesize
from latent2pixel.evaluate.dpg.grids import compose_grids, cut_grid
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.evaluate.pairs import listed_records
from latent2pixel.io.images import load_bytes
from latent2pixel.workflow.dpg_prompts import dpg_prompts

SIZE_PX = 32


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def pictures(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "out"
    synthesize(
        tiny_pixel_pipeline(EXAMPLES[0]),
        dpg_prompts(bench),
        folder,
        seeds_per_prompt=4,
        image_size_px=SIZE_PX,
        num_steps=1,
        guidance_scale=1.0,
        seed=3,
    )
    return folder


def test_prompts_keep_their_text_and_name_their_collection(bench):
    prompts = dpg_prompts(bench)
    assert {prompt.id: prompt.prompt for prompt in prompts} == PROMPTS
    assert [(prompt.id, prompt.sub_class) for prompt in prompts] == [
        ("7", "other"),
        ("first", "first"),
        ("plain1", "plain"),
    ]


def test_drawn_pictures_become_grids_and_a_score(bench, pictures, tmp_path):
    report = compose_grids(pictures, tmp_path, prompts=bench.prompts)
    assert (report.num_grids, report.incomplete, report.num_other) == (3, (), 0)
    drawn = {
        record["seed"]: load_bytes(pictures / name)
        for name, record in listed_records(pictures)
        if record["prompt"] == PROMPTS["plain1"]
    }
    assert set(drawn) == {image_seed(3, "plain1", index) for index in range(4)}
    cut = cut_grid(load_bytes(tmp_path / "plain1.png"), num_samples=4)
    for seed, image_CHW in zip(sorted(drawn), cut, strict=True):
        assert torch.equal(drawn[seed], image_CHW)
    result = score_dpg(tmp_path, ColourJudge(), bench=bench, side_px=SIZE_PX)
    assert (result.num_images, result.num_missing, result.broken) == (3, 0, ())
    assert result.sizes == {"64 x 64": 3}
