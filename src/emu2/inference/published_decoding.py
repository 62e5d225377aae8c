"""Text decoding as the published code did it: transformers 4.31 with embeddings for a prompt.

The figures of the paper, and every number other people measured with the published code, depend on details of
`generate` that later versions of transformers changed. `generate_published` keeps them; docs/decoding.md tells when
that matters. transformers' own decoding (`model.generate`) stays the default everywhere in this package.

What differs from `model.generate`:

* the returned ids start with one BOS that the model never sees, and the prompt is not returned;
* that BOS counts as length, in the score of a beam (`sum of log-probabilities / length ** length_penalty`, EOS not
  counted) and in the test that ends the search, so a negative penalty favours short answers;
* the minimum length, 1, is already met by the BOS, so EOS may be the first token;
* the repetition penalty sees the BOS and the new tokens, never the prompt; it acts on logits in greedy search and on
  log-probabilities in beam search;
* a beam search looks at 2 x beams candidates a step, and an EOS counts only among the first `beams` of them;
* rows are padded on the right, and each that is shorter than the result ends in EOS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, MinLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

#: Defaults of the published `EmuModel.generate` (file Emu2/emu/emu.py): short answers, five beams.
PUBLISHED_NUM_BEAMS = 5
PUBLISHED_MAX_NEW_TOKENS = 10
PUBLISHED_LENGTH_PENALTY = -1.0

#: Start score of every beam but the first: all are equal before the first step, and one must lead (transformers 4.31).
_UNUSED_BEAM_SCORE = -1e9


@dataclass
class PublishedOutput:
    """What `generate_published` returns.

    Attributes:
        sequences: int64 [B, 1 + at most max_new_tokens]: BOS, then the new tokens, padded on the right.
        sequences_scores: float32 [B], the score of each returned beam; None after greedy search.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None


