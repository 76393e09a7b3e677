"""Clotho, AudioCaps, ESC-50 and any folder -> manifests: what is kept, what is listed as left out, which groups."""

import json

import numpy as np
import pytest
import soundfile

from salm.errors import ManifestError
from salm.manifest import read_dry_sounds
from salm.prepare.audiocaps import prepare_audiocaps
from salm.prepare.clotho import prepare_clotho
from salm.prepare.esc50 import prepare_esc50
from salm.prepare.folder import prepare_folder
from salm.prepare.report import Report
from tests.prepare.layouts import write_clotho, write_clotho_metadata, write_esc50, write_sound, write_table

AUDIOCAPS = ("audiocap_id", "youtube_id", "start_time", "caption")


def entries(problems) -> list[str]:
    return [problem.entry for problem in problems]


def test_clotho_keeps_captions_and_lists_the_rest(tmp_path):
    captions, audio = write_clotho(tmp_path)
    collection = prepare_clotho(captions, audio)
    collection.write(tmp_path / "development.csv")
    sounds = read_dry_sounds(tmp_path / "development.csv", check_files=True)
    assert [sound.path.name for sound in sounds] == ["Rain on roof.wav", " Ambience Birds.wav"]
    assert sounds[0].captions == tuple(f"Rain is heard, {number}." for number in range(1, 6))
    assert sounds[0].label == "Rain is heard, 1"
    assert sounds[0].duration_s == pytest.approx(0.1)
    assert sounds[1].group == "clotho:Ambience Birds.wav"
    report = collection.report
    assert (report.listed, report.kept) == (4, 2)
    assert entries(report.missing) == ["gone.wav"] and str(audio / "gone.wav") in report.missing[0].reason
    assert entries(report.unusable) == ["silent.wav"] and "digital silence" in report.unusable[0].reason


def test_clotho_groups_are_freesound_ids(tmp_path):
    captions, audio = write_clotho(tmp_path)
    write_clotho_metadata(tmp_path)
    rain, birds = prepare_clotho(captions, audio).sounds
    assert (rain.group, rain.licence, rain.source) == ("fs:120383", "CC0 1.0", "Clotho, https://freesound.org/s/120383")
    assert birds.group == "clotho:Ambience Birds.wav" and birds.source == "Clotho"


def test_a_manifest_beside_a_name_with_a_space_is_refused(tmp_path):
    captions, audio = write_clotho(tmp_path)
    with pytest.raises(ManifestError, match=r"' Ambience Birds\.wav' begins or ends with a space.*another folder"):
        prepare_clotho(captions, audio).write(audio / "manifest.csv")
    assert not (audio / "manifest.csv").exists()


@pytest.mark.parametrize(
    ("row", "stems"),
    [
        (("91139", "r1nicOVtvkQ", "130", "x"), ["r1nicOVtvkQ_130", "Yr1nicOVtvkQ", "r1nicOVtvkQ", "91139"]),
        (("7", "-abc_DEF-12", "0", "x"), ["-abc_DEF-12_0_10", "Y-abc_DEF-12_0_10", "-abc_DEF-12_0_10000"]),
    ],
)
def test_audiocaps_finds_every_common_name(tmp_path, row, stems):
    table = write_table(tmp_path / "train.csv", [AUDIOCAPS, row])
    for number, stem in enumerate(stems):
        audio = tmp_path / f"audio{number}"
        expected = write_sound(audio / "deep" / f"{stem}.flac", 0)
        write_sound(audio / "other.wav", 1)
        (sound,) = prepare_audiocaps(table, audio).sounds
        assert sound.path == expected


def test_audiocaps_puts_the_captions_of_a_clip_together(tmp_path):
    rows = [
        (1, "aaaaaaaaaaa", 30, "A dog barks | loudly"), (2, "bbbbbbbbbbb", 0, "Rain"),
        (3, "aaaaaaaaaaa", 30, "Barking."), (4, "ccccccccccc", 5, "Wind"),
        (5, "aaaaaaaaaaa", 60, "A cat"), (6, "ddddddddddd", 5, "Sea"),
    ]  # fmt: skip
    table = write_table(tmp_path / "test.csv", [AUDIOCAPS, *rows])
    write_sound(tmp_path / "audio" / "aaaaaaaaaaa.wav", 0)
    (tmp_path / "audio" / "bbbbbbbbbbb.wav").write_text("a web page")
    write_sound(tmp_path / "audio" / "ddddddddddd.wav", 1)
    write_sound(tmp_path / "audio" / "more" / "ddddddddddd.flac", 1)
    collection = prepare_audiocaps(table, tmp_path / "audio")
    (dog,) = collection.sounds
    assert dog.captions == ("A dog barks , loudly", "Barking.")
    assert (dog.group, dog.label) == ("yt:aaaaaaaaaaa", "A dog barks , loudly")
    report = collection.report
    assert entries(report.missing) == ["ccccccccccc at 5 s"]
    assert [problem.entry.split(" at ")[0] for problem in report.unusable] == [
        "ddddddddddd",
        "bbbbbbbbbbb",
        "aaaaaaaaaaa",
    ]
    reasons = [problem.reason for problem in report.unusable]
    assert "several files" in reasons[0] and "not a readable audio file" in reasons[1]
    assert "also the file of aaaaaaaaaaa at 30 s" in reasons[2]
    assert report.listed == 5


