"""A causal language model that rephrases captions, from transformers.

Source: Hu et al. 2025, arXiv 2507.16724: a LLaMA rephrases each caption together with its compass word, at temperature
0.2. The exact wording of the paper's prompt is not at hand; `INSTRUCTION` and `STATEMENT` are SALM's own, of that
structure: nothing but the caption and the compass word is told to the model.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salm.errors import CheckpointError, ConfigError
from salm.text.rewrite import Request, digest

DEFAULT_MODEL = "meta-llama/Llama-3.2-3B-Instruct"
DEFAULT_TEMPERATURE = 0.2
INSTRUCTION = (
    "Rewrite the statement as one short, natural English sentence that says what is heard and from which direction. "
    "Carry over every fact and the direction word as they are given, add nothing, and answer with the sentence alone."
)
STATEMENT = 'What is heard: "{caption}" Where it comes from: the {direction}.'
MAX_NEW_TOKENS = 128
# Some chat templates write today's date into the prompt (Llama 3) or ask for a chain of thought (Qwen 3).
_TEMPLATE_OPTIONS = {"date_string": "01 Jan 2025", "enable_thinking": False}


class LanguageModel:
    """A causal language model of transformers, loaded when it is first asked.

    An answer depends on the request, the model, the temperature and the seed, not on the batch (apart from rounding):
    each row draws from a generator of its own. No global generator is used.

    Args:
        name: Hugging Face repository, or a folder with weights and tokenizer (then nothing is downloaded).
        temperature: 0 takes the likeliest token always.
        device: None takes a GPU where there is one.

    Raises:
        ConfigError: the temperature is negative or not finite.
    """

    def __init__(
        self,
        name: str | Path = DEFAULT_MODEL,
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        if not math.isfinite(temperature) or temperature < 0:
            raise ConfigError(f"temperature is {temperature}; expected 0 or more, as the paper's {DEFAULT_TEMPERATURE}")
        self.name, self.temperature, self.seed, self.device = str(name), float(temperature), seed, device
        prompt = [INSTRUCTION, STATEMENT, _TEMPLATE_OPTIONS, MAX_NEW_TOKENS]
        self._identity = json.dumps([_fingerprint(self.name), prompt, self.temperature, seed])
        self._tokenizer: Any = None
        self._model: Any = None

    @property
    def identity(self) -> str:
        """Model (a folder by its contents, wherever it is), prompt, temperature and seed."""
        return self._identity

    def prompt(self, request: Request) -> str:
        """The text that the model continues: in its chat template, if its tokenizer has one."""
        self._load()
        statement = STATEMENT.format(caption=request.caption, direction=request.direction)
        if self._tokenizer.chat_template is None:
            return f"{INSTRUCTION}\n\nStatement: {statement}\nSentence:"
        # One message alone: some templates know no system role.
        messages = [{"role": "user", "content": f"{INSTRUCTION}\n\n{statement}"}]
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **_TEMPLATE_OPTIONS
        )

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One answer per request; without a chat template, its first line.

        Raises:
            CheckpointError: no such model, an incomplete one, or a prompt longer than it can read.
        """
        self._load()
        import torch

        is_chat = self._tokenizer.chat_template is not None
        texts = [self.prompt(request) for request in requests]
        prompts = self._tokenizer(texts, add_special_tokens=not is_chat)["input_ids"]
        settings = self._model.generation_config
        # Some tokenizers close every text, but a closed one is not continued.
        prompts = [prompt[:-1] if prompt[-1] in settings.eos_token_id else prompt for prompt in prompts]
        longest = max(map(len, prompts))
        self._require_room(longest)
        ids = torch.full((len(prompts), longest), settings.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        seeds = [int(digest(self.identity, *request)[:15], 16) for request in requests]
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                logits_processor=[SeededChoice(seeds, self.temperature)] if self.temperature else [],
            )
        return [self._text(row[longest:].tolist(), is_chat) for row in output]

    def _text(self, ids: list[int], is_chat: bool) -> str:
        ends = [place for place, token in enumerate(ids) if token in self._model.generation_config.eos_token_id]
        text = self._tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=True).strip()
        return text if is_chat else text.split("\n")[0].strip()

    def _require_room(self, tokens: int) -> None:
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and tokens + MAX_NEW_TOKENS > limit:
            raise CheckpointError(
                f"{self.name}: reads at most {limit} tokens, the longest prompt and its answer need "
                f"{tokens + MAX_NEW_TOKENS}; take a model with a longer context or shorten the captions"
            )

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(self.name, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"{self.name}: no causal language model with a tokenizer here or on the Hugging Face hub ({reason}); "
                "pass a folder, or a repository to which this machine has access (hf auth login)"
            ) from error
        model, loading = loaded
        if loading["missing_keys"]:
            missing = sorted(map(str, loading["missing_keys"]))
            raise CheckpointError(
                f"{self.name}: expected all weights of a {type(model).__name__}, {len(missing)} are missing "
                f"({missing[0]}, ...); take a causal language model, or download it again"
            )
        if len(tokenizer) > (rows := model.get_input_embeddings().num_embeddings):
            raise CheckpointError(
                f"{self.name}: the tokenizer has {len(tokenizer)} tokens, the model {rows}; take both from one model"
            )
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        # In place of the model's own settings, which may sample, penalise or search.
        model.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0] if ends else 0
        )
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer, self._model = tokenizer, model.to(device).eval()


class SeededChoice:
    """A logits processor after which the likeliest token of each row is a sample at a temperature.

    The largest of logits / temperature plus Gumbel noise is distributed as softmax(logits / temperature).
    Source: Gumbel 1954; as a way to sample, Maddison et al. 2014, "A* Sampling".

    Args:
        seeds: one for each row of the batch.
        temperature: above 0.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        import torch

        self.temperature = temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators])
        return scores.float() / self.temperature - noise.log().to(scores.device)


def _fingerprint(name: str) -> str:
    """A repository's name, or the contents of a folder: of each file its name, size and first MiB."""
    if not os.path.isdir(name):
        return name
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(name).iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(file.read(2**20))
    return f"folder:{digest.hexdigest()}"
