"""Slots, labels and losses: counts are checked, targets are those of the paper's Figure 2."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig

from emu2 import Emu2Config, Emu2ForConditionalGeneration
from emu2.model.losses import next_embedding_loss, next_token_loss, whitening

IMG, END, SLOT, FRAME, PAD = 101, 102, 103, 104, 100
PICTURE = [IMG, SLOT, SLOT, SLOT, SLOT, END]
CLIP_FRAME = [IMG, FRAME, FRAME, FRAME, FRAME, END]


def pixels(n):
    return torch.randn(n, 3, 28, 28, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(
    ("rows", "stills", "message"),
    [
        ([[1, *PICTURE, 5]], None, r"slots for 1 images \(4 <image> tokens, 4 each\), but 0 images .* sample 0"),
        ([[1, *PICTURE, 5]], 2, r"slots for 1 images .* but 2 images were given. Slots per sample: \[1\]"),
        ([[1, 5]], 1, r"slots for 0 images .* but 1 images"),
        ([[1, *PICTURE, *PICTURE], [1, 2, *PICTURE, 3, 4, 5, 6, 7]], 2, r"slots for 3 .* but 2 .* out in sample 1"),
        ([[1, *PICTURE[:-2], END, 7]], 1, r"Sample 0 holds 3 <image> slots, .* no multiple of the 4"),
    ],
)
def test_wrong_counts_are_refused_before_anything_runs(tiny_model, rows, stills, message, monkeypatch):
    ran = []
    monkeypatch.setattr(tiny_model.model.visual, "forward", lambda *_, **__: ran.append(1))
    given = None if stills is None else pixels(stills)
    for call in (tiny_model, tiny_model.generate, tiny_model.generate_visual):
        with pytest.raises(ValueError, match=message):
            call(input_ids=torch.tensor(rows), pixel_values=given)
    assert not ran


def test_frames_have_slots_of_their_own(tiny_model):
    ids = torch.tensor([[1, *CLIP_FRAME, *CLIP_FRAME, *PICTURE, 7]])
    embeds = tiny_model.embed_inputs(ids, pixels(1), pixels(2))
    still, frames = tiny_model.encode_image(pixels(1)), tiny_model.encode_image(pixels(2))
    up = tiny_model.model.project_up
    torch.testing.assert_close(embeds[0, ids[0] == SLOT], up(still)[0])
    torch.testing.assert_close(embeds[0, ids[0] == FRAME], up(frames).flatten(0, 1))
    text = tiny_model.get_input_embeddings()(torch.tensor([1, IMG, END, 7]))
    torch.testing.assert_close(embeds[0, [0, 1, 6, -1]], text)
    with pytest.raises(ValueError, match=r"slots for 2 video frames .* but 1 video frames"):
        tiny_model(ids, pixel_values=pixels(1), video_pixel_values=pixels(1))


def test_pictures_fill_slots_in_reading_order_over_the_batch(tiny_model):
    ids = torch.tensor([[PAD, 1, *PICTURE], [1, 9, *PICTURE]])
    embeds = tiny_model.embed_inputs(ids, pixels(2))
    features = tiny_model.model.project_up(tiny_model.encode_image(pixels(2)))
    for row in range(2):
        torch.testing.assert_close(embeds[row, ids[row] == SLOT], features[row])


def test_features_stand_in_for_pixels(tiny_model):
    ids = torch.tensor([[1, *PICTURE, 7]])
    by_pixels = tiny_model(ids, pixel_values=pixels(1), labels=ids)
    by_features = tiny_model(ids, image_features=tiny_model.encode_image(pixels(1)), labels=ids)
    torch.testing.assert_close(by_pixels.loss, by_features.loss)
    with pytest.raises(ValueError, match="pixel_values or image_features, not both"):
        tiny_model(ids, pixel_values=pixels(1), image_features=by_pixels.logits)


def test_targets_of_figure_2(tiny_model):
    """[IMG] and the word after [/IMG] are text targets, e1..eN regression targets, [/IMG] none."""
    ids = torch.tensor([[1, 9, *PICTURE, 7, 2]])
    out = tiny_model(ids, pixel_values=pixels(1), labels=ids)
    # text: 9 (from 1), [IMG] (from 9), 7 (from [/IMG]), 2 (from 7)
    assert out.num_text_targets == 4
    log_p = out.logits[0].log_softmax(-1)
    pairs = [(0, 9), (1, IMG), (7, 7), (8, 2)]
    torch.testing.assert_close(out.text_loss, -torch.stack([log_p[t, token] for t, token in pairs]).mean())
    # visual: states at [IMG], e1, e2, e3 regress e1 ... e4
    assert out.num_visual_targets == 4
    predicted = tiny_model.model.project_down(out.last_hidden_state[0, 2:6])
    torch.testing.assert_close(out.visual_loss, F.mse_loss(predicted, tiny_model.encode_image(pixels(1))[0]))


def test_the_visual_target_is_detached(tiny_model):
    """With only the visual loss, what reaches the tower comes through the input embeddings, not the target."""
    ids = torch.tensor([[1, *PICTURE]])
    labels = torch.full_like(ids, -100)
    labels[0, 2] = SLOT  # e1 only: predicted from [IMG], before any picture was read
    out = tiny_model(ids, pixel_values=pixels(1), labels=labels)
    out.visual_loss.backward()
    assert out.num_visual_targets == 1
    grads = [p.grad for p in tiny_model.model.visual.parameters()]
    assert all(g is None or g.abs().sum() == 0 for g in grads)
    assert tiny_model.model.project_down.weight.grad.abs().sum() > 0


def test_weights_of_the_losses(tiny_config):
    fields = tiny_config.to_dict() | {"text_loss_weight": 0.5, "visual_loss_weight": 3.0}
    model = Emu2ForConditionalGeneration(Emu2Config.from_dict(fields)).eval()
    ids = torch.tensor([[1, *PICTURE, 7]])
    out = model(ids, pixel_values=pixels(1), labels=ids)
    torch.testing.assert_close(out.loss, 0.5 * out.text_loss + 3.0 * out.visual_loss)


def test_no_target_means_zero_loss_without_nan(tiny_model):
    ids = torch.tensor([[1, 5, 6]])
    out = tiny_model(ids, labels=torch.full_like(ids, -100))
    assert (out.loss, out.num_text_targets, out.num_visual_targets) == (0, 0, 0)
    out.loss.backward()


def test_loss_functions_by_hand():
    logits = torch.zeros(1, 3, 4)
    loss, count = next_token_loss(logits, torch.tensor([[3, 1, -100]]))
    assert count == 1
    assert loss.item() == pytest.approx(1.3863, abs=1e-4)  # ln 4
    loss, count = next_embedding_loss(torch.ones(2, 5), torch.zeros(2, 5))
    assert (loss, count) == (1.0, 2)
    metric = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    loss, count = next_embedding_loss(torch.ones(3, 2), torch.zeros(3, 2), metric)
    assert (loss, count) == (2.0, 3)  # (4 + 0) / 2


def test_whitening_lets_every_direction_count_by_its_spread():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    spreads = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.0])
    embeddings = 3.0 + torch.randn(20_000, 6, generator=generator) * spreads @ turn
    metric = whitening(embeddings)
    mean = embeddings.mean(dim=0).expand_as(embeddings)
    assert next_embedding_loss(mean, embeddings, metric)[0].item() == pytest.approx(1.0, abs=1e-4)
    # An error of one spread costs the same in wide and narrow directions, and hardly anything where nothing spreads.
    costs = [(spread * turn[k] @ metric).square().sum().item() for k, spread in enumerate(spreads.tolist())]
    assert min(costs[:4]) > 0.55 * max(costs[:4])
    assert (0.01 * turn[5] @ metric).square().sum() < 0.01 * max(costs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.ones(1, 2, dtype=int)}, r"shape of input_ids, \[1, 3\]; got \[1, 2\]"),
        ({"labels": torch.ones(1, 3, dtype=int), "logits_to_keep": 1}, "leave out logits_to_keep"),
    ],
)
def test_labels_that_fit_nothing_are_refused(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(torch.tensor([[1, 5, 6]]), **arguments)


def test_labels_need_ids_and_one_kind_of_input(tiny_model):
    embeds = torch.zeros(1, 3, 48)
    with pytest.raises(ValueError, match="Labels need input_ids"):
        tiny_model(inputs_embeds=embeds, labels=torch.ones(1, 3, dtype=int))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        tiny_model(torch.ones(1, 3, dtype=int), inputs_embeds=embeds)


@pytest.mark.parametrize("num_query", [2, 3, 9, 0])
def test_config_refuses_a_num_query_that_fits_no_grid(tiny_config, num_query):
    with pytest.raises(ValueError, match=rf"num_query={num_query} does not fit a 4x4 patch grid: .*\[1, 4, 16\]"):
        Emu2Config.from_dict(tiny_config.to_dict() | {"num_query": num_query})


def test_a_language_model_with_transformed_logits_is_refused(tiny_config):
    text = {"model_type": "gemma2", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}
    assert AutoConfig.for_model("gemma2").final_logit_softcapping
    with pytest.raises(ValueError, match="'gemma2' sets final_logit_softcapping"):
        Emu2ForConditionalGeneration(Emu2Config.from_dict(tiny_config.to_dict() | {"text_config": text}))
