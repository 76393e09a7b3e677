"""Sentences to token ids: byte-level BPE with RoBERTa's special tokens."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from salm.errors import CheckpointError, SalmError

FILE_NAME = "tokenizer.json"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""RoBERTa's special tokens; a token's place is its id."""
PAD_ID = SPECIAL_TOKENS.index("<pad>")
"""RoBERTa's position numbers start behind it."""


class Tokenizer:
    """A trained tokenizer; sentences longer than `max_tokens` are cut.

    Args:
        tokenizer: a `tokenizers.Tokenizer` that adds RoBERTa's start and end tokens.
        max_tokens: longest sentence in tokens, start and end included.
    """

    def __init__(self, tokenizer: FastTokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding(pad_id=PAD_ID, pad_token="<pad>")

    @classmethod
    def load(cls, folder: str | Path, max_tokens: int) -> "Tokenizer":
        """Read `tokenizer.json` of a checkpoint folder.

        Raises:
            CheckpointError: the file is missing or not a tokenizer.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise CheckpointError(f"{path}: no tokenizer here; expected the {FILE_NAME} of a SALM checkpoint folder")
        try:
            return cls(FastTokenizer.from_file(str(path)), max_tokens)
        except Exception as error:  # the tokenizers package raises plain Exception
            raise CheckpointError(f"{path}: not a tokenizer of the tokenizers package ({error})") from error

    @classmethod
    def train(cls, sentences: Iterable[str], vocabulary_size: int, max_tokens: int) -> "Tokenizer":
        """Learn a byte-level BPE vocabulary; sentences are lower-cased first."""
        tokenizer = FastTokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sentences, trainer)
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
        return cls(tokenizer, max_tokens)

    @classmethod
    def from_roberta(cls, name_or_path: str | Path, max_tokens: int) -> "Tokenizer":
        """RoBERTa's own tokenizer: a Hugging Face repository ("roberta-base") or a folder.

        Raises:
            CheckpointError: not found, or its special tokens are not RoBERTa's.
        """
        from transformers import AutoTokenizer

        try:
            fast = AutoTokenizer.from_pretrained(str(name_or_path), use_fast=True).backend_tokenizer
        except (OSError, ValueError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"{name_or_path}: no RoBERTa tokenizer here or on the Hugging Face hub ({reason}); expected a name "
                "such as roberta-base, or a folder with tokenizer.json"
            ) from error
        for number, token in enumerate(SPECIAL_TOKENS[:3]):
            if fast.token_to_id(token) != number:
                raise CheckpointError(
                    f"{name_or_path}: {token} has id {fast.token_to_id(token)}, RoBERTa's has {number}; expected "
                    "RoBERTa's tokenizer"
                )
        return cls(fast, max_tokens)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into an existing folder."""
        self._tokenizer.save(str(Path(folder) / FILE_NAME), pretty=False)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        """Token ids of one sentence."""
        return self._tokenizer.encode(clean_sentence(text)).ids

    def __call__(self, texts: Sequence[str]) -> tuple[Any, Any]:
        """Token ids and mask (1 at tokens, 0 at padding), padded to the longest: two tensors (batch, tokens)."""
        import torch  # here, as sentences can be encoded without it

        encoded = self._tokenizer.encode_batch([clean_sentence(text) for text in texts])
        return torch.tensor([item.ids for item in encoded]), torch.tensor([item.attention_mask for item in encoded])


def as_sentences(texts: str | Sequence[str]) -> list[str]:
    """One sentence or several, as a list.

    Raises:
        SalmError: a sentence is empty or no text.
    """
    sentences = [texts] if isinstance(texts, str) else list(texts)
    for number, sentence in enumerate(sentences):
        if not isinstance(sentence, str) or not sentence.strip():
            raise SalmError(f"text {number}: expected a sentence, got {sentence!r}")
    return sentences


def clean_sentence(text: str) -> str:
    """The sentence with plain spaces and without a closing full stop: neither changes what it asks for."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".").rstrip()
