"""In which precision this machine computes fastest."""

import torch
from accelerate.utils import parse_flag_from_env


def fastest() -> str:
    """bf16, fp16 or no, as accelerate names them.

    A CPU that has no bfloat16 of its own (AVX512-BF16, AMX) emulates it: 6 images a second in place of 68, ResNet-18 of
    width 16 at 24 px on 2 cores of an AMD EPYC with AVX2 (n = 2). GPUs before Ampere emulate it too, but have float16.
    """
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _computes_in_bf16() else "no"


def _computes_in_bf16() -> bool:
    has = torch.cpu
    probes = (getattr(has, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and probe() for probe in probes)
