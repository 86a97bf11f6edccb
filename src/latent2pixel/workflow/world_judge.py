"""The world's verifier as a judge of pictures in folders."""

from pathlib import Path

from latent2pixel.errors import DataError
from latent2pixel.evaluate.pairs import ListedImages, Side, list_images
from latent2pixel.evaluate.scores import Judgement, PictureScore, join_sides, scores_of
from latent2pixel.evaluate.uncertainty import Estimate
from latent2pixel.io.images import bytes_of, load_image
from latent2pixel.world.levels import Level
from latent2pixel.world.score import caption_of
from latent2pixel.world.verify import verify


def judge_world(images: ListedImages, _folder: Path, *, level: Level) -> Judgement:
    """Let the world's verifier judge pictures; it is so fast that nothing is kept.

    Raises:
        DataError: A prompt is no caption of the level.
    """
    scores, broken = {}, {}
    for (prompt, seed), path in images.paths.items():
        caption = caption_of(level, prompt)
        try:
            right = verify(bytes_of(load_image(path)), caption)
        except DataError as error:
            broken[prompt, seed] = error.found
            continue
        scores[prompt, seed] = PictureScore(file=path, task=f"world/{caption.task}", score=float(right))
    return Judgement(scores=scores, broken=broken, record={"key": f"world/{level.name}"})


def world_retention(source_folder: Path, pixel_folder: Path, *, level: Level, seed: int) -> Estimate:
    """Return pixel score over source score of two folders of pictures, with its paired interval over captions.

    Args:
        source_folder: Pictures of the source, with ``metadata.jsonl`` (file_name, prompt, seed).
        pixel_folder: Those of the pixel model, of the same prompts and seeds.
        level: Level of the world that the prompts are captions of.
        seed: Of the resamples.

    Raises:
        DataError: A folder has no records, a prompt is no caption of the level, or no pair could be judged.
    """
    folders: dict[Side, Path] = {"source": source_folder, "pixel": pixel_folder}
    sides = {}
    for side, folder in folders.items():
        sides[side] = judge_world(list_images(folder, side), folder, level=level).scores
    judged = join_sides(sides)
    if not judged:
        raise DataError(
            "There is no retention of these pictures",
            found=f"no pair in {source_folder} and {pixel_folder}",
            expected="pictures of equal prompt and seed in both folders",
            fix="Make both folders from the same prompts and seeds.",
        )
    return Estimate(**scores_of(judged, seed=seed)["score"]["retention"])
