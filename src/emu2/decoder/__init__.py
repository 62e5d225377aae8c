"""Embeddings to pixels: the image pipeline (SDXL's form) and the video pipeline (Stable Diffusion 2.1's, over time)."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Emu2ImagePipeline": "emu2.decoder.image_pipeline",
    "Emu2ImagePipelineOutput": "emu2.decoder.image_pipeline",
    "Emu2VideoPipeline": "emu2.decoder.video_pipeline",
    "Emu2VideoPipelineOutput": "emu2.decoder.video_pipeline",
    "InflationReport": "emu2.decoder.inflate",
    "export_to_gif": "emu2.decoder.export",
    "export_to_mp4": "emu2.decoder.export",
    "inflate_unet": "emu2.decoder.inflate",
    "inflate_unet_with_report": "emu2.decoder.inflate",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'emu2.decoder' has no attribute {name!r}; it offers {', '.join(__all__)}.")
