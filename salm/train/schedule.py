"""The learning-rate schedule of every training: linear warm-up, then cosine decay to zero."""

import math


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Factor in (0, 1] on the peak learning rate at `step`, counted from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
