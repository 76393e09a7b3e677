"""Errors that a user can act on: each message names the file, what was expected, what came, and the next step."""


class SalmIndexError(Exception):
    """Base of every error that `salm_index` raises; nothing of faiss, sqlite3 or json gets through."""


class IndexNotFoundError(SalmIndexError):
    """There is no index at this path."""


class IndexExistsError(SalmIndexError):
    """`Index.create` was given a folder that already holds something."""


class IndexCorruptError(SalmIndexError):
    """A file of the index is missing, truncated, damaged, or belongs to another index or generation."""


class IndexAccessError(SalmIndexError):
    """The operating system refused to read or write a file: permissions, full disk, broken device."""


class IndexLockedError(SalmIndexError):
    """Another writer holds the index."""


class SchemaVersionError(SalmIndexError):
    """The index was written in a format that this version of `salm_index` does not read."""


class ModelMismatchError(SalmIndexError):
    """Vectors of another model were offered; their scores would mean nothing."""


class VectorError(SalmIndexError):
    """A vector cannot be stored or searched: wrong shape or type, zero, or not finite."""


class RowError(SalmIndexError):
    """A row cannot be stored: a field is missing or invalid, or its window is already in the index."""


class QueryError(SalmIndexError):
    """A search argument (`k`, `where`) is invalid."""


class MissingDependencyError(SalmIndexError, ImportError):
    """A package is not installed that only this operation needs."""
