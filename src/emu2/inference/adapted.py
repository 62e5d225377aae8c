"""A model with a tuned adapter on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emu2.model.adapters import PROCESSOR_FOLDER, load_adapter
from emu2.model.vocabulary import add_chat_tokens

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
    from emu2.processing.processor import Emu2Processor


def apply_adapter(model: Emu2ForConditionalGeneration, processor: Emu2Processor, folder: str | Path) -> None:
    """Put the adapter of a run on the model it was trained on, and change model and processor as the run did.

    Both are changed in place: the tokens of a chat, and the number of embeddings a picture takes.

    Raises:
        ValueError: no adapter there, another model's, or one trained at another resolution.
    """
    from emu2.processing.processor import Emu2Processor

    folder = Path(folder).expanduser()
    if (folder / PROCESSOR_FOLDER).is_dir():
        trained = Emu2Processor.from_pretrained(folder / PROCESSOR_FOLDER)
        side, own = trained.image_processor.size["height"], model.config.vision_config.image_size
        if side != own:
            raise ValueError(
                f"The adapter in {folder} was trained on pictures of {side} pixels, and this model reads {own}: give "
                "the model it was trained on."
            )
        if len(trained.tokenizer) > len(processor.tokenizer):
            add_chat_tokens(model, processor.tokenizer)
        if len(trained.tokenizer) != len(processor.tokenizer):
            raise ValueError(
                f"The adapter in {folder} belongs to another model: its tokeniser has {len(trained.tokenizer)} tokens, "
                f"this one {len(processor.tokenizer)}."
            )
        for name in ("num_query", "num_video_query"):
            number = getattr(trained, name)
            model.config.check_num_query(number, name=name)
            setattr(model.config, name, number)
            setattr(processor, name, number)
    load_adapter(model, folder)
