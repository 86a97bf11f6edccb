"""LongCat-Image's pipeline asks for 16 latent channels, whatever its transformer takes."""

from tests.tiny import GRID, PROMPTS, size_px, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.families import load_family


def test_noise_has_the_channels_of_the_transformer():
    for pipe, values in ((tiny_pipeline("longcat"), 64), (tiny_pixel_pipeline("longcat"), 3 * 16**2)):
        size = size_px("longcat").values()
        noise_BNd, _ = pipe.prepare_latents(1, 16, *size, pipe.transformer.dtype, "cpu", None)
        assert noise_BNd.shape == (1, GRID[0] * GRID[1], values)


def test_guided_batch():
    """Failed in the pipeline, whose own empty prompt is one for all."""
    pipe = tiny_pixel_pipeline("longcat")
    options = load_family("longcat").call_options(pipe, guidance_scale=2.0, num_prompts=2)
    images = pipe(prompt=list(PROMPTS), **size_px("longcat"), num_inference_steps=1, output_type="pt", **options).images
    assert images.shape == (2, 3, *size_px("longcat").values())
