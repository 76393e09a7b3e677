import json

import pytest

from salm.data.corpora import read_corpora, read_corpus
from salm.errors import ManifestError


def test_known_layouts(tmp_path):
    files = {
        "audiocaps.csv": "audiocap_id,youtube_id,start_time,caption\n1,x,0,A dog barks\n2,y,0,Rain\n",
        "clotho.csv": "file_name,caption_1,caption_2\na.wav,One,Two\n",
        "bbc.csv": '"location","description","secs"\n"1.wav","Petrol engine, start","9"\n',
        "manifest.csv": "path,label,caption\na.ogg,cat,A cat. | A cat meows.\n",
        "wavcaps.json": json.dumps(
            {"data": [{"title": "Bell", "description": "A bell rings", "caption": "Bell rings."}]}
        ),
        "ontology.json": json.dumps([{"name": "Speech", "description": "People talk", "id": "/m"}]),
    }
    expected = {
        "audiocaps.csv": ["A dog barks", "Rain"],
        "clotho.csv": ["One", "Two"],
        "bbc.csv": ["Petrol engine, start"],
        "manifest.csv": ["cat", "A cat.", "A cat meows."],
        "wavcaps.json": ["Bell", "A bell rings", "Bell rings."],
        "ontology.json": ["Speech", "People talk"],
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert sorted(read_corpus(tmp_path / name)) == sorted(expected[name]), name


def test_duplicates_are_left_out(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("caption\nRain\nRain\nWind\n")
    assert read_corpora([tmp_path / "a.csv", tmp_path / "b.csv"]) == ["Rain", "Wind"]


def test_unknown_layouts_are_refused(tmp_path):
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    (tmp_path / "odd.json").write_text("[1, 2]")
    with pytest.raises(ManifestError, match=r"odd\.csv: no caption column among a, b"):
        read_corpus(tmp_path / "odd.csv")
    with pytest.raises(ManifestError, match=r"odd\.json: expected WavCaps"):
        read_corpus(tmp_path / "odd.json")
    with pytest.raises(ManifestError, match="no such caption corpus"):
        read_corpus(tmp_path / "none.csv")
