"""Is this tokeniser Emu2's, and does it fit the model?"""

from typing import Any

from emu2 import tokens
from emu2.configuration import Emu2Config


def check_tokenizer(tokenizer: Any, config: Emu2Config | None = None) -> None:
    """Raise ValueError naming everything that makes `tokenizer` unfit for Emu2, or for the model of `config`.

    Checked: special tokens all there, at consecutive ids in published order; BOS first; white space beside special
    tokens removed; padding on the left; with `config`, its slot, padding, BOS and EOS ids and vocabulary size.
    """
    problems: list[str] = []
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (*tokens.BASE_SPECIAL_TOKENS, tokens.BOS, tokens.EOS) if token not in vocabulary]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        problems.append(f"it lacks the special tokens {shown}")
    else:
        first = vocabulary[tokens.PAD]
        expected = list(tokens.special_tokens(chat=tokens.USER in vocabulary))
        for offset, token in enumerate(expected):
            if vocabulary.get(token) != first + offset:
                problems.append(
                    f"{token} has id {vocabulary.get(token)} where {first + offset} is expected "
                    f"({tokens.PAD} + {offset}, the published order)"
                )
                break
        problems.extend(_behaviour_problems(tokenizer))
        if config is not None:
            problems.extend(_config_problems(tokenizer, config))
    if problems:
        raise ValueError(
            f"Wrong tokeniser ({type(tokenizer).__name__}): {'; '.join(problems)}. Use the one saved with the model, "
            "or rebuild it with emu2.processing.tokenizer.build_tokenizer (published models) or train_tokenizer (own)."
        )


def _behaviour_problems(tokenizer: Any) -> list[str]:
    problems = []
    left, right, plain = (list(tokenizer(text)["input_ids"]) for text in ("a", "cat:", "a [IMG] cat:"))
    alone = [*left, tokenizer.get_vocab()[tokens.IMG], *right[1:]]
    if not plain == alone == list(tokenizer("a[IMG]cat:")["input_ids"]):
        problems.append(
            "text beside a special token must get the ids it has on its own, without the white space between "
            f"('a [IMG] cat:' gave {plain}, expected {alone}); a LLaMA tokeniser read by transformers 5 does this"
        )
    if plain[:1] != [tokenizer.bos_token_id]:
        problems.append(f"a text must start with BOS ({tokens.BOS}); got ids {plain[:3]} ...")
    if tokenizer.padding_side != "left":
        problems.append(f"padding_side is {tokenizer.padding_side!r}, must be 'left'")
    return problems


def _config_problems(tokenizer: Any, config: Emu2Config) -> list[str]:
    problems = []
    vocabulary = tokenizer.get_vocab()
    expected = {
        tokens.IMAGE_SLOT: ("image_token_id", config.image_token_id),
        tokens.FRAME_SLOT: ("video_token_id", config.video_token_id),
        tokens.IMG: ("image_start_token_id", config.image_start_token_id),
        tokens.IMG_END: ("image_end_token_id", config.image_end_token_id),
        tokens.PAD: ("pad_token_id", config.pad_token_id),
        tokens.BOS: ("bos_token_id", config.bos_token_id),
    }
    for token, (field, wanted) in expected.items():
        if wanted is not None and vocabulary[token] != wanted:
            problems.append(f"{token} has id {vocabulary[token]} but the model's {field} is {wanted}")
    size, rows = len(tokenizer), getattr(config.text_config, "vocab_size", 0)
    if size > rows:
        extra = sorted(vocabulary.items(), key=lambda item: item[1])[rows:]
        names = ", ".join(token for token, _ in extra[:3])
        problems.append(f"it has {size} tokens but the model {rows} rows; without a row: {names}")
    return problems
