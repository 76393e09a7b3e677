"""The encoders that are timed give the same embeddings; no test asserts a time."""

import json

import numpy as np
import pytest
import torch

from benchmarks import encode
from benchmarks.peers import salm_towers, transformers_clap
from benchmarks.peers.measure import Encoder, Runner, Settings, peak_memory, start_memory
from salm.errors import DependencyError
from salm.weights.convert import clap_from_hf

SMALL_AUDIO = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 64,
    "depths": [2, 2, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode")
    encode.make_clips(folder, 3)
    encode.make_weights(folder, SMALL_AUDIO)
    return folder


def embeddings(encoder: Encoder, folder, precision: str = "fp32") -> torch.Tensor:
    clips = np.load(folder / encoder.clips)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        return encoder.embed(encoder.features(clips)).float()


def lowest_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first, second, dim=-1).min())


def test_clips_are_the_same_at_both_rates(folder):
    foa, mono = np.load(folder / "clips_24k.npy"), np.load(folder / "clips_48k.npy")
    assert foa.shape == (3, 4, 240_000)
    assert mono.shape == (3, 480_000)
    assert np.abs(mono).max() <= 1.0
    inside = slice(2_000, -2_000)
    for clip in range(3):
        assert np.corrcoef(foa[clip, 0][inside], mono[clip, ::2][inside])[0, 1] > 0.9
        assert abs(np.corrcoef(mono[clip], mono[clip - 1])[0, 1]) < 0.5


def test_converted_tower_equals_transformers_from_samples_to_embedding(folder):
    ours = salm_towers.load(Settings(folder, "clap-size", "cpu", "fp32"))
    theirs = transformers_clap.load(Settings(folder, "transformers", "cpu", "fp32"))
    clips = np.load(folder / "clips_48k.npy")
    difference_db = (ours.features(clips) - theirs.features(clips)).abs()
    assert difference_db.max() < 0.1 and difference_db.mean() < 1e-3  # transformers computes them in float64
    first, second = embeddings(ours, folder), embeddings(theirs, folder)
    assert first.shape == (3, 512)
    assert lowest_cosine(first, second) > 0.99999
    torch.testing.assert_close(first, second, atol=1e-3 * float(second.abs().max()), rtol=0)


def test_the_timed_steps_are_the_towers_own(folder):
    ours = salm_towers.load(Settings(folder, "clap-size", "cpu", "fp32"))
    features = ours.features(np.load(folder / "clips_48k.npy"))
    with torch.inference_mode():
        expected = clap_from_hf(folder / "clap").embed_audio(features)
        torch.testing.assert_close(ours.embed(features), expected, atol=1e-6, rtol=1e-5)


def test_laion_weights_are_the_converted_tower(folder):
    state = torch.load(folder / "tower.pt", weights_only=True)
    towers = clap_from_hf(folder / "clap")
    expected = {f"bn0.{name}" for name in towers.map_norm.norm.state_dict()} | set(towers.htsat.state_dict())
    assert set(state["tower"]) == expected
    assert set(state["projection"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_both_steps_at_once_give_the_same_embeddings(folder):
    for name in ("clap-size", "salm-small"):
        encoder = salm_towers.load(Settings(folder, name, "cpu", "fp32"))
        assert encoder.embed_samples is not None
        at_once = encoder.embed_samples(np.load(folder / encoder.clips))
        torch.testing.assert_close(at_once, embeddings(encoder, folder), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int16"])
def test_embeddings_of_the_bundled_model_keep_their_direction(folder, precision):
    reference = embeddings(salm_towers.load(Settings(folder, "salm-small", "cpu", "fp32")), folder)
    try:
        lower = embeddings(salm_towers.load(Settings(folder, "salm-small", "cpu", precision)), folder)
    except DependencyError as error:  # integers on a machine without their instructions, or without a C compiler
        pytest.skip(str(error))
    assert lowest_cosine(reference, lower) >= 0.999
    assert not torch.equal(reference, lower)


def test_runner_answers_requests(folder):
    runner = Runner(salm_towers.load, folder, "clap-size", "cpu", False)
    vectors = np.array(runner.answer({"do": "embed", "precision": "fp32", "batch": 4, "threads": 1})["vectors"])
    assert vectors.shape == (4, 512)
    np.testing.assert_allclose(vectors[3], vectors[0], rtol=1e-4, atol=1e-6)  # three clips, so the fourth is the first
    request = {"do": "time", "precision": "bf16", "batch": 1, "threads": 1}
    for stage in encode.STAGES:
        reply = json.loads(json.dumps(runner.answer(request | {"stage": stage})))
        assert reply["seconds"] > 0
    assert set(runner.encoders) == {"fp32", "bf16"}
    reply = runner.answer(request | {"do": "memory"})
    assert reply["peak_bytes"] >= reply["start_bytes"]
    assert set(runner.encoders) == {"bf16"}


def test_peak_memory_is_forgotten_and_seen():
    before = start_memory("cpu")
    if not before:
        pytest.skip("this system does not tell")
    block = np.ones(20_000_000, dtype=np.float32)
    assert peak_memory("cpu") - before > 0.9 * block.nbytes


class FakeWorker:
    def __init__(self, name, seconds, fails=()):
        self.name, self.seconds, self.fails, self.asked = name, iter(seconds), fails, []

    def ask(self, **request):
        self.asked.append(request)
        if request["precision"] in self.fails:
            return {"error": "cannot"}
        if request["do"] == "embed":
            return {"vectors": np.eye(4, 5).tolist()}
        if request["do"] == "memory":
            return {"peak_bytes": 2**21, "start_bytes": 0}
        seconds = next(self.seconds)
        return {"seconds": seconds, "cpu_seconds": 2 * seconds}


def test_medians_leave_the_warm_up_out_and_failures_alone(capsys):
    slow, fast = FakeWorker("transformers", [9, 4, 5, 6]), FakeWorker("clap-size", [9, 1, 3, 2], fails=["bf16"])
    cells = [(1, 2, "all", "fp32")]
    rows = encode.measure([slow, fast], cells, repetitions=3)
    assert [(row["encoder"], row["clips_per_s"], row["peak_mb"]) for row in rows] == [
        ("transformers", 0.4, 2),
        ("clap-size", 1.0, 2),
    ]
    assert encode.best_ratios(rows) == [
        {"threads": 1, "batch": 2, "stage": "all", "encoder": "clap-size", "precision": "fp32"}
        | {"times transformers": 2.5, "transformers in": "fp32", "CPU times transformers": 2.5}
    ]
    assert encode.measure([fast], [(1, 2, "all", "bf16")], repetitions=3) == []
    assert len([request for request in fast.asked if request["precision"] == "bf16"]) == 1
    assert "clap-size bf16: cannot" in capsys.readouterr().err


def test_outputs_are_compared_with_the_peers():
    outputs = encode.compare_outputs(
        [FakeWorker("clap-size", []), FakeWorker("transformers", [], fails=["bf16"])], ["fp32", "bf16"]
    )
    assert outputs["errors"] == {"transformers bf16": "cannot"}
    assert outputs["lowest_cosine"]["clap-size fp32"] == {"transformers fp32": 1.0, "between clips": 0.0}
    assert outputs["lowest_cosine"]["clap-size bf16"] == {"clap-size fp32": 1.0, "transformers fp32": 1.0}