@torch.no_grad()
def generate_published(
    model: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    inputs_embeds: Tensor | None = None,
    pixel_values: Tensor | None = None,
    video_pixel_values: Tensor | None = None,
    num_beams: int = PUBLISHED_NUM_BEAMS,
    max_new_tokens: int = PUBLISHED_MAX_NEW_TOKENS,
    min_length: int = 1,
    length_penalty: float = PUBLISHED_LENGTH_PENALTY,
    repetition_penalty: float = 1.0,
    logits_processor: LogitsProcessorList | None = None,
    streamer: BaseStreamer | None = None,
) -> PublishedOutput:
    """Answer a batch of prompts as the published code did, with a key-value cache.

    Args:
        model: an `Emu2ForConditionalGeneration`; with `inputs_embeds`, any causal language model of transformers.
        input_ids: int64 [B, T], padded on the left. Give these or `inputs_embeds`.
        attention_mask: [B, T], 1 on tokens and 0 on padding; None means no padding.
        inputs_embeds: [B, T, hidden], the prompt as `model.embed_inputs` makes it.
        pixel_values: [images, 3, S, S] for the `<image>` slots of `input_ids`, in reading order over the batch.
        video_pixel_values: [frames, 3, S, S] for its `[gIMG]` slots, likewise.
        num_beams: 1 is greedy search.
        max_new_tokens: most tokens to add, EOS counted.
        min_length: EOS is barred before this length, BOS counted.
        length_penalty: exponent of the length that a beam's score is divided by.
        repetition_penalty: 1.0 is none; greater ones make tokens that have come less likely.
        logits_processor: further processors, run after the built-in ones on BOS + new tokens.
        streamer: receives the new tokens as they come; greedy search of one prompt only.

    Raises:
        ValueError: both or neither of `input_ids` and `inputs_embeds`, or a number out of range.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Give exactly one of input_ids and inputs_embeds.")
    _check_numbers(num_beams, max_new_tokens, repetition_penalty)
    if inputs_embeds is None:
        inputs_embeds = model.embed_inputs(input_ids, pixel_values=pixel_values, video_pixel_values=video_pixel_values)
    elif pixel_values is not None or video_pixel_values is not None:
        raise ValueError("inputs_embeds already hold the pictures; give pixel_values only together with input_ids.")
    if streamer is not None and (num_beams > 1 or inputs_embeds.shape[0] > 1):
        raise ValueError(
            f"Streaming needs one prompt and num_beams=1; got {len(inputs_embeds)} prompt(s) and num_beams={num_beams}."
        )

    ids = _SpecialIds.of(model.config)
    processors = _processors(ids, min_length, repetition_penalty, logits_processor, inputs_embeds.device)
    steps = _Steps(model, inputs_embeds, attention_mask)
    if num_beams == 1:
        return PublishedOutput(_greedy(steps, ids, processors, max_new_tokens, streamer))
    return _beam_search(steps, ids, processors, max_new_tokens, num_beams, length_penalty)


def _check_numbers(num_beams: int, max_new_tokens: int, repetition_penalty: float) -> None:
    if num_beams < 1:
        raise ValueError(f"num_beams must be at least 1; got {num_beams}.")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}.")
    if repetition_penalty <= 0:
        raise ValueError(f"repetition_penalty must be greater than 0 (1.0 is none); got {repetition_penalty}.")


@dataclass(frozen=True)
class _SpecialIds:
    bos: int
    eos: tuple[int, ...]
    pad: int

    @classmethod
    def of(cls, config: Any) -> "_SpecialIds":
        eos = config.eos_token_id
        eos = tuple(eos) if isinstance(eos, Sequence) else (eos,)
        pad = eos[0] if config.pad_token_id is None else config.pad_token_id
        if config.bos_token_id is None or None in eos:
            raise ValueError("Published decoding needs bos_token_id and eos_token_id in the model's config.")
        return cls(bos=config.bos_token_id, eos=eos, pad=pad)


def _processors(
    ids: _SpecialIds,
    min_length: int,
    repetition_penalty: float,
    more: LogitsProcessorList | None,
    device: torch.device,
) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if min_length > 1:
        processors.append(MinLengthLogitsProcessor(min_length, list(ids.eos), device=str(device)))
    processors.extend(more or [])
    return processors


class _Steps:
    """The model, one token at a time, behind a key-value cache.

    Positions count real tokens only: cumsum(mask) - 1, padding at 1, then one more with each token.
    """

    def __init__(self, model: Any, inputs_embeds: Tensor, attention_mask: Tensor | None):
        self._model = model
        self._embed = model.get_input_embeddings()
        self._cache: Any = DynamicCache(config=model.config.get_text_config())
        self._prompt = inputs_embeds
        if attention_mask is None:
            attention_mask = torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        self._mask = attention_mask.to(inputs_embeds.device, torch.long)

    @property
    def batch_size(self) -> int:
        return self._prompt.shape[0]

    @property
    def device(self) -> torch.device:
        return self._prompt.device

    def prompt(self) -> Tensor:
        """Run the prompt; float32 logits [B, vocabulary] of the first new token."""
        positions = (self._mask.cumsum(-1) - 1).masked_fill(self._mask == 0, 1)
        return self._logits(self._prompt, positions)

    def next(self, tokens: Tensor) -> Tensor:
        """Run one more token of each row [rows]; float32 logits [rows, vocabulary] of the one after it.

        Tokens are embedded here and not by the model: an `<image>` that the model wrote is a word like any other, with
        no picture to fill it.
        """
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(self._embed(tokens)[:, None], self._mask.sum(-1, keepdim=True) - 1)

    def repeat(self, times: int) -> None:
        """Make each row `times` rows, one for each beam."""
        self._cache.batch_repeat_interleave(times)
        self._mask = self._mask.repeat_interleave(times, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Continue row i from what was row `rows[i]`. Beams stay within their prompt, so the mask is unchanged."""
        self._cache.reorder_cache(rows)

    def _logits(self, embeds: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            inputs_embeds=embeds,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()


def _is_eos(tokens: Tensor, ids: _SpecialIds) -> Tensor:
    return torch.isin(tokens, torch.tensor(ids.eos, device=tokens.device))


def _greedy(
    steps: _Steps,
    ids: _SpecialIds,
    processors: Any,
    max_new_tokens: int,
    streamer: BaseStreamer | None,
) -> Tensor:
    sequences = torch.full((steps.batch_size, 1), ids.bos, dtype=torch.long, device=steps.device)
    finished = torch.zeros(steps.batch_size, dtype=torch.bool, device=steps.device)
    logits = steps.prompt()
    while True:
        tokens = processors(sequences, logits).argmax(-1).masked_fill(finished, ids.pad)
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
        finished |= _is_eos(tokens, ids)
        if streamer is not None:
            streamer.put(tokens.cpu())
        if finished.all() or sequences.shape[1] > max_new_tokens:
            break
        logits = steps.next(tokens)
    if streamer is not None:
        streamer.end()
    return sequences


@dataclass
class _Finished:
    """The best finished beams of one prompt: at most `size`, as (score, tokens without EOS)."""

    size: int
    length_penalty: float
    beams: list[tuple[float, Tensor]] = field(default_factory=list)
    closed: bool = False

    def add(self, tokens: Tensor, log_probability: float) -> None:
        score = log_probability / len(tokens) ** self.length_penalty
        if len(self.beams) < self.size or score > self._worst():
            self.beams.append((score, tokens))
        if len(self.beams) > self.size:
            del self.beams[min(range(len(self.beams)), key=lambda index: self.beams[index][0])]

    def close_if_unbeatable(self, best_log_probability: float, length: int) -> None:
        """Stop once no running beam, ended at this length, could enter (4.31's `early_stopping=False`)."""
        if len(self.beams) == self.size:
            self.closed = self.closed or self._worst() >= best_log_probability / length**self.length_penalty

    def best(self) -> tuple[float, Tensor]:
        return max(reversed(self.beams), key=lambda beam: beam[0])  # the latest of equals, as a stable sort leaves it

    def _worst(self) -> float:
        return min(score for score, _ in self.beams)


def _beam_search(
    steps: _Steps,
    ids: _SpecialIds,
    processors: Any,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float,
) -> PublishedOutput:
    batch, device = steps.batch_size, steps.device
    sequences = torch.full((batch * num_beams, 1), ids.bos, dtype=torch.long, device=device)
    scores = torch.full((batch, num_beams), _UNUSED_BEAM_SCORE, dtype=torch.float32, device=device)
    scores[:, 0] = 0.0
    finished = [_Finished(num_beams, length_penalty) for _ in range(batch)]
    num_candidates = max(2, 1 + len(ids.eos)) * num_beams

    logits = steps.prompt().repeat_interleave(num_beams, dim=0)
    steps.repeat(num_beams)
    while True:
        log_probabilities = processors(sequences, logits.log_softmax(-1)).view(batch, num_beams, -1)
        vocab_size = log_probabilities.shape[-1]
        totals = (log_probabilities + scores[..., None]).view(batch, -1)
        candidates = totals.topk(num_candidates, dim=1)
        chosen = _advance(finished, sequences, candidates.values.tolist(), candidates.indices.tolist(), vocab_size, ids)
        scores = torch.tensor(chosen[0], dtype=torch.float32, device=device)
        tokens, rows = (torch.tensor(values, dtype=torch.long, device=device) for values in chosen[1:])
        sequences = torch.cat([sequences[rows], tokens[:, None]], dim=1)
        if all(one.closed for one in finished) or sequences.shape[1] > max_new_tokens:
            break
        steps.reorder(rows)
        logits = steps.next(tokens)

    for index, one in enumerate(finished):
        if not one.closed:
            for beam in range(num_beams):
                one.add(sequences[index * num_beams + beam], scores[index, beam].item())
    return _collect([one.best() for one in finished], ids, max_length=1 + max_new_tokens)


def _advance(
    finished: list[_Finished],
    sequences: Tensor,
    candidate_scores: list[list[float]],
    candidate_indices: list[list[int]],
    vocab_size: int,
    ids: _SpecialIds,
) -> tuple[list[list[float]], list[int], list[int]]:
    """One step's choice: which beams end, and which run on.

    Args:
        finished: one per prompt; changed in place.
        sequences: int64 [B * beams, length so far].
        candidate_scores, candidate_indices: [B, candidates], best first; an index is beam * vocab_size + token.

    Returns:
        scores [B][beams], tokens [B * beams] and the rows [B * beams] they continue.
    """
    scores: list[list[float]] = []
    tokens: list[int] = []
    rows: list[int] = []
    for prompt, one in enumerate(finished):
        first_row = prompt * one.size
        if one.closed:
            scores.append([0.0] * one.size)
            tokens += [ids.pad] * one.size
            rows += [first_row] * one.size
            continue
        running: list[float] = []
        for rank, (score, index) in enumerate(zip(candidate_scores[prompt], candidate_indices[prompt], strict=True)):
            row, token = first_row + index // vocab_size, index % vocab_size
            if token in ids.eos:
                if rank < one.size:
                    one.add(sequences[row], score)
                continue
            running.append(score)
            tokens.append(token)
            rows.append(row)
            if len(running) == one.size:
                break
        scores.append(running)
        one.close_if_unbeatable(max(candidate_scores[prompt]), sequences.shape[1] + 1)
    return scores, tokens, rows


def _collect(best: list[tuple[float, Tensor]], ids: _SpecialIds, max_length: int) -> PublishedOutput:
    """Pad the best beam of each prompt on the right, with one EOS after each that leaves room for it."""
    width = min(max(len(tokens) for _, tokens in best) + 1, max_length)
    device = best[0][1].device
    sequences = torch.full((len(best), width), ids.pad, dtype=torch.long, device=device)
    for row, (_, tokens) in zip(sequences, best, strict=True):
        row[: len(tokens)] = tokens
        if len(tokens) < width:
            row[len(tokens)] = ids.eos[0]
    scores = torch.tensor([score for score, _ in best], dtype=torch.float32, device=device)
    return PublishedOutput(sequences, scores)
