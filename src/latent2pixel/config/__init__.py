"""Settings: strict loading from YAML, dotted overrides, complete dumps. No default is ever guessed."""

from latent2pixel.config.settings import apply_overrides, build_config, dump_yaml, load_yaml

__all__ = ["apply_overrides", "build_config", "dump_yaml", "load_yaml"]
