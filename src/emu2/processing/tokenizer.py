"""The tokeniser: the published ids exactly, and a small one of our own with the same special tokens and rules.

The published weights were trained on the ids of the slow LLaMA tokeniser of transformers 4.31 in its "legacy" mode:

* the text is cut at every special token; white space beside one is removed on both sides (except beside `<unk>`);
* every remaining piece is encoded on its own, so that each gets its own word-start mark;
* a BOS comes first, no EOS follows, padding stands on the left.

`LlamaTokenizer` of transformers 5 gives other ids for the same files and says nothing. So the vocabulary is kept in a
`PreTrainedTokenizerFast` whose added tokens strip their neighbours; `Emu2Tokenizer` adds what that class cannot
express. A saved folder read without this package falls back to `PreTrainedTokenizerFast` and gives the same ids for
every text without the control characters \\x1c to \\x1f beside a special token.
"""

import codecs
import copy
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from emu2 import tokens
from emu2.configuration import Emu2Config
from emu2.processing.tokenizer_checks import check_tokenizer
from emu2.processing.vocabulary import byte_level_vocabulary, sentencepiece_vocabulary, with_special_tokens

__all__ = ["Emu2Tokenizer", "build_tokenizer", "check_tokenizer", "load_tokenizer", "train_tokenizer"]

