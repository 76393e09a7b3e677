"""Both branches in one call of the compiled code; `test_integer.py` has one branch, and its parts."""

import pytest
import torch

from salm.errors import ConfigError
from salm.models.audio_encoder import AudioEncoder
from salm.models.integer import as_read
from salm.models.tuned import tuned_encoder
from tests.models.test_integer import lowest_cosine
from tests.models.test_tuned import randomise


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    found = randomise(AudioEncoder(width=16, depths=(1, 2, 1), num_heads=(1, 2, 4), num_maps=3, num_semantic_maps=2))
    for stitch in found.stitches:  # none of the four like another
        stitch.weight.data += torch.tensor([[0.0, 0.3], [-0.4, 0.2]]) * torch.rand(len(stitch.weight), 1, 1)
    return found.eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(3, 3, 256, 256, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_coupled_branches_keep_their_tokens(encoder, image, bits):
    tuned = tuned_encoder(encoder, f"int{bits}")
    of_tokens = {8: 0.99, 16: 0.9995}[bits]
    for found, expected in zip(tuned.image_tokens(image), encoder.image_tokens(image), strict=True):
        assert found.shape == expected.shape == (3, 256, 64)
        assert expected.std() > 0.1
        assert lowest_cosine(found, expected) > of_tokens
        assert not torch.equal(found, expected)


@torch.inference_mode()
def test_coupling_matters(encoder, image, bits):
    tuned = tuned_encoder(encoder, f"int{bits}").image_tokens(image)
    alone = tuned_encoder(_alone(encoder, "spatial"), f"int{bits}").image_tokens(image)
    assert lowest_cosine(tuned[1], alone[1]) < 0.9


@torch.inference_mode()
def test_clips_do_not_depend_on_each_other_or_on_threads(encoder, image, bits):
    tuned, threads = tuned_encoder(encoder, f"int{bits}"), torch.get_num_threads()
    assert tuned.takes_batches and not tuned_encoder(encoder).takes_batches
    try:
        torch.set_num_threads(1)
        expected = tuned.image_tokens(image)
        alone = [tuned.image_tokens(one[None]) for one in image]
        for count in (2, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, tuned.image_tokens(image), expected))
    finally:
        torch.set_num_threads(threads)
    for branch in (0, 1):
        assert torch.equal(torch.cat([tokens[branch] for tokens in alone]), expected[branch])


def test_images_of_other_sizes_are_refused(encoder, image, bits):
    with pytest.raises(ConfigError, match=r"expected images of at least 3 maps of 256 x 256, got \(3, 2, 256, 256\)"):
        tuned_encoder(encoder, f"int{bits}").image_tokens(image[:, :2])
    for wrong in (image[..., :128], image[0]):  # which the annotations alone would refuse here
        with pytest.raises(ConfigError, match=r"got \(3, "):
            as_read(wrong, 3)


def _alone(encoder: AudioEncoder, name: str) -> AudioEncoder:
    single = AudioEncoder(
        width=16, depths=(1, 2, 1), num_heads=(1, 2, 4), num_maps=3, num_semantic_maps=2, branches=[name]
    )
    single.load_state_dict({key: value for key, value in encoder.state_dict().items() if key in single.state_dict()})
    return single.eval()
