"""The gallery: kept and found again, never stale; mistakes told with file and line."""

import json
import os

import numpy as np
import pytest

from salm.errors import ConfigError, ManifestError
from salm.evaluate.report import to_json, write_document
from salm.evaluate.scenes import frequent_labels, load_gallery, read_labels
from salm.evaluate.suite import EVALUATIONS, document, evaluate
from tests.evaluate.conftest import LABELS, GuessingModel, PlantedModel, with_label


@pytest.fixture
def own_scenes(tmp_path, scenes, scene_folder):
    """Eight scenes with files of their own."""
    import shutil

    folder = tmp_path / "own"
    folder.mkdir()
    lines = (scene_folder / "scenes.jsonl").read_text().splitlines()[:8]
    (folder / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    for line in lines:
        name = json.loads(line)["path"]
        shutil.copy2(scene_folder / name, folder / name)
    return folder


def model_of(folder, kind=PlantedModel):
    from salm.manifest import read_scenes

    return kind(read_scenes(folder / "scenes.jsonl"))


def test_scenes_are_embedded_once(own_scenes):
    model, calls = model_of(own_scenes), []
    first = load_gallery(own_scenes, model, progress=lambda *call: calls.append(call))
    second = load_gallery(own_scenes / "scenes.jsonl", model)
    assert model.num_encoded == 8
    assert calls[-1] == (8, 8)
    for name in ("semantic", "spatial", "joint", "doa"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert getattr(second, name).dtype == np.float32
    assert first.manifest_sha256 == second.manifest_sha256


def test_another_model_manifest_or_file_is_embedded_again(own_scenes):
    model = model_of(own_scenes)
    load_gallery(own_scenes, model)
    guess = load_gallery(own_scenes, model_of(own_scenes, GuessingModel))
    assert guess.model_id.startswith("guessing")
    assert not np.array_equal(guess.joint, load_gallery(own_scenes, model).joint)
    assert model.num_encoded == 8
    os.utime(own_scenes / "000.flac", (1, 1))
    load_gallery(own_scenes, model)
    assert model.num_encoded == 16
    manifest = own_scenes / "scenes.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:7]))
    assert len(load_gallery(own_scenes, model).joint) == 7
    assert model.num_encoded == 23


def test_the_same_name_with_other_weights_is_embedded_again(own_scenes):
    model = model_of(own_scenes)
    load_gallery(own_scenes, model)
    model.model_id = "planted:ba9876543210"
    assert load_gallery(own_scenes, model).model_id == "planted:ba9876543210"
    assert model.num_encoded == 16


def test_a_damaged_cache_is_made_again(own_scenes):
    model = model_of(own_scenes)
    whole = load_gallery(own_scenes, model)
    (kept,) = (own_scenes / ".salm-eval").glob("planted-*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(load_gallery(own_scenes, model).joint, whole.joint)
    assert model.num_encoded == 16


def test_without_cache_nothing_is_written(own_scenes):
    evaluate(own_scenes, model_of(own_scenes), ["direction"], cache=False)
    assert not (own_scenes / ".salm-eval").exists()


def test_a_folder_that_cannot_be_written_costs_a_warning_only(own_scenes):
    (own_scenes / ".salm-eval").write_text("in the way")
    with pytest.warns(UserWarning, match="embeds again"):
        assert len(load_gallery(own_scenes, model_of(own_scenes)).joint) == 8


def test_missing_and_empty_manifests_are_told(tmp_path, planted):
    with pytest.raises(ManifestError, match=r"scenes\.jsonl: no such manifest"):
        load_gallery(tmp_path, planted)
    (tmp_path / "scenes.jsonl").write_text("\n")
    with pytest.raises(ManifestError, match=r"scenes\.jsonl: no scenes"):
        load_gallery(tmp_path, planted)


def test_a_missing_audio_file_is_told_with_its_line(own_scenes):
    (own_scenes / "002.flac").unlink()
    with pytest.raises(ManifestError, match=r"scenes\.jsonl:3: no file .*002\.flac"):
        load_gallery(own_scenes, model_of(own_scenes))


def test_an_invalid_row_is_told_with_its_line(own_scenes):
    manifest = own_scenes / "scenes.jsonl"
    manifest.write_text(manifest.read_text() + "{}\n")
    with pytest.raises(ManifestError, match=r"scenes\.jsonl:9: "):
        load_gallery(own_scenes, PlantedModel([]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("siren\nxylophone\n", r"labels\.txt:2: no scene of 'xylophone'"),
        ("siren\n\nsiren\n", r"labels\.txt:3: 'siren' stands there twice"),
        ("\n", r"labels\.txt: no labels"),
    ],
)
def test_bad_label_files_are_told_with_their_line(tmp_path, scenes, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_labels(path, scenes)
    with pytest.raises(ManifestError, match=r"none\.txt: cannot be read"):
        read_labels(tmp_path / "none.txt", scenes)


def test_frequent_labels_come_first(scenes):
    some = [with_label(scene, "owl") if number < 2 else scene for number, scene in enumerate(scenes)]
    assert frequent_labels(some, 31) == sorted(LABELS[1:])
    assert frequent_labels(some, 30)[-1] == "dog barking"
    with pytest.raises(ManifestError, match="no label has 33 scenes"):
        frequent_labels(some, 33)


def test_all_evaluations_share_one_embedding(own_scenes, tmp_path):
    model = model_of(own_scenes)
    gallery, results = evaluate(own_scenes, model, min_scenes=1)
    assert tuple(results) == EVALUATIONS
    assert model.num_encoded == 8
    content = document(gallery, results, "salm eval all own")
    write_document(tmp_path / "r.json", content)
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored["model"] == model.model_id
    assert len(stored["manifest_sha256"]) == 64
    assert (stored["num_scenes"], stored["command"]) == (8, "salm eval all own")
    assert stored["results"]["direction"]["zero_shot"]["joint"]["accuracy"] == 1.0
    assert stored["results"]["retrieval"]["queries"]["plain"]["precision"]["1"] == 1.0
    for result in results.values():
        for table in result.tables():
            assert table.rows
            assert all(len(row) == len(table.header) for row in table.rows), table.title


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluations": ["taste"]}, "unknown evaluation taste; expected retrieval"),
        ({"evaluations": []}, r"unknown evaluation \(none\)"),
        ({"embedding": "text"}, "unknown embedding text; expected semantic"),
        ({"phrasings": ["rude"]}, "unknown phrasing rude; expected plain"),
    ],
)
def test_unknown_choices_are_told_before_any_work(scene_folder, scenes, options, message):
    model = PlantedModel(scenes)
    with pytest.raises(ConfigError, match=message):
        evaluate(scene_folder, model, cache=False, **options)
    assert model.num_encoded == 0


def test_an_unwritable_document_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/r\.json: cannot be written"):
        write_document(tmp_path / "file" / "r.json", {})


def test_json_values():
    assert to_json({1: (np.arange(2), 0.12345678)}) == {"1": [[0, 1], 0.123457]}