def test_esc50_categories_folds_and_groups(tmp_path):
    collection = prepare_esc50(write_esc50(tmp_path / "ESC-50-master"))
    assert [sound.label for sound in collection.sounds] == ["dog", "dog", "car horn", "crackling fire"]
    assert [sound.group for sound in collection.sounds] == ["fs:100032", "fs:100032", "fs:17124", "fs:9"]
    assert [sound.licence for sound in collection.sounds] == ["CC-BY 3.0", "CC-BY 3.0", "CC-BY-NC 3.0", "CC-BY 3.0"]
    assert entries(collection.report.missing) == ["2-10-A-12.wav"]
    chosen = prepare_esc50(tmp_path / "ESC-50-master", folds=[1], only_esc10=True)
    assert [sound.path.name for sound in chosen.sounds] == ["1-100032-A-0.wav", "1-100032-B-0.wav"]
    assert not chosen.report.missing


def test_a_folder_of_files(tmp_path):
    folder = tmp_path / "my sounds"
    for seed, name in enumerate(["door_wood-knock/take1_a.wav", "door_wood-knock/take1_b.FLAC", "rain/take2_a.wav"]):
        write_sound(folder / name, seed)
    write_sound(folder / ".cache" / "x.wav", 3)
    (folder / "rain" / "notes.txt").write_text("no sound")
    collection = prepare_folder(folder, licence="CC0")
    assert [sound.label for sound in collection.sounds] == ["door wood knock", "door wood knock", "rain"]
    assert len({sound.group for sound in collection.sounds}) == 3
    assert {(sound.source, sound.licence) for sound in collection.sounds} == {("my sounds", "CC0")}
    assert collection.report.notes == ["files that were not looked at: 1 .txt, 1 hidden"]
    named = prepare_folder(folder, label_from="file", group_pattern=r"(take\d)_[ab]")
    assert [sound.label for sound in named.sounds] == ["take1 a", "take1 b", "take2 a"]
    assert [sound.group for sound in named.sounds] == ["my sounds:take1", "my sounds:take1", "my sounds:take2"]
    some = prepare_folder(folder, group_pattern="take1")
    assert entries(some.report.unusable) == ["rain/take2_a.wav"] and "group is empty" in some.report.unusable[0].reason


def test_the_same_samples_are_one_recording(tmp_path):
    write_sound(tmp_path / "a.wav", 0)
    write_sound(tmp_path / "b.flac", 0)
    write_sound(tmp_path / "c.wav", 1)
    collection = prepare_folder(tmp_path, source="s")
    assert [sound.group for sound in collection.sounds] == ["s:a.wav", "s:a.wav", "s:c.wav"]


def test_groups_join_over_several_copies(tmp_path):
    for name, seed in (("1z.wav", 0), ("2y.wav", 0), ("3y.wav", 1), ("4x.wav", 1)):
        write_sound(tmp_path / name, seed)
    collection = prepare_folder(tmp_path, source="s", group_pattern=r"(.)\.wav")
    assert [sound.group for sound in collection.sounds] == ["s:x"] * 4
    assert "2 sounds have exactly the samples of another one" in collection.report.notes[0]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("not audio " * 50), "not a readable audio file"),
        (lambda path: path.write_bytes(write_sound(path, 0).read_bytes()[:200]), "truncated"),
        (lambda path: soundfile.write(path, np.zeros(0), 8000), "no samples"),
        (lambda path: soundfile.write(path, np.full(9, np.nan), 8000, subtype="FLOAT"), "NaN"),
        (lambda path: soundfile.write(path, np.array([[0.5, -0.5]] * 9), 8000), "digital silence"),
    ],
)
def test_every_file_is_opened_and_read(tmp_path, write, reason):
    write_sound(tmp_path / "good.wav", 1)
    write(tmp_path / "bad.wav")
    collection = prepare_folder(tmp_path)
    assert [sound.path.name for sound in collection.sounds] == ["good.wav"]
    assert entries(collection.report.unusable) == ["bad.wav"]
    assert reason in collection.report.unusable[0].reason


