"""The audio tagger: layout, loading, and parity with the outputs kept beside its weights."""

import csv

import numpy as np
import pytest
import torch

from salm.audio.io import SAMPLE_RATE_HZ, read_mono
from salm.data.audio_teacher import (
    MAX_FREQUENCY_HZ,
    NUM_TAGS,
    TEACHER_RATE_HZ,
    AudioTeacher,
    kaldi_mel_filterbank,
)
from salm.errors import AudioFormatError, CheckpointError


def noise(batch: int, duration_s: float) -> torch.Tensor:
    return 0.2 * torch.randn(batch, round(duration_s * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def random_teacher():
    """Random weights, with batch norms as after training, so that fusing them has something to get wrong."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = AudioTeacher()
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1, generator=generator)
            module.running_var.uniform_(0.2, 1.0, generator=generator)
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0.0, 0.1, generator=generator)
    return teacher.eval()


@pytest.fixture(scope="module")
def weights(random_teacher, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "tagger.pt"
    torch.save(random_teacher.state_dict(), path)
    return path


def test_size_is_the_published_one(random_teacher):
    """Source: EfficientAT's table of models, mn04_as: 0.983 M parameters."""
    assert sum(parameter.numel() for parameter in random_teacher.parameters()) == 983_599


def test_loaded_weights_give_the_same_outputs(random_teacher, weights):
    loaded, clips = AudioTeacher.load(weights), noise(2, 1.5)
    assert not loaded.training
    for found, expected in zip(loaded(clips), random_teacher(clips), strict=True):
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_loaded_maps_lie_channels_last(weights):
    """With the channels first it takes four times as long."""
    loaded = AudioTeacher.load(weights)
    stages = loaded.stages(loaded.log_mel(noise(1, 1.5)[0].numpy())[None])
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in stages)


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 2.5, 3.3])
def test_shapes_of_clips_of_any_length(random_teacher, duration_s):
    embedding, logits = random_teacher(noise(2, duration_s))
    assert embedding.shape == (2, 384) and logits.shape == (2, NUM_TAGS)
    assert embedding.isfinite().all() and logits.isfinite().all()
    assert not embedding.requires_grad and not logits.requires_grad


def test_a_batch_is_its_clips_one_by_one(weights):
    teacher, clips = AudioTeacher.load(weights), noise(3, 1.0)
    kept = clips.clone()
    together, alone = teacher(clips), [teacher(clip[None]) for clip in clips]
    for part in range(2):
        torch.testing.assert_close(together[part], torch.cat([one[part] for one in alone]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clips, kept, atol=0, rtol=0)


def test_silence_is_finite(random_teacher):
    assert all(output.isfinite().all() for output in random_teacher(torch.zeros(1, SAMPLE_RATE_HZ)))


def test_a_clip_that_is_too_short_is_refused(random_teacher):
    with pytest.raises(AudioFormatError, match=r"at least 2400 samples at 24000 Hz .* got 2399"):
        random_teacher(torch.zeros(1, 2_399))


def test_neighbouring_mel_filters_add_up_to_one():
    """Between the first and the last filter's peak each bin belongs to two triangles of height 1."""
    filters = kaldi_mel_filterbank()
    mels = 1127.0 * np.log1p(np.linspace(0, TEACHER_RATE_HZ / 2, filters.shape[1]) / 700.0)
    highest = 1127.0 * np.log1p(MAX_FREQUENCY_HZ / 700.0)
    step = highest / (filters.shape[0] + 1)
    inside = torch.from_numpy((mels >= step) & (mels <= highest - step))
    assert inside.sum() > 450
    torch.testing.assert_close(filters.sum(dim=0)[inside], torch.ones(int(inside.sum())))
    assert filters[:, mels >= highest].max() < 1e-6


def test_wrong_files_are_named_with_what_was_expected(random_teacher, tmp_path):
    state = random_teacher.state_dict()
    lacking = {key: value for key, value in state.items() if key != "classifier.5.bias"}
    wider = state | {"classifier.2.bias": torch.zeros(513)}
    for content, message in (
        (lacking, "1 weights missing: classifier.5.bias, 0 unexpected"),
        (state | {"extra": torch.zeros(1)}, "0 weights missing, 1 unexpected: extra"),
        (wider, r"classifier.2.bias has shape \(513,\)"),
    ):
        path = tmp_path / "other.pt"
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=rf"other\.pt: {message}.*; expected .*mn04_as_mAP_432\.pt"):
            AudioTeacher.load(path)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pt: not a PyTorch checkpoint"):
        AudioTeacher.load(tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint file"):
        AudioTeacher.load(tmp_path / "none.pt")


def test_outputs_equal_those_kept_for_the_training_sounds(shared_dir):
    """Source: outputs of EfficientAT's own code, see ../shared/data/README.md; float16, so 0.4% of a logit near 8."""
    sounds = shared_dir / "data/sounds/train"
    teacher = AudioTeacher.load(shared_dir / "data/teachers/mn04_as_mAP_432.pt")
    with (sounds / "manifest.csv").open(newline="") as file:
        durations = np.array([float(row["duration_s"]) for row in csv.DictReader(file)])
    # Every length from the shortest to the longest.
    chosen = np.argsort(durations, kind="stable")[np.linspace(0, len(durations) - 1, 24).astype(int)]
    with np.load(shared_dir / "data/teachers/mn04_train.npz") as expected:
        paths, embeddings, logits = (expected[name][chosen] for name in ("path", "embedding", "logits"))
    assert len(paths) == 24
    for path, wanted_embedding, wanted_logits in zip(paths, embeddings, logits, strict=True):
        embedding, scores = (output[0] for output in teacher(torch.from_numpy(read_mono(sounds / path))[None]))
        wanted = torch.from_numpy(wanted_embedding.astype(np.float32))
        assert torch.cosine_similarity(embedding, wanted, dim=0) > 0.9999, path
        assert int(scores.argmax()) == int(wanted_logits.argmax()), path
        torch.testing.assert_close(scores, torch.from_numpy(wanted_logits.astype(np.float32)), atol=0.02, rtol=0)
