import pytest
import torch
from torch.nn import functional

from salm.errors import ConfigError
from salm.models.htsat import HTSAT, PatchMerging, SwinBlock, WindowAttention, fold_image, stretch_time, time_tokens


@pytest.fixture
def branch():
    torch.manual_seed(0)
    return HTSAT(num_maps=2, width=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 4)).eval()


def test_training_and_inference_paths_agree(branch):
    image = torch.randn(2, 2, 256, 256)
    with torch.inference_mode():
        folded = branch(image)
    torch.testing.assert_close(folded, branch(image).detach(), atol=1e-5, rtol=1e-5)
    assert folded.shape == (2, 64, 64)


def test_window_attention_against_a_loop():
    torch.manual_seed(0)
    attention = WindowAttention(8, num_heads=2, window=2)
    windows, mask = torch.randn(1, 3, 4, 8), torch.randn(3, 4, 4)
    expected = torch.zeros(1, 3, 4, 8)
    for window in range(3):
        query, key, value = attention.qkv(windows[0, window]).view(4, 3, 2, 4).unbind(1)
        for head in range(2):
            for row in range(4):
                scores = torch.stack([query[row, head] @ key[column, head] / 2.0 for column in range(4)])
                for column in range(4):
                    up, across = row // 2 - column // 2 + 1, row % 2 - column % 2 + 1
                    scores[column] = scores[column] + attention.relative_position_bias_table[up * 3 + across, head]
                weights = (scores + mask[window, row]).softmax(0)
                mixed = sum(weights[column] * value[column, head] for column in range(4))
                expected[0, window, row, 4 * head : 4 * head + 4] = mixed.detach()
    torch.testing.assert_close(attention(windows, mask), attention.proj(expected))


def test_a_shifted_block_does_not_look_across_the_seam():
    torch.manual_seed(0)
    block = SwinBlock(8, num_heads=1, side=8, window=4, shift=2).double()
    tokens = torch.randn(1, 64, 8, dtype=torch.float64)
    changed = tokens.clone()
    changed[0, 7 * 8] = torch.randn(8)  # last row, first column: rolled beside the first rows, but not of them
    difference = (block(changed) - block(tokens)).abs().amax(dim=-1).view(8, 8)
    reached = torch.zeros(8, 8, dtype=torch.bool)
    reached[6:, :2] = True  # its window holds rows 6, 7, 0, 1 and columns 6, 7, 0, 1; only these are its neighbours
    assert torch.equal(difference > 0, reached)


def test_an_unshifted_block_stays_within_its_window():
    torch.manual_seed(0)
    block = SwinBlock(8, num_heads=1, side=8, window=4, shift=0).double()
    tokens = torch.randn(1, 64, 8, dtype=torch.float64)
    changed = tokens.clone()
    changed[0, 0] = torch.randn(8)
    reached = (block(changed) - block(tokens)).abs().amax(dim=-1).view(8, 8) > 0
    assert reached[:4, :4].all()
    assert not reached[4:].any()
    assert not reached[:, 4:].any()


def test_patch_merging_takes_neighbours_column_by_column():
    merging = PatchMerging(1, side=4)
    merging.norm = torch.nn.Identity()
    merging.reduction = torch.nn.Identity()
    merged = merging(torch.arange(16.0).view(1, 16, 1))
    assert merged[0].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]


def test_folding_stacks_quarters_of_time():
    maps = torch.zeros(1, 1, 64, 1001)
    maps[0, 0, 5, 300] = 1.0  # mel 5 of the second quarter
    maps[0, 0, 63, 1000] = 2.0
    image = fold_image(maps)
    assert image.shape == (1, 1, 256, 256)
    assert image[0, 0, 64 + 5, 300 - 256] == 1.0
    assert image[0, 0, 3 * 64 + 63, 1000 - 3 * 256] == 2.0
    assert image.sum() == 3.0


def test_time_tokens_follow_time():
    grid = torch.arange(64.0).view(8, 8)  # rows: quarters with two frequencies each; columns: time
    tokens = time_tokens(grid.view(1, 64, 1))
    expected = torch.cat([(grid[2 * quarter] + grid[2 * quarter + 1]) / 2 for quarter in range(4)])
    assert torch.equal(tokens.flatten(), expected)


def test_stretching_keeps_ends_and_constants():
    maps = torch.randn(1, 1, 64, 1001)
    stretched = stretch_time(maps)
    assert stretched.shape[-1] == 1024
    torch.testing.assert_close(stretched[..., [0, -1]], maps[..., [0, -1]])
    torch.testing.assert_close(stretch_time(torch.ones(1, 1, 64, 900)), torch.ones(1, 1, 64, 1024))


@pytest.mark.parametrize("frames", [1001, 300])
def test_stretching_is_bicubic_interpolation(frames):
    maps = torch.randn(2, 3, 64, frames)
    with torch.inference_mode():
        stretched = stretch_time(maps)
    expected = functional.interpolate(maps.transpose(-1, -2), (1024, 64), mode="bicubic", align_corners=True)
    torch.testing.assert_close(stretched, expected.transpose(-1, -2), atol=1e-4, rtol=0)
    maps.requires_grad_()
    stretch_time(maps).sum().backward()
    assert maps.grad.sum() == pytest.approx(stretched.numel(), rel=1e-4)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="expected 64 mels and at most 1024 frames, got 32 mels"):
        fold_image(torch.zeros(1, 1, 32, 1001))
    with pytest.raises(ConfigError, match="one head count per stage"):
        HTSAT(num_maps=1, width=8, depths=(2, 2), num_heads=(1,))
    with pytest.raises(ConfigError, match="3 heads of width 8"):
        HTSAT(num_maps=1, width=8, depths=(1,), num_heads=(3,))
