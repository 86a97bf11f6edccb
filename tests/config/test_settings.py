"""Settings are strict on the way in and complete on the way out."""

from dataclasses import dataclass, field

import pytest

from latent2pixel.config import apply_overrides, build_config, dump_yaml, load_yaml
from latent2pixel.errors import ConfigError, GeometryError


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    steps: int = 10
    rate: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    optimiser: Optimiser = field(default_factory=Optimiser)
    second: Optimiser | None = None
    stages: tuple[Optimiser, ...] = ()
    channels: tuple[int, ...] = (1, 2)
    quick: bool = False

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise GeometryError("no", found="x", expected="y", fix="z")


def test_dump_is_complete_and_reloads(tmp_path):
    run = Run(name="1e5", optimiser=Optimiser(rate=3e-5), second=Optimiser(steps=3), stages=(Optimiser(),), quick=True)
    dump_yaml(run, tmp_path / "run.yaml")
    settings = load_yaml(tmp_path / "run.yaml")
    assert set(settings) == {"name", "optimiser", "second", "stages", "channels", "quick"}
    assert build_config(Run, settings) == run


@pytest.mark.parametrize(
    ("settings", "found", "nearest"),
    [
        ({"nam": "a"}, "nam", "name"),
        ({"optimiser": {"step": 3}}, "optimiser.step", "optimiser.steps"),
        ({"second": {"rat": 3}}, "second.rat", "second.rate"),
        ({"stages": [{}, {"stepz": 3}]}, "stages.1.stepz", "stages.1.steps"),
    ],
)
def test_unknown_key_names_the_nearest(settings, found, nearest):
    with pytest.raises(ConfigError) as error:
        build_config(Run, {"name": "a"} | settings)
    assert error.value.found == found
    assert error.value.fix == f"Did you mean {nearest}?"


@pytest.mark.parametrize(
    ("settings", "where", "found"),
    [
        ({"optimiser": {"steps": "many"}}, "optimiser.steps", "'many'"),
        ({"optimiser": {"steps": True}}, "optimiser.steps", "True"),
        ({"optimiser": {"steps": 1.5}}, "optimiser.steps", "1.5"),
        ({"second": {"rate": False}}, "second.rate", "False"),
        ({"optimiser": None}, "optimiser", "None"),
        ({"name": 3}, "name", "3"),
    ],
)
def test_wrong_type_says_where_and_what(settings, where, found):
    with pytest.raises(ConfigError) as error:
        build_config(Run, {"name": "a"} | settings)
    assert where in error.value.problem
    assert error.value.found == found


def test_missing_key():
    with pytest.raises(ConfigError, match="The setting name does not fit"):
        build_config(Run, {})


def test_errors_of_the_dataclass_itself_pass_through():
    with pytest.raises(GeometryError):
        build_config(Run, {"name": "refused"})


def test_overrides_reach_any_depth_and_leave_the_original():
    settings = {"name": "a", "optimiser": {"steps": 1}}
    changed = apply_overrides(settings, ["optimiser.steps=5", "optimiser.rate=1e-5", "channels=[3, 4]", "quick=true"])
    assert build_config(Run, changed) == Run(
        name="a", optimiser=Optimiser(steps=5, rate=1e-5), channels=(3, 4), quick=True
    )
    assert settings == {"name": "a", "optimiser": {"steps": 1}}


@pytest.mark.parametrize("override", ["name", "=3", "name.first=a", "name=[1"])
def test_malformed_override(override):
    with pytest.raises(ConfigError) as error:
        apply_overrides({"name": "a"}, [override])
    assert override in str(error.value)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [1\n", b"\xff\xfe\x80", b""])
def test_file_without_settings(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_yaml(path)


def test_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_yaml(path)


def test_no_is_a_name_and_no_boolean():
    """Failed once: `--set precision=no` was told to be False, as YAML 1.1 has it."""
    overrides = ["precision=no", "flag=true", "other=False"]
    assert apply_overrides({}, overrides) == {"precision": "no", "flag": True, "other": False}
