"""The training of SALM as a Lightning module: towers over a batch, joined over processes, into the objective."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from salm.config import BRANCHES
from salm.data.dataset import Example
from salm.errors import ConfigError
from salm.geometry import SECTORS, direction_prompt
from salm.models.losses import LossWeights, Targets
from salm.train.hints import TeacherHints
from salm.train.objective import Objective, Outcome
from salm.train.pooling import Pooled, in_pieces, pool_sounds
from salm.train.rebuilding import freeze_all_but, rebuilt
from salm.train.schedule import warmup_cosine
from salm.train.validation import validation_scores
from salm.weights.checkpoint import load_checkpoint, save_checkpoint

PAPER_LOSS = LossWeights()
RARE_TAG_LOGIT = -5.0
"""Where the tags' logits start: a class is present in less than one sound of a hundred."""
TEXTS_AT_A_TIME = 256


class SalmTraining(lightning.LightningModule):
    """Trains a SALM model on joined scenes, and writes it as a checkpoint folder at the end.

    Several processes (DDP) train as one on their joint batch: the towers' outputs are gathered with their gradients
    before anything compares them, so that n processes of b clips give the losses and gradients of one with n b clips.

    Args:
        start: checkpoint folder that training starts from, and that gives the sizes: of `salm train text` or of
            `salm convert`.
        export_to: folder for the trained model.
        branches: of the audio tower; without one of them the model is the paper's SALM-s (["spatial"]) or its
            LAION-CLAP baseline (["semantic"]).
        arrival_channels: width of the audio tower's `ArrivalPooling`, 0 for none; None: as in the model to start from.
        timbre_channels: the same of its `TimbrePooling`.
        loss: weights of the objective's terms.
        targets: what items of the same meaning in a batch are, see `salm.models.losses`.
        learning_rate: peak rate of the audio side; the text side gets `text_rate_factor` of it, and the few weights of
            `ArrivalPooling` `arrival_rate_factor` times it.
        weight_decay: AdamW's, on matrices only; 0 is Adam. `betas`: its two decay rates.
        warmup_steps: of linear warm-up.
        freeze_text: keep the text tower as it came: the audio tower learns to meet it ("locked text"). Needed by the
            loss terms `labels`, `scenes` and `edited`, whose thousands of sentences are then embedded only once.
        semantic_steps: first steps, which train the semantic branch alone at half the cost: what sounds is harder to
            learn than where.
        timbre_steps: the first of those, in which `TimbrePooling` learns alone, from W alone (`SceneMix.omni`, `dry`).
        trained: parts of `salm.models.salm.SALM` that learn, such as "semantic_projection"; None: all. The others stay
            as they came, in evaluation mode.
        contrastive_steps: first step at which the contrastive terms count, and the step at which they count in full
            (those of the joint embedding: counted from `semantic_steps` on). From the start they would only teach the
            towers to agree on one point: with fresh audio weights their gradients drown the teacher's and the
            direction's.
        schedule_steps: steps after which the cosine decay has reached zero; None: the whole training.
        micro_batch: clips (and sentences) that go through a tower at once. The rest of a large contrastive batch waits
            without activations, which the backward pass computes again: the same gradients in less memory, for a
            third more time (GradCache's aim, Gao et al. 2021, by torch's checkpointing).
        teacher_width, num_tags: sizes of the audio teacher's outputs.
        compile_audio: run the audio tower through torch.compile (minutes to start, then faster).
    """

    def __init__(
        self,
        *,
        start: str,
        export_to: str,
        branches: tuple[str, ...] = BRANCHES,
        arrival_channels: int | None = None,
        timbre_channels: int | None = None,
        loss: LossWeights = PAPER_LOSS,
        targets: Targets = "multi_positive",
        learning_rate: float = 1e-3,
        text_rate_factor: float = 0.1,
        arrival_rate_factor: float = 1.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.98),
        warmup_steps: int = 100,
        freeze_text: bool = False,
        semantic_steps: int = 0,
        timbre_steps: int = 0,
        trained: tuple[str, ...] | None = None,
        contrastive_steps: tuple[int, int] = (0, 1),
        schedule_steps: int | None = None,
        micro_batch: int | None = None,
        teacher_width: int = 384,
        num_tags: int = 527,
        compile_audio: bool = False,
    ) -> None:
        super().__init__()
        if (loss.labels or loss.scenes or loss.edited) and not freeze_text:
            raise ConfigError("loss.labels, loss.scenes and loss.edited need freeze_text: true")
        if semantic_steps and set(branches) != set(BRANCHES):
            raise ConfigError(f"semantic_steps needs both branches, got {list(branches)}")
        checkpoint = load_checkpoint(start)
        audio = replace(checkpoint.config.audio, branches=tuple(branches))
        if arrival_channels is not None:
            audio = replace(audio, arrival_channels=arrival_channels)
        if timbre_channels is not None:
            audio = replace(audio, timbre_channels=timbre_channels)
        if timbre_steps > semantic_steps or (timbre_steps and not audio.timbre_channels):
            raise ConfigError(
                f"timbre_steps: expected at most semantic_steps ({semantic_steps}), and timbre_channels above 0, got "
                f"{timbre_steps} and {audio.timbre_channels}"
            )
        self.config = replace(checkpoint.config, audio=audio, query_bank=0)
        self.tokenizer = checkpoint.tokenizer
        self.model = rebuilt(checkpoint, self.config).train()
        self.text_towers = (self.model.text_encoder, self.model.text_projection)
        for tower in self.text_towers:
            tower.requires_grad_(not freeze_text)
        self.trained = trained
        if trained is not None:
            freeze_all_but(self.model, trained)
        if self.model.audio_encoder.spatial is None:  # several processes may not wait for gradients of unused weights
            self.model.doa_head.requires_grad_(False)
            self.model.spatial_weight.requires_grad_(False)
        width = self.model.audio_encoder.semantic_width
        self.teacher_head = nn.Linear(width, teacher_width) if loss.teacher else None
        self.tag_head = nn.Linear(width, num_tags) if loss.tags else None
        if self.tag_head is not None:
            nn.init.constant_(self.tag_head.bias, RARE_TAG_LOGIT)
        self.hints = self._hints() if loss.hints else None
        self.objective = Objective(loss, targets, contrastive_steps, semantic_steps)
        self.export_to, self.micro_batch = Path(export_to), micro_batch
        self.semantic_steps, self.timbre_steps = semantic_steps, timbre_steps
        self.learning_rate, self.text_rate_factor, self.betas = learning_rate, text_rate_factor, betas
        self.arrival_rate_factor = arrival_rate_factor
        self.weight_decay, self.warmup_steps, self.schedule_steps = weight_decay, warmup_steps, schedule_steps
        tokens = self.model.audio_encoder.image_tokens
        self._image_tokens = torch.compile(tokens) if compile_audio else tokens
        self._validation: list[dict[str, Tensor]] = []
        self._fixed_texts: dict[str, Tensor] = {}

    def _hints(self) -> TeacherHints:
        timbre = self.model.audio_encoder.timbre
        if timbre is None:
            raise ConfigError("loss.hints is for the network of timbre_channels, and the model has none")
        return TeacherHints(timbre.widths, self.config.features)

    def on_fit_start(self) -> None:
        """Hints come from scenes that the teacher hears too."""
        teacher = getattr(self._datamodule.training, "teacher", None)
        heard = teacher is not None and teacher.model is not None
        if self.hints is not None and not (heard and any(mix.hints for mix in self._datamodule.mixes)):
            raise ConfigError("loss.hints needs data.teacher_model, and hints: true in one of data.mixes")

    def on_train_epoch_start(self) -> None:
        """Parts that do not learn are in evaluation mode."""
        if self.trained is not None:
            self.model.eval()
            for name in self.trained:
                self.model.get_submodule(name).train()

    def on_train_batch_start(self, batch: Example, batch_index: int) -> None:
        """Seed what is random in the model by the batch's place, so that a resumed training goes on as it would have.

        Dropout draws from torch's own generator, whose state no checkpoint of Lightning holds.
        """
        place = (self._datamodule.seed, self.current_epoch, batch_index, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: Example, batch_index: int) -> Tensor:
        semantic_alone = self.global_step < self.semantic_steps
        captions = batch.captions if semantic_alone else (*batch.captions, *batch.spatial_captions)
        pooled = self._pool(batch, semantic_alone)
        outcome = Outcome(
            semantic=pooled.semantic.flatten(0, 1),
            spatial=pooled.spatial.flatten(0, 1),
            arrival=pooled.arrival.flatten(0, 1),
            captions=self.encode_texts(captions).unflatten(0, (-1, len(batch.captions))).transpose(0, 1),
            labels=batch.labels.flatten(),
            sectors=batch.sectors.flatten(),
            doa=batch.doa.flatten(0, 1),
            teacher=batch.teacher.flatten(0, 1),
            tags=batch.tags.flatten(0, 1),
        )
        if self.trainer.world_size > 1:
            outcome = Outcome(*map(self._gather, outcome))
        terms = self.objective.terms(outcome, self, semantic_alone=semantic_alone)
        if self.hints is not None and pooled.stages:
            teacher = self._datamodule.training.teacher.model.to(self.device)
            terms["hints"] = self.hints(pooled.stages, teacher.stages(batch.heard))
        total = self.objective.total(terms, self.global_step)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (texts, width), unnormalised, with gradients unless the text tower is frozen."""
        ids, mask = (part.to(self.device) for part in self.tokenizer(texts))
        return torch.cat(in_pieces(self.model.encode_text, ids, mask, rows=self.micro_batch)).float()

    def prompts(self) -> Tensor:
        """Embeddings of the eight directions' prompts (8, width)."""
        return self.encode_texts([direction_prompt(sector) for sector in SECTORS])

    @torch.no_grad()
    def fixed_texts(self, kind: str) -> Tensor:
        """Embeddings of all `"labels"`, or of all `"scenes"` (each label in the eight directions), made once."""
        if kind not in self._fixed_texts:
            texts = self._datamodule.training.labels
            if kind == "scenes":
                texts = [f"{label} from the {sector.compass}" for label in texts for sector in SECTORS]
            starts = range(0, len(texts), TEXTS_AT_A_TIME)
            self._fixed_texts[kind] = torch.cat([self.encode_texts(texts[i : i + TEXTS_AT_A_TIME]) for i in starts])
        return self._fixed_texts[kind]

    def _pool(self, batch: Example, semantic_alone: bool) -> Pooled:
        timbre_alone = self.global_step < self.timbre_steps
        if batch.features.shape[1] == 1 and not timbre_alone:
            raise ConfigError(
                f"data.mixes: scenes with omni: true or dry: true hold W alone, and only the first {self.timbre_steps} "
                "steps (timbre_steps) read nothing else; leave them out, or raise timbre_steps"
            )
        return pool_sounds(
            self.model.audio_encoder,
            batch,
            image_tokens=self._image_tokens,
            semantic_alone=semantic_alone,
            timbre_alone=timbre_alone,
            with_stages=self.hints is not None and batch.heard is not None,
            micro_batch=self.micro_batch,
        )

    def _gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, with their gradients."""
        gathered: Any = self.all_gather(rows, sync_grads=rows.requires_grad)
        return gathered.flatten(0, 1)

    def validation_step(self, batch: Example, batch_index: int) -> None:
        parts = self.model.encode_audio(batch.features)
        self._validation.append(
            {
                "semantic": parts.semantic.float(),
                "joint": parts.joint.float(),
                "spatial": parts.spatial.float(),
                "doa": parts.doa,
                "true_doa": batch.doa[:, 0],
                "label": batch.labels[:, 0],
                "sector": batch.sectors[:, 0],
            }
        )

    def on_validation_epoch_end(self) -> None:
        """Zero-shot label and direction accuracy, and localisation error, on scenes of held-out sounds and rooms."""
        seen = {name: torch.cat([part[name] for part in self._validation]) for name in self._validation[0]}
        self._validation.clear()
        if self.trainer.world_size > 1:
            seen = {name: self._gather(part) for name, part in seen.items()}
        labels = self.encode_texts(self._datamodule.validation.labels)
        scores = validation_scores(seen, labels, self.prompts())
        self.log_dict({f"val/{name}": value for name, value in scores.items()}, prog_bar=True)

    @property
    def _datamodule(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        text_parameters = {id(parameter) for tower in self.text_towers for parameter in tower.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = self.learning_rate
            if id(parameter) in text_parameters:
                rate *= self.text_rate_factor
            elif name.startswith("model.audio_encoder.arrival."):
                rate *= self.arrival_rate_factor
            decay = self.weight_decay if parameter.ndim >= 2 and "bias_table" not in name else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
            betas=self.betas,
        )
        total = self.schedule_steps or int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, warmup_steps=self.warmup_steps, total_steps=total)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_end(self) -> None:
        """Write the model as a checkpoint folder."""
        if self.trainer.is_global_zero:
            save_checkpoint(self.export_to, self.model.cpu(), self.config, self.tokenizer)
