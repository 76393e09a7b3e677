"""Rewrites by a language model: what is refused, what is remembered, what the model draws. No network, tiny models."""

import json
import math
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from salm.errors import CheckpointError, ConfigError
from salm.geometry import SECTORS, find_sector, sector_of
from salm.manifest import Scene, SceneSource
from salm.text.captions import spatial_caption
from salm.text.language_model import MAX_NEW_TOKENS, LanguageModel, SeededChoice
from salm.text.rewrite import CACHE_FILE, AnswerCache, Request, rewrite_scenes
from salm.text.rewrite_checks import refusal, sectors_named
from salm.text.tokenizer import Tokenizer

CAPTION = "A dog barks several times nearby."
GOOD = "From the northwest, a dog is heard barking several times nearby."


@pytest.mark.parametrize(
    ("caption", "direction", "answer"),
    [
        (CAPTION, "northwest", GOOD),
        (CAPTION, "northwest", f'  "{GOOD}"\n'),
        (CAPTION, "northwest", "A dog barked several times nearby, coming from the north-west."),
        (CAPTION, "southwest", "A dog barks several times nearby, behind me and to the left."),
        (CAPTION, "south", "The sound of a dog barking several times nearby comes from right behind the listener."),
        ("Children cry and birds chirp", "east", "A child cries while a bird is chirping, to the east."),
        ("Someone is running, making noises", "north", "A person runs and makes noise in the north."),
        ("siren", "west", "A siren sounds from the west."),
        ("An airplane flies overhead", "east", "An airplane is flying overhead from the east."),
        ("The man’s phone rings", "east", "To the east, a man's phone is ringing."),
    ],
)
def test_a_faithful_answer_is_taken(caption, direction, answer):
    assert refusal(caption, direction, answer) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        (' "" \n', "empty"),
        (f"Here it is:\n{GOOD}", "lines: 2"),
        (GOOD + " I hope that this helps." * 6, "length: 41 words, at most 24"),
        ("A dog barks several times nearby.", "direction: names none"),
        (GOOD.replace("northwest", "northeast"), "direction: names northeast"),
        (GOOD.replace("northwest", "north"), "direction: names north, "),
        ("From the northwest, a dog barks several times nearby to the east.", "direction: names east, northwest"),
        ("From the northwest, to the left, a dog barks several times nearby.", "direction: names northwest, west"),
        ("In front and to the left, left of me, a dog barks several times nearby.", "direction: names northwest, west"),
        (GOOD[:-1] + " and above.", "direction: says above"),
        ("From the northwest, a dog barks nearby.", "content: lacks several, times"),
        ("From the northwest, a cat barks several times nearby.", "content: lacks dog"),
        (GOOD[:-1] + " while a cat meows.", "content: adds cat, meows"),
        ("From the northwest, a dog is not barking several times nearby.", "content: adds not"),
    ],
)
def test_an_unfaithful_answer_is_refused(answer, reason):
    assert (refusal(CAPTION, "northwest", answer) or "").startswith(reason)


def test_every_template_names_its_sector_and_no_other():
    generator = np.random.default_rng(0)
    for sector in SECTORS:
        for _ in range(300):
            text = spatial_caption("dog barking", sector.azimuth_rad, 0.0, generator)
            assert sectors_named(text) == {sector}, text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("on the right, north of me", {"east", "north"}),
        ("a car turns right away from the west", {"west"}),
        ("front left and right", {"northwest", "east"}),
        ("north west, then south", {"northwest", "south"}),
        ("north and west", {"north", "west"}),
        ("a beast roars", set()),
    ],
)
def test_sectors_named(text, names):
    assert {sector.compass for sector in sectors_named(text)} == names


def scene(number: int, azimuth_deg: float, *captions: str, sources: int = 1) -> Scene:
    source = SceneSource("dog barking", azimuth_deg, 0.0, 1.0, 0.0, 1.0, "dog.wav")
    path = Path(f"scene{number}.flac")
    return Scene(path, captions, ("as it was",), (source,) * sources, None, None, "test", None, 1.0, 24_000)


class Stub:
    """Says the template `form` for every caption but those with a saying of their own, and counts."""

    def __init__(self, form: str = "From the {direction}: {caption}", identity: str = "stub", **sayings: str) -> None:
        self.form, self.identity, self.sayings = form, identity, sayings
        self.asked: list[Request] = []
        self.batches: list[int] = []

    def answer(self, requests):
        self.batches.append(len(requests))
        self.asked += requests
        return [self.sayings.get(r.caption.split()[-1], self.form).format(**r._asdict()) for r in requests]


@pytest.fixture
def cache(tmp_path):
    with AnswerCache(tmp_path / "cache") as answers:
        yield answers


