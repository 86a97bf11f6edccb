"""The estimate of a training's memory against what torch's profiler counts in a real step."""

from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel, cast_training_params
from tests.tiny import PROMPTS, tiny_pipeline, tiny_pixel_pipeline
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from latent2pixel.families import family_of, load_pixel_class
from latent2pixel.model import freezing
from latent2pixel.train.config import TrainConfig
from latent2pixel.train.fake_step import CudaAutocast
from latent2pixel.train.for_model import trained_names, trained_share
from latent2pixel.train.frozen_weights import shrink_frozen, stored_bytes
from latent2pixel.train.live_bytes import KnownPlaces, LiveBytes, fake_tensor
from latent2pixel.train.lora import add_lora, lora_layers
from latent2pixel.train.memory import RESERVED_BYTES, STATE_8BIT, MeasuredTraining, MemoryEstimate, measure_training
from latent2pixel.train.step import Draw, Teacher, distillation_loss, transfer_loss

WIDER: dict[str, dict[str, Any]] = {
    "z_image": {"dim": 16 * 24, "n_heads": 24, "n_kv_heads": 24},
    "flux": {"num_attention_heads": 24},
    "sd3": {"num_attention_heads": 24, "caption_projection_dim": 16 * 24},
}
"""Tiny sources eight times as wide: 10 to 20 million weights."""
WIDE_HEAD = (16, 16, 32, 32)
"""Kernels of CPUs pad channels to 16: fewer would take more than they hold."""
SIZE_PX, BATCH = 192, 3
"""The batch is none of those that the estimate runs."""


@cache
def source_config(name: str) -> dict[str, Any]:
    return dict(tiny_pipeline(name).transformer.config)


def empty_model(name: str, *, lifted: bool) -> Any:
    """Return a wide tiny pixel model on the meta device."""
    config = {**source_config(name), **WIDER[name]}
    scale = 1.0 if lifted else None
    return load_pixel_class(name).from_config_of(config, head_channels=WIDE_HEAD, lift_scale=scale)


@cache
def told(name: str) -> dict[str, torch.Tensor]:
    pipe = tiny_pixel_pipeline(name)
    return family_of(pipe.transformer).encode(pipe, PROMPTS[1:])[0]


