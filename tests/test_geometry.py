import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from salm.errors import DirectionError
from salm.geometry import (
    SECTORS,
    angle_between,
    azimuth_elevation,
    border_distance,
    direction_prompt,
    encode_plane_wave,
    find_elevation,
    find_sector,
    foa_gains,
    foa_rotation,
    fuma_to_ambix,
    parse_sector,
    rotation_about,
    sector_index,
    sector_of,
    spell_out_directions,
    unit_vector,
    wrap_angle,
)

ROUNDING = 1e-12
azimuths = st.floats(-math.pi, math.pi)
elevations = st.floats(-math.pi / 2, math.pi / 2)
angles = st.floats(-20.0, 20.0)
vectors = st.tuples(*[st.floats(-10.0, 10.0)] * 3)


def close(actual, expected, atol=ROUNDING):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "gains"),
    [
        (0, 0, (1, 0, 0, 1)),
        (90, 0, (1, 1, 0, 0)),
        (180, 0, (1, 0, 0, -1)),
        (-90, 0, (1, -1, 0, 0)),
        (0, 90, (1, 0, 1, 0)),
        (0, -90, (1, 0, -1, 0)),
        (45, 0, (1, math.sqrt(0.5), 0, math.sqrt(0.5))),
    ],
)
def test_gains_of_the_axes(azimuth_deg, elevation_deg, gains):
    close(foa_gains(math.radians(azimuth_deg), math.radians(elevation_deg)), gains)


def test_left_source_fills_y_only():
    signal = np.random.default_rng(0).standard_normal(100)
    w, y, z, x = encode_plane_wave(signal, math.pi / 2, 0.0)
    close(w, signal)
    close(y, signal)
    close(z, 0)
    close(x, 0)


@given(azimuths, elevations)
def test_the_dipoles_of_a_plane_wave_carry_the_energy_of_w(azimuth, elevation):
    w, *dipoles = foa_gains(azimuth, elevation)
    assert w == 1.0
    close(np.sum(np.square(dipoles)), 1.0)


@given(azimuths, elevations)
def test_the_intensity_of_a_plane_wave_points_to_its_source(azimuth, elevation):
    w, y, z, x = encode_plane_wave(np.array([0.3, -0.7, 0.2]), azimuth, elevation)
    close(angle_between([w @ x, w @ y, w @ z], unit_vector(azimuth, elevation)), 0.0, atol=1e-7)


@given(azimuths, st.floats(-1.57, 1.57))
def test_angles_to_vector_and_back(azimuth, elevation):
    back_azimuth, back_elevation = azimuth_elevation(3.0 * unit_vector(azimuth, elevation))
    close(wrap_angle(back_azimuth - azimuth), 0.0, atol=1e-9)
    close(back_elevation, elevation, atol=1e-9)
    assert -math.pi < back_azimuth <= math.pi


def test_straight_behind_is_plus_180_degrees():
    for y in (0.0, -0.0):
        assert azimuth_elevation([-1.0, y, 0.0])[0] == math.pi


@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [math.nan, 0.0, 1.0], [math.inf, 0.0, 0.0]])
def test_vectors_that_point_nowhere(vector):
    with pytest.raises(DirectionError, match="expected finite direction vectors of positive length"):
        azimuth_elevation(vector)


@given(vectors, angles, azimuths, elevations)
def test_rotated_field_is_the_field_of_the_rotated_direction(axis, angle, azimuth, elevation):
    assume(np.linalg.norm(axis) > 1e-3)
    rotation = rotation_about(axis, angle)
    turned = azimuth_elevation(rotation @ unit_vector(azimuth, elevation))
    close(foa_rotation(rotation) @ foa_gains(azimuth, elevation), foa_gains(*turned), atol=1e-9)


