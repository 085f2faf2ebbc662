"""Errors that are the user's to mend: each says which file or field, what was found, and the way out."""


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


class RunFolderError(UserError):
    """A run folder that cannot be used: locked, incomplete or of another recipe."""
