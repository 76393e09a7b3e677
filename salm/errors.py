"""Errors that a user can act on: each message names the input, what was expected, and the next step."""


class SalmError(Exception):
    """Base of every error that SALM raises for a user's input; the command line prints it as one line."""


class AudioFormatError(SalmError):
    """A recording cannot be used: unreadable, wrong channel count, not finite, wrong rate."""


class DirectionError(SalmError):
    """A direction word, angle or vector is not one that SALM understands."""


class ManifestError(SalmError):
    """A row of a dry-sound or scene manifest is invalid; the message carries file and line."""


class ConfigError(SalmError):
    """A configuration value or key is invalid."""


class CheckpointError(SalmError):
    """A checkpoint folder is missing, incomplete, or does not fit the model."""


class SceneError(SalmError):
    """A scene cannot be simulated: impossible room, position or level."""


class DependencyError(SalmError):
    """An optional package or tool is missing or does not fit; the message names what to install."""
