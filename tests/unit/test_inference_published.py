"""Published decoding, rule by rule, on scripted and tiny real models. The recorded cases are in tests/parity."""

from types import SimpleNamespace

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from emu2.inference.published_decoding import generate_published

BOS, EOS, PAD = 1, 2, 0
VOCAB = 8


class Scripted(torch.nn.Module):
    """A language model whose next-token log-probabilities follow from the tokens written so far.

    `table` maps a tuple of new tokens to {token: probability}; what is left is spread over the other tokens. The
    history travels in the cache, which only stores the embedding (the token's number) of every position.
    """

    def __init__(self, table, prompt_length=1):
        super().__init__()
        self.table, self.prompt_length = table, prompt_length
        self.config = SimpleNamespace(
            bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, get_text_config=lambda: None
        )
        self.embedding = torch.nn.Embedding(VOCAB, 1)
        self.embedding.weight.data = torch.arange(VOCAB).float()[:, None]

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        keys, _ = past_key_values.update(inputs_embeds[:, None], inputs_embeds[:, None], 0)
        rows = [tuple(int(t) for t in row[self.prompt_length :]) for row in keys[:, 0, :, 0].tolist()]
        return SimpleNamespace(logits=torch.stack([self.logits_after(row) for row in rows])[:, None])

    def logits_after(self, written):
        given = self.table.get(written, {})
        rest = (1 - sum(given.values())) / (VOCAB - len(given))
        return torch.tensor([given.get(token, rest) for token in range(VOCAB)]).clamp(min=1e-9).log()


@pytest.fixture
def scripted(monkeypatch):
    from transformers import DynamicCache

    # The cache grows by itself; there is no config to build it from.
    monkeypatch.setattr("emu2.inference.published_decoding.DynamicCache", lambda config: DynamicCache())
    return lambda table, **kwargs: Scripted(table, **kwargs)


def run(model, **kwargs):
    return generate_published(model, inputs_embeds=torch.full((1, model.prompt_length, 1), 7.0), **kwargs)


def test_bos_comes_first_and_eos_may_follow_at_once(scripted):
    model = scripted({(): {EOS: 0.9}})
    assert run(model, num_beams=1).sequences.tolist() == [[BOS, EOS]]
    assert run(model, num_beams=2).sequences.tolist() == [[BOS, EOS]]
    assert run(model, num_beams=1, min_length=2, max_new_tokens=1).sequences[0, 1] != EOS


def test_beam_score_divides_by_bos_and_new_tokens_without_eos(scripted):
    model = scripted({(): {5: 0.9}, (5,): {EOS: 0.8}})
    out = run(model, num_beams=2, length_penalty=2.0, max_new_tokens=6)
    assert out.sequences.tolist() == [[BOS, 5, EOS]]
    want = (torch.tensor(0.9).log() + torch.tensor(0.8).log()) / 2**2  # BOS and one token
    torch.testing.assert_close(out.sequences_scores[0], want)


def test_negative_length_penalty_favours_short_answers(scripted):
    # Total log-probability: short 0.4, long 0.45; only the length decides otherwise.
    table = {(): {5: 0.5, EOS: 0.4}, (5,): {6: 0.95}, (5, 6): {EOS: 0.95}}
    assert run(scripted(table), num_beams=3, length_penalty=-1.0).sequences.tolist() == [[BOS, EOS]]
    assert run(scripted(table), num_beams=3, length_penalty=1.0).sequences.tolist() == [[BOS, 5, 6, EOS]]


