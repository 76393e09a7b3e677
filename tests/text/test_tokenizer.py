import pytest
import torch

from salm.errors import CheckpointError
from salm.text.tokenizer import SPECIAL_TOKENS, Tokenizer, clean_sentence

SENTENCES = ["dog barking from the northwest", "rain to the left", "The sound is coming from the southeast."]
START, PAD, END = (SPECIAL_TOKENS.index(token) for token in ("<s>", "<pad>", "</s>"))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(SENTENCES, vocabulary_size=400, max_tokens=12)


def test_special_tokens_have_robertas_ids(tokenizer):
    assert (START, PAD, END) == (0, 1, 2)
    ids, mask = tokenizer([SENTENCES[0]])
    assert ids[0, 0] == START
    assert ids[0, -1] == END
    assert (ids[0, 1:-1] > SPECIAL_TOKENS.index("<mask>")).all()
    assert mask.all()
    assert ids.dtype == mask.dtype == torch.int64


def test_padding_is_masked_and_changes_no_token(tokenizer):
    ids, mask = tokenizer(["rain", SENTENCES[0]])
    alone, _ = tokenizer(["rain"])
    length = alone.shape[1]
    assert length < ids.shape[1]
    assert torch.equal(ids[0, :length], alone[0])
    assert (ids[0, length:] == PAD).all()
    assert torch.equal(mask, (ids != PAD).long())


def test_long_sentences_are_cut_and_still_end(tokenizer):
    ids, _ = tokenizer(["rain dog " * 50])
    assert ids.shape == (1, 12)
    assert ids[0, -1] == END


@pytest.mark.parametrize(
    "other", ["Rain to the LEFT", "rain  to\nthe left ", "rain to the left.", "rain to the left..."]
)
def test_case_spaces_and_the_full_stop_do_not_matter(tokenizer, other):
    assert torch.equal(tokenizer(["rain to the left"])[0], tokenizer([other])[0])


def test_other_words_matter(tokenizer):
    assert not torch.equal(tokenizer(["rain to the left"])[0], tokenizer(["rain to the lefts"])[0])


def test_unseen_characters_are_kept_apart(tokenizer):
    assert not torch.equal(tokenizer(["鳥"])[0], tokenizer(["猫"])[0])


@pytest.mark.parametrize("text", ["鳥の声 🐦", "naïve café", "a\x00b", "", "."])
def test_any_text_has_tokens(tokenizer, text):
    ids, mask = tokenizer([text])
    assert ids[0, 0] == START
    assert ids[0, mask[0].sum() - 1] == END
    assert SPECIAL_TOKENS.index("<unk>") not in ids


def test_saving_and_loading_keeps_every_id(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path, max_tokens=12)
    assert loaded.vocabulary_size == tokenizer.vocabulary_size <= 400
    for first, second in zip(tokenizer(SENTENCES), loaded(SENTENCES), strict=True):
        assert torch.equal(first, second)
    assert Tokenizer.load(tmp_path, max_tokens=5)(SENTENCES)[0].shape == (3, 5)


def test_training_twice_gives_the_same_vocabulary(tokenizer):
    again = Tokenizer.train(SENTENCES, vocabulary_size=400, max_tokens=12)
    assert torch.equal(again(SENTENCES)[0], tokenizer(SENTENCES)[0])


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no tokenizer here; expected the tokenizer\.json"):
        Tokenizer.load(tmp_path, 12)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer of the tokenizers package"):
        Tokenizer.load(tmp_path, 12)


def test_cleaning_keeps_what_is_asked():
    assert clean_sentence("  A dog,  3.5 m away. ") == "A dog, 3.5 m away"
