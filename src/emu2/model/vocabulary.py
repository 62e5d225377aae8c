"""The two tokens that Emu2-Chat adds to a model that was pretrained without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from emu2 import tokens

if TYPE_CHECKING:
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

#: Added token -> the word whose row it starts from, as the first Emu did.
_MEANINGS = {tokens.USER: "user", tokens.ASSISTANT: "assistant"}


def add_chat_tokens(model: Emu2ForConditionalGeneration, tokenizer: Any) -> bool:
    """Let tokeniser and model know `[USER]` and `[ASSISTANT]`, unless they do.

    A new row is the mean of its word's rows, in the embeddings and in the head, so the same model always gets the same
    rows. `tokenizer` is changed too.

    Returns:
        whether anything was added.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in tokens.CHAT_SPECIAL_TOKENS if token not in known]
    if missing:
        added = [AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True) for token in missing]
        tokenizer.add_tokens(added, special_tokens=True)
    rows = model.config.text_config.vocab_size
    if rows >= len(tokenizer):
        return bool(missing)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for token in tokens.CHAT_SPECIAL_TOKENS:
        index = tokenizer.convert_tokens_to_ids(token)
        if index >= rows:
            words = tokenizer(_MEANINGS[token], add_special_tokens=False)["input_ids"]
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                _set_row(layer, index, words)
    return True


@torch.no_grad()
def _set_row(layer: Any, index: int, words: list[int]) -> None:
    table: Tensor = layer.weight
    table[index] = table[words].float().mean(dim=0).to(table.dtype)
