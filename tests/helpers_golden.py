"""Small numbers of our own, kept in the repository so that a lone clone still checks them.

`python tests/helpers_golden.py` writes tests/golden/network.json anew; do so only when a change of numbers is meant,
and only while the parity tests against the published code pass.
"""

import json
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).parent / "golden" / "network.json"


def fill_parameters(module: torch.nn.Module, seed: int) -> None:
    """Weights that depend on no library's random stream but numpy's frozen legacy one.

    Matrices are normal with a standard deviation of 1/sqrt(fan in); norm weights lie around 1; every bias is non-zero,
    so that a dropped bias shows.
    """
    source = np.random.RandomState(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            values = torch.from_numpy(source.standard_normal(tuple(p.shape))).float()
            if p.ndim >= 2:
                values /= p[0].numel() ** 0.5
            else:
                values = values * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            p.copy_(values)


def network_numbers(model) -> dict[str, list]:
    """What the golden file holds, computed now with `model` (the tests' tiny one)."""
    fill_parameters(model, seed=11)
    source = np.random.RandomState(12)
    pixels = torch.from_numpy(source.standard_normal((2, 3, 28, 28))).float()
    picture = [101, 103, 103, 103, 103, 102]
    ids = torch.tensor([[1, *picture, 7, *picture, 9], [100] * 9 + [1, 5, 6, 7, 8, 9]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 100).long(), "pixel_values": pixels}
    labels = ids.masked_fill(ids == 100, -100)
    with torch.no_grad():
        out = model(**inputs, labels=labels)
        numbers = {
            "encode_image": model.encode_image(pixels)[:, :, :4],
            "last_hidden_state": out.last_hidden_state[:, -2:, :6],
            "logits": out.logits[:, -1, :8],
            "losses": torch.stack([out.loss, out.text_loss, out.visual_loss]),
            "generate_visual": model.generate_visual(**inputs)[:, :, :4],
            "greedy": model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -6:],
            "beams": model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False)[:, -6:],
        }
    return {name: value.tolist() for name, value in numbers.items()}


if __name__ == "__main__":
    from conftest import tiny_config

    from emu2 import Emu2ForConditionalGeneration

    config = tiny_config.__wrapped__()  # the function inside the fixture
    rounded = json.loads(
        json.dumps(network_numbers(Emu2ForConditionalGeneration(config).eval())),
        parse_float=lambda text: float(f"{float(text):.7g}"),
    )
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(rounded, separators=(",", ":")) + "\n")