def latents(name: str, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Stand for a VAE: any map of the right shape will do."""
    channels = load_pixel_class(name).trunk.token_dim(source_config(name))
    return functional.avg_pool2d(images_BCHW, 16)[:, :1].expand(-1, channels, -1, -1)


def prepared(name: str, config: TrainConfig, frozen_weights: str) -> tuple[Any, Teacher | None]:
    """Return a model with weights as a run begins with it, and its teacher, if it has one."""
    model = empty_model(name, lifted=config.objective == "source").to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    model.to(torch.bfloat16)
    names = trained_names(model, config)
    freezing.freeze_all_but(model, names)
    layers = list(lora_layers(model)) if config.lora_rank else []
    shrink_frozen(model, frozen_weights)
    teacher = None
    if config.objective == "source":
        teacher = Teacher(model=freezing.frozen_copy(model), latents=partial(latents, name))
    if layers:
        added = add_lora(model, layers, rank=config.lora_rank, alpha=config.lora_alpha, seed=0)
        freezing.freeze_all_but(model, [*names, *added])
    cast_training_params(model)
    model.head.tile_px = config.head_tile_px
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model, teacher


def measured_bytes(name: str, config: TrainConfig, *, frozen_weights: str = "stored") -> int:
    """Return the most bytes that a real second step holds, by the allocator's own record."""
    model, teacher = prepared(name, config, frozen_weights)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    average = EMAModel(trained, decay=config.ema_decay) if config.ema_decay else None
    family, item = family_of(model), told(name)
    micro = config.batch_size // config.accumulation_steps

    def step() -> None:
        for _ in range(config.accumulation_steps):
            images_BCHW, noise_BCHW = torch.zeros(micro, 3, SIZE_PX, SIZE_PX), torch.zeros(micro, 3, SIZE_PX, SIZE_PX)
            drawn = Draw(
                noise_BCHW=noise_BCHW, sigma_B=torch.full((micro,), 0.5), dropped_B=torch.zeros(micro, dtype=torch.bool)
            )
            conditioning = family.collate(model, [item] * micro, model.grid_of(images_BCHW))
            with torch.autocast("cpu", torch.bfloat16):
                if teacher is None:
                    loss = transfer_loss(model, images_BCHW, drawn, conditioning)
                else:
                    loss = distillation_loss(model, images_BCHW, drawn, conditioning, teacher=teacher)
            loss.backward()
            del loss, conditioning, drawn, images_BCHW, noise_BCHW
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.step(trained)

    step()
    held = stored_bytes({id(each): each for each in [*model.parameters(), *model.buffers()]}.values())
    if teacher is not None:
        frozen = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
        held += stored_bytes(parameter for parameter in teacher.model.parameters() if id(parameter) not in frozen)
    held += sum(each.nbytes for state in optimizer.state.values() for each in state.values())
    held += sum(each.nbytes for each in average.shadow_params) if average is not None else 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now, most = 0, 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return held + most


def measured_training(name: str, config: TrainConfig) -> MeasuredTraining:
    return measure_training(
        empty_model(name, lifted=config.objective == "source"),
        told(name),
        config=config,
        checkpointed=bool(config.gradient_checkpointing),
        dtype=torch.bfloat16,
        mode=FakeTensorMode(allow_non_fake_inputs=True),
        latents=partial(latents, name),
        like_cuda=False,
    )


def estimated(name: str, config: TrainConfig, **options: Any) -> MemoryEstimate:
    return measured_training(name, config).estimate(**options)


SETTINGS = {
    "paper": {},
    "paper, checkpointed, averaged, accumulated": {
        "gradient_checkpointing": True, "ema_decay": 0.9, "batch_size": 2 * BATCH, "accumulation_steps": 2,
    },
    "output, averaged": {"freezing": "output", "ema_decay": 0.9},
    "head in tiles": {"head_tile_px": 64},
    "source, checkpointed": {"objective": "source", "gradient_checkpointing": True},
}  # fmt: skip


def config_of(settings: dict[str, Any]) -> TrainConfig:
    return TrainConfig(**{"batch_size": BATCH, "num_blocks": 1, "image_size_px": SIZE_PX, **settings})


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", WIDER)
def test_estimate_is_within_15_percent_of_a_real_step(name, settings):
    config = config_of(settings)
    found, real = estimated(name, config).at(BATCH), measured_bytes(name, config)
    assert found.peak == pytest.approx(real, rel=0.15), (found, real)


def test_a_head_in_tiles_keeps_less():
    tiles, whole = (estimated("z_image", config_of(changes)).at(BATCH) for changes in ({"head_tile_px": 64}, {}))
    assert tiles.activations < 0.8 * whole.activations


def test_estimate_of_small_frozen_weights_is_within_15_percent_of_a_real_step():
    pytest.importorskip("torchao")
    config = config_of({"gradient_checkpointing": True, "freezing": "output"})
    found = estimated("z_image", config, frozen_weights="int8").at(BATCH)
    assert found.peak == pytest.approx(measured_bytes("z_image", config, frozen_weights="int8"), rel=0.15)
    assert found.frozen_weights < 0.7 * estimated("z_image", config).at(BATCH).frozen_weights


@pytest.mark.parametrize("settings", [{}, {"objective": "source", "gradient_checkpointing": True}])
@pytest.mark.parametrize("kind", ["stored", "int8"])
def test_estimate_of_a_lora_is_within_15_percent_of_a_real_step(kind, settings):
    pytest.importorskip("peft")
    if kind != "stored":
        pytest.importorskip("torchao")
    config = config_of({"lora_rank": 16, **settings})
    found = estimated("z_image", config, frozen_weights=kind).at(BATCH)
    real = measured_bytes("z_image", config, frozen_weights=kind)
    assert found.peak == pytest.approx(real, rel=0.15), (found, real)
    share = trained_share(empty_model("z_image", lifted=config.objective == "source"), config)
    assert found.trained_weights == 4 * share.num_trainable


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("float8", "torchao"), ("nf4", "bitsandbytes")])
def test_bytes_of_small_frozen_weights_are_those_that_they_take(kind, library):
    pytest.importorskip(library)
    config = config_of({})
    model = empty_model("z_image", lifted=False).to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    freezing.freeze_all_but(model, trained_names(model, config))
    shrink_frozen(model, kind)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    expected = stored_bytes([*frozen, *model.buffers()])
    # A matrix whose size is no multiple of a block has one scale more.
    assert estimated("z_image", config, frozen_weights=kind).at(1).frozen_weights == pytest.approx(expected, rel=1e-3)


