"""`salm eval` with a real model in a process of its own: a random salm-tiny is at chance, twice the same."""

import json

import pytest
import torch

from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import save_checkpoint
from tests.evaluate.conftest import LABELS
from tests.preloaded import Preloaded, clean_environment


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint folder of random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = salm_tiny()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config)
    save_checkpoint(folder, model, config, Tokenizer.train([*LABELS, "from the northwest"], 400, 64))
    return folder


@pytest.fixture(scope="module")
def salm_eval():
    with Preloaded(["salm.embedder", "salm.evaluate.suite"], clean_environment()) as salm:
        yield lambda *words: salm.run("salm", "eval", *words, "-q")


@pytest.mark.slow
def test_a_random_model_is_at_chance_and_repeats_itself(salm_eval, tiny, scenes, copied, tmp_path):
    manifest = copied(scenes[::5])
    first = salm_eval("all", manifest, "--model", tiny, "--min-scenes", 1, "--json", tmp_path / "a.json")
    assert (first.code, first.stderr) == (0, "")
    second = salm_eval("all", manifest, "--model", tiny, "--min-scenes", 1, "--no-cache", "--json", tmp_path / "b.json")
    assert (second.code, second.stdout) == (0, first.stdout)
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a["results"] == b["results"]
    assert a["model"].startswith("salm-tiny:")
    assert a["results"]["direction"]["zero_shot"]["joint"]["accuracy"] < 0.4
    assert a["results"]["direction"]["localisation"]["intensity"]["all"]["p90_deg"] < 0.1


@pytest.mark.slow
def test_mistakes_end_with_code_2(salm_eval, tiny, tmp_path):
    for arguments, message in (
        (("direction", tmp_path / "none.jsonl", "--model", tiny), "none.jsonl: no such manifest"),
        (("direction", tmp_path, "--model", tmp_path / "nothing"), "nothing"),
    ):
        done = salm_eval(*arguments)
        assert (done.code, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
