"""Does a four-channel recording look like AmbiX or FuMa? A hint from the energies of its channels."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from salm.audio.io import FOA_CHANNELS

ORDER_BAND_HZ = (200.0, 4_000.0)
"""Where the hint on the channel order looks: below are handling noise and wind, above is spatial aliasing."""
NUM_BANDS = 13
"""About a third of an octave each."""
_LEVEL_TOLERANCE_DB = 1.0
_AUDIBLE_SHARE, _MIN_BANDS = 1e-2, 6
_WEAKER_DB, _DEAD_DB = 3.0, 30.0
_SECOND_SHARE, _SECOND_SHARE_BESIDE_DEAD = 0.2, 0.02
_TOO_STRONG_DB, _TOO_WEAK_DB = 4.5, -6.0
_SPELLING = {"ambix": "AmbiX (W, Y, Z, X)", "fuma": "FuMa (W, X, Y, Z)"}


@dataclass(frozen=True)
class OrderHint:
    """What the channel order and gains look like: a hint from energies, never a proof.

    Args:
        convention: "ambix", "fuma" or "unclear".
        reasons: what was measured, and what each convention would give.
    """

    convention: str
    reasons: tuple[str, ...]


def channel_order_hint(band_power: NDArray[np.float64], *, is_amb: bool = False) -> OrderHint:
    """What the mean powers of a recording's channels say about their order and gains.

    For any field of plane waves, one or many, the three dipoles together have the power of W in AmbiX (SN3D; in a
    diffuse field each has a third) and twice that in FuMa, whose W is at -3 dB. And of the three dipoles the vertical
    one is usually the weakest: channel 2 in AmbiX (W, Y, Z, X), channel 3 in FuMa (W, X, Y, Z).

    Args:
        band_power: mean power (channels, bands), any linear unit. Bands far below the loudest are left out; with few
            bands left (a tone and its standing waves) or with bands at odds the gains say nothing.
        is_amb: the file is named .amb, a format that is FuMa by definition.
    """
    power = np.sum(band_power, axis=1)
    if power.size != FOA_CHANNELS:
        return OrderHint("unclear", (f"{power.size} channels are no first-order Ambisonics (4 channels)",))
    if power[0] <= 0 or power[1:].sum() <= 0:
        return OrderHint("unclear", ("channel 0, or all of the others, is silent",))
    votes = [_level_vote(band_power), _vertical_vote(power)]
    if is_amb:
        votes.append(_Vote("fuma", "a file named .amb is FuMa by definition"))
    found = {vote.convention for vote in votes if vote.convention}
    decided = len(found) == 1 and any(vote.convention and not vote.weak for vote in votes)
    return OrderHint(found.pop() if decided else "unclear", tuple(vote.reason for vote in votes))


class _Vote(NamedTuple):
    """One piece of evidence; a weak one can contradict others, but decides nothing by itself."""

    convention: str | None
    reason: str
    weak: bool = False


def _level_vote(band_power: NDArray[np.float64]) -> _Vote:
    ratio_db, uncertainty_db, num_bands = dipole_ratio_db(band_power)
    measured = f"the dipoles together are {ratio_db:+.1f} dB relative to W (AmbiX: 0 dB, FuMa: +3 dB)"
    if num_bands < _MIN_BANDS or uncertainty_db > _LEVEL_TOLERANCE_DB:
        return _Vote(None, f"{measured}, but too narrow or uneven over frequency to tell")
    for convention, expected_db in (("ambix", 0.0), ("fuma", 10 * np.log10(2.0))):
        if abs(ratio_db - expected_db) <= _LEVEL_TOLERANCE_DB:
            return _Vote(convention, measured)
    return _Vote(None, f"{measured}, near neither")


def dipole_ratio_db(band_power: NDArray[np.float64]) -> tuple[float, float, int]:
    """Power of the three dipoles relative to W in dB: median over the audible bands, its uncertainty, their number.

    Args:
        band_power: (4, bands) with some power in channel 0 and in the others.
    """
    omni, dipoles = band_power[0], band_power[1:].sum(axis=0)
    used = (omni > 0) & (dipoles > 0) & (omni + dipoles > _AUDIBLE_SHARE * (omni + dipoles).max())
    if not used.any():
        return 10 * float(np.log10(dipoles.sum() / omni.sum())), np.inf, 0
    ratios = 10 * np.log10(dipoles[used] / omni[used])
    middle = float(np.median(ratios))
    spread = 1.25 * 1.48 * float(np.median(np.abs(ratios - middle)))  # of a median, from absolute deviations
    return middle, spread / np.sqrt(ratios.size), int(ratios.size)


def _vertical_vote(power: NDArray[np.float64]) -> _Vote:
    weakest, second = (int(index) + 1 for index in np.argsort(power[1:])[:2])
    margin_db = 10 * np.log10(power[second] / max(power[weakest], 1e-12 * power[second], 1e-300))
    convention = {2: "ambix", 3: "fuma"}.get(weakest)
    # With one source straight ahead or aside, two dipoles are weak, and which of them is weaker says nothing; but a
    # dead one is the missing height of a horizontal recording.
    needed_share = _SECOND_SHARE if margin_db < _DEAD_DB else _SECOND_SHARE_BESIDE_DEAD
    if convention is None or margin_db < _WEAKER_DB or power[second] < needed_share * power[1:].sum():
        return _Vote(None, "no vertical dipole stands out as the weakest (AmbiX: channel 2, FuMa: channel 3)")
    by = "far" if margin_db > 60 else f"{margin_db:.1f} dB"
    reason = f"channel {weakest} is the weakest dipole by {by}: vertical in {_SPELLING[convention]}"
    return _Vote(convention, reason, weak=margin_db < _DEAD_DB)


def order_warnings(band_power: NDArray[np.float64], order: OrderHint) -> list[str]:
    """What is wrong with the gains of a four-channel recording, and what to do; see `channel_order_hint`."""
    if not band_power[0].any() or not band_power[1:].any():
        return []
    if order.convention == "fuma":
        return ["looks like FuMa (W, X, Y, Z): if so, say convention='fuma', or directions come out wrong"]
    ratio_db = dipole_ratio_db(band_power)[0]
    if ratio_db > _TOO_STRONG_DB:
        return [
            f"the dipoles together are {ratio_db:+.1f} dB relative to W: too much for AmbiX (SN3D) and FuMa; it may be "
            "N3D, raw capsules (A-format), or no Ambisonics: check how it was made"
        ]
    if ratio_db < _TOO_WEAK_DB:
        return [
            f"the dipoles together are only {ratio_db:+.1f} dB relative to W: directions are weak; check the channel "
            "gains, or whether the first channel is really W"
        ]
    return []