def test_bytes_of_an_8_bit_optimizer_are_those_that_it_takes():
    library = pytest.importorskip("bitsandbytes")
    parameters = [torch.nn.Parameter(torch.ones(64, 512)), torch.nn.Parameter(torch.ones(100))]
    optimizer = library.optim.AdamW8bit(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(each.nbytes for parameter in parameters for key, each in tensors_of(optimizer, parameter))
    per_weight, least = STATE_8BIT
    assert 100 < least <= 64 * 512
    # Both tables of 256 values belong to the optimiser; each tensor refers to them.
    assert round(64 * 512 * per_weight) + 100 * 8 == held


def tensors_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    state = optimizer.state[parameter].items()
    return [(key, value) for key, value in state if isinstance(value, torch.Tensor) and not key.startswith("qmap")]


@pytest.fixture(scope="module")
def paper() -> MeasuredTraining:
    return measured_training("z_image", config_of({"ema_decay": 0.9}))


def test_parts_add_up_and_follow_the_settings(paper):
    one = paper.estimate(num_processes=2).at(BATCH)
    sizes = [value for key, value in vars(one).items() if key not in ("images", "phase")]
    assert one.peak == sum(sizes)
    assert min(sizes) >= 0
    assert one.optimizer_state == pytest.approx(2 * one.trained_weights, rel=1e-3)
    assert one.average == one.exchange == one.trained_weights
    assert paper.estimate().at(BATCH).exchange == one.teacher == 0
    small = paper.estimate(optimizer="adamw_8bit").at(BATCH)
    assert one.peak - small.peak == pytest.approx(1.5 * one.trained_weights + one.exchange, rel=0.01)
    offloaded = paper.estimate(block_offload=True).at(BATCH).frozen_weights
    assert offloaded == one.frozen_weights  # four blocks, two train, and two are on the card at once


def test_largest_batch_is_the_last_that_fits(paper):
    estimate = paper.estimate()
    card_gb = (estimate.at(7).peak + RESERVED_BYTES) / 2**30
    assert estimate.largest_batch(card_gb) == 7
    assert estimate.largest_batch(card_gb * (1 - 1e-6)) == 6
    assert estimate.largest_batch((estimate.at(1).peak + RESERVED_BYTES - 1) / 2**30) == 0


def test_autocast_chooses_dtypes_as_on_cuda():
    wide, narrow = torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bfloat16)
    index = torch.zeros(4, 4, dtype=torch.long)

    def dtypes() -> list[torch.dtype]:
        normed, powered = functional.layer_norm(narrow, (4,)), narrow**2
        return [normed.dtype, powered.dtype, (wide @ wide).dtype, torch.relu(narrow).dtype]

    full, half = torch.float32, torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert dtypes() == [half, half, half, half]
        with CudaAutocast():
            assert dtypes() == [full, full, half, half]
            assert torch.scatter_add(narrow, 0, index, wide).dtype == full
    with CudaAutocast():
        assert dtypes() == [half, half, full, half]


def test_live_bytes_are_those_of_storages():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[:500].reshape(10, 50)
        second = torch.zeros(100)
        del second
        live.count([view], "seen")
        assert live.now == {"other": 0, "seen": 4000}
        assert live.at_peak == {"other": 4400}
        live.restart()
        del first
        assert live.at_peak["seen"] == live.now["seen"] == 4000
        del view
        assert live.now.total() == 0


def test_tokens_take_turns_and_masks_cut_tensors_without_data():
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    scores, mask = fake_tensor((6, 4), torch.float32, mode=mode), torch.tensor([True, False, True, True, False, True])
    with KnownPlaces():
        values, places = scores.topk(2)
        assert scores[mask].shape == (4, 4)
    assert values.shape == (6, 2)
    assert places.flatten().bincount().tolist() == [3, 3, 3, 3]
