"""The training step of SALM as a Lightning module."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional

from salm.data.dataset import Example
from salm.errors import ConfigError
from salm.geometry import SECTORS, direction_prompt
from salm.models.audio_encoder import pool_tokens
from salm.models.builders import named_config
from salm.models.losses import (
    LossWeights,
    Targets,
    classification_loss,
    contrastive_loss,
    doa_loss,
    same_meaning,
)
from salm.models.salm import AudioParts
from salm.train.schedule import warmup_cosine
from salm.weights.checkpoint import load_checkpoint, save_checkpoint

PAPER_LOSS = LossWeights()
MAX_SCALE = 100.0
"""Upper bound of the inverse temperature, as in CLIP."""
RARE_TAG_LOGIT = -5.0
"""Where the tags' logits start: a class is present in less than one sound of a hundred."""
JOINT_TERMS = ("joint", "scenes")
CONTRASTIVE_TERMS = ("semantic", "labels", *JOINT_TERMS)


class SalmTraining(lightning.LightningModule):
    """Trains a SALM model on joined scenes, and writes it as a checkpoint folder at the end.

    Args:
        size: a named size of `salm.models.builders`.
        start: checkpoint folder that training starts from (`salm train text` makes one with a trained text tower).
        export_to: folder for the trained model.
        loss: weights of the objective's terms.
        targets: what items of the same meaning in a batch are, see `salm.models.losses`.
        learning_rate: peak rate of the audio side; the text side gets `text_rate_factor` of it.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: of linear warm-up.
        freeze_text: keep the text tower as it came: the audio tower learns to meet it ("locked text"). Needed by the
            loss terms `labels` and `scenes`, whose thousands of sentences are then embedded only once.
        semantic_steps: first steps, which train the semantic branch alone at half the cost: what sounds is harder to
            learn than where.
        contrastive_steps: first step at which the contrastive terms count, and the step at which they count in full
            (those of the joint embedding: counted from `semantic_steps` on).
            From the start they would only teach the towers to agree on one point: with fresh audio weights their
            gradients drown the teacher's and the direction's.
        schedule_steps: steps after which the cosine decay has reached zero; None: the whole training.
        teacher_width, num_tags: sizes of the audio teacher's outputs.
        compile_audio: run the audio encoder through torch.compile (minutes to start, then faster).
    """

    def __init__(
        self,
        *,
        size: str = "salm-small",
        start: str,
        export_to: str,
        loss: LossWeights = PAPER_LOSS,
        targets: Targets = "multi_positive",
        learning_rate: float = 1e-3,
        text_rate_factor: float = 0.1,
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
        freeze_text: bool = False,
        semantic_steps: int = 0,
        contrastive_steps: tuple[int, int] = (0, 1),
        schedule_steps: int | None = None,
        teacher_width: int = 384,
        num_tags: int = 527,
        compile_audio: bool = False,
    ) -> None:
        super().__init__()
        self.config = named_config(size)
        checkpoint = load_checkpoint(start)
        if checkpoint.config != self.config:
            raise ConfigError(f"{start}: a model of other sizes than {size}; run salm train text for {size}")
        if (loss.labels or loss.scenes) and not freeze_text:
            raise ConfigError("loss.labels and loss.scenes need freeze_text: true")
        self.tokenizer, self.model = checkpoint.tokenizer, checkpoint.model.train()
        self.freeze_text, self.semantic_steps = freeze_text, semantic_steps
        for tower in (self.model.text_encoder, self.model.text_projection):
            tower.requires_grad_(not freeze_text)
        self.teacher_head = nn.Linear(self.model.audio_encoder.out_width, teacher_width)
        self.tag_head = nn.Linear(self.model.audio_encoder.out_width, num_tags)
        nn.init.constant_(self.tag_head.bias, RARE_TAG_LOGIT)
        self.contrastive_steps = contrastive_steps
        self.export_to, self.loss, self.targets = Path(export_to), loss, targets
        self.learning_rate, self.text_rate_factor = learning_rate, text_rate_factor
        self.weight_decay, self.warmup_steps, self.schedule_steps = weight_decay, warmup_steps, schedule_steps
        encoder = self.model.audio_encoder
        self._pool_spans = torch.compile(encoder.pool_spans) if compile_audio else encoder.pool_spans
        self._validation: list[dict[str, Tensor]] = []
        self._fixed_texts: dict[str, Tensor] = {}

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (texts, width), unnormalised, with gradients unless the text tower is frozen."""
        ids, mask = self.tokenizer(texts)
        return self.model.encode_text(ids.to(self.device), mask.to(self.device)).float()

    @torch.no_grad()
    def fixed_texts(self, kind: str) -> Tensor:
        """Embeddings of all `"labels"`, or of all `"scenes"` (each label in the eight directions), made once."""
        if kind not in self._fixed_texts:
            labels = self._datamodule.training.bank.labels
            texts = labels if kind == "labels" else [f"{label} from the {s.compass}" for label in labels for s in SECTORS]
            parts = [self.encode_texts(texts[first : first + 256]) for first in range(0, len(texts), 256)]
            self._fixed_texts[kind] = torch.cat(parts)
        return self._fixed_texts[kind]

    def training_step(self, batch: Example, batch_index: int) -> Tensor:
        terms = self._semantic_terms(batch) if self.global_step < self.semantic_steps else self._all_terms(batch)
        total = torch.stack([self._weight(name) * value for name, value in terms.items()]).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return total

    def _semantic_terms(self, batch: Example) -> dict[str, Tensor]:
        """Terms of the semantic branch alone."""
        tokens = self.model.audio_encoder.semantic_tokens(batch.features)
        pooled = pool_tokens(tokens, _spans(batch)).flatten(0, 1)
        captions = self.encode_texts(batch.captions)
        return self._meaning_terms(self.model.semantic_projection(pooled), captions, batch) | self._teacher_terms(
            pooled, batch
        )

    def _all_terms(self, batch: Example) -> dict[str, Tensor]:
        semantic, spatial = (part.flatten(0, 1) for part in self._pool_spans(batch.features, _spans(batch)))
        parts = self.model.project_audio(semantic, spatial)
        captions, spatial_captions, prompts = self.encode_texts(
            (*batch.captions, *batch.spatial_captions, *(direction_prompt(sector) for sector in SECTORS))
        ).split([len(batch.captions), len(batch.captions), len(SECTORS)])
        return (
            self._meaning_terms(parts.semantic, captions, batch)
            | self._spatial_terms(parts, spatial_captions, prompts, batch)
            | self._teacher_terms(semantic, batch)
        )

    def _teacher_terms(self, pooled: Tensor, batch: Example) -> dict[str, Tensor]:
        """Losses against the audio teacher, over the sounds that it has heard (the others are NaN)."""
        teacher, tags = batch.teacher.flatten(0, 1), batch.tags.flatten(0, 1)
        heard = ~torch.isnan(teacher).any(dim=1)
        terms: dict[str, Tensor] = {}
        if not heard.any():
            return terms
        if self.loss.teacher:
            terms["teacher"] = functional.mse_loss(self.teacher_head(pooled[heard]).float(), teacher[heard])
        if self.loss.tags:
            logits = self.tag_head(pooled[heard]).float()
            terms["tags"] = functional.binary_cross_entropy_with_logits(logits, tags[heard])
        return terms

    def _weight(self, term: str) -> float:
        weight = float(getattr(self.loss, term))
        if term not in CONTRASTIVE_TERMS:
            return weight
        first, full = self.contrastive_steps
        step = self.global_step - (self.semantic_steps if term in JOINT_TERMS else 0)
        return weight * min(1.0, max(0.0, (step - first) / (full - first)))

    @property
    def _scale(self) -> Tensor:
        return self.model.log_temperature.exp().clamp(max=MAX_SCALE)

    def _meaning_terms(self, semantic: Tensor, captions: Tensor, batch: Example) -> dict[str, Tensor]:
        labels = batch.labels.flatten()
        same = labels[:, None] == labels[None]
        terms = {"semantic": contrastive_loss(semantic, captions, self._scale, same, self.targets)}
        if self.loss.labels:
            terms["labels"] = classification_loss(semantic, self.fixed_texts("labels"), self._scale, labels)
        return terms

    def _spatial_terms(
        self, parts: AudioParts, spatial_captions: Tensor, prompts: Tensor, batch: Example
    ) -> dict[str, Tensor]:
        scale, labels, sectors = self._scale, batch.labels.flatten(), batch.sectors.flatten()
        same = same_meaning(labels, sectors, labels, sectors)
        terms = {
            "joint": contrastive_loss(parts.joint, spatial_captions, scale, same, self.targets),
            "doa": doa_loss(parts.doa, batch.doa.flatten(0, 1)),
        }
        if self.loss.prompts:
            by_joint, by_spatial = (
                classification_loss(embedding, prompts, scale, sectors) for embedding in (parts.joint, parts.spatial)
            )
            terms["prompts"] = (by_joint + by_spatial) / 2
        if self.loss.scenes:
            scenes = labels * len(SECTORS) + sectors
            terms["scenes"] = classification_loss(parts.joint, self.fixed_texts("scenes"), scale, scenes)
        return terms

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
        labels = functional.normalize(self.encode_texts(self._datamodule.validation.bank.labels), dim=-1)
        prompts = functional.normalize(self.encode_texts([direction_prompt(s) for s in SECTORS]), dim=-1)
        error = torch.acos((seen["doa"] * seen["true_doa"]).sum(-1).clamp(-1, 1)) * (180 / math.pi)
        scores = {
            "label": (seen["semantic"] @ labels.T).argmax(-1) == seen["label"],
            "label_joint": (seen["joint"] @ labels.T).argmax(-1) == seen["label"],
            "sector_joint": (seen["joint"] @ prompts.T).argmax(-1) == seen["sector"],
            "sector_spatial": (seen["spatial"] @ prompts.T).argmax(-1) == seen["sector"],
        }
        self.log_dict({f"val/{name}": right.float().mean() for name, right in scores.items()}, prog_bar=True)
        self.log("val/doa_median_deg", error.median(), prog_bar=True)

    @property
    def _datamodule(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = self.learning_rate * (self.text_rate_factor if ".text_" in f".{name}" else 1.0)
            decay = self.weight_decay if parameter.ndim >= 2 and "bias_table" not in name else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
            betas=(0.9, 0.98),
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


def _spans(batch: Example) -> tuple[tuple[int, int], ...]:
    return tuple((int(first), int(end)) for first, end in batch.spans)
