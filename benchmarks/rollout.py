"""How much the key-value cache saves when a picture is written.

The published code runs the whole sequence anew for each of the 64 embeddings of a picture; `generate_visual` keeps
keys and values, and `use_cache=False` is the published way. Both run here on the same weights and prompts:

    python benchmarks/rollout.py            # the language model is 8 layers of width 512; two threads
    python benchmarks/rollout.py --check    # exit code 1 where a ratio or the difference misses its target

Both ways take turns, and of each the fastest repeat counts: what else the machine does slows single repeats down, and
never speeds one up.
"""

import argparse
import sys
import time

import torch

from emu2 import Emu2Config, Emu2ForConditionalGeneration

#: Prompt length in tokens -> how many times faster the cached roll-out must be.
TARGETS = {100: 8.0, 1000: 40.0}
#: Largest difference of any embedding value between the two ways.
TOLERANCE = 1e-4


def build_model(*, hidden_size: int, num_layers: int, num_query: int) -> Emu2ForConditionalGeneration:
    """A LLaMA of the given width with a small vision tower, which a prompt of text never calls."""
    torch.manual_seed(0)
    config = Emu2Config(
        vision_config={
            "hidden_size": 256,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": 128,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 1000,
            "hidden_size": hidden_size,
            "intermediate_size": 1376,  # LLaMA's ratio of 8/3, rounded up to a multiple of 32
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // 64,
            "num_key_value_heads": hidden_size // 64,
            "max_position_embeddings": 2048,
            "pad_token_id": 100,
        },
        num_query=num_query,
        num_video_query=num_query,
        pad_token_id=100,
        image_start_token_id=101,
        image_end_token_id=102,
        image_token_id=103,
        video_token_id=104,
    )
    model = Emu2ForConditionalGeneration(config).eval()
    # A fresh initialisation draws weights so small that the fed-back embeddings fade away and any two ways would agree.
    with torch.no_grad():
        model.model.project_up.weight.normal_(std=hidden_size**-0.5)
        model.model.project_down.weight.normal_(std=hidden_size**-0.5)
    return model


def measure(model: Emu2ForConditionalGeneration, prompt_length: int, repeats: int) -> tuple[float, float, float]:
    """Fastest seconds cached, fastest seconds recomputed, largest difference."""
    prompt = torch.randint(200, 1000, (1, prompt_length), generator=torch.Generator().manual_seed(prompt_length))
    prompt[0, -1] = model.config.image_start_token_id
    seconds: dict[bool, list[float]] = {True: [], False: []}
    embeddings = {}
    model.generate_visual(prompt[:, -8:], num_query=2)  # first calls set libraries up
    for _ in range(repeats):
        for use_cache in (True, False):
            # The short way gets more tries, so that neither has the better chance of a quiet moment.
            for _ in range(3 if use_cache else 1):
                start = time.perf_counter()
                embeddings[use_cache] = model.generate_visual(prompt, use_cache=use_cache)
                seconds[use_cache].append(time.perf_counter() - start)
    difference = (embeddings[True] - embeddings[False]).abs().max().item()
    return min(seconds[True]), min(seconds[False]), difference


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each prompt length")
    parser.add_argument("--embeddings", type=int, default=64, help="embeddings per picture")
    parser.add_argument("--prompts", type=int, nargs="+", default=sorted(TARGETS), help="prompt lengths in tokens")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = build_model(hidden_size=512, num_layers=8, num_query=options.embeddings)
    num_parameters = sum(p.numel() for p in model.model.language_model.parameters())
    print(
        f"language model: 8 layers, width 512, {num_parameters / 1e6:.1f} M parameters, float32; "
        f"{options.embeddings} embeddings; torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    print(f"{'prompt':>8} {'recompute s':>12} {'cached s':>10} {'ratio':>8} {'target':>8} {'max difference':>15}")
    missed = False
    for length in options.prompts:
        cached, recomputed, difference = measure(model, length, options.repeats)
        ratio, target = recomputed / cached, TARGETS.get(length)
        missed |= difference > TOLERANCE or (target is not None and ratio < target)
        shown = f"{target:.0f}x" if target is not None else "-"
        print(f"{length:>8} {recomputed:>12.2f} {cached:>10.3f} {ratio:>7.1f}x {shown:>8} {difference:>15.1e}")
    if missed:
        print(f"missed: every ratio must reach its target, every difference stay within {TOLERANCE:.0e}")
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