def test_a_misbehaving_model_is_replaced_by_templates(cache):
    sayings = {
        "lines": "Sure!\nFrom the {direction}: {caption}",
        "opposite": "{caption} from the south, not the {direction}",
        "forgets": "A sound from the {direction}",
        "babbles": "{caption} from the {direction}" + " la" * 40,
        "silent": "",
    }
    scenes = [scene(n, 40.0, f"a dog {kind}", f"a bird {kind}") for n, kind in enumerate([*sayings, "good"])]
    rewritten, rewrites = rewrite_scenes(scenes, Stub(**sayings), cache)
    assert [len(row.spatial_captions) for row in rewritten] == [2] * 6
    assert Counter((r.refused or "none").split(":")[0] for r in rewrites) == {
        "lines": 2, "direction": 2, "content": 2, "length": 2, "empty": 2, "none": 2,
    }  # fmt: skip
    assert [r.origin for r in rewrites] == ["template"] * 10 + ["model"] * 2
    assert [r.spatial_caption for r in rewrites] == [text for row in rewritten for text in row.spatial_captions]
    for rewrite in rewrites:
        assert find_sector(rewrite.spatial_caption) == sector_of(math.radians(40.0))
        assert rewrite.caption.lower().removeprefix("a ") in rewrite.spatial_caption.lower()
    assert rewritten[-1].spatial_captions[0] == "From the northwest: a dog good"


def test_directions_of_the_caption_itself_are_not_told(cache):
    stub = Stub()
    rewrite_scenes([scene(0, 90.0, "A car drives to the right"), scene(1, 180.0, "from behind")], stub, cache)
    assert set(stub.asked) == {Request("A car drives", "west"), Request("dog barking", "south")}


def test_scenes_of_several_sources_are_left_alone(cache):
    several = scene(0, 0.0, "a dog", sources=2)
    stub = Stub()
    rewritten, rewrites = rewrite_scenes([several, scene(1, 0.0, "a dog")], stub, cache)
    assert rewritten[0] == several and rewritten[1].spatial_captions == ("From the north: a dog",)
    assert [rewrite.scene for rewrite in rewrites] == ["scene1.flac"]


def test_equal_requests_are_asked_once_and_a_rerun_asks_nothing(cache):
    scenes = [scene(n, 10.0 * (n % 2), "a dog", f"bird {n}") for n in range(6)]
    reports = []
    first, second = Stub(), Stub()
    one, first_rewrites = rewrite_scenes(
        scenes, first, cache, batch_size=3, progress=lambda *pair: reports.append(pair)
    )
    two, second_rewrites = rewrite_scenes(scenes, second, cache)
    assert first.batches == [3, 3, 1] and len(set(first.asked)) == 7
    assert reports == [(0, 7), (3, 7), (6, 7), (7, 7)]
    assert second.asked == [] and one == two
    assert not any(r.cached for r in first_rewrites) and all(r.cached for r in second_rewrites)


def test_templates_in_place_of_answers_are_the_same_each_time_and_vary_with_the_model(cache):
    scenes = [scene(n, 3.0 * n, "a dog barks", "a bell") for n in range(14)]
    one, two, other = (
        [row.spatial_captions for row in rewrite_scenes(scenes, Stub("", identity), cache)[0]]
        for identity in ("stub", "stub", "other")
    )
    assert one == two != other
    assert len(set(one)) > 10


@pytest.mark.parametrize("identity", ["another seed", "another model"])
def test_answers_are_kept_by_identity(cache, identity):
    stubs = Stub(), Stub(identity=identity)
    for stub in stubs:
        rewrite_scenes([scene(0, 0.0, "a dog")], stub, cache)
    assert [len(stub.asked) for stub in stubs] == [1, 1]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    class Interrupted(Stub):
        def answer(self, requests):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().answer(requests)

    scenes = [scene(n, 0.0, f"bird {n}") for n in range(7)]
    with AnswerCache(tmp_path) as answers, pytest.raises(KeyboardInterrupt):
        rewrite_scenes(scenes, Interrupted(), answers, batch_size=2)
    later = Stub()
    with AnswerCache(tmp_path) as answers:
        rewrite_scenes(scenes, later, answers, batch_size=2)
    assert len(later.asked) == 3


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / CACHE_FILE).write_text("shopping list\n" * 100)
    with pytest.raises(ConfigError, match=rf"{CACHE_FILE}: expected a cache of answers.*remove it"):
        AnswerCache(tmp_path)
    (tmp_path / CACHE_FILE).unlink()
    other = sqlite3.connect(tmp_path / CACHE_FILE)
    other.execute("CREATE TABLE answers (number INTEGER)")
    other.close()
    with pytest.raises(ConfigError, match="no such column"):
        AnswerCache(tmp_path)


