"""The exceptions a user can meet, each with the exit code of the command it ends.

Every message is one sentence: what is wrong, where, what to do.

    SkinvaeError                 1
    ├── UsageError               2   an argument or a setting cannot be used
    │   └── ConfigError          2   a setting has an unknown name or a bad value
    ├── RejectLimitExceeded      3   the job is done, but rejected more images than allowed
    ├── InputError               4   an input is missing, forbidden or not what it should be
    │   ├── ArchiveError         4   an archive cannot be read as the kind it claims to be
    │   ├── SourceChanged        4   an archive was replaced while it was read
    │   ├── LabelsError          4   a labels or groups file lacks what its format promises
    │   ├── BundleError          4   a model bundle is missing, incomplete or altered
    │   └── TableError           4   a score table is missing or lacks what was asked for
    ├── DifferenceFound          1   verify found a table that is not as it should be
    ├── TrainingError            1   training ended without a model
    ├── JobError                 1   the Ray job lost more workers than it could replace
    └── Interrupted              5   stopped by a signal; run again to resume
"""

from __future__ import annotations


class SkinvaeError(Exception):
    """Base of all errors that end a command with one sentence instead of a traceback."""

    exit_code = 1


class UsageError(SkinvaeError):
    """An argument or a setting cannot be used."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting has an unknown name or a value out of its bounds."""


class RejectLimitExceeded(SkinvaeError):
    """Everything was written, but a larger share of the images was rejected than the settings allow."""

    exit_code = 3


class InputError(SkinvaeError):
    """An input is missing, forbidden or not what it should be."""

    exit_code = 4


class ArchiveError(InputError):
    """An archive cannot be read as the kind it claims to be."""


class SourceChanged(InputError):
    """An archive was replaced while it was read."""


class LabelsError(InputError):
    """A labels or groups file lacks what its format promises."""


class BundleError(InputError):
    """A model bundle is missing, incomplete or altered."""


class TableError(InputError):
    """A score table is missing or lacks what was asked for."""


class DifferenceFound(SkinvaeError):
    """A table is not what its archives and its own records say."""


class TrainingError(SkinvaeError):
    """Training ended without a model."""


class JobError(SkinvaeError):
    """The Ray job lost more workers than it could replace."""


class Interrupted(SkinvaeError):
    """The command was stopped by a signal; running it again resumes."""

    exit_code = 5
