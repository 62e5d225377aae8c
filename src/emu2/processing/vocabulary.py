"""Text vocabularies as the JSON of the `tokenizers` library: read from sentencepiece, or learned from text."""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from emu2 import tokens

#: Ids 0, 1, 2 of every vocabulary, as in LLaMA.
_FIRST_TOKENS = (tokens.UNK, tokens.BOS, tokens.EOS)
#: Words with the space before them, each digit on its own, runs of other signs, runs of white space.
_WORDS = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: `<unk>`, `<s>`, `</s>` and the 256 bytes.
MIN_VOCAB_SIZE = len(_FIRST_TOKENS) + 256


def with_special_tokens(vocabulary: dict[str, Any], special: Sequence[str]) -> dict[str, Any]:
    """The tokeniser JSON with `special` added after the text vocabulary, and BOS written before every text.

    Every added token removes the white space beside it, except `<unk>` (parity manifest 3.3); `normalized` is off, so
    that the text is cut at them before anything else happens to it.
    """
    first = len(vocabulary["model"]["vocab"])
    ids = {token: index for index, token in enumerate(_FIRST_TOKENS)}
    ids |= {token: first + index for index, token in enumerate(special)}
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": token != tokens.UNK,
            "rstrip": token != tokens.UNK,
            "normalized": False,
            "special": True,
        }
        for token, index in ids.items()
    ]
    begin = {"SpecialToken": {"id": tokens.BOS, "type_id": 0}}
    text, pair = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, pair],
        "special_tokens": {tokens.BOS: {"id": tokens.BOS, "ids": [ids[tokens.BOS]], "tokens": [tokens.BOS]}},
    }
    return vocabulary | {"added_tokens": added, "post_processor": template, "truncation": None, "padding": None}


def sentencepiece_vocabulary(path: Path) -> dict[str, Any]:
    """Tokeniser JSON of a sentencepiece BPE model file (`tokenizer.model`), in the form LLaMA's tokenizer.json has.

    Raises:
        ValueError: the file is no sentencepiece model, or not LLaMA's vocabulary.
    """
    try:
        scored = [_piece(message) for field, message in _fields(path.read_bytes()) if field == 1]
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is not a sentencepiece model: {error!r}.") from error
    pieces = [piece for piece, _ in scored]
    if len(pieces) != tokens.LLAMA_VOCAB_SIZE or tuple(pieces[:3]) != _FIRST_TOKENS:
        raise ValueError(
            f"{path} holds {len(pieces)} pieces starting with {pieces[:3]}; LLaMA's holds {tokens.LLAMA_VOCAB_SIZE} "
            f"starting with {list(_FIRST_TOKENS)}."
        )
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    # sentencepiece joins the pair that makes the piece of the highest score; of equal scores (runs of spaces), the
    # halves of lower ids come first, as in the published tokenizer.json.
    ranked = [
        (-score, vocabulary[piece[:cut]], vocabulary[piece[cut:]])
        for piece, score in scored
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    merges = [(pieces[left], pieces[right]) for _, left, right in sorted(ranked)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=tokens.UNK, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return json.loads(tokenizer.to_str())


def byte_level_vocabulary(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Tokeniser JSON of a byte-level BPE of at most `vocab_size` tokens, learned from `texts`."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: {len(_FIRST_TOKENS)} markers and 256 bytes need {MIN_VOCAB_SIZE}."
        )
    tokenizer = Tokenizer(models.BPE(unk_token=tokens.UNK))
    # The space put before every text makes a word the same token at the start of a text as inside it (as LLaMA's
    # sentencepiece does); the decoder takes it away again.
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_FIRST_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of a protocol-buffer message; see protobuf.dev/programming-guides/encoding."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield field, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if length is None:
            if wire != 2:
                raise ValueError(f"wire type {wire} at byte {position}")
            length, position = _varint(message, position)
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes runs over the end of the file")
        yield field, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


def _piece(message: bytes | int) -> tuple[str, float]:
    """Text and score of one `SentencePiece` message (its fields 1 and 2)."""
    if not isinstance(message, bytes):
        raise TypeError("a piece is not a message")
    fields = dict(_fields(message))
    text, score = fields[1], fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise TypeError("a piece has no text or no score")
    return text.decode(), struct.unpack("<f", score)[0]
