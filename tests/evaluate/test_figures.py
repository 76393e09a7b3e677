"""Figures: what is drawn equals the result, the compass is the right way round, files are PNGs, mistakes are named."""

import struct
import sys
from dataclasses import replace

import numpy as np
import pytest

from salm.errors import ConfigError, DependencyError
from salm.evaluate import figures
from salm.evaluate.classify import evaluate_labels
from salm.evaluate.directions import evaluate_directions
from salm.evaluate.editing import evaluate_editing
from salm.evaluate.retrieval import evaluate_retrieval
from salm.evaluate.scenes import load_gallery
from salm.evaluate.suite import EVALUATIONS
from tests.evaluate.conftest import LABELS

MODEL_ID = "salm-small:1a2b3c4d5e6f"
NAMES = {name for drawn in figures.FIGURES.values() for name in drawn}


def all_results(gallery, model, labels=LABELS):
    return {
        "retrieval": evaluate_retrieval(gallery, model, labels),
        "direction": evaluate_directions(gallery, model, cache=False),
        "classify": evaluate_labels(gallery, model, labels),
        "editing": evaluate_editing(gallery, model),
    }


@pytest.fixture(scope="module")
def results(guessing_gallery, guessing):
    """Of the guessing model, so that hardly two numbers are the same."""
    return all_results(guessing_gallery, guessing)


def headline(figure):
    return figure.get_suptitle()


def lines_by_name(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def shares_of_rows(confusion):
    return 100.0 * confusion / confusion.sum(axis=1, keepdims=True)


def test_every_evaluation_has_a_figure():
    assert set(figures.FIGURES) == set(EVALUATIONS)
    assert sorted(NAMES) == [
        "classify-confusion.png",
        "direction-confusion.png",
        "direction-error.png",
        "editing.png",
        "retrieval-recall.png",
    ]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_headline_names_the_gallery_and_the_model(results, evaluation):
    for draw in figures.FIGURES[evaluation].values():
        text = headline(draw(results[evaluation], MODEL_ID))
        assert MODEL_ID in text
        assert "gallery of 40 captions, 160 scenes" in text if evaluation == "editing" else "of 160 scenes" in text


def test_direction_confusion_has_a_panel_for_each_embedding(results):
    result = results["direction"]
    *panels, _ = figures.direction_confusion(result, MODEL_ID).axes
    assert len(panels) == len(result.zero_shot) == 3
    for axes, (name, scores) in zip(panels, result.zero_shot.items(), strict=True):
        assert axes.get_title().startswith(f"{name}: {100 * scores.accuracy:.1f} %")
        np.testing.assert_allclose(axes.images[0].get_array(), shares_of_rows(scores.confusion))
        assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["north", "northwest"]
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert len(written) == np.count_nonzero(scores.confusion)
        row, column = np.argwhere(scores.confusion)[-1]
        assert written[(column, row)] == f"{100 * scores.confusion[row, column] / scores.confusion[row].sum():.0f}"


def test_a_class_without_scenes_is_an_empty_row(results):
    result = results["classify"]
    scores = result.scores["joint"]
    without = scores.confusion.copy()
    without[2] = 0
    changed = replace(result, scores={"joint": replace(scores, confusion=without)})
    drawn = np.ma.filled(figures.classify_confusion(changed, MODEL_ID).axes[0].images[0].get_array(), np.nan)
    assert np.isnan(drawn).any(axis=1).tolist() == [False, False, True, False, False]


def test_direction_error_draws_median_and_90th_percentile_of_every_bin(results):
    result = results["direction"]
    panels = figures.direction_error(result, MODEL_ID).axes
    for axes, quantity in zip(panels, ("median_deg", "p90_deg"), strict=True):
        lines = lines_by_name(axes)
        assert list(lines) == ["model", "intensity (no learning)", "unit intensity (no learning)"]
        for line, found in zip(lines.values(), result.localisation.values(), strict=True):
            angles, errors = line.get_data()
            assert (angles[0], errors[0]) == (angles[-1], errors[-1])  # a ring
            drawn = dict(zip(np.degrees(angles).round().astype(int).tolist(), errors, strict=True))
            assert len(drawn) == 24
            expected = {centre: getattr(bin_, quantity) for centre, bin_ in found.by_azimuth.items()}
            assert {centre: error for centre, error in drawn.items() if not np.isnan(error)} == expected
        assert axes.get_ylim()[1] > max(getattr(b, quantity) for b in result.localisation["model"].by_azimuth.values())


def test_front_is_at_the_top_and_left_at_the_left(results):
    figure = figures.direction_error(results["direction"], MODEL_ID)
    axes = figure.axes[0]
    names = {label.get_text() for label in axes.get_xticklabels()}
    assert {"0°\nfront", "+90°\nleft", "-90°\nright", "+180°\nback"} <= names
    radius = axes.get_ylim()[1]
    centre = axes.transData.transform((0.0, 0.0))
    front, left = (axes.transData.transform((angle, radius)) - centre for angle in (0.0, np.pi / 2))
    assert front[1] > 50
    assert front[0] == pytest.approx(0.0, abs=1e-6)
    assert left[0] < -50
    assert left[1] == pytest.approx(0.0, abs=1e-6)
    placed = {label.get_text(): tick for label, tick in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert placed["+90°\nleft"] == pytest.approx(np.pi / 2)


def test_retrieval_recall_draws_the_curves_of_each_phrasing(results):
    result = results["retrieval"]
    recall, precision, captions = figures.retrieval_recall(result, MODEL_ID).axes
    for phrasing, scores in result.queries.items():
        name = f"{phrasing} ({scores.num_queries} queries)"
        for axes, shares in ((recall, scores.curves.recall), (precision, scores.curves.precision)):
            ks, drawn = lines_by_name(axes)[name].get_data()
            assert ks.tolist() == list(range(1, 51))
            np.testing.assert_allclose(drawn, 100 * np.array(shares))
    plain = result.queries["plain"]
    best = lines_by_name(precision)["best possible"].get_ydata()
    np.testing.assert_allclose(best[[0, 4, 9]], [100 * plain.best_precision[k] for k in (1, 5, 10)])
    assert set(lines_by_name(precision)["chance"].get_ydata()) == {100 * plain.chance_precision}
    np.testing.assert_allclose(lines_by_name(recall)["chance"].get_ydata(), 100 * np.array(plain.curves.chance_recall))
    for name, key in (("text-to-audio", "text_to_audio"), ("audio-to-text", "audio_to_text")):
        expected = 100 * np.array(result.captions[key].curves.recall)
        np.testing.assert_allclose(lines_by_name(captions)[name].get_ydata(), expected)


def test_without_captions_there_is_no_panel_for_them(results):
    assert len(figures.retrieval_recall(replace(results["retrieval"], captions={}), MODEL_ID).axes) == 2


def test_classify_confusion_draws_semantic_and_joint(results):
    result = results["classify"]
    *panels, _ = figures.classify_confusion(result, MODEL_ID).axes
    for axes, (name, scores) in zip(panels, result.scores.items(), strict=True):
        assert axes.get_title().startswith(f"{name}: {100 * scores.accuracy:.1f} % right")
        np.testing.assert_allclose(axes.images[0].get_array(), shares_of_rows(scores.confusion))
        assert [label.get_text() for label in axes.get_xticklabels()] == list(LABELS)


def test_true_labels_stand_at_the_first_panel(results):
    axes = figures.classify_confusion(results["classify"], MODEL_ID).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LABELS)


def test_editing_has_a_bar_for_each_way_and_score(results):
    result = results["editing"]
    axes = figures.editing_bars(result, MODEL_ID).axes[0]
    ways = [container for container in axes.containers if len(container) == 5]
    assert [bars.get_label().split()[0] for bars in ways] == ["None", "Swap", "Change"]
    for bars, scores in zip(ways, result.ways.values(), strict=True):
        expected = [*(scores.recall[k] for k in (1, 5, 10)), scores.direction_at_1, scores.caption_at_1]
        np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * np.array(expected))
    chance = [collection.get_segments()[0][0][1] for collection in axes.collections]
    np.testing.assert_allclose(chance, [100 / 40, 500 / 40, 1000 / 40, 12.5, 800 / 40])