def test_the_order_is_that_of_the_data_set_and_progress_is_told(tmp_path):
    captions, audio = write_clotho(tmp_path)
    seen = []
    first = prepare_clotho(captions, audio, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert first.sounds == prepare_clotho(captions, audio).sounds


def test_nothing_usable_writes_nothing(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(99), 8000)
    collection = prepare_folder(tmp_path)
    with pytest.raises(ManifestError, match=r"not written: .* kept 0 of 1 \(0 missing, 1 unusable\).*silent\.wav"):
        collection.write(tmp_path / "out" / "manifest.csv")
    assert not (tmp_path / "out").exists()


def test_report_as_text_and_json(tmp_path):
    captions, audio = write_clotho(tmp_path)
    report = prepare_clotho(captions, audio).report
    report.save(tmp_path / "new" / "report.json")
    stored = json.loads((tmp_path / "new" / "report.json").read_text())
    assert (stored["listed"], stored["kept"], stored["num_missing"], stored["num_unusable"]) == (4, 2, 1, 1)
    assert stored["missing"][0]["entry"] == "gone.wav"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]
    long = Report("x", missing=report.missing * 30)
    assert list(long.lines(most=2))[-1] == "  missing: and 28 more; the JSON report has them all"
    assert sum("missing: gone.wav" in line for line in long.lines(most=2)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,caption\na.wav,x\n", r"captions\.csv:1: expected Clotho's CSV .*got file_name, caption \(without"),
        ("file_name,caption_1\na.wav\n", r"captions\.csv:2: 1 values for 2 columns"),
        ('file_name,caption_1\na.wav,"x\n', r"captions\.csv:.*not valid CSV"),
        ("file_name,caption_1\n", r"captions\.csv: no rows"),
        ("file_name,caption_1,caption_1\na,b,c\n", r"captions\.csv:1: .*one stands twice"),
        ("file_name,caption_1\na.wav,x\na.wav,y\n", r"captions\.csv:3: a\.wav is also in line 2"),
        ("file_name,caption_1\n,x\n", r"captions\.csv:2: file_name is empty"),
    ],
)
def test_other_tables_are_refused_with_file_and_line(tmp_path, text, message):
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        prepare_clotho(tmp_path / "captions.csv", tmp_path)


def test_missing_tables_and_folders_are_named(tmp_path):
    captions, audio = write_clotho(tmp_path)
    with pytest.raises(ManifestError, match=r"nowhere\.csv: no such file; expected Clotho's CSV"):
        prepare_clotho(tmp_path / "nowhere.csv", audio)
    with pytest.raises(ManifestError, match=r"development: a folder; expected Clotho's CSV"):
        prepare_clotho(audio, audio)
    with pytest.raises(ManifestError, match="nowhere: no such folder; expected the folder of Clotho"):
        prepare_clotho(captions, tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"esc50\.csv: no such file"):
        prepare_esc50(audio)
    with pytest.raises(ManifestError, match=r"no audio file in it; expected \.wav"):
        (tmp_path / "empty").mkdir()
        prepare_folder(tmp_path / "empty")
    with pytest.raises(ManifestError, match="is not a regular expression"):
        prepare_folder(audio, group_pattern="(")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.wav", 6, 0, "dog", "True", 1, "A"), "fold from 1 to 5"),
        (("x.wav", 1, 0, "dog", "yes", 1, "A"), "esc10 True or False"),
        (("x.wav", 1, 0, "dog", "True", "", "A"), "src_file"),
    ],
)
def test_other_values_in_esc50_are_refused(tmp_path, row, message):
    folder = write_esc50(tmp_path / "ESC-50-master")
    table = folder / "meta" / "esc50.csv"
    table.write_text(table.read_text() + ",".join(map(str, row)) + "\n")
    with pytest.raises(ManifestError, match=rf"esc50\.csv:7: .*{message}"):
        prepare_esc50(folder)


def test_other_values_in_audiocaps_are_refused(tmp_path):
    table = write_table(tmp_path / "val.csv", [AUDIOCAPS, (1, "aaaaaaaaaaa", "soon", "x")])
    with pytest.raises(ManifestError, match=r"val\.csv:2: expected a youtube_id and a start_time in seconds.*'soon'"):
        prepare_audiocaps(table, tmp_path)
