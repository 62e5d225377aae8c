"""Heads that are told where an answer was given before; and features kept for pictures that come round."""

import math
import random
from dataclasses import replace

import pytest
import torch
from helpers_train import pair, run_config, tiny_whole, trainer, weights

from emu2.data.records import Record, Sought
from emu2.data.sequences import IGNORE, covered
from emu2.data.sources import ListSource
from emu2.processing.grounding import Box
from emu2.processing.video import Video
from emu2.train.config import RunConfig, from_dict, to_dict, with_overrides
from emu2.train.looking_back import Looks, looking_back_loss, watching
from emu2.train.metrics import read_log
from emu2.train.objectives import objective_class
from emu2.train.settings import LookingBack
from emu2.world import World, WorldConfig

HEADS = {"naming": ((0, 1), (1, 0))}


def episode(number: int) -> Record:
    """Four pictures of two kinds, and of each the same word."""
    dice = random.Random(number)
    shown = [pair(0), pair(9)]
    order = [0, 1, *dice.sample((0, 1), 2)]
    words = dice.sample(("red", "green", "blue"), 2)
    segments = [part for one in order for part in (shown[one].segments[0], f"{words[one]}.")]
    return Record("naming", tuple(segments), f"naming-{number}", len(segments) - 1)


def episodes() -> ListSource:
    return ListSource([episode(i) for i in range(8)])


def told(**changes) -> RunConfig:
    config = run_config("unified", **changes)
    data = replace(config.data, kinds={"naming": 1.0}, batch_size=4, max_length=96)
    return replace(config, data=data, looking_back=LookingBack(heads=HEADS))


def _batch(config=None, whole=None):
    objective = objective_class("unified")(whole or tiny_whole(), config or told(), torch.device("cpu"))
    samples = [objective.sample(episode(i), random.Random(i)) for i in range(4)]
    return objective, objective.collate(samples, [f"{i}" for i in range(4)])


def test_answers_look_at_earlier_answers_of_the_same_words():
    objective, batch = _batch()
    [looks] = batch.extra["looking_back"]
    # the third and the fourth answer of each: only they have earlier ones of the same words and of others
    assert looks.rows.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.counts["looking_back"] == len(looks) == 8
    ids = batch.tensors["input_ids"]
    decode = objective.whole.processor.tokenizer.decode
    each = (looks.rows, looks.queries, looks.keys, looks.real, looks.wanted)
    for row, query, keys, real, same in zip(*each, strict=True):
        assert ids[row, query] == objective.builder.end_id  # the picture that is asked about ends here
        said = decode(ids[row, query + 1])
        for key, there, alike in zip(keys, real, same, strict=True):
            if there:
                assert key < query
                assert (decode(ids[row, key]) == said) == bool(alike)
            else:
                assert not alike


def test_watching_changes_nothing_and_ends():
    objective, batch = _batch()
    model = objective.whole.model.eval()
    pictures = objective.pictures(batch.extra["samples"])
    with torch.no_grad():
        plain = model(**batch.tensors, **pictures).logits
        with watching(model.model.language_model, batch.extra["looking_back"]) as seen:
            watched = model(**batch.tensors, **pictures).logits
        assert torch.equal(plain, watched)
        kept = seen[0][0]
        model(**batch.tensors, **pictures)
    assert set(seen) == {0, 1}
    assert seen[0][0] is kept  # nobody watches any more
    assert model.model.language_model.config._attn_implementation == "sdpa"


def test_the_loss_is_that_of_the_attention_that_the_model_pays():
    objective, batch = _batch()
    model = objective.whole.model.eval()
    pictures, looks = objective.pictures(batch.extra["samples"]), batch.extra["looking_back"]
    with torch.no_grad():
        with watching(model.model.language_model, looks) as seen:
            model(**batch.tensors, **pictures)
        loss = looking_back_loss(seen, looks)
        model.set_attn_implementation("eager")
        paid = model(**batch.tensors, **pictures, output_attentions=True).attentions
    missed = []
    for each in looks:
        for layer, head in each.heads:
            for row, query, keys, real, same in zip(
                each.rows, each.queries, each.keys, each.real, each.wanted, strict=True
            ):
                shares = paid[layer][row, head, query, keys[real]]
                missed.append(-(shares[same[real]].sum() / shares.sum()).log())
    assert loss.item() == pytest.approx(torch.stack(missed).mean().item(), rel=1e-4)


