"""Every name and shape of a published layout, from models without storage."""

from typing import Literal

from emu2 import presets
from emu2.convert.components import empty_safety_checker, empty_unet, empty_vae
from emu2.convert.writing import Outgoing, outgoing_of_model, outgoing_of_module
from emu2.model.key_map import Scheme, safety_checker_to_published

Layout = Literal["native-base", "native-chat", "native-gen", "hf-base", "hf-chat", "hf-gen"]
LAYOUTS: tuple[str, ...] = ("native-base", "native-chat", "native-gen", "hf-base", "hf-chat", "hf-gen")
_PRESETS = {"base": "37b", "chat": "37b-chat", "gen": "37b-gen"}


def check_layout(layout: str) -> tuple[Scheme, str]:
    """(scheme, variant) of a layout's name.

    Raises:
        ValueError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}: use one of {', '.join(LAYOUTS)}.")
    scheme, variant = layout.split("-")
    return ("native" if scheme == "native" else "hf"), variant


def outgoing(layout: str) -> list[Outgoing]:
    """The full-size layout as a list of tensors without values, rotary tables included, in the published order."""
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.model.pretrained import meta_model

    scheme, variant = check_layout(layout)
    gen, native = variant == "gen", scheme == "native"
    model = meta_model(Emu2ForConditionalGeneration, presets.config(_PRESETS[variant]))
    listed = outgoing_of_model(model, scheme, prefix="multimodal_encoder." if gen and native else "")
    if gen:
        for name, module in (("unet", empty_unet()), ("vae", empty_vae()), ("safety_checker", empty_safety_checker())):
            rename = safety_checker_to_published if name == "safety_checker" else str
            listed += outgoing_of_module(module, prefix=f"{name}." if native else "", rename=rename)
    return listed


def names(layout: str) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter of a published checkpoint at full size (takes about a second, no memory).

    Args:
        layout: "native-base", "native-chat", "native-gen" (the native files), "hf-base", "hf-chat", "hf-gen" (the
            Hugging Face folders; in "hf-gen" each component's names stand as in its own files, without prefix).

    Raises:
        ValueError: there is no such layout.
    """
    return [(item.name, item.info.shape) for item in outgoing(layout) if item.is_parameter]


def format_shape(shape: tuple[int, ...]) -> str:
    """(1, 1, 1792) -> "1x1x1792"; a scalar is "scalar"."""
    return "x".join(str(size) for size in shape) or "scalar"
