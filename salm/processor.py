"""What this machine's processor can do fast."""

import platform

import torch


def has_bf16_units() -> bool:
    """Whether bf16 is faster than float32 here (AVX-512 BF16, AMX); elsewhere it is emulated, and far slower."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.11
        return bool(torch.cpu._is_avx512_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bf16 numbers, 16 times as many in a cycle as AVX-512 BF16."""
    return has_bf16_units() and bool(torch.cpu._is_amx_tile_supported())


def has_avx2() -> bool:
    """Whether this is an x86-64 processor with AVX2, FMA and F16C: Intel from Haswell, AMD from Excavator on."""
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def has_vnni() -> bool:
    """Whether this is an x86-64 processor with AVX-512 VNNI (Intel from Cascade Lake, AMD from Zen 4 on)."""
    return has_avx2() and torch.backends.cpu.get_cpu_capability() == "AVX512" and bool(torch.cpu._is_vnni_supported())


def fast_autocast() -> torch.autocast:
    """Autocast to bf16 on a CPU that has units for it; nothing elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16_units())
