"""What an answer of a language model must fulfil before it may stand as a spatial caption.

The checks err towards refusing: a template in its place costs variety, a wrong direction costs truth.
"""

import re
from collections.abc import Sequence

from salm.geometry import SECTORS, Sector, find_elevation, find_sector, parse_sector

MAX_ADDED_WORDS = 1
"""Words of its own that an answer may add, apart from those that every sentence about a sound may use."""
_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "geese": "goose", "mice": "mouse"}
_NEGATIONS = frozenset({"no", "not", "never", "nothing", "without"})
_STOP_WORDS = """
a an the and or but while as then also is are was were be been being am has have had having do does did can could may
might will would it its this that these those there here he she they them his her their i me my we us our you your who
which what where when of in on at to from by for with into onto out up off over through along during near around about
between among some someone somebody something any so
"""
_SOUND_WORDS = """
sound sounding noise hear heard audible listen listener come came coming emanate originate reach arrive emit direction
side source located situated position toward towards
"""


def refusal(caption: str, direction: str, answer: str) -> str | None:
    """Why an answer may not be used, as "check: what was wrong", or None where it may.

    The answer is one line, names the requested direction and no other, keeps every content word of the caption (in any
    inflection) and adds at most `MAX_ADDED_WORDS`, and has at most twice as many words as the caption, and twelve.
    """
    text = tidy(answer)
    if not text:
        return "empty: no words"
    if len(text.splitlines()) > 1:
        return f"lines: {len(text.splitlines())}, expected one"
    words, most = len(_words(text)), 2 * len(_words(caption)) + 12
    if words > most:
        return f"length: {words} words, at most {most}"
    return _wrong_direction(caption, parse_sector(direction), text) or _wrong_content(caption, text)


def _wrong_direction(caption: str, wanted: Sector, text: str) -> str | None:
    named = sectors_named(text)
    if named != {wanted} or find_sector(text) != wanted:
        found = ", ".join(sorted(sector.compass for sector in named)) or "none"
        return f"direction: names {found}, not {wanted.compass} alone"
    elevation = find_elevation(text)
    if elevation is not None and elevation != find_elevation(caption):
        return f"direction: says {elevation}, the caption does not"
    return None


def _wrong_content(caption: str, text: str) -> str | None:
    said, given = _content(text), _content(caption)
    lost = [word for stem, word in given.items() if stem not in said]
    if lost:
        return f"content: lacks {', '.join(lost)}"
    added = [
        word for stem, word in said.items() if stem not in given and stem not in _NEUTRAL and not find_sector(word)
    ]
    wrong = len(added) > MAX_ADDED_WORDS or not _NEGATIONS.isdisjoint(added)
    return f"content: adds {', '.join(added)}" if wrong else None


def sectors_named(text: str) -> set[Sector]:
    """Every sector that a sentence names, where `find_sector` tells the most specific alone."""
    lowered = text.lower()
    words = list(re.finditer(r"[a-z]+", lowered))
    spans = [
        (word.start(), word.end(), sector)
        for number, word in enumerate(words)
        if (sector := find_sector(word[0])) is not None and not _is_emphasis(lowered, words, number)
    ]
    named: set[Sector] = set()
    while spans:
        start, _, sector = spans.pop(0)
        joint = find_sector(lowered[start : spans[0][1]]) if spans else None
        # Two words of one diagonal, "front" and "left": neither is a direction of its own.
        if joint is not None and _is_diagonal(joint) and not _is_diagonal(sector) and not _is_diagonal(spans[0][2]):
            sector = joint
            spans.pop(0)
        named.add(sector)
    return named


def _is_diagonal(sector: Sector) -> bool:
    return sector.index % 2 == 1


def _is_emphasis(text: str, words: Sequence[re.Match[str]], number: int) -> bool:
    """Whether this word is the "right" of "right behind me" or "right away", seen by what "left" would mean there."""
    word = words[number]
    if word[0] != "right":
        return False
    before = text[words[max(number - 1, 0)].start() : word.start()]
    after = text[word.end() : words[min(number + 2, len(words) - 1)].end()]
    right, left = find_sector(f"{before}right{after}"), find_sector(f"{before}left{after}")
    mirrored = None if left is None else SECTORS[-left.index % len(SECTORS)]
    return right != mirrored and (right is None or right.body in ("front", "back"))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub(r"['’]s\b|['’]", "", text.lower()))


def _stem(word: str) -> str:
    """What the inflections of a word have in common: "bark" of barks, barked and barking."""
    stem = _IRREGULAR.get(word, word)
    for suffix, ending in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        base = stem.removesuffix(suffix) + ending
        # "spring" and "speed" are no inflections, and "bees" are "bee", not "be".
        if (
            stem.endswith(suffix)
            and len(base) > 2
            and re.search("[aeiouy]", base)
            and not (suffix in ("ed", "es") and base.endswith("e"))
        ):
            stem = base
            break
    if len(stem) > 5:
        stem = stem.removesuffix("ly")
    if len(stem) > 3:
        stem = stem.removesuffix("e")
    return stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem


_STOP = frozenset(_STOP_WORDS.split())
_NEUTRAL = frozenset(map(_stem, _SOUND_WORDS.split()))


def _content(text: str) -> dict[str, str]:
    """Stems of the words that carry meaning, each with the word itself."""
    return {_stem(word): word for word in _words(text) if word not in _STOP}


def tidy(answer: str) -> str:
    """The answer without blanks and quotation marks around it."""
    text = answer.strip()
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "“”", "‘’"):
        text = text[1:-1].strip()
    return text
