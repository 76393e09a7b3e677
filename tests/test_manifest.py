"""Manifests: what is written reads back equal; what is wrong is named with file and line."""

import dataclasses
import json
from pathlib import Path

import pytest

from salm.errors import ManifestError
from salm.manifest import (
    DrySound,
    Scene,
    SceneRoom,
    SceneSource,
    read_dry_sounds,
    read_scenes,
    split_by_group,
    write_dry_sounds,
    write_scenes,
)

HEADER = "path,label,caption,group,source,licence,duration_s"
ROW = "a.ogg,dog barking,A dog barks. | A dog is heard.,g1,ESC,CC0,1.5"


def sound(index: int, group: str = "g") -> DrySound:
    return DrySound(Path(f"{index}.ogg"), "dog, big", ('A "dog".', "Two, dogs."), group, "", "", 0.25)


def scene(path: Path) -> Scene:
    source = SceneSource("dog", -45.5, 10.0, 1.25, 0.0, 4.0, "dog/1.ogg")
    room = SceneRoom((3.0, 4.0, 2.5), ((0.1, 0.2),) * 6, 0.4)
    line_separator = "A dog\u2028 barks."
    return Scene(path, (line_separator,), ("A dog from the northeast.",), (source,), room, 3, "test", 20.0, 10.0, 24000)


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_dry_sounds_read_relative_to_the_manifest(tmp_path):
    (row,) = read_dry_sounds(manifest(tmp_path, HEADER, ROW))
    expected = DrySound(tmp_path / "a.ogg", "dog barking", ("A dog barks.", "A dog is heard."), "g1", "ESC", "CC0", 1.5)
    assert row == expected


def test_dry_sounds_round_trip(tmp_path):
    sounds = [dataclasses.replace(sound(index), path=tmp_path / "wav" / f"{index}.ogg") for index in range(3)]
    write_dry_sounds(tmp_path / "out.csv", sounds)
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("wav/0.ogg,")
    assert read_dry_sounds(tmp_path / "out.csv") == sounds


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"manifest\.csv:1: expected the columns path,.*missing caption"),
        (("path,label,caption,group,source,licence",), r"manifest\.csv:1: .*missing duration_s"),
        ((HEADER + ",colour",), r"manifest\.csv:1: .*unknown colour"),
        ((HEADER + ",path",), r"manifest\.csv:1: .*one stands twice"),
        ((HEADER,), r"manifest\.csv: no sounds"),
        ((HEADER, ROW, "b.ogg,dog"), r"manifest\.csv:3: 2 values for 7 columns"),
        ((HEADER, ROW, ROW), r"manifest\.csv:3: .*a\.ogg is also in line 2"),
        ((HEADER, ROW.replace("1.5", "long")), r"manifest\.csv:2: duration_s is 'long'"),
        ((HEADER, ROW.replace("1.5", "nan")), r"manifest\.csv:2: duration_s is nan"),
        ((HEADER, ROW.replace("1.5", "-1")), r"manifest\.csv:2: duration_s is -1"),
        ((HEADER, ROW.replace("dog barking", " ")), r"manifest\.csv:2: label is empty"),
        ((HEADER, ROW.replace("g1", "")), r"manifest\.csv:2: group is empty"),
        ((HEADER, ROW.replace("A dog barks. | A dog is heard.", "")), r"manifest\.csv:2: caption is empty"),
        ((HEADER, ROW.replace("a.ogg", "")), r"manifest\.csv:2: path is empty"),
        ((HEADER, 'a.ogg,"dog'), r"manifest\.csv:\d: not valid CSV"),
    ],
)
def test_bad_dry_manifests_name_file_and_line(tmp_path, lines, message):
    with pytest.raises(ManifestError, match=message):
        read_dry_sounds(manifest(tmp_path, *lines))


def test_missing_files(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.csv: no such manifest"):
        read_dry_sounds(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match=r"manifest\.csv:2: no file .*a\.ogg"):
        read_dry_sounds(manifest(tmp_path, HEADER, ROW), check_files=True)
    write_scenes(tmp_path / "scenes.jsonl", [scene(tmp_path / "a.flac")])
    with pytest.raises(ManifestError, match=r"scenes\.jsonl:1: no file .*a\.flac"):
        read_scenes(tmp_path / "scenes.jsonl", check_files=True)
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xff")
    with pytest.raises(ManifestError, match=r"latin\.csv: cannot be read as UTF-8"):
        read_dry_sounds(tmp_path / "latin.csv")


def test_scenes_round_trip(tmp_path):
    scenes = [scene(tmp_path / "foa" / "a.flac"), dataclasses.replace(scene(tmp_path / "b.flac"), room=None, seed=None)]
    write_scenes(tmp_path / "scenes.jsonl", scenes)
    assert json.loads((tmp_path / "scenes.jsonl").read_text().split("\n")[0])["path"] == "foa/a.flac"
    assert read_scenes(tmp_path / "scenes.jsonl") == scenes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("split"), "the scene lacks split"),
        (lambda row: row.update(colour=1), "unknown keys colour"),
        (lambda row: row.update(captions="A dog"), "captions is a list of texts"),
        (lambda row: row.update(captions=[]), "captions are empty"),
        (lambda row: row.update(sources=[]), "sources are empty"),
        (lambda row: row.update(sources=["dog"]), "a source is str, expected an object"),
        (lambda row: row.update(path=""), "path is a file name"),
        (lambda row: row.update(snr_db="loud"), "snr_db is 'loud'"),
        (lambda row: row.update(duration_s=True), "duration_s is True"),
        (
            lambda row: row["sources"][0].update(azimuth_deg=-180),
            r"azimuth_deg is -180; expected a number in \(-180, 180\]",
        ),
        (lambda row: row["sources"][0].update(elevation_deg=91), "elevation_deg is 91"),
        (lambda row: row["sources"][0].update(end_s=0.0), "end_s is 0.0"),
        (lambda row: row["sources"][0].pop("label"), "a source lacks label"),
        (lambda row: row["room"].update(dimensions_m=[1, 2]), "room has 2 dimensions_m"),
        (lambda row: row["room"].update(absorption=[[2.0]]), "absorption is 2.0"),
    ],
)
def test_bad_scenes_name_file_and_line(tmp_path, change, message):
    path = tmp_path / "scenes.jsonl"
    write_scenes(path, [scene(tmp_path / "a.flac")] * 2)
    first, second = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    row = json.loads(second)
    change(row)
    path.write_text(first + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=rf"scenes\.jsonl:2: .*{message}"):
        read_scenes(path)


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "scenes.jsonl").write_text('\n{"path": \n')
    with pytest.raises(ManifestError, match=r"scenes\.jsonl:2: not valid JSON"):
        read_scenes(tmp_path / "scenes.jsonl")


def test_groups_stay_whole():
    sounds = [sound(index, f"g{index % 20}") for index in range(100)]
    train, validation = split_by_group(sounds, 0.25, seed=1)
    assert len({s.group for s in validation}) == 5 and len(train) + len(validation) == 100
    assert not {s.group for s in train} & {s.group for s in validation}
    again = split_by_group(sounds[::-1], 0.25, seed=1)
    assert {s.path for s in again[1]} == {s.path for s in validation}
    assert split_by_group(sounds, 0.25, seed=2)[1] != validation
    with pytest.raises(ManifestError, match="two groups or more"):
        split_by_group([sound(1)], 0.5)
