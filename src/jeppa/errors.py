"""What went wrong, with which value, and what to do: the errors that a user can cause.

Every message is one line. The command line prints it and exits with code 2; anything that is not a
`JeppaError` is a failure of ours and exits with code 1.
"""


class JeppaError(Exception):
    """Base of all errors caused by input: `str(error)` is one line naming the value and the remedy."""


class ConfigError(JeppaError):
    """A setting is unknown, out of range, or contradicts a saved one."""


class DataError(JeppaError):
    """An image, folder or archive cannot be used."""


class CheckpointError(JeppaError):
    """A run folder or checkpoint is missing, damaged, or belongs to another model."""


class TrainingError(JeppaError):
    """Training cannot go on, for example because the loss stays non-finite."""
