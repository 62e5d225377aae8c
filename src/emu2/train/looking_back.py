"""Looking back: a few attention heads are told where to look for an answer.

Whoever learns names from a prompt has to find, at a new picture, the earlier ones that are like it, and say again what
was said of those. Next-token loss teaches that too, over millions of documents. A model that trains for an hour says
words of its prompt again after a thousand steps, but not the right one of two after a hundred thousand episodes. Told
where to look, it finds the right one within some hundred steps. The paper has nothing like this.

The heads' own scores are the measure: at the position before an answer, over the first tokens of all earlier answers,
their softmax should lie on answers of the same words.

Whoever answers a question about a thing has to find it in the picture, or that it is not there. So in conversations the
question's word for the thing looks at the picture, and the answer at that word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from emu2.data.sequences import Sequence as TokenSequence

#: Name of the attention below among those of transformers: SDPA that lets queries and keys be seen.
_ATTENTION = "emu2_seen_sdpa"
#: Layer -> its queries and keys, float[B, heads, T, d], positions rotated in; filled while someone watches.
_Seen = dict[int, tuple[Tensor, Tensor] | None]
_SEEN: ContextVar[_Seen | None] = ContextVar("seen", default=None)


@dataclass(frozen=True)
class Looks:
    """Where the answers of a kind should look, M in a batch, with N positions to choose from at most.

    heads: (layer, head) from 0, those that should look there. rows: int[M], of the batch. queries: int[M], the position
    that looks. keys: int[M, N], positions to choose from. real: bool[M, N], false where a row is filled up.
    wanted: bool[M, N], where to look.
    """

    heads: tuple[tuple[int, int], ...]
    rows: Tensor
    queries: Tensor
    keys: Tensor
    real: Tensor
    wanted: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, samples: Sequence[TokenSequence], name: str, heads: tuple[tuple[int, int], ...]) -> Looks:
        """Of a batch's sequences, one to a row: their looks of this name."""
        found = [(row, look) for row, sample in enumerate(samples) for look in sample.looks.get(name, ())]
        most = max((len(look.keys) for _, look in found), default=0)

        def filled(values: tuple[Any, ...], filler: Any) -> tuple[Any, ...]:
            return values + (filler,) * (most - len(values))

        return cls(
            heads=heads,
            rows=torch.tensor([row for row, _ in found], dtype=torch.int64),
            queries=torch.tensor([look.query for _, look in found], dtype=torch.int64),
            keys=torch.tensor([filled(look.keys, 0) for _, look in found], dtype=torch.int64),
            real=torch.tensor([filled((True,) * len(look.keys), False) for _, look in found], dtype=torch.bool),
            wanted=torch.tensor([filled(look.wanted, False) for _, look in found], dtype=torch.bool),
        )

    def to(self, device: torch.device) -> Looks:
        tensors = (getattr(self, name).to(device) for name in ("rows", "queries", "keys", "real", "wanted"))
        return Looks(self.heads, *tensors)


@contextmanager
def watching(language_model: Any, wanted: Sequence[Looks]) -> Iterator[_Seen]:
    """While entered, the queries and keys of the layers of these heads are kept from the latest forward pass."""
    _register()
    seen: _Seen = {layer: None for looks in wanted for layer, _ in looks.heads}
    config = language_model.config
    before, config._attn_implementation = config._attn_implementation, _ATTENTION
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)
        config._attn_implementation = before


def looking_back_loss(seen: _Seen, wanted: Sequence[Looks]) -> Tensor:
    """How little the heads look where they should: -log of that share, float32 scalar.

    Args:
        seen: what `watching` kept of a forward pass over the batch that `wanted` belongs to.

    Returns:
        mean over the positions that look, and for each over its heads; 0 where there are none.
    """
    total, number = 0.0 * sum(states.float().sum() for pair in seen.values() for states in pair or ()), 0
    for looks in wanted:
        if len(looks):
            missed = torch.stack([_missed(seen[layer], head, looks) for layer, head in looks.heads])
            total = total + missed.mean(dim=0).sum()
            number += len(looks)
    return torch.as_tensor(total / max(number, 1))


def _missed(states: tuple[Tensor, Tensor] | None, head: int, looks: Looks) -> Tensor:
    """float32[M]: -log of the share of one head's attention that lies where it should."""
    assert states is not None
    query, key = states
    group = query.shape[1] // key.shape[1]  # heads that share keys
    with torch.autocast(query.device.type, enabled=False):
        asking = query[:, head][looks.rows, looks.queries].float()  # [M, d]
        offered = key[:, head // group][looks.rows[:, None], looks.keys].float()  # [M, N, d]
        scores = (offered @ asking[:, :, None]).squeeze(-1) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~looks.real, -torch.inf)
        return scores.logsumexp(dim=-1) - scores.masked_fill(~looks.wanted, -torch.inf).logsumexp(dim=-1)


def check_heads(config: Any, heads: Sequence[tuple[int, int]], attention: str) -> None:
    """Raise a ValueError where a language model has no such heads, or attends by something that cannot be watched.

    Args:
        config: of the language model. attention: its implementation's name.
    """
    for layer, head in heads:
        if layer >= config.num_hidden_layers or head >= config.num_attention_heads:
            raise ValueError(
                f"looking_back.heads names head {head} of layer {layer}, and this language model has "
                f"{config.num_hidden_layers} layers of {config.num_attention_heads} heads, both counted from 0."
            )
    if attention != "sdpa":
        raise ValueError(f"looking_back watches attention by 'sdpa'; this model attends by {attention!r}.")


@cache
def _register() -> None:
    """Make the attention known to transformers, which chooses attention and its masks by name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen = _SEEN.get()
    if seen is not None and module.layer_idx in seen:
        seen[module.layer_idx] = (query, key)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
