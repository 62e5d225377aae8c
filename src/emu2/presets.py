"""Named sizes: `debug` for tests and the training demo, `nano` for a whole Emu2 on a laptop, the published 37B models.

`emu2.presets.config("37b-chat")` returns an `Emu2Config`; decoders have their own in `emu2.decoder.presets`.
"""

from typing import Any

from emu2 import tokens
from emu2.configuration import Emu2Config, Emu2VisionConfig

#: Sizes that start from nothing, with a tokeniser of their own.
FROM_NOTHING = ("debug", "nano")


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
    return _small(
        vision={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "image_size": 64,
            "patch_size": 8,
        },
        text={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
        },
        num_query=16,
        vocab_size=vocab_size,
        first_special_id=first_special_id,
    )


def nano(*, vocab_size: int, first_special_id: int) -> Emu2Config:
    """The smallest whole Emu2: 96-pixel pictures, 16 embeddings each; base, chat and gen with both decoders in 64 MB.

    A picture's embeddings hold 16 x 256 numbers for 96 x 96 pixels, about what the published ones hold for each pixel
    of theirs. The language model is deep rather than wide, for what it learns in context.

    Args:
        vocab_size: size of the tokeniser, special tokens included.
        first_special_id: id of `[PAD]`; the special tokens follow it in their published order.
    """
    return _small(
        vision={
            "hidden_size": 256,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "intermediate_size": 768,
            "image_size": 96,
            "patch_size": 8,
        },
        text={
            "hidden_size": 256,
            "intermediate_size": 576,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            # 16 demonstrations and a query of 18 picture tokens each, and their words; clips of 16 frames
            "max_position_embeddings": 1024,
        },
        num_query=16,
        vocab_size=vocab_size,
        first_special_id=first_special_id,
    )


def from_nothing(name: str, *, vocab_size: int, first_special_id: int) -> Emu2Config:
    """The configuration of a size that starts from nothing, for a tokeniser of its own.

    Raises:
        ValueError: the size starts from published parts, or is unknown.
    """
    if name not in FROM_NOTHING:
        raise ValueError(f"Only {' and '.join(FROM_NOTHING)} start from nothing; got {name!r}.")
    make = debug if name == "debug" else nano
    return make(vocab_size=vocab_size, first_special_id=first_special_id)


def _small(
    *, vision: dict[str, Any], text: dict[str, Any], num_query: int, vocab_size: int, first_special_id: int
) -> Emu2Config:
    def token_id(token: str) -> int:
        return first_special_id + tokens.BASE_SPECIAL_TOKENS.index(token)

    return Emu2Config(
        vision_config=Emu2VisionConfig(**vision).to_dict(),
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "pad_token_id": first_special_id,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **text,
        },
        num_query=num_query,
        num_video_query=num_query,
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
