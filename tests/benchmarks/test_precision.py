"""The comparison sees what differs; no test asserts a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import precision
from salm.evaluate.scenes import Gallery
from salm.manifest import Scene, SceneSource


def gallery() -> Gallery:
    generator = np.random.default_rng(0)
    scenes = tuple(
        Scene(
            path=Path(f"{number}.wav"), captions=("a dog",), spatial_captions=(f"sound {number}",),
            sources=(SceneSource("dog", 90.0 * number - 90.0, 0.0, 1.0, 0.0, 10.0, "dog.wav"),), room=None, seed=None,
            split="test", snr_db=None, duration_s=10.0, sample_rate=24_000,
        )
        for number in range(4)
    )  # fmt: skip
    vectors = generator.standard_normal((3, 4, 8)).astype(np.float32)
    doa = np.tile(np.float32([1, 0, 0]), (4, 1))
    return Gallery(scenes, *vectors, doa, model_id="m:0", manifest=Path("scenes.jsonl"), manifest_sha256="0")


class Texts:
    """Sentence "sound 2" means scene 2; other sentences mean nothing in particular."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode_text(self, texts):
        generator = np.random.default_rng(1)
        other = generator.standard_normal((len(texts), 8)).astype(np.float32)
        return np.stack(
            [self.vectors[int(t[-1])] if t.startswith("sound") else o for t, o in zip(texts, other, strict=True)]
        )


def test_equal_galleries_do_not_differ():
    exact = gallery()
    found = precision.compare(exact, exact, Texts(exact.embedding("joint")), ["dog"], "bfloat16")
    assert found["met"]
    assert found["first_hit_changed"] == 0.0
    assert set(found["change"].values()) == {0.0}
    assert found["rank_1"]["R@1, captions, text_to_audio"] == {"float32": 1.0, "bfloat16": 1.0}


def test_a_swapped_pair_of_scenes_is_seen():
    exact = gallery()
    swapped = replace(exact, joint=exact.joint[[1, 0, 2, 3]])
    found = precision.compare(exact, swapped, Texts(exact.embedding("joint")), ["dog"], "bfloat16")
    assert not found["met"]
    assert found["lowest_cosine"]["joint"] < 0.9 and found["lowest_cosine"]["spatial"] > 0.99999
    assert found["first_hit_changed"] == 0.5
    assert found["change"]["R@1, captions, text_to_audio"] == -0.5
