"""Errors that are the user's to mend: each says which file or field, what was found, and the way out."""

LONGEST = 300
"""Characters of another library's message within one of ours."""


def find_first_line(error: BaseException) -> str:
    """Return the first line with text of an error's message, cut where it is very long, or its class without one."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:LONGEST]


def find_last_line(error: BaseException) -> str:
    """Return the last line with text of an error's message, where a traceback names its error; its class without."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


class UserError(Exception):
    """Bad input; the command line prints the message alone and exits with code 2."""


class RecipeError(UserError):
    """A recipe or an override that cannot be used."""


class DatasetError(UserError):
    """A dataset folder that cannot be read as cases."""


class LeakageError(UserError):
    """Patients or images shared between training and evaluation."""


class WeightsError(UserError):
    """Weights that are absent, altered or of another architecture."""


class ShardError(UserError):
    """Embedding shards that are absent, altered or of another encoder."""


class FetchError(UserError):
    """A download that cannot be had, is damaged, or would unpack where it must not."""


class ClusterError(UserError):
    """A Ray cluster that cannot be reached, or has less than the recipe asks for."""


class RunFolderError(UserError):
    """A run folder that cannot be used: locked, incomplete or of another recipe."""


class StorageError(UserError):
    """A URL for runs that cannot be read and written."""


class StoppedError(Exception):
    """Stopped on request by a signal, everything finished being saved; the same command goes on from there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WorkersLostError(Exception):
    """Workers or nodes were lost more often than the recipe allows; the last checkpoint is kept."""
