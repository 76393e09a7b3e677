import numpy as np
import pytest

from salm.data.sounds import SoundBank, Teacher, read_teacher
from salm.errors import ManifestError


def test_bank_gives_each_sound_back_at_full_level(dry_sounds, tmp_path):
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    assert len(bank) == 12
    for row, sound in enumerate(dry_sounds):
        assert len(bank[row]) == pytest.approx(sound.duration_s * 24_000, abs=1)
        assert np.abs(bank[row]).max() == pytest.approx(0.99, abs=0.01)
        assert bank.labels[bank.label_ids[row]] == sound.label


def test_bank_is_decoded_once(dry_sounds, tmp_path):
    calls = []
    first = SoundBank.read(dry_sounds, cache=tmp_path, progress=lambda done, total: calls.append((done, total)))
    second = SoundBank.read(dry_sounds, cache=tmp_path, progress=lambda done, total: calls.append("again"))
    assert calls[-1] == (12, 12)
    np.testing.assert_array_equal(first.samples, second.samples)


def test_an_empty_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="at least one dry sound"):
        SoundBank.read([], cache=tmp_path)


def test_teacher_rows_follow_the_sounds(dry_folder, dry_sounds):
    forward = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    backward = read_teacher(dry_folder / "teacher.npz", dry_sounds[::-1])
    np.testing.assert_array_equal(forward.embeddings, backward.embeddings[::-1])
    np.testing.assert_allclose(forward.embeddings.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(forward.embeddings.std(axis=0), 1.0, atol=1e-3)
    assert ((forward.tags > 0) & (forward.tags < 1)).all()


def test_a_teacher_that_missed_a_sound_is_refused(dry_folder, dry_sounds, tmp_path):
    with np.load(dry_folder / "teacher.npz") as arrays:
        np.savez(tmp_path / "part.npz", **{name: arrays[name][:-1] for name in arrays})
    with pytest.raises(ManifestError, match=r"part\.npz: nothing about label5/11\.wav"):
        read_teacher(tmp_path / "part.npz", dry_sounds)
    with pytest.raises(ManifestError, match="no such teacher file"):
        read_teacher(tmp_path / "none.npz", dry_sounds)


def test_silent_teacher_has_no_outputs():
    assert Teacher.silent(3).embeddings.shape == (3, 0)
