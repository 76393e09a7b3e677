"""The training objective on tower outputs that are given."""

import pytest
import torch

from salm.geometry import SECTORS
from salm.models.builders import build_model, salm_tiny
from salm.models.losses import LossWeights, classification_loss
from salm.train.objective import MAX_SCALE, Objective, Outcome

SOUNDS, LABELS = 16, 3


class Fixed:
    """Heads with random sentences."""

    def __init__(self):
        torch.manual_seed(0)
        self.config = salm_tiny()
        self.model = build_model(self.config)
        self.teacher_head = self.tag_head = None
        width = self.model.embedding_width
        self.texts = {"labels": torch.randn(LABELS, width), "scenes": torch.randn(LABELS * len(SECTORS), width)}
        self.directions = torch.randn(len(SECTORS), width)

    def prompts(self):
        return self.directions

    def fixed_texts(self, kind):
        return self.texts[kind]


@pytest.fixture
def heads():
    return Fixed()


@pytest.fixture
def outcome(heads):
    width = heads.model.audio_encoder.out_width
    return Outcome(
        semantic=torch.randn(SOUNDS, width),
        spatial=torch.randn(SOUNDS, width),
        arrival=torch.zeros(SOUNDS, 0, 3),
        captions=torch.randn(SOUNDS, 2, heads.model.embedding_width),
        labels=torch.arange(SOUNDS) % LABELS,
        sectors=torch.arange(SOUNDS) % len(SECTORS),
        doa=torch.nn.functional.normalize(torch.randn(SOUNDS, 3), dim=-1),
        teacher=torch.zeros(SOUNDS, 0),
        tags=torch.zeros(SOUNDS, 0),
    )


def test_the_edited_term_asks_for_each_sound_from_another_direction(heads, outcome):
    objective = Objective(LossWeights(edited=1.0), "multi_positive", (0, 1), 0)
    value = objective.terms(outcome, heads, semantic_alone=False)["edited"]
    parts = heads.model.project_audio(outcome.semantic, outcome.spatial)
    scale = heads.model.log_temperature.exp().clamp(max=MAX_SCALE)
    wanted = torch.tensor([(sector + 1 + sound % 7) % 8 for sound, sector in enumerate(outcome.sectors.tolist())])
    assert not (wanted == outcome.sectors).any()
    assert len(set(wanted.tolist())) == len(SECTORS)
    edited = heads.model.edit_direction(parts.semantic, parts.spatial, heads.directions[wanted])
    expected = classification_loss(edited, heads.texts["scenes"], scale, outcome.labels * len(SECTORS) + wanted)
    torch.testing.assert_close(value, expected)


def test_the_arrival_term_is_the_mean_over_both_estimates(heads, outcome):
    estimates = torch.nn.functional.normalize(torch.randn(SOUNDS, 2, 3), dim=-1)
    objective = Objective(LossWeights(arrival=3.0), "multi_positive", (0, 1), 0)
    assert "arrival" not in objective.terms(outcome, heads, semantic_alone=False)
    value = objective.terms(outcome._replace(arrival=estimates), heads, semantic_alone=False)["arrival"]
    cosines = [(estimates[:, stage] * outcome.doa).sum(dim=-1) for stage in (0, 1)]
    torch.testing.assert_close(value, 1 - torch.cat(cosines).mean())


def test_only_the_meaning_counts_while_the_semantic_branch_is_alone(heads, outcome):
    weights = LossWeights(prompts=1.0, labels=1.0, scenes=1.0, edited=1.0)
    objective = Objective(weights, "multi_positive", (10, 20), 100)
    assert set(objective.terms(outcome, heads, semantic_alone=True)) == {"semantic", "labels"}
    terms = objective.terms(outcome, heads, semantic_alone=False)
    assert set(terms) == {"semantic", "labels", "joint", "doa", "prompts", "scenes", "edited"}


def test_contrastive_terms_are_ramped_in(heads, outcome):
    """Half-way up the ramp a contrastive term has half its weight; those of the joint embedding wait for the phase."""
    weights = LossWeights(semantic=2.0, joint=4.0, doa=3.0)
    objective = Objective(weights, "multi_positive", (10, 20), 100)
    one = torch.tensor(1.0)
    for step, semantic, joint in [(5, 0.0, 0.0), (15, 1.0, 0.0), (100, 2.0, 0.0), (115, 2.0, 2.0), (500, 2.0, 4.0)]:
        total = objective.total({"semantic": one, "joint": one, "doa": one}, step)
        assert float(total) == pytest.approx(semantic + joint + 3.0)
