"""The vision tower: what it accepts, its positions, its training options."""

import pytest
import torch

from emu2 import Emu2VisionConfig
from emu2.model.bridge import pool_grid
from emu2.model.eva import DropPath, EvaVisionTower, resize_pos_embed


def tower(**changes):
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    return EvaVisionTower(Emu2VisionConfig(**{**fields, "image_size": 28, "patch_size": 7, **changes}))


def test_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        published = EvaVisionTower(Emu2VisionConfig())
    assert sum(p.numel() for p in published.parameters()) == 4_350_093_568  # published checkpoint, visual.*
    assert len(published.state_dict()) == 836


def test_fresh_weights_are_drawn_not_left_at_zero():
    fresh = tower()
    assert fresh.pos_embed.std().item() == pytest.approx(0.02, rel=0.3)
    assert fresh.cls_token.abs().sum() > 0
    assert fresh.blocks[0].attn.q_bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 28, 35), "square pictures"),
        ((1, 1, 28, 28), "square pictures"),
        ((3, 28, 28), "square pictures"),
        ((1, 3, 35, 35), "takes 28x28 pictures; got 35x35"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        tower()(torch.zeros(shape))


def test_any_multiple_of_the_patch_on_request():
    assert tower()(torch.zeros(1, 3, 42, 42), interpolate_pos=True).last_hidden_state.shape == (1, 37, 32)
    with pytest.raises(ValueError, match="positive multiple of 7 pixels; got 30"):
        tower()(torch.zeros(1, 3, 30, 30), interpolate_pos=True)


def test_at_its_own_size_interpolation_changes_nothing():
    net, pixels = tower().eval(), torch.randn(2, 3, 28, 28)
    assert torch.equal(net(pixels).last_hidden_state, net(pixels, interpolate_pos=True).last_hidden_state)


def test_resize_keeps_the_class_row_and_constant_tables():
    table = torch.randn(1, 1 + 16 * 16, 8)
    resized = resize_pos_embed(table, 32)
    assert resized.shape == (1, 1 + 32 * 32, 8)
    assert torch.equal(resized[:, 0], table[:, 0])
    constant = torch.full((1, 17, 8), 0.5)
    torch.testing.assert_close(resize_pos_embed(constant, 6), torch.full((1, 37, 8), 0.5))
    assert resize_pos_embed(table.bfloat16(), 20).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="got 16 rows"):
        resize_pos_embed(table[:, :16], 32)


def test_a_resized_table_follows_the_old_one():
    """A table that rises along rows still does after resizing: no transposition of the grid."""
    rising = torch.arange(4.0).view(4, 1).expand(4, 4).reshape(1, 16, 1)
    resized = resize_pos_embed(torch.cat([torch.zeros(1, 1, 1), rising], 1), 8)[0, 1:, 0].view(8, 8)
    assert (resized[1:] >= resized[:-1]).all()
    torch.testing.assert_close(resized[:, 0], resized[:, 7])


def test_drop_path_acts_in_training_only_and_keeps_the_mean():
    drop, branch = DropPath(0.5), torch.ones(4000, 1, 1)
    assert torch.equal(drop.eval()(branch), branch)
    torch.manual_seed(0)
    dropped = drop.train()(branch)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)
    assert [block.drop_path.rate for block in tower(drop_path_rate=0.2).blocks] == [0.0, 0.1, 0.2]


def test_gradient_checkpointing_changes_no_gradient():
    net, pixels = tower().train(), torch.randn(2, 3, 28, 28)
    net(pixels).last_hidden_state.square().mean().backward()
    plain = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    net.gradient_checkpointing_enable()
    assert net.is_gradient_checkpointing
    net(pixels).last_hidden_state.square().mean().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, plain[name])


def test_pooling_averages_square_neighbourhoods():
    states = torch.cat([torch.full((1, 1, 1), 99.0), torch.arange(16.0).view(1, 16, 1)], dim=1)
    assert pool_grid(states, 4)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_grid(states, 16)[0, :, 0].tolist() == list(range(16))
    assert pool_grid(states, 1)[0, :, 0].tolist() == [7.5]
    for wrong in (2, 9, 0, -4, 64):
        with pytest.raises(ValueError, match=rf"num_query={wrong} does not fit a 4x4 patch grid"):
            pool_grid(states, wrong)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "multiple of num_attention_heads"),
        ({"image_size": 30}, "positive multiple of patch_size"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate lies in \[0, 1\)"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        tower(**fields)
