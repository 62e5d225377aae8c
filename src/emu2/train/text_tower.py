"""The text side of the contrastive stage. It is thrown away with its stage: Emu2 keeps the vision tower only."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

#: CLIP's start and ceiling of the logit scale: 1/0.07, and 100.
_START_SCALE, _MAX_SCALE = math.log(1 / 0.07), math.log(100.0)


class TextTower(nn.Module):
    """A small stock text encoder, and the two projections into the shared space.

    Args:
        vocab_size: of the tokeniser.
        vision_dim: width D of the vision tower.
        hidden_size, layers, heads: of the encoder.
        max_length: longest text in tokens.
        projection_dim: width E of the shared space.
    """

    def __init__(
        self,
        vocab_size: int,
        vision_dim: int,
        *,
        hidden_size: int = 128,
        layers: int = 2,
        heads: int = 4,
        max_length: int = 128,
        projection_dim: int = 128,
    ):
        super().__init__()
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=max_length,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.max_length = max_length
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.text_projection = nn.Linear(hidden_size, projection_dim, bias=False)
        self.vision_norm = nn.LayerNorm(vision_dim)
        self.vision_projection = nn.Linear(vision_dim, projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(_START_SCALE))

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """float[B, E] of unit length, from int64[B, T] and its mask: the mean over real tokens, projected."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return F.normalize(self.text_projection((states * weights).sum(1) / weights.sum(1)), dim=-1)

    def embed_vision(self, features: Tensor) -> Tensor:
        """float[B, E] of unit length, from pooled features float[B, Q, D].

        The mean of the very embeddings that the language model will read: the class token, which CLIP projects, is
        not among them.
        """
        return F.normalize(self.vision_projection(self.vision_norm(features.mean(dim=1))), dim=-1)

    def scale(self) -> Tensor:
        """What likenesses are multiplied by before a softmax."""
        return self.logit_scale.clamp(max=_MAX_SCALE).exp()

    def loss(self, text: Tensor, vision: Tensor, others: Tensor | None = None, first: int = 0) -> Tensor:
        """Symmetric cross entropy of matching row i to row i, both float[B, E].

        others: float[N, 2E], texts beside pictures of a larger batch in which these rows stand from row `first` on;
            None is these rows alone.
        """
        texts, visions = (text, vision) if others is None else others.chunk(2, dim=1)
        scale = self.scale()
        labels = torch.arange(first, first + len(text), device=text.device)
        return 0.5 * (
            F.cross_entropy(scale * vision @ texts.T, labels) + F.cross_entropy(scale * text @ visions.T, labels)
        )