def test_files_are_pngs_of_a_size_for_print(results, tmp_path):
    folder = tmp_path / "new" / "figures"
    written = figures.write_figures(folder, results, MODEL_ID)
    assert {path.name for path in written} == {path.name for path in folder.iterdir()} == NAMES
    for path in written:
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert content.endswith(b"IEND\xaeB`\x82")
        width, height = struct.unpack(">II", content[16:24])
        assert 1200 < width < 6000
        assert 700 < height < 6000
        assert len(content) > 20_000  # an empty canvas of this size is smaller


def test_a_gallery_of_one_scene_can_be_drawn(planted, scenes, copied, tmp_path):
    gallery = load_gallery(copied(scenes[:1]), planted, cache=False)
    assert len(figures.write_figures(tmp_path / "f", all_results(gallery, planted, LABELS[:1]), MODEL_ID)) == 5


def test_missing_matplotlib_names_the_extra(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for attempt in (
        lambda: figures.editing_bars(results["editing"], MODEL_ID),
        lambda: figures.make_figure_folder(tmp_path / "figures"),
    ):
        with pytest.raises(DependencyError, match=r'needs matplotlib: pip install "salm\[plot\]"'):
            attempt()
    assert not (tmp_path / "figures").exists()


def test_a_folder_that_cannot_be_written_is_named(results, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "figures"):
        with pytest.raises(ConfigError, match=r"file.*: cannot be written .*choose another folder with --figures"):
            figures.make_figure_folder(folder)
    (tmp_path / "editing.png").mkdir()
    with pytest.raises(ConfigError, match=r"editing\.png: cannot be written \(Is a directory\)"):
        figures.write_figures(tmp_path, {"editing": results["editing"]}, MODEL_ID)
    assert not list(tmp_path.glob("*.partial"))
