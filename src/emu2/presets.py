"""Named sizes: `debug` for tests and the training demo, the published 37B models.

`emu2.presets.config("37b-chat")` returns an `Emu2Config`; decoders have their own in `emu2.decoder.presets`.
"""

from emu2 import tokens
from emu2.configuration import Emu2Config, Emu2VisionConfig


def _published(*, chat: bool) -> Emu2Config:
    config = Emu2Config(num_query=256 if chat else 64)
    if chat:
        config.text_config.vocab_size = tokens.CHAT_VOCAB_SIZE
    return config


def debug(*, vocab_size: int, first_special_id: int) -> Emu2Config:
    """A model that two CPU cores train in minutes: 64-pixel pictures, 16 embeddings each.

    Args:
        vocab_size: size of the tokeniser, special tokens included.
        first_special_id: id of `[PAD]`; the special tokens follow it in their published order.
    """

    def token_id(token: str) -> int:
        return first_special_id + tokens.BASE_SPECIAL_TOKENS.index(token)

    return Emu2Config(
        vision_config=Emu2VisionConfig(
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=384,
            image_size=64,
            patch_size=8,
        ).to_dict(),
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "pad_token_id": first_special_id,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query=16,
        num_video_query=16,
        image_token_id=token_id(tokens.IMAGE_SLOT),
        video_token_id=token_id(tokens.FRAME_SLOT),
        image_start_token_id=token_id(tokens.IMG),
        image_end_token_id=token_id(tokens.IMG_END),
        pad_token_id=first_special_id,
    )


_PRESETS = {
    "37b": lambda: _published(chat=False),
    "37b-chat": lambda: _published(chat=True),
    "37b-gen": lambda: _published(chat=False),
}


def names() -> tuple[str, ...]:
    """The presets that need no tokeniser to be described."""
    return tuple(_PRESETS)


def config(name: str) -> Emu2Config:
    """The configuration of a published size.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _PRESETS:
        raise ValueError(f"No preset is called {name!r}; there are {', '.join(_PRESETS)}.")
    return _PRESETS[name]()
