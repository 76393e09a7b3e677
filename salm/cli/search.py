"""A query and an index folder -> hits: the library function behind `salm-retrieve` and the demo."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from salm_index import Hit, Index, MilvusIndex

import salm
from salm.cli.locate import Store
from salm.errors import CheckpointError, ConfigError, SalmError
from salm.geometry import SECTOR_WIDTH_RAD, parse_sector
from salm.queries import Query, query_vector
from salm.weights.registry import find_checkpoint
from salm.weights.sentence_encoder import SentenceEncoder, is_for_numpy

HALF_SECTOR_DEG = math.degrees(SECTOR_WIDTH_RAD) / 2


def search_index(
    place: Path | Store,
    query: str | Query,
    k: int = 10,
    model: str | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    per_recording: bool = False,
) -> list[Hit]:
    """The k windows of an index that are most like what is looked for.

    Inverted lists are read only for a recording as it is: their recall was measured with such vectors. Sentences lie
    apart from all windows, with their nearest ones in any list, so they are compared with all of them.

    Args:
        place: the index folder, or a store.
        query: a sentence such as "dog barking from the northwest", or a `Query`.
        k: how many.
        model: what `salm.load` takes; None loads the model that the index names.
        where: conditions on the windows, see `salm_index.filters`.
        per_recording: of each recording the best window alone.

    Raises:
        SalmError: the query holds nothing to look for, or the model cannot be loaded.
        SalmIndexError: the index cannot be read, or it was made with another model.
    """
    if isinstance(query, str):
        if not query.strip():
            raise SalmError('the query is empty; expected a sentence such as "dog barking from the northwest"')
        query = Query(query)
    with place.open() if isinstance(place, Store) else Index.open(place) as index:
        embedder = _load(index, model, query)
        vector, exact = query_vector(embedder, query), not query.is_plain_recording
        if per_recording:
            return _best_of_each(index, vector, k, where, embedder.model_id, exact)
        return index.search(vector, k, where, model=embedder.model_id, exact=exact)


def load_text_side(name_or_path: str | Path) -> Any:
    """What encodes sentences: a `SentenceEncoder`, or the `Embedder` of weights that numpy cannot read.

    Raises:
        CheckpointError: see `salm.load`.
    """
    folder = find_checkpoint(name_or_path)
    return SentenceEncoder(folder) if is_for_numpy(folder) else salm.load(folder)


def hit_to_json(hit: Hit) -> dict[str, Any]:
    """A hit as JSON values: its own fields first, then the row's metadata (label, ...) beside them."""
    values = asdict(hit)
    metadata = values.pop("metadata")
    return values | {name: value for name, value in metadata.items() if name not in values}


def window_filter(
    *, azimuth: str | None, elevation: str | None, time: str | None = None, path: str | None, metadata: Sequence[str]
) -> dict[str, Any]:
    """Conditions of an index's `where` from what a user writes.

    Args:
        azimuth: a direction word for its 45 degrees, or "LO:HI" in degrees, counter-clockwise from LO to HI.
        elevation: "LO:HI" in degrees.
        time: "LO:HI" in seconds; windows that reach into it.
        path: shell pattern.
        metadata: "NAME=VALUE" each; a value that is JSON (a number, true) is read as such.

    Raises:
        ConfigError, DirectionError: a condition that cannot be read; the message shows the form.
    """
    where: dict[str, Any] = {}
    if azimuth is not None:
        where["azimuth_deg"] = _range("azimuth", azimuth) if ":" in azimuth else _sector_range(azimuth)
    if elevation is not None:
        where["elevation_deg"] = _range("elevation", elevation)
    if time is not None:
        low_s, high_s = _range("time", time, "seconds")
        if low_s > high_s:
            raise ConfigError(f"time: expected LO:HI with LO up to HI, got {time!r}")
        where |= {"start_s": (None, high_s), "end_s": (low_s, None)}
    if path is not None:
        where["path"] = path
    for condition in metadata:
        name, equals, value = condition.partition("=")
        if not name or not equals:
            raise ConfigError(f"where: expected NAME=VALUE, such as label=dog, got {condition!r}")
        try:
            where[name] = json.loads(value)
        except json.JSONDecodeError:
            where[name] = value
    return where


def _range(name: str, text: str, unit: str = "degrees") -> tuple[float, float]:
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError as error:
        raise ConfigError(f"{name}: expected LO:HI in {unit}, such as 22.5:67.5, got {text!r}") from error
    return low, high


def _sector_range(word: str) -> tuple[float, float]:
    centre = parse_sector(word).azimuth_deg
    return centre - HALF_SECTOR_DEG, centre + HALF_SECTOR_DEG


def _best_of_each(
    index: Index | MilvusIndex, vector: Any, k: int, where: Mapping[str, Any] | None, model: str, exact: bool
) -> list[Hit]:
    wanted = k
    while True:
        hits = index.search(vector, wanted, where, model=model, exact=exact)
        best = list({hit.path: hit for hit in reversed(hits)}.values())
        best.sort(key=lambda hit: hit.rank)
        if len(best) >= k or len(hits) < wanted:
            return [replace(hit, rank=rank) for rank, hit in enumerate(best[:k], start=1)]
        wanted *= 4


def _load(index: Index | MilvusIndex, model: str | None, query: Query) -> Any:
    load = load_text_side if query.like is None else salm.load
    if model is not None:
        return load(model)
    name = index.model.partition(":")[0]
    try:
        return load(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{index.path}: made with model {index.model!r}, and {name!r} cannot be loaded by name; "
            "pass its checkpoint folder with --model"
        ) from error
