"""Retrieval: a planted model must be perfect, a guessing one at chance, and the queries must ask what they say."""

from dataclasses import replace

import numpy as np
import pytest

from salm.errors import ManifestError
from salm.evaluate.retrieval import (
    PHRASINGS,
    PLAIN_FORMS,
    evaluate_captions,
    evaluate_queries,
    evaluate_retrieval,
    query_text,
)
from salm.evaluate.scenes import load_gallery
from salm.geometry import SECTORS, find_elevation, find_sector
from tests.evaluate.conftest import LABELS, PlantedModel

MAP = "mean_average_precision"


def test_planted_model_finds_everything(planted_gallery, planted):
    result = evaluate_retrieval(planted_gallery, planted, LABELS)
    assert set(result.queries) == {"plain", "varied"}
    for name, scores in result.queries.items():
        assert scores.num_queries == 40 * len(PHRASINGS[name])
        assert scores.gallery_size == 160
        assert scores.precision == scores.best_precision == {1: 1.0, 5: 0.8, 10: 0.4}  # four relevant each
        assert scores.mean_average_precision == scores.label_at_1 == scores.sector_at_1 == 1.0
        assert scores.precision_at_1_by_label == dict.fromkeys(LABELS, 1.0)
        assert len(scores.precision_at_1_by_form) == len(PHRASINGS[name])
    assert result.kept == dict.fromkeys(("precision_at_1", "precision_at_5", "precision_at_10", MAP), 1.0)
    for scores in result.captions.values():
        assert scores.recall == {1: 1.0, 5: 1.0, 10: 1.0}


def test_guessing_model_is_at_chance(guessing_gallery, guessing):
    scores = evaluate_retrieval(guessing_gallery, guessing, LABELS).queries["varied"]
    assert scores.chance_precision == pytest.approx(4 / 160)
    assert scores.precision[10] == pytest.approx(scores.chance_precision, abs=0.02)
    assert scores.mean_average_precision == pytest.approx(scores.chance_average_precision, abs=0.03)
    assert scores.sector_at_1 == pytest.approx(1 / 8, abs=0.1)


def test_curves_pass_through_the_numbers_of_the_tables(guessing_gallery, guessing):
    result = evaluate_retrieval(guessing_gallery, guessing, LABELS)
    scores, captions = result.queries["plain"], result.captions["text_to_audio"]
    for k in (1, 5, 10):
        assert scores.curves.precision[k - 1] == scores.precision[k]
        assert scores.curves.best_precision[k - 1] == scores.best_precision[k]
        assert captions.curves.recall[k - 1] == captions.recall[k]
    assert len(scores.curves.recall) == len(captions.curves.chance_recall) == 50
    assert scores.curves.recall[0] == scores.precision[1]
    assert scores.curves.recall[49] == pytest.approx(scores.curves.chance_recall[49], abs=0.15)


def test_curves_end_with_the_gallery_and_chance_is_that_of_drawing_without_putting_back(planted, scenes, copied):
    # Of four scenes two are sirens from the north and two from the northwest: two relevant for either query.
    gallery = load_gallery(copied([*scenes[32:34], *scenes[36:38]]), planted, cache=False)
    curves = evaluate_queries(gallery, gallery.embedding("joint"), planted, ["siren"], PLAIN_FORMS).curves
    assert curves.chance_recall == pytest.approx((1 / 2, 5 / 6, 1.0, 1.0))
    assert curves.recall == (1.0, 1.0, 1.0, 1.0)
    assert curves.precision == pytest.approx((1.0, 1.0, 2 / 3, 1 / 2))


def test_loss_of_unseen_phrasings_is_told(planted_gallery, scenes):
    class Rigid(PlantedModel):
        """Knows compass words alone, so that the four forms in words of the body find nothing."""

        def encode_text(self, texts):
            known = [any(word in text for word in ("north", "south", "east", "west")) for text in texts]
            return super().encode_text(texts) * np.array(known, np.float32)[:, None]

    result = evaluate_retrieval(planted_gallery, Rigid(scenes), LABELS)
    assert result.queries["plain"].precision[1] == 1.0
    assert result.kept["precision_at_1"] == 0.5
    assert evaluate_retrieval(planted_gallery, Rigid(scenes), LABELS, phrasings=["plain"]).kept == {}


