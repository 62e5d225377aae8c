"""Documents packed into rows, and batches of like length: the same losses and the same gradients."""

import random
from dataclasses import replace

import pytest
import torch
from helpers_train import clip, composition, conversation, pair, run_config, text, tiny_whole

from emu2.data.loader import Samples
from emu2.data.packing import buckets, document_mask, pack
from emu2.train.objectives import objective_class
from emu2.train.trainable import set_trainable

#: Objective -> records of different kinds and lengths.
_RECORDS = {
    "language": [text(i) for i in range(6)],
    "caption": [pair(0), clip(1), pair(2), clip(3), pair(4)],
    "unified": [pair(0), clip(1), text(2), pair(3), clip(4), pair(5)],
    "chat": [conversation(i) for i in range(4)],
    "gen": [composition(i) for i in range(4)],
}


def _objective(name, attention="sdpa", **data):
    config = run_config(name)
    config = replace(config, data=replace(config.data, **data))
    whole = tiny_whole()
    whole.model.model.language_model.set_attn_implementation(attention)
    objective = objective_class(name)(whole, config, torch.device("cpu"))
    set_trainable(whole, config.parts)
    return objective


def _samples(objective, records) -> list[Samples]:
    made = [objective.sample(record, random.Random(i)) for i, record in enumerate(records)]
    return [Samples(made, [record.key for record in records], list(range(len(made))))]


def _losses_and_gradients(objective, read):
    """Each loss as a mean over all targets of the micro-batches, and the gradient of their sum."""
    batches = [batch for batch in objective.batches(read) if batch is not None]
    totals = {name: sum(batch.counts[name] for batch in batches) for name in objective.weights}
    losses = dict.fromkeys(objective.weights, 0.0)
    for batch in batches:
        terms = objective.terms(batch)
        for name in losses:
            if batch.counts[name]:
                losses[name] = losses[name] + terms[name] * (batch.counts[name] / totals[name])
    sum(losses.values()).backward()
    model = objective.whole.model
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: float(loss) for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(_RECORDS))
def test_packed_documents_lose_what_they_lose_alone(name, attention):
    if attention == "eager" and name != "unified":
        pytest.skip("one objective shows the other attention")
    plain, packed = _objective(name, attention), _objective(name, attention, pack=True, max_length=100)
    read = _samples(plain, _RECORDS[name])
    batch = packed.batches(read)[0]
    rows = batch.tensors["input_ids"].shape[0]
    assert rows < len(_RECORDS[name])  # something was packed
    assert batch.counts == plain.batches(read)[0].counts
    losses, gradients = _losses_and_gradients(plain, read)
    packed_losses, packed_gradients = _losses_and_gradients(packed, read)
    assert packed_losses == pytest.approx(losses, rel=1e-5)
    assert gradients.keys() == packed_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_without_the_mask_packed_documents_would_lose_something_else():
    plain, packed = _objective("language"), _objective("language", pack=True)
    read = _samples(plain, _RECORDS["language"])
    packed._inputs = lambda tensors: {name: tensors[name] for name in ("input_ids", "labels")}
    assert _losses_and_gradients(packed, read)[0] != pytest.approx(_losses_and_gradients(plain, read)[0], rel=1e-4)


def test_buckets_change_the_rows_of_a_batch_and_no_loss():
    plain, bucketed = _objective("unified"), _objective("unified", bucket=True)
    records = _RECORDS["unified"]
    read = [_samples(plain, records[start : start + 2])[0] for start in range(0, 6, 2)]
    padding = []
    for objective in (plain, bucketed):
        batches = objective.batches(read)
        assert [len(batch.seeds) for batch in batches] == [2, 2, 2]
        padding.append(sum(int((batch.tensors["attention_mask"] == 0).sum()) for batch in batches))
    assert padding[1] < padding[0]
    losses, gradients = _losses_and_gradients(plain, read)
    bucketed_losses, bucketed_gradients = _losses_and_gradients(bucketed, read)
    assert bucketed_losses == pytest.approx(losses, rel=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(bucketed_gradients[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_rows_are_filled_and_never_over():
    lengths = [5, 9, 3, 7, 2, 10, 4]
    rows = pack(lengths, 10)
    assert sorted(index for row in rows for index in row) == list(range(7))
    assert all(sum(lengths[index] for index in row) <= 10 for row in rows)
    assert len(rows) == 5  # no fewer could hold them
    with pytest.raises(ValueError, match="A document of 11 tokens does not fit a row of 10"):
        pack([3, 11], 10)


def test_buckets_hold_documents_of_like_length():
    assert buckets([5, 1, 4, 2, 3], 2) == [[1, 3, 4], [2, 0]]
    assert buckets([5, 1], 3) == [[1], [0]]
    assert buckets([], 2) == []


def test_a_document_sees_itself_up_to_here():
    mask = document_mask(torch.tensor([[1, 1, 2, 2, 0]]))[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_packing_needs_attention_that_takes_a_mask():
    config = run_config("language")
    config = replace(config, data=replace(config.data, pack=True))
    whole = tiny_whole()
    whole.model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"data.pack needs attention by sdpa or eager.*'flash_attention_2'"):
        objective_class("language")(whole, config, torch.device("cpu"))
