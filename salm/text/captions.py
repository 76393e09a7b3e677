"""Directions <-> sentences: spatial captions and direction sentences from templates, and their detection.

A spatial caption is a caption ("A dog barks several times nearby.") or a bare label ("dog barking") merged with one
direction, in compass words (60 %) or words of the body (40 %). Every sentence made here satisfies
``geometry.find_sector(sentence) == geometry.sector_of(azimuth_rad)``: it names the right sector and no other.
"""

import math
import re

import numpy as np

from salm.geometry import (
    Sector,
    direction_prompt,
    find_elevation,
    find_sector,
    sector_of,
    spell_out_directions,
)

COMPASS_SHARE = 0.6
"""Share of the sentences that use compass words; the others use words of the body."""
PLAIN_SHARE = 0.2
"""Share of the spatial captions of the plain form "<caption> from the <compass word>"."""
CANONICAL_SHARE = 0.4
"""Share of the direction sentences that are `geometry.direction_prompt` itself."""
ELEVATION_WORD_RAD = math.radians(25.0)
"""Elevation from which a caption may say "above" or "below"."""
_ELEVATION_SHARE = 0.4

_FROM_COMPASS = (
    ("from the {c}", 9), ("from the {c}ern direction", 1), ("out of the {c}", 1), ("from the {c}ern side", 1),
    ("from a {c}erly direction", 1), ("from {c}", 1), ("from the {c} of the listener", 1),
)  # fmt: skip
_AT_COMPASS = (
    ("in the {c}", 4), ("to the {c}", 4), ("towards the {c}", 1), ("off to the {c}", 1), ("{c} of me", 1),
    ("to the {c} of you", 1), ("on the {c}ern side", 1), ("in the {c}ern direction", 1), ("somewhere in the {c}", 1),
    ("located to the {c}", 1), ("in the {c} direction", 1),
)  # fmt: skip
_FROM_BODY = (
    ("from the front", "from straight ahead", "from ahead", "from in front of me", "from right in front of you"),
    ("from the front-left", "from the front left", "from ahead and to the left", "from my front left",
     "from ahead on the left"),
    ("from the left", "from my left", "from your left", "from the left side", "from the left-hand side"),
    ("from the back-left", "from behind and to the left", "from behind me on the left", "from the rear left"),
    ("from behind", "from behind me", "from the back", "from the rear", "from behind you"),
    ("from the back-right", "from behind and to the right", "from behind me on the right", "from the rear right"),
    ("from the right", "from my right", "from your right", "from the right side", "from the right-hand side"),
    ("from the front-right", "from the front right", "from ahead and to the right", "from my front right",
     "from ahead on the right"),
)  # fmt: skip
_AT_BODY = (
    ("in front of me", "in front of you", "straight ahead", "in front", "ahead of me", "up ahead",
     "in front of the listener"),
    ("ahead and to the left", "to the front-left", "in front and to the left", "ahead to the left", "at my front left"),
    ("to the left", "on the left", "to my left", "to your left", "on your left-hand side", "left of me"),
    ("behind and to the left", "behind me to the left", "to the back-left", "behind you on the left",
     "at the back left"),
    ("behind me", "behind you", "right behind me", "at the back", "at the rear", "directly behind the listener"),
    ("behind and to the right", "behind me to the right", "to the back-right", "behind you on the right",
     "at the back right"),
    ("to the right", "on the right", "to my right", "to your right", "on your right-hand side", "right of me"),
    ("ahead and to the right", "to the front-right", "in front and to the right", "ahead to the right",
     "at my front right"),
)  # fmt: skip
_ABOVE = (" and above", ", from above", ", above", ", up high", ", overhead", ", somewhere above")
_BELOW = (" and below", ", from below", ", below", ", down low", ", beneath", ", somewhere below")

