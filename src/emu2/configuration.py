"""Configurations: `Emu2VisionConfig` (the EVA-02-CLIP tower) and `Emu2Config` (tower + bridge + language model).

Defaults are the published 37B model (published files Emu2/emu/conf/emu_conf.py and the checkpoints' config.json).
"""

from math import isqrt

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from emu2 import tokens


def _published_llama() -> dict:
    """The published language model: LLaMA-33B with the vocabulary of Emu2 base."""
    return {
        "model_type": "llama",
        "vocab_size": tokens.BASE_VOCAB_SIZE,
        "hidden_size": 6656,
        "intermediate_size": 17920,
        "num_hidden_layers": 60,
        "num_attention_heads": 52,
        "num_key_value_heads": 52,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "pad_token_id": tokens.LLAMA_VOCAB_SIZE,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@strict
class Emu2VisionConfig(PreTrainedConfig):
    """The EVA-02-CLIP vision tower. Defaults: EVA-02-CLIP-E-plus at 448 pixels, as published.

    Args:
        hidden_size: width of the tower, and of every visual embedding.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads per block; their size is `hidden_size / num_attention_heads`.
        intermediate_size: width of the MLP (15360 = 1792 * 8.571428, published).
        image_size: side of the square input picture, in pixels; a multiple of `patch_size`.
        patch_size: side of a patch, in pixels.
        layer_norm_eps: epsilon of every LayerNorm (1e-6, published).
        hidden_act: MLP activation; "gelu" is the exact (erf) form.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0; 0 to below 1.
        initializer_range: standard deviation of freshly initialised weights.
    """

    model_type = "emu2_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1792
    num_hidden_layers: int = 64
    num_attention_heads: int = 16
    intermediate_size: int = 15360
    image_size: int = 448
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    drop_path_rate: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        if self.image_size <= 0 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) must be a positive multiple of patch_size ({self.patch_size})."
            )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate lies in [0, 1); got {self.drop_path_rate}.")

    @property
    def grid_size(self) -> int:
        """Patches along one side of the picture (32 in the published tower)."""
        return self.image_size // self.patch_size


@strict
class Emu2Config(PreTrainedConfig):
    """The whole autoregressive model: vision tower, bridge, language model.

    Args:
        vision_config: an `Emu2VisionConfig`, or its fields as a dict.
        text_config: the config of any transformers causal language model, or its fields as a dict with `model_type`
            ("llama" where it is left out).
        num_query: visual embeddings a still image takes in the prompt; a square number whose root divides the patch
            grid (64 in Emu2 and Emu2-Gen, 256 in Emu2-Chat).
        num_video_query: the same for one video frame (64 in every published model).
        text_loss_weight: weight of the next-token loss in the total loss. The paper gives none; 1 is our choice.
        visual_loss_weight: weight of the next-embedding loss in the total loss. The paper gives none; 1 is our choice.
        image_token_id, video_token_id: ids of the slots `<image>` and `[gIMG]`.
        image_start_token_id, image_end_token_id: ids of `[IMG]` and `[/IMG]`.
    """

    model_type = "emu2"
    sub_configs = {"vision_config": Emu2VisionConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_query: int = 64
    num_video_query: int = 64
    text_loss_weight: float = 1.0
    visual_loss_weight: float = 1.0
    image_token_id: int = tokens.LLAMA_VOCAB_SIZE + tokens.BASE_SPECIAL_TOKENS.index(tokens.IMAGE_SLOT)
    video_token_id: int = tokens.LLAMA_VOCAB_SIZE + tokens.BASE_SPECIAL_TOKENS.index(tokens.FRAME_SLOT)
    image_start_token_id: int = tokens.LLAMA_VOCAB_SIZE + tokens.BASE_SPECIAL_TOKENS.index(tokens.IMG)
    image_end_token_id: int = tokens.LLAMA_VOCAB_SIZE + tokens.BASE_SPECIAL_TOKENS.index(tokens.IMG_END)
    pad_token_id: int | None = tokens.LLAMA_VOCAB_SIZE
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = Emu2VisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = Emu2VisionConfig(**_without_model_type(self.vision_config))
        if self.text_config is None:
            self.text_config = _published_llama()
        if isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type", "llama"), **fields)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)
        self.check_num_query(self.num_query, name="num_query")
        self.check_num_query(self.num_video_query, name="num_video_query")

    def check_num_query(self, num_query: int, *, name: str = "num_query") -> None:
        """Raise ValueError unless `num_query` is a square number whose root divides the patch grid.

        The published code takes any number here and silently yields another count (parity/MANIFEST section 5).
        """
        grid = self.vision_config.grid_size
        side = isqrt(num_query) if num_query > 0 else 0
        if side == 0 or side * side != num_query or grid % side:
            usable = [n * n for n in range(1, grid + 1) if grid % n == 0]
            raise ValueError(
                f"{name}={num_query} does not fit a {grid}x{grid} patch grid: it must be a square number whose root "
                f"divides {grid}, one of {usable}."
            )


def _without_model_type(fields: dict) -> dict:
    return {key: value for key, value in fields.items() if key != "model_type"}