def test_eos_ranked_below_the_beams_does_not_end_one(scripted):
    # Second step of two beams, best first: (5, EOS), (5, 7), (6, EOS), (6, 3). The second EOS is third: it is passed
    # over. Had it counted, both beams would have ended and the search with them, before the long answer could win.
    table = {
        (): {5: 0.5, 6: 0.4, EOS: 0.0},
        (5,): {EOS: 0.55, 7: 0.45},
        (6,): {EOS: 0.5, 3: 0.45},
        (5, 7): {3: 0.16, EOS: 0.0},
        (5, 7, 3): {4: 1.0},
        (5, 7, 3, 4): {4: 1.0},
        (5, 7, 3, 4, 4): {4: 1.0},
        (5, 7, 3, 4, 4, 4): {EOS: 1.0},
    }
    out = run(scripted(table), num_beams=2, length_penalty=1.0, max_new_tokens=8)
    assert out.sequences.tolist() == [[BOS, 5, 7, 3, 4, 4, 4, EOS]]


@pytest.mark.parametrize(("probability", "want"), [(0.09, [5, EOS]), (0.227, [5, 7, 3, 3, 3, 3, 3, EOS])])
def test_the_search_ends_when_no_running_beam_can_enter_at_its_present_length(scripted, probability, want):
    # Two beams end early: (EOS) with log 0.5 = -0.69, the worse, and (5, EOS). What runs on is certain from then on and
    # would win at length 8. At the third step, length 4 with the current token, the search ends if log(0.4 p) / 4 does
    # not beat -0.69: it does not for p = 0.09; it does for p = 0.227, and would not at length 3.
    table = {(): {EOS: 0.5, 5: 0.4}, (5,): {EOS: 0.9 - probability, 7: probability}, (5, 7, *[3] * 5): {EOS: 1.0}}
    table |= {(5, 7, *[3] * count): {3: 1.0} for count in range(5)}
    out = run(scripted(table), num_beams=2, length_penalty=1.0, max_new_tokens=9)
    assert out.sequences.tolist() == [[BOS, *want]]


def test_beam_search_takes_what_greedy_misses(scripted):
    table = {(): {5: 0.55, 6: 0.45}, (5,): {3: 0.3, 4: 0.3}, (6,): {3: 0.99}, (6, 3): {EOS: 0.99}}
    assert run(scripted(table), num_beams=1, max_new_tokens=2).sequences[0, 1] == 5
    assert run(scripted(table), num_beams=2, max_new_tokens=3).sequences.tolist() == [[BOS, 6, 3, EOS]]


def test_repetition_penalty_sees_new_tokens_and_bos_but_no_prompt(scripted):
    # The prompt is token 7 itself: it stays free, while 6 is held back once it has come.
    table = {(): {6: 0.9}, (6,): {6: 0.5, 7: 0.45}, (6, 7): {EOS: 0.9}}
    assert run(scripted(table), num_beams=1, max_new_tokens=2).sequences.tolist() == [[BOS, 6, 6]]
    penalised = run(scripted(table), num_beams=1, max_new_tokens=2, repetition_penalty=1.5)
    assert penalised.sequences.tolist() == [[BOS, 6, 7]]
    first_is_bos = scripted({(): {BOS: 0.5, 7: 0.45}})
    assert run(first_is_bos, num_beams=1, max_new_tokens=1, repetition_penalty=1.5).sequences.tolist() == [[BOS, 7]]


