"""Images for the fit that the source makes itself."""

from tests.tiny import save_tiny_pipeline

from latent2pixel.data.prompts import Prompt, save_prompts
from latent2pixel.workflow.fit_images import load_fit_images, make_fit_images


def test_the_source_fills_the_folder_once(tmp_path):
    source, prompts = save_tiny_pipeline("z_image", tmp_path / "source"), tmp_path / "prompts.jsonl"
    texts = ("red circle", "blue square", "green circle")
    save_prompts(
        prompts, [Prompt(id=str(i), prompt=text, major_class="m", sub_class="s") for i, text in enumerate(texts)]
    )
    folder = tmp_path / "images"
    made = make_fit_images(source, prompts, folder, size_px=32, seed=0, num_images=5)
    assert len(made.images) == 6  # two of each
    assert made.images[0].shape == (3, 32, 32)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    again = make_fit_images(source, prompts, folder, size_px=32, seed=0, num_images=5)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    assert again.name == made.name == load_fit_images(folder, 32).name
