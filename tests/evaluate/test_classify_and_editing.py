"""Labels and editing: perfect and guessing models, and edits that go wrong on purpose."""

import numpy as np
import pytest

from salm.errors import ManifestError
from salm.evaluate.classify import evaluate_labels
from salm.evaluate.editing import change, evaluate_editing, plain_caption, swap
from salm.evaluate.scenes import load_gallery
from salm.geometry import SECTORS
from tests.evaluate.conftest import LABELS, PlantedModel, with_label


def test_planted_model_knows_every_label(planted_gallery, planted):
    result = evaluate_labels(planted_gallery, planted, LABELS)
    assert result.count == 160
    for scores in result.scores.values():
        assert scores.accuracy == scores.balanced_accuracy == scores.top5_accuracy == 1.0
        assert scores.confused == {}
    assert len(result.tables()) == 2  # nothing is confused


def test_guessing_model_is_at_chance(guessing_gallery, guessing):
    scores = evaluate_labels(guessing_gallery, guessing, LABELS).scores["joint"]
    assert scores.accuracy == pytest.approx(1 / 5, abs=0.1)


def test_scenes_of_other_labels_are_not_classified(planted_gallery, planted):
    assert evaluate_labels(planted_gallery, planted, LABELS[:2]).count == 64


def test_one_label_taken_for_another_shows_up(planted, scenes, copied):
    swapped = [with_label(scene, "siren") if scene.sources[0].label == "dog barking" else scene for scene in scenes]
    gallery = load_gallery(copied(swapped), planted, cache=False)
    scores = evaluate_labels(gallery, planted, LABELS).scores["semantic"]
    assert scores.accuracy == pytest.approx(128 / 160)
    assert scores.accuracy_by_label == {"siren": 0.5, "church bells": 1.0, "rain falling": 1.0, "cat meowing": 1.0}
    assert scores.balanced_accuracy == pytest.approx(3.5 / 4)
    assert scores.confused == {"siren -> dog barking": 32}
    assert scores.confusion.tolist() == [[0] * 5, [32, 32, 0, 0, 0], *(32 * np.eye(5, dtype=int)[2:]).tolist()]


def test_no_scene_of_the_labels_is_refused(planted_gallery, planted):
    with pytest.raises(ManifestError, match="no scene of any of the 1 labels"):
        evaluate_labels(planted_gallery, planted, ["xylophone"])


def test_planted_edits_always_succeed(planted_gallery, planted):
    result = evaluate_editing(planted_gallery, planted)
    assert {name: scores.num_edits for name, scores in result.ways.items()} == {
        "None": 160, "Swap": 7 * 160, "Change": 7 * 160,
    }  # fmt: skip
    assert (result.num_scenes, result.num_captions) == (160, 40)
    for scores in result.ways.values():
        assert scores.recall == {1: 1.0, 5: 1.0, 10: 1.0}
        assert scores.direction_at_1 == scores.caption_at_1 == 1.0
    assert result.kept["Change"] == {1: 1.0, 5: 1.0, 10: 1.0}
    assert len(result.tables()[0].rows) == 3


def test_guessing_model_edits_at_chance(guessing_gallery, guessing):
    result = evaluate_editing(guessing_gallery, guessing)
    assert result.ways["Swap"].recall[1] == pytest.approx(1 / 40, abs=0.03)


def test_an_edit_that_does_nothing_fails(planted_gallery, scenes):
    class Stubborn(PlantedModel):
        def edit_direction(self, parts, direction, *, normalize_embeddings=True):
            return parts.joint

    result = evaluate_editing(planted_gallery, Stubborn(scenes))
    assert result.ways["None"].recall[1] == 1.0
    assert result.ways["Change"].recall[1] == result.ways["Change"].direction_at_1 == 0.0
    assert result.ways["Change"].caption_at_1 == 1.0
    assert result.kept["Change"][1] == 0.0


def test_swap_and_change_follow_equations_2_and_3(guessing_gallery, guessing, scenes):
    rows, donors = np.array([3, 0]), np.array([9, 120])
    expected = guessing_gallery.semantic[rows] + guessing_gallery.spatial[donors]  # s = 1 in this model
    np.testing.assert_allclose(swap(guessing_gallery, rows, donors), expected, atol=1e-5)
    length = np.linalg.norm(guessing_gallery.spatial[rows], axis=1)
    edited = change(guessing_gallery, guessing, rows, SECTORS[3]) - guessing_gallery.semantic[rows]
    np.testing.assert_allclose(edited[:, 256 + 3], length, rtol=1e-4)


def test_directions_in_a_caption_are_removed(scenes):
    from dataclasses import replace

    scene = replace(scenes[0], captions=("A dog walks to the left.",))
    assert plain_caption(scene) == "A dog walks"