#: Control characters that Python counts as white space (`str.strip`) and the Rust tokeniser does not.
_PYTHON_ONLY_SPACE = re.compile("[\x1c-\x1f]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_START = "\u2581"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: U+FFFD for every invalid byte, as sentencepiece does (Python writes one per sequence)."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("emu2_each_byte", _replace_each_byte)


class Emu2Tokenizer(PreTrainedTokenizerFast):
    """`PreTrainedTokenizerFast` with the published white space and decoding rules, and escaping of special tokens.

    Build one with `build_tokenizer`, `train_tokenizer` or `load_tokenizer`. `tokenizer(text)` treats every special
    token in the text as special; `encode_parts` lets a caller keep some of them ordinary text.
    """

    padding_side = "left"
    model_input_names = ["input_ids", "attention_mask"]

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("is_split_into_words"):
            text, text_pair = self._strip_beside_special(text), self._strip_beside_special(text_pair)
        return super()._encode_plus(text, text_pair, *args, **kwargs)

    def _strip_beside_special(self, text: Any) -> Any:
        """Remove white space beside special tokens where it holds \\x1c to \\x1f, which the Rust side leaves alone."""
        if isinstance(text, (list, tuple)):
            return [self._strip_beside_special(item) for item in text]
        if not isinstance(text, str) or not _PYTHON_ONLY_SPACE.search(text):
            return text
        pieces = self._split(text, escape=())
        return "".join(text[start:end] for start, end, _ in pieces)

    # Splitting and encoding ------------------------------------------------------------------------------------------

    def _split(
        self, text: str, escape: Collection[str], after_special: bool = False, before_special: bool = False
    ) -> list[tuple[int, int, int | None]]:
        """Cut `text` at its special tokens: (start, end, id) each, id None for text, white space already removed.

        Args:
            escape: special tokens that count as ordinary text here.
            after_special, before_special: whether a special token stands right before or after the whole text.
        """
        ids, pattern = self._special(frozenset(escape))
        pieces: list[tuple[int, int, int | None]] = []
        position = 0
        strip_left = after_special
        for match in pattern.finditer(text):
            strips = match.group() != self.unk_token
            pieces.extend(_stripped(text, position, match.start(), strip_left, strips))
            pieces.append((match.start(), match.end(), ids[match.group()]))
            position, strip_left = match.end(), strips
        pieces.extend(_stripped(text, position, len(text), strip_left, before_special))
        return pieces

    def _special(self, escape: frozenset[str]) -> tuple[dict[str, int], re.Pattern[str]]:
        """Ids of the special tokens, and the pattern that finds those not in `escape` (the longest first)."""
        cache = self.__dict__.setdefault("_cached_special", {})
        key = (len(self), escape)  # the length changes when somebody adds a token
        if key not in cache:
            ids = {token.content: index for index, token in self.added_tokens_decoder.items() if token.special}
            wanted = sorted((token for token in ids if token not in escape), key=len, reverse=True)
            # A tokeniser of which everything is escaped finds nothing: (?!) never matches.
            cache[key] = (ids, re.compile("|".join(map(re.escape, wanted)) or "(?!)"))
        return cache[key]

    @property
    def _text_backend(self) -> Tokenizer:
        """The same vocabulary with every special token read as ordinary text, made on first use."""
        backend: Tokenizer | None = self.__dict__.get("_cached_text_backend")
        if backend is None:
            backend = copy.deepcopy(self.backend_tokenizer)
            backend.encode_special_tokens = True
            backend.no_padding()
            backend.no_truncation()
            self.__dict__["_cached_text_backend"] = backend
        return backend

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made on first use: a pickled `Tokenizer` forgets `encode_special_tokens`."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_cached_")}

    def encode_parts(
        self, parts: Sequence[str | Sequence[int]], escape: Collection[str] = tokens.SLOT_TOKENS
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a sequence of text and ready-made special ids, without BOS or EOS.

        Neighbouring texts are joined before they are encoded. A special token in a text is special unless `escape`
        names it; then its characters become ordinary text ids.

        Args:
            parts: text, or a run of special-token ids such as a picture's slots.
            escape: special tokens that are ordinary text; the slots by default.

        Returns:
            The ids, and for each part the (start, end) of its ids. A token made of characters of two texts belongs to
            the later one.
        """
        ids: list[int] = []
        owners: list[int] = []
        index = 0
        while index < len(parts):
            part = parts[index]
            if not isinstance(part, str):
                ids.extend(part)
                owners.extend([index] * len(part))
                index += 1
                continue
            first, ends, text = index, [], ""
            while index < len(parts) and isinstance(parts[index], str):
                text += parts[index]  # type: ignore[operator]
                ends.append(len(text))
                index += 1
            # Ready-made ids are special tokens, so text next to them is stripped; an empty run is no neighbour.
            after = any(not isinstance(p, str) and len(p) for p in parts[:first][-1:])
            before = any(not isinstance(p, str) and len(p) for p in parts[index : index + 1])
            for start, end, special in self._split(text, escape, after, before):
                if special is not None:
                    ids.append(special)
                    owners.append(first + bisect_right(ends, end - 1))
                    continue
                encoding = self._text_backend.encode(text[start:end], add_special_tokens=False)
                ids.extend(encoding.ids)
                owners.extend(first + bisect_right(ends, start + max(stop - 1, 0)) for _, stop in encoding.offsets)
        return ids, [(bisect_left(owners, i), bisect_right(owners, i)) for i in range(len(parts))]

    # Decoding --------------------------------------------------------------------------------------------------------

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """Text of ids with the published spacing: added tokens stand alone, joined to text by single spaces."""
        ids = [int(i) for i in np.atleast_1d(np.asarray(token_ids)).tolist()]
        special = {index: token for token, index in self._special(frozenset())[0].items()}
        if skip_special_tokens:
            return self._decode_text([i for i in ids if i not in special])
        inside = {self.unk_token_id, self.bos_token_id, self.eos_token_id}
        written: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in special and i not in inside:
                if run:
                    written.append(self._decode_run(run, inside))
                    run = []
                written.append(special[i])
            else:
                run.append(i)
        if run:
            written.append(self._decode_run(run, inside))
        return " ".join(written)

    def _decode_run(self, ids: list[int], inside: Collection[int | None]) -> str:
        """Text of ids without added tokens. The published code writes the space of `<s>`, `</s>`, `<unk>` before the
        text collected since the last of them, not before the token itself."""
        written, after_special = "", True
        pending: list[int] = []
        for i in ids:
            if i in inside:
                if not after_special:
                    written += " "
                written += self._decode_text(pending) + str(self.backend_tokenizer.id_to_token(i))
                pending, after_special = [], True
            else:
                pending.append(i)
                after_special = False
        return written + self._decode_text(pending)

    def _decode_text(self, ids: list[int]) -> str:
        """Text of ordinary ids, one leading space dropped; an invalid byte becomes U+FFFD; unknown ids are left out."""
        pieces = [piece for i in ids if (piece := self.backend_tokenizer.id_to_token(i)) is not None]
        if not getattr(self.backend_tokenizer.model, "byte_fallback", False):
            return self.backend_tokenizer.decoder.decode(pieces) if pieces else ""
        if pieces and pieces[0].startswith(_WORD_START):
            pieces[0] = pieces[0][1:]
        raw = bytearray()
        for piece in pieces:
            byte = _BYTE_TOKEN.fullmatch(piece)
            raw += bytes([int(byte[1], 16)]) if byte else piece.replace(_WORD_START, " ").encode()
        return raw.decode(errors="emu2_each_byte")


def _stripped(text: str, start: int, end: int, left: bool, right: bool) -> list[tuple[int, int, None]]:
    """The piece [start, end) of `text` without white space on the sides asked for; no piece where nothing is left."""
    if left:
        while start < end and text[start].isspace():
            start += 1
    if right:
        while end > start and text[end - 1].isspace():
            end -= 1
    return [(start, end, None)] if end > start else []


def _wrap(vocabulary: dict[str, Any], *, chat: bool) -> Emu2Tokenizer:
    """An `Emu2Tokenizer` around the JSON of a text vocabulary, special tokens added after it."""
    backend = Tokenizer.from_str(json.dumps(with_special_tokens(vocabulary, tokens.special_tokens(chat=chat))))
    return Emu2Tokenizer(
        tokenizer_object=backend,
        bos_token=tokens.BOS,
        eos_token=tokens.EOS,
        unk_token=tokens.UNK,
        pad_token=tokens.PAD,
        add_bos_token=True,
        add_eos_token=False,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_tokenizer(source: str | Path, *, chat: bool) -> Emu2Tokenizer:
    """The published tokeniser from LLaMA's `tokenizer.json` or `tokenizer.model` (sentencepiece).

    Args:
        source: either file, or a folder that holds one of them. Special tokens of the file are replaced.
        chat: add the two tokens of Emu2-Chat, `[USER]` and `[ASSISTANT]`.

    Raises:
        ValueError: neither file is there, or the file is no LLaMA vocabulary.
    """
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path} holds no tokeniser: expected tokenizer.json or tokenizer.model in it.")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"No tokeniser file {path}: give a tokenizer.json, a tokenizer.model, or their folder.")
    if path.suffix == ".model":
        return _wrap(sentencepiece_vocabulary(path), chat=chat)
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
        size = len(vocabulary["model"]["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the JSON of a tokeniser: {error!r}.") from error
    if size != tokens.LLAMA_VOCAB_SIZE:
        raise ValueError(
            f"{path} has a text vocabulary of {size} tokens; LLaMA's has {tokens.LLAMA_VOCAB_SIZE}. For a tokeniser "
            "that already carries Emu2's special tokens use load_tokenizer; for one of your own, train_tokenizer."
        )
    return _wrap(vocabulary, chat=chat)


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, chat: bool = True) -> Emu2Tokenizer:
    """A small tokeniser of our own: byte-level BPE, every digit on its own, any text survives encode and decode.

    Ids: `<unk>` 0, `<s>` 1, `</s>` 2, the 256 bytes, the learned merges, then the special tokens in published order.
    The same texts give the same tokeniser.

    Args:
        texts: text to learn merges from.
        vocab_size: size of the text vocabulary, special tokens not counted; at least 259. Fewer where the texts do not
            offer as many merges.
        chat: add `[USER]` and `[ASSISTANT]`.
    """
    return _wrap(byte_level_vocabulary(texts, vocab_size), chat=chat)


def load_tokenizer(folder: str | Path, *, chat: bool | None = None) -> Emu2Tokenizer:
    """The tokeniser of a model folder: ours, or a published one.

    A published folder (LLaMA's files, read as `LlamaTokenizer` by everybody else) is recognised and rebuilt with the
    published ids. Emu2-Chat and Emu2 differ in two tokens; `chat=None` takes what added_tokens.json or config.json of
    the folder says, and Emu2-Chat's set where neither is there (it contains the other).

    Raises:
        ValueError: no tokeniser there, or one that lacks tokens or behaves differently (says which).
    """
    folder = Path(folder)
    config_file, json_file = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not json_file.is_file() and not (folder / "tokenizer.model").is_file():
        raise ValueError(f"{folder} holds no tokeniser: expected tokenizer.json or tokenizer.model in it.")
    declared = _read_json(config_file).get("tokenizer_class") if config_file.is_file() else None
    added = _read_json(json_file).get("added_tokens", []) if json_file.is_file() else []
    special = {token.get("content"): token.get("id") for token in added}
    if (declared is None and tokens.IMG not in special) or (declared or "").removesuffix("Fast") == "LlamaTokenizer":
        return _rebuild(folder, special, chat)
    if tokens.IMG not in special:
        raise ValueError(
            f"The tokeniser in {folder} ({declared}) lacks Emu2's special tokens: none of {tokens.PAD}, {tokens.IMG}, "
            f"{tokens.IMAGE_SLOT} ... is in it. Expected a folder saved by Emu2Processor, or LLaMA's published files."
        )
    tokenizer = Emu2Tokenizer.from_pretrained(folder)
    try:
        check_tokenizer(tokenizer)
    except ValueError as error:
        raise ValueError(f"The tokeniser in {folder} is not Emu2's. {error}") from error
    return tokenizer


def _rebuild(folder: Path, special: dict[str, int], chat: bool | None) -> Emu2Tokenizer:
    """The published tokeniser from a folder of LLaMA's files; `special`: the added tokens its tokenizer.json names."""
    if chat is None:
        chat = tokens.USER in special if tokens.IMG in special else _is_chat(folder)
    tokenizer = build_tokenizer(folder, chat=chat)
    vocabulary = tokenizer.get_vocab()
    for token, index in special.items():
        if vocabulary.get(token) != index:
            raise ValueError(
                f"The tokeniser in {folder} gives {token} the id {index}; Emu2's has {vocabulary.get(token)} for it."
            )
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object.")
    return content


def _is_chat(folder: Path) -> bool:
    """Whether the folder's model has Emu2-Chat's vocabulary; True where nothing says so."""
    if (folder / "added_tokens.json").is_file():
        return tokens.USER in _read_json(folder / "added_tokens.json")
    if (folder / "config.json").is_file():
        config = _read_json(folder / "config.json")
        size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
        return size != tokens.BASE_VOCAB_SIZE
    return True


AutoTokenizer.register(Emu2Config, Emu2Tokenizer, exist_ok=True)
