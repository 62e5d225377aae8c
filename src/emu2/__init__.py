"""Emu2: a generative multimodal model that reads and writes sequences of text, images and video.

Public names are imported on first use, so that `import emu2` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name -> module that defines it.
_EXPORTS = {
    "Emu2Config": "emu2.configuration",
    "Emu2VisionConfig": "emu2.configuration",
    "Emu2Model": "emu2.model.modeling_emu2",
    "Emu2ForConditionalGeneration": "emu2.model.modeling_emu2",
    "Emu2ImageProcessor": "emu2.processing.image",
    "Emu2Processor": "emu2.processing.processor",
    "Box": "emu2.processing.grounding",
    "Video": "emu2.processing.video",
    "Emu2ImagePipeline": "emu2.decoder.image_pipeline",
    "Emu2VideoPipeline": "emu2.decoder.video_pipeline",
    "load": "emu2.inference.load",
}
_SUBMODULES = ("convert", "presets", "tokens", "world")

__all__ = sorted([*_EXPORTS, *_SUBMODULES])

if TYPE_CHECKING:
    from emu2.configuration import Emu2Config, Emu2VisionConfig
    from emu2.decoder.image_pipeline import Emu2ImagePipeline
    from emu2.decoder.video_pipeline import Emu2VideoPipeline
    from emu2.inference.load import load
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration, Emu2Model
    from emu2.processing.grounding import Box
    from emu2.processing.image import Emu2ImageProcessor
    from emu2.processing.processor import Emu2Processor
    from emu2.processing.video import Video


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return import_module(f"emu2.{name}")
    raise AttributeError(f"module 'emu2' has no attribute {name!r}; it offers {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
