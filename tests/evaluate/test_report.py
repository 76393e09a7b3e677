"""JSON for people: the values are kept, lines are short, small things stand on one line."""

import json

import numpy as np

from salm.evaluate.report import json_text, to_json, write_document


def test_text_is_json_of_the_same_values_in_short_lines():
    value = {
        "title": 'ä "quoted", with, commas',
        "curve": [round(k / 3 - 5, 6) for k in range(200)],
        "matrix": np.eye(30, dtype=int).tolist(),
        "nested": {str(k): {"count": k, "none": None, "share": 1e-7, "true": True} for k in range(20)},
        "rows": [{"name": "x" * 80, "words": ["a b"] * 20}, []],
        "empty": {},
    }
    text = json_text(value)
    assert json.loads(text) == value
    assert max(map(len, text.splitlines())) <= 124
    assert '    "3": {"count": 3, "none": null, "share": 1e-07, "true": true},' in text.splitlines()
    assert len(text.splitlines()) < 120


def test_a_document_is_written_whole(tmp_path):
    folder = tmp_path / "not yet there"
    write_document(folder / "a.json", {"confusion": to_json(np.eye(8, dtype=int))})
    assert json.loads((folder / "a.json").read_text()) == {"confusion": np.eye(8, dtype=int).tolist()}
    assert [path.name for path in folder.iterdir()] == ["a.json"]
