"""What a step needs to know of its process: its random numbers, and the precision that accelerate runs it in."""

import hashlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator

from . import collectives


def seed_step(seed: int, step: int) -> None:
    """Make torch's own random numbers (drop path, dropout) a function of seed, step and rank: no state to save."""
    key = f"{seed} {step} {collectives.rank()}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1)


def autocast(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """accelerate's own, but for fp16 on a CPU, where it has none."""
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        return torch.autocast("cpu", torch.float16)
    return accelerator.autocast()