# {s}: the caption; {f}: "from the left"; {d}: {f} or "to the left"; {w}: the bare word ("northwest", "front-left").
_SENTENCE_FORMS = (
    ("{s} {f}", 6), ("{s} {d}", 3), ("{d}, {s}", 5), ("{s}, {d}", 3), ("{s}. It comes {f}", 1), ("{d}: {s}", 1),
    ("{w}: {s}", 1), ("{s}. The sound is coming {f}", 1), ("{s}, {w}", 1), ("{s}; it is {d}", 1), ("{d} {s}", 1),
    ("{s}, coming {f}", 2), ("{s} coming {f}", 1), ("coming {f}, {s}", 1),
)  # fmt: skip
_LABEL_FORMS = (
    ("{s} {f}", 7), ("{s} {d}", 4), ("{s}, {d}", 2), ("{s}, {w}", 2), ("{w}: {s}", 1), ("{d}: {s}", 1), ("{d}, {s}", 2),
    ("the sound of {s} {f}", 3), ("{d} you can hear {s}", 2), ("{d} there is {s}", 1), ("I can hear {s} {f}", 1),
    ("{s} {w}", 1), ("{w} {s}", 1), ("{s} ({w})", 1), ("{s} is heard {f}", 1), ("sound of {s} {d}", 1),
    ("{f} comes the sound of {s}", 1), ("a recording of {s} {d}", 1),
    ("{s} coming {f}", 2), ("{s}, heard {f}", 1),
)  # fmt: skip
_DIRECTION_FORMS = (
    ("The sound is coming from the {w}", 6), ("The sound comes {f}", 3), ("It comes {f}", 2), ("It is {d}", 1),
    ("sound {f}", 3), ("a sound {d}", 2), ("The source is {d}", 2), ("{f}", 2), ("{d}", 1), ("{w}", 1),
    ("I hear it {f}", 1), ("The sound is {d}", 2), ("Something can be heard {f}", 1), ("the noise comes {f}", 1),
)  # fmt: skip
_MID_SHARE = 0.15  # of the sentences that start "A dog is ...": "A dog in the northwest is ..."

_WORD = (
    r"(?:(?:north|south)[\s-]*(?:east|west)(?:ern|erly)?|(?:north|south|east|west)(?:ern|erly)?"
    r"|(?:front|back|rear|left|right)(?:[\s-]+(?:left|right|front|back|rear))?|ahead|forward|behind)"
)
_ARTICLE = r"(?:(?:the|a|my|your)\s+)?"
_TAIL = r"(?:[\s-]+(?:hand[\s-]+)?(?:side|direction|hand))?(?:\s+(?:of\s+)?(?:me|you|us|the\s+listener))?"
_LEAD = (
    r"(?:\b(?:coming|heard|located|somewhere|directly|straight|right|off)\s+)*"
    r"\b(?:(?:from|to|towards?|in|on|at|out\s+of|up)\s+)*"
)
_STRIP = (
    re.compile(r"[\s,]*\bback\s+and\s+forth\b", re.IGNORECASE),
    re.compile(
        rf"[\s,;:(]*(?:\band\s+)?(?:\bit\s+(?:is|comes)\s+)?{_LEAD}{_ARTICLE}\b{_WORD}\b{_TAIL}"
        rf"(?:\s*,?\s*(?:and\s+)?(?:(?:to|on)\s+)?{_ARTICLE}\b{_WORD}\b{_TAIL})*[:)]?",
        re.IGNORECASE,
    ),
    re.compile(r"north\w*|south\w*", re.IGNORECASE),  # inside other words, where `find_sector` sees them as well
)


def spatial_caption(caption: str, azimuth_rad: float, elevation_rad: float, generator: np.random.Generator) -> str:
    """The caption with words for its direction, in one of many orders and styles.

    Direction words of the caption itself ("walks to the left", "back and forth") are removed first.

    Args:
        caption: a sentence ("A dog is barking.") or a bare label ("dog barking").
        azimuth_rad: azimuth of the source, any range.
        elevation_rad: elevation of the source; from `ELEVATION_WORD_RAD` on, "above" or "below" is added at times.
        generator: chooses the words.

    Returns:
        A sentence in which `find_sector` finds the azimuth's sector.
    """
    sector = sector_of(azimuth_rad)
    text = strip_direction(caption) if find_sector(caption) else caption.strip()
    is_label, text = not _is_sentence(text), text.rstrip(" .")
    elevation = _elevation_words(text, elevation_rad, generator)
    if generator.random() < PLAIN_SHARE:
        return _vary(f"{text} from the {sector.compass}{elevation}", generator)
    compass = generator.random() < (COMPASS_SHARE - PLAIN_SHARE) / (1 - PLAIN_SHARE)
    subject = re.match(r"((?:A|An|The|Some) \S+(?: \S+)?) (is|are) ", text)
    if subject and generator.random() < _MID_SHARE:
        place = _phrase(sector, compass, False, generator) + elevation + ("," if elevation else "")
        return _vary(f"{subject[1]} {place} {subject[2]} {text[subject.end() :]}", generator)
    form = _choose(_LABEL_FORMS if is_label else _SENTENCE_FORMS, generator)
    return _vary(_fill(form, text, sector, compass, elevation, generator), generator)


