from dataclasses import replace

import pytest

from salm.data.scene_mix import SceneMix
from salm.errors import ConfigError


def test_no_sounds_in_a_clip_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        SceneMix(num_sounds=0)


def test_an_impossible_speed_is_refused():
    with pytest.raises(ConfigError, match=r"0 < lowest <= highest, got \[1.2, 0.8\]"):
        SceneMix(speed=(1.2, 0.8))


def test_hints_for_several_sounds_in_a_clip_are_refused():
    with pytest.raises(ConfigError, match="mixes.hints: expected num_sounds: 1 beside it, got 2"):
        SceneMix(num_sounds=2, hints=True)


@pytest.mark.parametrize("change", [{"any_axis": 0.5}, {"mask_mels": 16}])
def test_what_varies_the_meetings_leaves_the_kept_scenes(change):
    assert replace(SceneMix(), **change).recipe() == SceneMix().recipe()


@pytest.mark.parametrize(
    "change", [{"speed": (0.9, 1.1)}, {"colour_db": 3.0}, {"distractor": 0.5}, {"num_sounds": 1}, {"omni": True}]
)
def test_what_changes_the_sound_makes_other_scenes(change):
    assert replace(SceneMix(), **change).recipe() != SceneMix().recipe()


def test_whole_numbers_are_the_same_scenes_as_fractions():
    assert (
        SceneMix(tilt_deg=20, distractor_db=(3, 24)).recipe()
        == SceneMix(tilt_deg=20.0, distractor_db=(3.0, 24.0)).recipe()
    )
