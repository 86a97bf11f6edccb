"""Errors that a user can cause: four parts, no traceback, exit code 2."""


class L2PError(Exception):
    """A user's mistake, told in four parts.

    Args:
        problem: What is wrong, one sentence without a full stop.
        found: The value or state that was met.
        expected: The value or state that would have been right.
        fix: What the user can do about it, one sentence.
    """

    def __init__(self, problem: str, *, found: object, expected: object, fix: str) -> None:
        self.problem = problem
        self.found = str(found)
        self.expected = str(expected)
        self.fix = fix
        super().__init__(f"{problem}\n  found:    {self.found}\n  expected: {self.expected}\n  do:       {fix}")


class SourceError(L2PError):
    """A source folder or id that cannot be used."""


class UnsupportedFamilyError(SourceError):
    """A transformer class that no module in ``families/`` describes."""


class GeometryError(L2PError):
    """A patch size or an image size that does not fit the model."""


class OutputFolderError(L2PError):
    """An output folder that exists with other content, or cannot be written."""


class CheckpointError(L2PError):
    """Weights that are missing, truncated, or do not match their plan."""


class ConfigError(L2PError):
    """A configuration key or value that does not exist or does not fit."""


class DataError(L2PError):
    """Prompts, records or images that cannot be used."""


class EndpointError(L2PError):
    """A server of a language model that cannot be reached, or refuses to work."""


class StateError(L2PError):
    """A run that cannot go on from what its folder holds."""


class TrainingError(L2PError):
    """A run whose loss is no number any more, or grows without bound."""


class Interrupted(L2PError):  # noqa: N818 (what happened is no error of the user's)
    """A run that was asked to stop, and stopped with a checkpoint."""
