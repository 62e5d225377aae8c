"""Names of dtypes and devices, resolved with one clear error each."""

import torch

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
    "fp64": torch.float64,
}


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating point dtype by its name ("bfloat16", "bf16", "float32", "fp32", "float16", "fp16", "float64").

    Raises:
        ValueError: the name is unknown, or the dtype is not one of these.
    """
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in _DTYPES:
        return _DTYPES[dtype.removeprefix("torch.")]
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    raise ValueError(f"Unknown dtype {dtype!r}: use one of {', '.join(_DTYPES)}.")


def resolve_device(device: str | int | torch.device) -> torch.device:
    """A device that exists here, by name ("cpu", "cuda", "cuda:1", "mps") or by index of an accelerator.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"Unknown device {device!r}: use cpu, cuda, cuda:0, cuda:1, ..., mps or xpu.") from error
    if resolved.type in ("cpu", "meta"):
        return resolved
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if here is not None else 0
    if here is None or here.type != resolved.type or (resolved.index or 0) >= count:
        found = f"{count} of type {here.type}" if here is not None else "none"
        raise ValueError(f"Device {str(resolved)!r} is not on this machine (accelerators found: {found}); use cpu.")
    return resolved
