"""A sentence and an index folder -> hits: the library function behind `salm-retrieve` and the demo."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from salm_index import Hit, Index

import salm
from salm.errors import CheckpointError, SalmError


def search_index(index_path: Path, query: str, k: int = 10, model: str | None = None) -> list[Hit]:
    """The k windows of an index that are most like a sentence.

    Args:
        index_path: the index folder.
        query: such as "dog barking from the northwest".
        k: how many.
        model: what `salm.load` takes; None loads the model that the index names.

    Raises:
        SalmError: the query is empty, or the model cannot be loaded.
        SalmIndexError: the index cannot be read, or it was made with another model.
    """
    if not query.strip():
        raise SalmError('the query is empty; expected a sentence such as "dog barking from the northwest"')
    with Index.open(index_path) as index:
        embedder = _load(index, model)
        vectors = embedder.encode_text([query])
        return index.search(vectors, k, model=embedder.model_id)


def hit_to_json(hit: Hit) -> dict[str, Any]:
    """A hit as JSON values: its own fields first, then the row's metadata (label, ...) beside them."""
    values = asdict(hit)
    metadata = values.pop("metadata")
    return values | {name: value for name, value in metadata.items() if name not in values}


def _load(index: Index, model: str | None) -> Any:
    if model is not None:
        return salm.load(model)
    name = index.model.partition(":")[0]
    try:
        return salm.load(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{index.path}: made with model {index.model!r}, and {name!r} cannot be loaded by name; "
            "pass its checkpoint folder with --model"
        ) from error