def test_semantic_embedding_finds_the_label_and_not_the_sector(planted_gallery, planted):
    scores = evaluate_retrieval(planted_gallery, planted, LABELS, embedding="semantic").queries["plain"]
    assert scores.label_at_1 == 1.0
    assert scores.sector_at_1 == pytest.approx(1 / 8)


def test_labels_that_are_not_asked_for_stay_in_the_gallery(planted_gallery, planted):
    scores = evaluate_queries(planted_gallery, planted_gallery.embedding("joint"), planted, LABELS[:1], PLAIN_FORMS)
    assert (scores.num_queries, scores.gallery_size) == (8, 160)


def test_sectors_without_a_scene_are_not_asked_for(planted, scenes, copied):
    north = [scene for scene in scenes if abs(scene.sources[0].azimuth_deg) < 22.5]
    gallery = load_gallery(copied(north), planted, cache=False)
    scores = evaluate_queries(gallery, gallery.embedding("joint"), planted, LABELS, PLAIN_FORMS)
    assert (scores.num_queries, scores.gallery_size) == (5, 20)


def test_any_source_of_a_scene_may_be_the_answer(planted, scenes, copied):
    dog, siren = scenes[0], scenes[45]
    both = replace(dog, sources=(*dog.sources, *siren.sources))
    gallery = load_gallery(copied([both, siren]), planted, cache=False)
    scores = evaluate_queries(gallery, gallery.embedding("joint"), planted, ["siren"], PLAIN_FORMS)
    assert scores.num_queries == 1
    assert scores.best_precision[5] == 2 / 5


def test_identical_captions_are_hits_of_each_other(planted_gallery, planted):
    scores = evaluate_captions(planted_gallery, planted_gallery.embedding("joint"), planted)
    assert scores["text_to_audio"].num_distinct_captions == 40
    assert scores["text_to_audio"].num_captions == 160
    assert scores["audio_to_text"].gallery_size == 160


def test_unique_captions_have_one_hit(scenes, copied):
    unique = [replace(scene, spatial_captions=(f"{scene.spatial_captions[0]} {i}",)) for i, scene in enumerate(scenes)]
    model = PlantedModel(scenes)
    gallery = load_gallery(copied(unique), model, cache=False)
    scores = evaluate_captions(gallery, gallery.embedding("joint"), model)["text_to_audio"]
    # Four scenes score the same and the one right answer counts as the last of them.
    assert scores.recall == {1: 0.0, 5: 1.0, 10: 1.0}
    assert scores.mean_average_precision == pytest.approx(1 / 4)


def test_several_captions_of_a_scene_are_queries_each_and_any_answers(planted, scenes, copied):
    several = [replace(s, spatial_captions=(*s.spatial_captions, "gibberish")) for s in scenes[::4]]
    gallery = load_gallery(copied(several), planted, cache=False)
    scores = evaluate_captions(gallery, gallery.embedding("joint"), planted)
    assert scores["text_to_audio"].num_queries == 80
    assert scores["audio_to_text"].num_queries == 40
    assert scores["audio_to_text"].recall[1] == 1.0


def test_without_spatial_captions_only_labels_are_asked(planted, scenes, copied):
    gallery = load_gallery(copied([replace(s, spatial_captions=()) for s in scenes]), planted, cache=False)
    result = evaluate_retrieval(gallery, planted, LABELS)
    assert result.captions == {}
    assert len(result.tables()) == 1


@pytest.mark.parametrize("phrasing", PHRASINGS)
@pytest.mark.parametrize("sector", SECTORS, ids=lambda sector: sector.compass)
def test_every_query_names_its_label_and_its_sector(phrasing, sector):
    for form in PHRASINGS[phrasing]:
        text = query_text(form, "siren", sector)
        assert "siren" in text
        assert find_sector(text) == sector
        assert find_elevation(text) is None


def test_varied_forms_are_not_those_of_training():
    from salm.text import captions

    trained = [form for group in (captions._LABEL_FORMS, captions._SENTENCE_FORMS) for form, _ in group]
    generator = np.random.default_rng(0)
    made = {captions.spatial_caption("siren", 0.0, 0.0, generator).lower().rstrip(".") for _ in range(3000)}
    assert len(made) > 100
    assert trained
    assert not {query_text(form, "siren", SECTORS[0]).lower() for form in PHRASINGS["varied"]} & made


def test_unknown_labels_are_refused(planted_gallery, planted):
    with pytest.raises(ManifestError, match=r"scenes\.jsonl: no scene of any of the 1 labels"):
        evaluate_retrieval(planted_gallery, planted, ["xylophone"])
