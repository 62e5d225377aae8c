"""EVA-02-CLIP vision tower: a picture in, one state per patch out.

    B  pictures in the batch        P  patches = grid * grid       D  hidden_size
    S  side of a picture, pixels    H  attention heads             K  head size = D / H

What sets this tower apart from a stock ViT (published file Emu2/emu/eva_vit.py): the LayerNorm acts on the output of
each branch, inside the residual sum ("post-norm"); queries and values have a bias, keys have none; there is no norm
after the last block, whose raw output is the result; every position is returned, the class token first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from emu2.configuration import Emu2VisionConfig


def resize_pos_embed(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embeddings of one square grid, resized to another; the class token's row is kept.

    Bicubic, align_corners=False, no antialiasing: EVA-CLIP's own resize, by which a 224-pixel tower starts at 448
    (facts of the published EVA code; which resize the 448-pixel Emu2 weights went through is not published).

    Args:
        pos_embed: float[1, 1 + G*G, D], class token first.
        grid: patches along one side of the new grid, g.

    Returns:
        float[1, 1 + g*g, D], in the dtype of `pos_embed`.
    """
    cls_row, patch_rows = pos_embed[:, :1], pos_embed[:, 1:]
    old_grid = round(patch_rows.shape[1] ** 0.5)
    if old_grid * old_grid != patch_rows.shape[1]:
        raise ValueError(
            f"Position embeddings must hold one class row and a square grid; got {pos_embed.shape[1]} rows in all."
        )
    if old_grid == grid:
        return pos_embed
    dim = pos_embed.shape[-1]
    table_1DGG = patch_rows.reshape(1, old_grid, old_grid, dim).permute(0, 3, 1, 2)
    resized_1Dgg = F.interpolate(table_1DGG.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    resized = resized_1Dgg.permute(0, 2, 3, 1).reshape(1, grid * grid, dim).to(pos_embed.dtype)
    return torch.cat([cls_row, resized], dim=1)


class EvaPatchEmbed(nn.Module):
    """Cut the picture into patches and project each one: float[B, 3, S, S] -> float[B, P, D], row by row."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.proj = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class EvaAttention(nn.Module):
    """Multi-head self-attention over all positions; one fused projection, bias on queries and values only."""

    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        dim = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def queries_and_keys(self, x: Tensor, head: int) -> tuple[Tensor, Tensor]:
        """Of one head, both float[B, N, K]: what its softmax compares, before the division by sqrt(K)."""
        size = self.q_bias.shape[0] // self.num_heads
        own = slice(head * size, (head + 1) * size)
        query, key, _ = self.qkv(x).chunk(3, dim=-1)
        return query[..., own] + self.q_bias[own], key[..., own]

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        # [B, N, 3D] -> three times [B, H, N, K]. The layer is called, not its weight used, so that adapters act on it.
        q, k, v = (self.qkv(x) + bias).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed_BHNK = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed_BHNK.transpose(1, 2).reshape(B, N, D))


class EvaMLP(nn.Module):
    def __init__(self, config: Emu2VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a whole branch of a sample with probability `rate` and scale the rest up."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        keep = 1.0 - self.rate
        mask = torch.empty(branch.shape[0], *[1] * (branch.ndim - 1), dtype=branch.dtype, device=branch.device)
        return branch * mask.bernoulli_(keep) / keep


class EvaBlock(GradientCheckpointingLayer):
    """x + norm1(attn(x)), then x + norm2(mlp(x)): the norms sit on the branches' outputs."""

    def __init__(self, config: Emu2VisionConfig, drop_path: float):
        super().__init__()
        self.attn = EvaAttention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EvaMLP(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.norm1(self.attn(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class EvaVisionTower(PreTrainedModel):
    """The whole tower; `last_hidden_state` is float[B, 1 + P, D], the class token at position 0."""

    config_class = Emu2VisionConfig
    base_model_prefix = "visual"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["EvaBlock"]
    _supports_sdpa = True

    def __init__(self, config: Emu2VisionConfig):
        super().__init__(config)
        self.patch_embed = EvaPatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid_size**2, config.hidden_size))
        # The drop rate rises linearly over the depth, as in the EVA code; plain floats, safe on the meta device.
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(EvaBlock(config, rate) for rate in rates)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, EvaVisionTower):
            nn.init.trunc_normal_(module.cls_token, std=std)
            nn.init.trunc_normal_(module.pos_embed, std=std)
        elif isinstance(module, EvaAttention):
            nn.init.zeros_(module.q_bias)
            nn.init.zeros_(module.v_bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @torch.no_grad()
    def soften(self, factor: float) -> None:
        """Divide the scores of all attention by `factor`, in place: what attends to one position attends to several."""
        for module in self.modules():
            if isinstance(module, EvaAttention):
                module.qkv.weight[: self.config.hidden_size].div_(factor)
                module.q_bias.div_(factor)

    def forward(
        self, pixel_values: Tensor, interpolate_pos: bool = False, output_hidden_states: bool = False, **_: object
    ) -> BaseModelOutput:
        """Run the tower.

        Args:
            pixel_values: float[B, 3, S, S], resized and normalised (`Emu2ImageProcessor`); cast to the tower's dtype.
            interpolate_pos: accept any square side that is a multiple of the patch size by resizing the position
                embeddings. Otherwise S must be the configured image size.
            output_hidden_states: also return the embedding and every block's output.

        Raises:
            ValueError: the pictures are of another shape.
        """
        self._check_pixels(pixel_values, interpolate_pos)
        grid = pixel_values.shape[-1] // self.config.patch_size
        patches = self.patch_embed(pixel_values.to(self.patch_embed.proj.weight.dtype))
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        x = x + resize_pos_embed(self.pos_embed, grid)
        states = [x]
        for block in self.blocks:
            x = block(x)
            if output_hidden_states:
                states.append(x)
        return BaseModelOutput(last_hidden_state=x, hidden_states=tuple(states) if output_hidden_states else None)

    def _check_pixels(self, pixel_values: Tensor, interpolate_pos: bool) -> None:
        side, patch, channels = self.config.image_size, self.config.patch_size, self.config.num_channels
        shape = tuple(pixel_values.shape)
        if pixel_values.ndim != 4 or shape[1] != channels or shape[2] != shape[3]:
            raise ValueError(
                f"The vision tower takes square pictures as [B, {channels}, S, S]; got shape {list(shape)}."
            )
        if not interpolate_pos and shape[-1] != side:
            raise ValueError(
                f"The vision tower takes {side}x{side} pictures; got {shape[-1]}x{shape[-1]}. "
                "Resize them, or pass interpolate_pos=True to resize the position embeddings instead."
            )
        if shape[-1] == 0 or shape[-1] % patch:
            raise ValueError(f"The side of a picture must be a positive multiple of {patch} pixels; got {shape[-1]}.")
