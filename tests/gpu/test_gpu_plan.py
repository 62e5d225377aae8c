"""The plan's memory figure against a real step on a CUDA device. Skipped with a reason where there is none."""

import pytest
import torch

from emu2 import Emu2Config
from emu2.data.settings import DataConfig
from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration
from emu2.train.blocks import checkpoint_activations
from emu2.train.config import RunConfig
from emu2.train.distributed import World
from emu2.train.memory import simulate
from emu2.train.optim import build_optimizer
from emu2.train.skeleton import Parts, RecordShape
from emu2.train.trainable import parameter_groups, set_trainable
from emu2.train.whole import Whole

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def model_config() -> Emu2Config:
    """Wide enough that blocks of the allocator and workspaces of the kernels are small beside it."""
    return Emu2Config(
        vision_config={"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048,
                       "image_size": 224, "patch_size": 14},
        text_config={"model_type": "llama", "vocab_size": 32272, "hidden_size": 1024, "intermediate_size": 2816,
                     "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
                     "max_position_embeddings": 2048},
        num_query=64,
        num_video_query=64,
    )  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_memory_is_what_a_real_step_allocates(recompute, autocast):
    config = RunConfig(
        name="caption",
        objective="caption",
        parts=("vision", "bridge", "language"),
        data=DataConfig(max_length=2048),
        autocast=autocast,
        checkpoint_activations=recompute,
    )
    parts, shape, rows = Parts(model_config()), RecordShape(text=400, images=1), 8
    planned = simulate(config, parts, shape, rows, World()).peak

    model = Emu2ForConditionalGeneration(parts.model).to("cuda")
    whole = Whole(model=model, processor=None)
    if recompute:
        checkpoint_activations(whole)
    set_trainable(whole, config.parts)
    optimizer = build_optimizer(parameter_groups(whole, config.parts, config.optim), config.optim)
    length = shape.length(config, parts.model)
    ids = torch.full((rows, length), 5, device="cuda")
    ids[:, 1] = parts.model.image_start_token_id
    ids[:, 2:66] = parts.model.image_token_id
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # as in a batch of unequal rows: attention gets a mask
    labels = ids.masked_fill(ids == parts.model.image_token_id, -100)
    pixels = torch.randn(rows, 3, 224, 224, device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast is not None):
            loss = model(ids, mask, pixel_values=pixels, labels=labels, use_cache=False).text_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    assert planned == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
