"""How training scenes vary, and what of that makes a scene another one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from salm.errors import ConfigError

RECIPE_VERSION = 3
"""To be raised when scenes are made in another way: kept scenes of older recipes are then made anew."""
MEETING_FIELDS = ("mask_mels", "any_axis", "distinct")
"""What varies the meetings with a kept scene, and not the scene."""


@dataclass(frozen=True)
class SceneMix:
    """How training scenes vary.

    Attributes:
        num_sounds: sounds joined in a clip; more than one teaches more per clip (each has its own pooled vector).
        snr_db: sensor noise, lowest and highest ratio of the scene to the noise.
        level_dbfs: root-mean-square level of W, lowest and highest.
        mask_mels: widest band of mels that is set to the band's mean; 0 for none.
        balance: 0 draws every pair of label and source equally often, 1 every sound, 0.5 in between.
        tilt_deg: standard deviation of a turn about a random horizontal axis: sources above and below the horizon.
        distinct: scenes that are made once and kept, each met many times under other symmetries, levels and masks;
            0: every scene is new. Making a scene takes about half as long as learning from it.
        any_axis: share of the kept scenes' meetings under any of the 48 symmetries, in which every axis can become the
            vertical one; the others keep it. In rooms like ours few sources are far above or below, and a model that
            seldom meets them hardly learns elevation.
        speed: lowest and highest factor of playing a sound faster, and higher.
        colour_db: standard deviation of the octave gains of a random filter.
        distractor: share of the sounds beside which another is heard from elsewhere in the room.
        distractor_db: how much fainter that one is, least and most.
        omni: make W alone and its log-mel map alone, for `timbre_steps` of the training: a seventh of the room on the
            disk. Scenes made on the device that trains are whole in any case.
        dry: W alone, and without a room: the very sound that the audio teacher hears.
        hints: keep the teacher's own log-mel map of the dry sound beside W's, for the loss term `hints`. One sound in
            a clip: the teacher hears each in the light of the whole clip.
    """

    num_sounds: int = 3
    snr_db: tuple[float, float] = (10.0, 40.0)
    level_dbfs: tuple[float, float] = (-45.0, -12.0)
    mask_mels: int = 8
    balance: float = 0.5
    tilt_deg: float = 0.0
    distinct: int = 0
    any_axis: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    colour_db: float = 0.0
    distractor: float = 0.0
    distractor_db: tuple[float, float] = (6.0, 24.0)
    omni: bool = False
    dry: bool = False
    hints: bool = False

    def __post_init__(self) -> None:
        if self.num_sounds < 1:
            raise ConfigError(f"mixes.num_sounds: expected at least 1, got {self.num_sounds}")
        if not 0.0 < self.speed[0] <= self.speed[1]:
            raise ConfigError(f"mixes.speed: expected 0 < lowest <= highest, got {list(self.speed)}")
        if self.hints and self.num_sounds != 1:
            raise ConfigError(f"mixes.hints: expected num_sounds: 1 beside it, got {self.num_sounds}")

    @property
    def w_alone(self) -> bool:
        """Its scenes have the one map of W."""
        return self.omni or self.dry

    def recipe(self) -> str:
        """All that a kept scene depends on, the same for 5 and for 5.0."""
        kinds = ("omni", "dry", "hints")
        apart = (*MEETING_FIELDS, "num_sounds", *kinds)
        kept = {name: value for name, value in asdict(self).items() if name not in apart}
        numbers = [tuple(map(float, value)) if isinstance(value, Sequence) else float(value) for value in kept.values()]
        return " ".join([f"{RECIPE_VERSION} {[self.num_sounds, *numbers]}", *(k for k in kinds if getattr(self, k))])