def test_eos_is_left_out_where_it_does_not_fit(scripted):
    model = scripted({(): {5: 1.0}, (5,): {6: 1.0}, (5, 6): {EOS: 1.0}})
    assert run(model, num_beams=2, max_new_tokens=2).sequences.tolist() == [[BOS, 5, 6]]
    assert run(model, num_beams=2, max_new_tokens=3).sequences.tolist() == [[BOS, 5, 6, EOS]]


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.no_grad()
def test_a_padded_batch_gives_what_each_prompt_gives_alone(tiny_model, num_beams):
    torch.manual_seed(1)
    rows = [torch.randint(3, 90, (length,)) for length in (3, 9, 6)]
    pad = tiny_model.config.pad_token_id
    ids = torch.stack([torch.cat([torch.full((9 - len(row),), pad), row]) for row in rows])
    options = {"num_beams": num_beams, "max_new_tokens": 6, "length_penalty": 1.0}
    together = generate_published(tiny_model, ids, (ids != pad).long(), **options)
    for i, row in enumerate(rows):
        alone = generate_published(tiny_model, row[None], **options)
        width = alone.sequences.shape[1]
        assert together.sequences[i, :width].tolist() == alone.sequences[0].tolist()
        assert set(together.sequences[i, width:].tolist()) <= {pad}
        if num_beams > 1:
            torch.testing.assert_close(together.sequences_scores[i], alone.sequences_scores[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.no_grad()
def test_a_row_that_ends_early_is_padded_and_keeps_its_answer(tiny_model, num_beams):
    def end_the_first_row(ids, scores):
        if ids.shape[1] == 3:
            scores = scores.clone()
            scores[:num_beams] = -1e4
            scores[:num_beams, EOS] = 0.0
        return scores

    ids = torch.tensor([[1, 5, 6], [1, 7, 8]])
    options = {"num_beams": num_beams, "max_new_tokens": 6, "length_penalty": 1.0, "min_length": 8}
    plain = generate_published(tiny_model, ids, **options).sequences
    early = generate_published(tiny_model, ids, logits_processor=[end_the_first_row], **options).sequences
    pad = tiny_model.config.pad_token_id
    assert early[0, 3:].tolist() == [EOS] + [pad] * 3
    assert EOS not in early[0, :3].tolist()
    assert early[1].tolist() == plain[1].tolist()


@torch.no_grad()
def test_greedy_equals_transformers_but_for_the_bos(tiny_model):
    ids = torch.randint(3, 90, (1, 7), generator=torch.Generator().manual_seed(3))
    ours = generate_published(tiny_model, ids, num_beams=1, max_new_tokens=8).sequences
    theirs = tiny_model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert ours[0].tolist() == [BOS, *theirs[0, 7:].tolist()]


@torch.no_grad()
def test_pictures_are_seen_and_slot_tokens_that_were_written_are_words(tiny_model):
    config = tiny_model.config
    ids = torch.tensor([[1, 101, 103, 103, 103, 103, 102, 20]])
    torch.manual_seed(4)
    answers = [
        generate_published(
            tiny_model,
            ids,
            pixel_values=torch.randn(1, 3, 28, 28) * 5,
            num_beams=2,
            max_new_tokens=4,
            logits_processor=[_Force(config.image_token_id)],
        )
        for _ in range(2)
    ]
    assert all(config.image_token_id in answer.sequences[0].tolist() for answer in answers)
    assert answers[0].sequences_scores != answers[1].sequences_scores


class _Force:
    """Makes one token win the first step."""

    def __init__(self, token):
        self.token = token

    def __call__(self, ids, scores):
        if ids.shape[1] == 1:
            scores = scores.clone()
            scores[:, self.token] = 0.0
        return scores


class _Recorder(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@torch.no_grad()
def test_streamer_gets_the_new_tokens(tiny_model):
    streamer = _Recorder()
    out = generate_published(tiny_model, torch.tensor([[1, 5, 6]]), num_beams=1, max_new_tokens=5, streamer=streamer)
    assert streamer.tokens == out.sequences[0, 1:].tolist()
    assert streamer.ended


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1; got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be greater than 0"),
        ({"inputs_embeds": torch.zeros(1, 1, 48)}, "exactly one of input_ids and inputs_embeds"),
        ({"num_beams": 2, "streamer": _Recorder()}, "num_beams=2"),
    ],
)
def test_wrong_arguments_are_named(tiny_model, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate_published(tiny_model, torch.tensor([[1, 5]]), **wrong)


def test_pictures_and_embeddings_exclude_each_other(tiny_model):
    with pytest.raises(ValueError, match="inputs_embeds already hold the pictures"):
        generate_published(tiny_model, inputs_embeds=torch.zeros(1, 1, 48), pixel_values=torch.zeros(1, 3, 28, 28))