def test_heads_that_share_keys_are_told_apart():
    query = torch.randn(1, 4, 6, 8)
    key = torch.randn(1, 2, 6, 8)
    looks = Looks(
        ((0, 0),),
        torch.tensor([0]),
        torch.tensor([5]),
        torch.tensor([[1, 3]]),
        torch.ones(1, 2).bool(),
        torch.tensor([[1, 0]]) > 0,
    )
    for head in range(4):
        scores = query[0, head, 5] @ key[0, head // 2, [1, 3]].T / 8**0.5
        expected = -scores.log_softmax(dim=-1)[0].item()
        loss = looking_back_loss({0: (query, key)}, [replace(looks, heads=((0, head),))])
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_answers_about_a_picture_look_at_what_is_asked_about():
    config = run_config("chat")
    config = replace(
        config,
        data=replace(config.data, kinds={"chat": 1.0}, max_length=128),
        looking_back=LookingBack(heads={"chat": ((1, 0),), "chat:answer": ((1, 1),)}),
    )
    objective = objective_class("chat")(tiny_whole(), config, torch.device("cpu"))
    picture = pair(0).segments[0]
    side = picture.width
    there = Box((0, 0, side / 2, side / 2), size=picture.size)
    asked = (Sought("dog", (there,)), Sought("cat", ()), None)
    turns = [("system", ("Hi.",)), ("user", (picture, "Where is the dog?")), ("assistant", ("here",))]
    turns += [("user", ("Is there a cat?",)), ("assistant", ("no",)), ("user", ("Why?",)), ("assistant", ("so",))]
    record = Record.conversation("chat", tuple(turns), "asked", sought=asked)
    sample = objective.sample(record, random.Random(0))
    first = sample.input_ids.index(objective.builder.start_id)
    slots = objective.whole.processor.num_query
    tokenizer = objective.whole.processor.tokenizer
    looks, answers = sample.looks["chat"], sample.looks["chat:answer"]
    said = [tokenizer.decode(sample.input_ids[: look.query + 1]) for look in looks]
    assert [text.rsplit(" ", 2)[1:] for text in said] == [["the", "dog"], ["a", "cat"]]
    assert all(look.keys == tuple(range(first, first + slots + 1)) for look in looks)
    present, absent = (look.wanted for look in looks)
    assert absent == (True, *[False] * slots)  # [IMG], and no embedding
    assert present == (False, *covered([there], math.isqrt(slots)))
    # and an answer looks at the word
    for look, answer in zip(looks, answers, strict=True):
        assert sample.labels[answer.query] == IGNORE != sample.labels[answer.query + 1]
        assert [key for key, wanted in zip(answer.keys, answer.wanted, strict=True) if wanted] == [look.query]
        assert answer.keys[-1] == answer.query
    batch = objective.collate([sample], ["asked"])
    assert batch.counts["looking_back"] == 4
    loss = objective.terms(batch)["looking_back"]
    assert loss.item() > 0
    loss.backward()
    # several pictures: boxes of which one is not known
    twice = [("user", (picture, picture, "Where is the dog?")), ("assistant", ("here",))]
    record = Record.conversation("chat", tuple(twice), "twice", sought=asked[:1])
    assert objective.sample(record, random.Random(0)).looks == {}


def test_questions_about_a_clip_look_into_each_frame():
    config = run_config("chat")
    config = replace(
        config,
        data=replace(config.data, kinds={"chat": 1.0}, max_length=128, frames=(3,), frame_choice="uniform"),
        looking_back=LookingBack(heads={"chat:frame0": ((0, 0),), "chat:frame2": ((0, 1),), "chat:answer": ((1, 1),)}),
    )
    objective = objective_class("chat")(tiny_whole(), config, torch.device("cpu"))
    picture = pair(0).segments[0]
    width, height = picture.size
    left, right = (Box((x, 0, x + width / 2, height / 2), size=picture.size) for x in (0, width / 2))
    # six frames, of which the second, the fourth and the last are read
    asked = Sought("dog", moments=((), (left,), (), (), (right,), (right,)))
    turns = (("user", (Video([picture] * 6), "Which way does the dog go?")), ("assistant", ("right",)))
    turns = (("system", ("Hi.",)), *turns)
    sample = objective.sample(Record.conversation("chat", turns, "way", sought=(asked,)), random.Random(0))
    assert set(sample.looks) == {"chat:frame0", "chat:frame1", "chat:frame2", "chat:answer"}
    slots = objective.whole.processor.num_video_query
    starts = [t for t, token in enumerate(sample.input_ids) if token == objective.builder.start_id]
    assert len(starts) == 3
    [answer] = sample.looks["chat:answer"]
    side = math.isqrt(slots)
    shown = (covered([left], side), None, covered([right], side))
    for number, (start, cells) in enumerate(zip(starts, shown, strict=True)):
        [look] = sample.looks[f"chat:frame{number}"]
        assert look.keys == tuple(t for first in starts for t in range(first, first + slots + 1))
        wanted = {key for key, there in zip(look.keys, look.wanted, strict=True) if there}
        if cells is None:
            assert wanted == {start}  # [IMG] of the frame that does not show it
        else:
            assert wanted == {start + 1 + cell for cell, there in enumerate(cells) if there}
        assert look.query in answer.keys
    batch = objective.collate([sample], ["way"])
    assert batch.counts["looking_back"] == 3  # of the frames that heads are told about, and the answer
    assert objective.terms(batch)["looking_back"].item() > 0
    with pytest.raises(ValueError, match=r"names 'chat:frame3', which this run does not read; .*looking_back=null"):
        LookingBack(heads={"chat:frame3": ((0, 0),)}).check(config)


def test_pictures_of_an_episode_look_at_what_they_mark():
    world = World(WorldConfig(image_size=96, style="corners", concepts=20, shots=(2,)))
    objective, _ = _batch()
    for index in range(5):
        record = world["visual_prompt", index]
        sample = objective.sample(record, random.Random(0))
        slots = objective.whole.processor.num_query
        ends = [t for t, token in enumerate(sample.input_ids) if token == objective.builder.end_id]
        looks = sample.looks["visual_prompt:picture"]
        assert [look.query for look in looks] == ends
        scenes = [*(shown["scene"] for shown in record.truth["demonstrations"]), record.truth["scene"]]
        for look, scene in zip(looks, scenes, strict=True):
            assert look.keys == tuple(range(look.query - slots, look.query))
            box = Box(tuple(scene["objects"][scene["marked"]]["box"]), size=(96, 96))
            assert list(look.wanted) == covered([box], math.isqrt(slots))
    assert world["counting", 0].sought == ()  # which marks nothing
    # What a rule is about lies in all of a picture: to be looked at rather than at what comes before it.
    record = world["rule", 0]
    look = objective.sample(record, random.Random(0)).looks["rule:picture"][2]
    assert len(record.sought) == 3
    assert look.keys == tuple(range(look.query))
    assert [key for key, wanted in zip(look.keys, look.wanted, strict=True) if wanted] == list(look.keys[-slots:])


def test_cells_are_those_whose_middle_a_box_holds():
    def shown(*boxes, side=4):
        found = covered([Box(box, size=(80, 40)) for box in boxes], side)
        return ["".join("x" if cell else "." for cell in found[row : row + side]) for row in range(0, side**2, side)]

    assert shown() == ["....", "....", "....", "...."]
    assert shown((0, 0, 80, 40)) == ["xxxx", "xxxx", "xxxx", "xxxx"]
    assert shown((0, 0, 31, 16)) == ["xx..", "xx..", "....", "...."]
    assert shown((0, 0, 31, 4)) == ["x...", "....", "....", "...."]  # holds no middle: the cell of its own
    assert shown((80, 40, 80, 40), (20, 10, 60, 30)) == ["....", ".xx.", ".xx.", "...x"]


def test_kinds_may_be_told_by_the_same_heads():
    config = told()
    data = replace(config.data, kinds={"naming": 1.0, "rule": 1.0})
    heads = LookingBack(heads={"naming": ((1, 0),), "rule": ((1, 0),)})
    objective = objective_class("unified")(
        tiny_whole(), replace(config, data=data, looking_back=heads), torch.device("cpu")
    )
    records = [episode(0), replace(episode(1), kind="rule"), replace(episode(2), kind="rule")]
    samples = [objective.sample(record, random.Random(0)) for record in records]
    batch = objective.collate(samples, list("abc"))
    assert [looks.rows.tolist() for looks in batch.extra["looking_back"]] == [[0, 0], [1, 1, 2, 2]]
    assert batch.counts["looking_back"] == 6


def test_told_heads_learn_to_look(tmp_path):
    config = told(steps=80)
    # not the first layer's: they see the tokens of an answer, and nothing of the picture before it
    config = replace(
        config, looking_back=LookingBack(heads={"naming": ((1, 0), (1, 1))}), optim=replace(config.optim, lr=1e-2)
    )
    runner = trainer(config, tmp_path, sources={"naming": episodes()})
    runner.run()
    losses = [line["loss/looking_back"] for line in read_log(tmp_path / "log.jsonl")]
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


def test_other_kinds_have_nothing_to_look_for():
    config = told()
    config = replace(config, data=replace(config.data, kinds={"naming": 1.0, "pair": 1.0}))
    objective = objective_class("unified")(tiny_whole(), config, torch.device("cpu"))
    samples = [objective.sample(pair(i), random.Random(i)) for i in range(4)]
    batch = objective.collate(samples, list("abcd"))
    assert batch.counts["looking_back"] == 0
    loss = objective.terms(batch)["looking_back"]
    assert loss.item() == 0
    loss.backward()  # as ranks do that have none


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['looking_back={"heads": {}}'], "looking_back.heads is empty: give it kinds of records, and heads for each"),
        (['looking_back={"heads": {"naming": [[0, -1]]}}'], r"from \(0, 0\); got 'naming': \(\(0, -1\),\)"),
        (['looking_back={"heads": {"naming": [[0, 1]]}, "weight": 0}'], "looking_back.weight must be above 0; got 0"),
        (['looking_back={"heads": {"rule": [[0, 1]]}}'], "names 'rule', which this run does not read; it reads naming"),
        (
            ['looking_back={"heads": {"naming:answer": [[0, 1]]}}'],
            "names 'naming:answer', which this run does not read",
        ),
        (["compile=true"], "looking_back watches the attention of whole layers.*leave out compile"),
        (["checkpoint_activations=true"], "leave out checkpoint_activations"),
        (["data.pack=true"], "leave out data.pack"),
        (["parallel.tensor=2"], "leave out parallel.tensor"),
        (
            ["objective=caption"],
            "looking_back belongs to .* 'unified' and 'chat', and to contrast=regions; this run's is 'caption'",
        ),
        (["kept_features=-1"], "kept_features must be 0 or more; got -1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(told(), settings)


def test_heads_that_there_are_not_are_refused():
    for heads in (((2, 0),), ((0, 2),)):
        config = replace(told(), looking_back=LookingBack(heads={"naming": heads}))
        with pytest.raises(ValueError, match="this language model has 2 layers of 2 heads, both counted from 0"):
            objective_class("unified")(tiny_whole(), config, torch.device("cpu"))
    whole = tiny_whole()
    whole.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="watches attention by 'sdpa'; this model attends by 'eager'"):
        objective_class("unified")(whole, told(), torch.device("cpu"))


def test_settings_survive_their_file():
    config = told()
    assert from_dict(to_dict(config)) == config


# Pictures that come round --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 5, 100])
def test_a_run_with_kept_features_resumes_to_the_bit(kept, tmp_path):
    config = told(kept_features=kept)
    whole = tiny_whole()
    trainer(config, tmp_path / "whole", whole=whole, sources={"naming": episodes()}).run()
    trainer(config, tmp_path / "parts", sources={"naming": episodes()}).run(until=3)
    resumed = tiny_whole()
    trainer(config, tmp_path / "parts", whole=resumed, sources={"naming": episodes()}).run(resume=True)
    expected = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_kept_features_equal_computed_ones(tmp_path):
    losses = []
    for kept in (0, 4):
        trainer(told(kept_features=kept), tmp_path / str(kept), sources={"naming": episodes()}).run()
        losses.append([line["loss"] for line in read_log(tmp_path / str(kept) / "log.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