# The tiny model and what it draws.

REQUESTS = [Request("dog barking", "northwest"), Request("A church bell rings in the distance.", "east"),
            Request("rain", "south")]  # fmt: skip


def save_language_model(folder: Path, *, context: int = 512, template: str | None = None, rows: int = 400) -> Path:
    """A Llama of random weights with a byte-level tokenizer."""
    Tokenizer.train(["dog barking from the northwest", "church bell"], 400, 512).save(folder)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=rows, max_position_embeddings=context, bos_token_id=0, eos_token_id=2, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            parameter.data *= 5.0  # else every token is about as likely
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("language_model"), context=1024)


def test_same_seed_same_answers_in_any_batch_and_no_global_draw(folder):
    state = torch.random.get_rng_state()
    together = LanguageModel(folder, temperature=1.0, seed=3).answer(REQUESTS)
    model = LanguageModel(folder, temperature=1.0, seed=3)
    assert [model.answer([request])[0] for request in reversed(REQUESTS)] == together[::-1]
    assert LanguageModel(folder, temperature=1.0, seed=4).answer(REQUESTS) != together
    assert len(set(together)) == 3 and all(together)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_temperature_zero_takes_the_likeliest_token(folder):
    model = LanguageModel(folder, temperature=0.0, seed=1)
    (answer,) = model.answer(REQUESTS[:1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(model.prompt(REQUESTS[0]))["input_ids"]
    assert ids.pop() == tokenizer.eos_token_id  # this tokenizer closes each text; the model goes on from an open one
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + MAX_NEW_TOKENS and ids[-1] != 2:
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    assert answer == tokenizer.decode(ids[start:], skip_special_tokens=True).strip().split("\n")[0].strip()
    assert answer


def test_draws_follow_the_softmax():
    logits, temperature, draws = torch.tensor([1.0, 0.5, 0.0, -1.0]), 0.7, 20_000
    choice = SeededChoice(range(draws), temperature)(None, logits.expand(draws, -1)).argmax(dim=1)
    shares = torch.bincount(choice, minlength=4) / draws
    # Four standard deviations of a share of 20,000 draws are below 0.015.
    torch.testing.assert_close(shares, torch.softmax(logits / temperature, dim=0), atol=0.015, rtol=0)


TEMPLATE = (
    "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_the_chat_template_is_used_and_knows_no_date(folder, tmp_path):
    plain = LanguageModel(folder).prompt(REQUESTS[0])
    chat = LanguageModel(save_language_model(tmp_path, context=1024, template=TEMPLATE))
    prompt = chat.prompt(REQUESTS[0])
    assert prompt.startswith("01 Jan 2025<|user|>") and prompt.endswith("<|assistant|>")
    assert "<|" not in plain and plain.endswith("Sentence:")
    for text in (plain, prompt):
        assert '"dog barking"' in text and "from: the northwest." in text
    assert len(chat.answer(REQUESTS)) == 3


def test_identity_is_the_contents_of_a_folder_the_temperature_and_the_seed(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    identity = LanguageModel(folder).identity
    assert LanguageModel(moved).identity == identity
    assert LanguageModel(folder, seed=1).identity != identity != LanguageModel(folder, temperature=0.3).identity
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert LanguageModel(moved).identity != identity
    assert "some/repository" in LanguageModel("some/repository").identity


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_bad_temperature(temperature):
    with pytest.raises(ConfigError, match="temperature is .*; expected 0 or more"):
        LanguageModel(temperature=temperature)


def spoil_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def spoil_keys(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


def spoil_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_nothing, "no causal language model"),
        (spoil_weights, "no causal language model"),
        (spoil_keys, "missing .*layers.2"),
        (spoil_kind, "no causal language model"),
        (spoil_tokenizer, "no causal language model"),
        (shutil.rmtree, "no causal language model"),
    ],
)
def test_a_broken_model_is_named(folder, tmp_path, spoil, words):
    broken = shutil.copytree(folder, tmp_path / "broken-model")
    spoil(broken)
    with pytest.raises(CheckpointError, match=f"broken-model: .*{words}"):
        LanguageModel(broken).answer(REQUESTS)


def test_a_tokenizer_of_another_model_and_a_short_context(tmp_path):
    small, short = tmp_path / "small", tmp_path / "short"
    small.mkdir(), short.mkdir()
    with pytest.raises(CheckpointError, match="small: the tokenizer has .* the model 50"):
        LanguageModel(save_language_model(small, rows=50)).answer(REQUESTS)
    with pytest.raises(CheckpointError, match="short: reads at most 64 tokens"):
        LanguageModel(save_language_model(short, context=64)).answer(REQUESTS)