@given(azimuths, elevations, st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
def test_reflected_field_is_the_field_of_the_reflected_direction(azimuth, elevation, order, signs):
    reflection = np.diag(signs)[list(order)]
    turned = azimuth_elevation(reflection @ unit_vector(azimuth, elevation))
    close(foa_rotation(reflection) @ foa_gains(azimuth, elevation), foa_gains(*turned), atol=1e-7)


@given(vectors, angles)
def test_rotations_are_rotations(axis, angle):
    assume(np.linalg.norm(axis) > 1e-3)
    rotation = rotation_about(axis, angle)
    close(rotation @ rotation.T, np.eye(3), atol=1e-9)
    close(np.linalg.det(rotation), 1.0, atol=1e-9)
    close(rotation @ axis, axis, atol=1e-9)
    close(rotation @ rotation_about(axis, -angle), np.eye(3), atol=1e-9)
    close(foa_rotation(rotation) @ foa_rotation(rotation.T), np.eye(4), atol=1e-9)


@given(azimuths, elevations, angles)
def test_rotation_about_z_adds_to_the_azimuth(azimuth, elevation, angle):
    turned = rotation_about((0, 0, 1), angle) @ unit_vector(azimuth, elevation)
    close(turned, unit_vector(azimuth + angle, elevation), atol=1e-9)


@pytest.mark.parametrize("axis", [(0, 0, 0), (1, 0), (math.nan, 0, 1)])
def test_axes_that_are_none(axis):
    with pytest.raises(DirectionError, match="expected a rotation axis"):
        rotation_about(axis, 1.0)


@given(angles)
def test_wrapped_angles_are_the_same_and_in_range(angle):
    wrapped = float(wrap_angle(angle))
    assert -math.pi < wrapped <= math.pi
    close([math.cos(wrapped), math.sin(wrapped)], [math.cos(angle), math.sin(angle)], atol=1e-9)


@pytest.mark.parametrize("turns", range(-5, 6))
@pytest.mark.parametrize("neighbour", [-math.inf, 0.0, math.inf])
def test_wrap_keeps_its_range_at_the_seam(turns, neighbour):
    seam = math.pi + 2 * math.pi * turns
    angle = seam if neighbour == 0.0 else math.nextafter(seam, neighbour)
    assert -math.pi < float(wrap_angle(angle)) <= math.pi


def test_wrap_of_known_angles():
    close(wrap_angle([0, math.pi, -math.pi, 3 * math.pi, math.radians(190)]), [0, *[math.pi] * 3, math.radians(-170)])


def test_fuma_conversion_is_exact():
    w, x, y, z = np.random.default_rng(0).standard_normal((4, 50))
    fuma = np.stack([w, x, y, z])
    ambix = fuma_to_ambix(fuma)
    np.testing.assert_array_equal(ambix, np.stack([w * math.sqrt(2), y, z, x]))
    np.testing.assert_array_equal(fuma_to_ambix(np.stack([fuma, 2 * fuma])), np.stack([ambix, 2 * ambix]))


@given(azimuths, elevations)
def test_a_fuma_wave_becomes_an_ambix_wave(azimuth, elevation):
    x, y, z = unit_vector(azimuth, elevation)
    close(fuma_to_ambix(np.array([[math.sqrt(0.5)], [x], [y], [z]]))[:, 0], foa_gains(azimuth, elevation))


def test_angle_between_extremes():
    assert angle_between([1, 0, 0], [2, 0, 0]) == 0.0
    assert angle_between([1, 0, 0], [-3, 0, 0]) == math.pi
    close(angle_between([1, 0, 0], [0, 5, 0]), math.pi / 2)
    # arccos of the dot product would give 0 for both.
    assert angle_between([1, 0, 0], [1, 1e-10, 0]) == pytest.approx(1e-10)
    assert math.pi - angle_between([1, 0, 0], [-1, 1e-8, 0]) == pytest.approx(1e-8)


@given(azimuths, elevations, vectors, angles)
def test_rotations_keep_angles(azimuth, elevation, axis, angle):
    assume(np.linalg.norm(axis) > 1e-3)
    first, second = unit_vector(azimuth, elevation), unit_vector(0.3, -0.2)
    rotation = rotation_about(axis, angle)
    close(angle_between(rotation @ first, rotation @ second), angle_between(first, second), atol=1e-7)


def test_sectors_are_centred_on_their_words():
    centres = {sector.compass: sector.azimuth_deg for sector in SECTORS}
    assert centres == {
        "north": 0,
        "northwest": 45,
        "west": 90,
        "southwest": 135,
        "south": 180,
        "southeast": -135,
        "east": -90,
        "northeast": -45,
    }
    for sector in SECTORS:
        assert sector_of(sector.azimuth_rad) is sector
        assert parse_sector(sector.compass) is sector
        assert parse_sector(sector.body) is sector
        assert find_sector(direction_prompt(sector)) is sector


def test_borders_belong_to_the_sector_counter_clockwise():
    borders_rad = math.pi / 8 * (2 * np.arange(8) + 1)
    inside = 1e-9
    np.testing.assert_array_equal(sector_index(borders_rad + inside), (np.arange(8) + 1) % 8)
    np.testing.assert_array_equal(sector_index(borders_rad - inside), np.arange(8))
    np.testing.assert_array_equal(sector_index(np.radians([22.5, -22.5, 67.5])), [1, 0, 2])


@given(azimuths)
def test_the_border_is_as_far_as_the_nearest_change_of_sector(azimuth):
    distance = float(border_distance(azimuth))
    assert 0 <= distance <= math.pi / 8 + ROUNDING
    here = sector_index(azimuth)
    if distance > 1e-9:
        assert sector_index(azimuth + distance - 1e-9) == sector_index(azimuth - distance + 1e-9) == here
    assert here != sector_index(azimuth + distance + 1e-9) or here != sector_index(azimuth - distance - 1e-9)


def test_border_distance_of_known_azimuths():
    close(np.degrees(border_distance(np.radians([0, 22.5, 45, 60, -170, 180]))), [22.5, 0, 22.5, 7.5, 12.5, 22.5])


PHRASES = {
    "north": ["in front of me", "straight ahead", "right in front of you", "from the north", "northern", "northwards",
              "at 12 o'clock"],
    "northwest": ["north west", "NW", "north-western", "front left", "ahead and left", "ahead to the left",
                  "in front of me to the left", "in front and slightly left", "to my left, in front", "front-left",
                  "10 o'clock"],
    "west": ["to my left", "on the left-hand side", "westward", "from the west"],
    "southwest": ["behind me and to the left", "back-left", "left rear", "to the left, behind me", "SW", "behind left",
                  "at your 7:30 o'clock", "a dog right behind me to the left"],
    "south": ["right behind me", "from behind", "at the back", "to the south", "6 o’clock"],
    "southeast": ["behind you on the right", "to the right and behind", "south-east", "back right", "SE",
                  "on the right, behind me"],
    "east": ["on the right", "from my right-hand side", "eastern", "at 3 oclock"],
    "northeast": ["ahead to the right", "in front of me and to the right", "north east", "NE", "just right of front",
                  "a bird on the right in front", "to the right of me, in front"],
}  # fmt: skip


@pytest.mark.parametrize(("compass", "phrase"), [(word, phrase) for word in PHRASES for phrase in PHRASES[word]])
def test_phrases(compass, phrase):
    for text in (phrase, phrase.upper(), f"a dog barking {phrase}", f"{phrase}, a dog barks."):
        sector = find_sector(text)
        assert sector is not None, text
        assert sector.compass == compass, text


@pytest.mark.parametrize(
    "text", ["", "a dog barking", "a bright sound", "leftover food", "a new phone", "Westminster bells", "the nearest"]
)
def test_texts_without_direction(text):
    assert find_sector(text) is None
    with pytest.raises(DirectionError, match=r"no direction in .* expected one of north \(front\), northwest"):
        parse_sector(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog barking from the NW", "dog barking from the northwest"),
        ("a dog, s.w. of the house", "a dog, southwest of the house"),
        ("rain in the E", "rain in the east"),
        ("Rain from the S.", "Rain from the south."),
        ("wind to the W of the house", "wind to the west of the house"),
        ("a piano in E minor", "a piano in E minor"),
        ("a guitar tuned to the E string, in E", "a guitar tuned to the E string, in E"),
        ("Siren at your 2 o'clock position.", "Siren from the northeast."),
        ("a knock from 9 O'CLOCK", "a knock from the west"),
        ("rain in the east", "rain in the east"),
        ("a piano playing E and W. in the S. Bach style", "a piano playing E and W. in the S. Bach style"),
        ("13 o'clock, one of them, from the e", "13 o'clock, one of them, from the e"),
        ("at 4.5 o'clock", "at 4.5 o'clock"),
    ],
)
def test_abbreviations_and_hours_are_spelled_out(text, expected):
    assert spell_out_directions(text) == expected


def test_words_of_two_sounds_are_not_one_direction():
    assert find_sector("a dog in front and a cat on the left") is not SECTORS[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bird above me", "above"),
        ("a plane overhead", "above"),
        ("up high on the left", "above"),
        ("below the floor", "below"),
        ("water beneath us", "below"),
        ("a dog on the left", None),
        ("a train under the bridge", None),
    ],
)
def test_elevation_words(text, expected):
    assert find_elevation(text) == expected