def direction_sentence(sector: Sector, generator: np.random.Generator) -> str:
    """A sentence about a direction alone; in two of five the zero-shot prompt itself."""
    if generator.random() < CANONICAL_SHARE:
        return direction_prompt(sector)
    compass = generator.random() < COMPASS_SHARE
    return _vary(_fill(_choose(_DIRECTION_FORMS, generator), "", sector, compass, "", generator), generator)


def direction_phrase(sector: Sector, generator: np.random.Generator) -> str:
    """A phrase such as "from the northwest" or "behind me to the left"."""
    return _phrase(sector, generator.random() < COMPASS_SHARE, False, generator)


def has_direction_word(sentence: str) -> bool:
    """Whether the sentence already names a direction or "above"/"below", in any sense ("back and forth" counts)."""
    return find_sector(sentence) is not None or find_elevation(sentence) is not None


def strip_direction(sentence: str) -> str:
    """The sentence without its horizontal direction: "dog barking from the left" -> "dog barking".

    What is left names no sector; it is empty where the sentence held nothing else.
    """
    text = spell_out_directions(sentence)
    for pattern in _STRIP:
        text = pattern.sub("", text)
    text = re.sub(r"\s+([.,;:])", r"\1", re.sub(r"\s{2,}", " ", text)).strip(" ,;:-")
    return text[:1].upper() + text[1:] if sentence[:1].isupper() else text


def _is_sentence(text: str) -> bool:
    """Whether a caption is a whole sentence ("A dog barks.") rather than a label ("dog barking", "Church bell")."""
    return text.endswith(".") or (text[:1].isupper() and len(text.split()) > 3)


def _elevation_words(caption: str, elevation_rad: float, generator: np.random.Generator) -> str:
    if abs(elevation_rad) < ELEVATION_WORD_RAD or generator.random() >= _ELEVATION_SHARE or find_elevation(caption):
        return ""
    words = _ABOVE if elevation_rad > 0 else _BELOW
    return words[generator.integers(len(words))]


def _phrase(sector: Sector, compass: bool, only_from: bool, generator: np.random.Generator) -> str:
    """A direction as a phrase that starts with "from" or the like; with `only_from` False also "to your left"."""
    use_from = only_from or generator.random() < 0.5
    if compass:
        form = _choose(_FROM_COMPASS if use_from else _AT_COMPASS, generator)
        return form.format(c=_spell(sector, generator))
    phrases = (_FROM_BODY if use_from else _AT_BODY)[sector.index]
    return phrases[generator.integers(len(phrases))]


def _spell(sector: Sector, generator: np.random.Generator) -> str:
    """The compass word, as in "northwest", at times "north-west" or "north west"."""
    draw = generator.random()
    if draw < 0.85 or sector.index % 2 == 0:
        return sector.compass
    return re.sub("^(north|south)", r"\1-" if draw < 0.93 else r"\1 ", sector.compass)


def _fill(form: str, text: str, sector: Sector, compass: bool, elevation: str, generator: np.random.Generator) -> str:
    filled = form.format(
        s=text if form.startswith("{s}") else _lower_first(text),
        f=_phrase(sector, compass, True, generator) + elevation,
        d=_phrase(sector, compass, False, generator) + elevation,
        w=(_spell(sector, generator) if compass else sector.body) + elevation,
    )
    return filled[:1].upper() + filled[1:] if text[:1].isupper() else filled


def _lower_first(text: str) -> str:
    """The text with its first letter in lower case, unless the first word is an acronym or "I"."""
    first = text.split(" ", 1)[0]
    return text if (len(first) > 1 and first.isupper()) or first == "I" else text[:1].lower() + text[1:]


def _vary(text: str, generator: np.random.Generator) -> str:
    """The sentence with or without its full stop, at times in lower or upper case."""
    text = text.rstrip(" .") + ("." if generator.random() < 0.4 else "")
    draw = generator.random()
    if draw < 0.15:
        return text.lower()
    if draw < 0.17:
        return text.upper()
    return text[:1].upper() + text[1:] if draw < 0.35 else text


def _choose(weighted: tuple[tuple[str, int], ...], generator: np.random.Generator) -> str:
    draw = generator.integers(sum(weight for _, weight in weighted))
    for form, weight in weighted:
        if draw < weight:
            return form
        draw -= weight
    raise AssertionError("weights are positive")
