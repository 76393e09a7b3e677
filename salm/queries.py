"""What is looked for -> a vector: sentences, recordings, recordings from another direction, and parts of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from salm.errors import ConfigError
from salm.geometry import Convention, direction_prompt, find_sector, parse_sector
from salm.text.captions import strip_direction

Part = Literal["all", "what", "where"]


@dataclass(frozen=True)
class Query:
    """A sentence or a recording, and what of it counts.

    Args:
        text: such as "dog barking from the northwest"; or
        like: a recording to find similar ones of.
        direction: look for the same from this direction ("southwest", "behind me") instead: the sentence's own is
            replaced, or the recording's spatial embedding (equation 3), which then counts as much as the semantic one.
        part: "what" leaves the direction out, "where" the sound.
        convention: of `like`.

    Raises:
        ConfigError: neither or both of text and recording, or a direction where none counts.
    """

    text: str | None = None
    like: Path | None = None
    direction: str | None = None
    part: Part = "all"
    convention: Convention = "ambix"

    def __post_init__(self) -> None:
        text = (self.text or "").strip()
        if bool(text) == (self.like is not None):
            given = "both" if text else "neither"
            raise ConfigError(
                'expected either a sentence such as "dog barking from the northwest" or a recording (like), got '
                f"{given}"
            )
        if self.direction is not None and self.part != "all":
            raise ConfigError(f"a direction makes no sense where only {self.part!r} counts; leave one of them out")

    @property
    def is_plain_recording(self) -> bool:
        """Whether its vector is of the kind that an index holds: a recording as it is."""
        return self.like is not None and self.direction is None and self.part == "all"


def query_vector(model: Any, query: Query) -> Float[NDArray[np.float32], "1 width"]:
    """The L2-normalised vector to search joint embeddings with.

    Args:
        model: an `Embedder`, or for a sentence a `SentenceEncoder`.

    Raises:
        ConfigError: the sentence has nothing of the part that counts.
        DirectionError: `direction` names no horizontal direction.
        AudioFormatError: the recording cannot be used.
    """
    if query.like is not None:
        return _recording_vector(model, query.like, query)
    return np.asarray(model.encode_text(_sentence(query.text or "", query)))


def _sentence(text: str, query: Query) -> str:
    if query.part == "where":
        sector = find_sector(text)
        if sector is None:
            raise ConfigError(f'"{text}": names no direction to look for; expected a word such as northwest or behind')
        return direction_prompt(sector)
    if query.part == "all" and query.direction is None:
        return text
    sound = strip_direction(text)
    if not sound:
        raise ConfigError(f'"{text}": names no sound to look for; expected one such as "dog barking"')
    return sound if query.direction is None else f"{sound} from the {parse_sector(query.direction).compass}"


def _recording_vector(model: Any, path: Path, query: Query) -> NDArray[np.float32]:
    if query.part == "what":
        return np.asarray(model.encode_audio(path, embedding="semantic", convention=query.convention))
    parts = model.encode_audio_parts(path, convention=query.convention)
    if query.direction is not None:
        edited = model.edit_direction(parts, parse_sector(query.direction).compass, normalize_embeddings=False)
        return with_equal_parts(np.asarray(parts.semantic), np.asarray(edited))
    vector = parts.joint - parts.semantic if query.part == "where" else parts.joint
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def with_equal_parts(
    semantic: Float[NDArray, "rows width"], joint: Float[NDArray, "rows width"]
) -> Float[NDArray, "rows width"]:
    """L2-normalised queries that heed what and where alike, from the unnormalised parts of examples.

    In a recording's joint embedding the semantic part is several times as long as the spatial one: as a query it would
    find the same sound from anywhere. Here a recording with the example's own parts owes half its score to each.
    """
    spatial = joint - semantic
    query = sum(part / np.square(np.linalg.norm(part, axis=1, keepdims=True)) for part in (semantic, spatial))
    return query / np.linalg.norm(query, axis=1, keepdims=True)
