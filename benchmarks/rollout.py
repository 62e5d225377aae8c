"""How much the key-value cache saves when a picture is written.

The published code runs the whole sequence anew for each of the 64 embeddings of a picture; `generate_visual` keeps
keys and values, and `use_cache=False` is the published way. Both run here on the same weights and prompts:

    python benchmarks/rollout.py            # the language model is 8 layers of width 512; one thread
    python benchmarks/rollout.py --check    # exit code 1 where a ratio or the difference misses its target

Recomputation is timed in two forms: with attention written out as matrix products and a softmax, which is what the
published code's library did ("published"), and with the fused attention that this package uses ("fused"). Targets are
for the published form.

The last column, "limit", is the ratio that a step made of nothing but its matrix-vector products would give, with the
same first pass over the prompt: what this machine's memory and its BLAS library allow in float32, whatever the code
around them. After a short prompt the ratio is close to that limit, so a target above it cannot be met there.

Times are CPU seconds of the process, so that other programs on the machine count little. One thread is the default,
because a step is a matrix times a vector, bound by memory, which two threads do not do faster.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

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


@dataclass
class Result:
    """CPU seconds of the three ways, and the largest difference of any value between cached and recomputed.

    bare: CPU seconds of a cached roll-out whose steps are matrix-vector products alone.
    """

    published: float
    fused: float
    cached: float
    bare: float
    difference: float


def bare_seconds(model: Emu2ForConditionalGeneration, prompt: Tensor, steps: int) -> float:
    """The first pass over the prompt, and then each step's matrix-vector products and nothing else."""
    language_model = model.model.language_model
    weights = [module.weight for module in language_model.modules() if isinstance(module, torch.nn.Linear)]
    vectors = {weight.shape[1]: torch.ones(weight.shape[1]) for weight in weights}
    embeds = model.embed_inputs(prompt)
    start = time.process_time()
    with torch.inference_mode():
        language_model(inputs_embeds=embeds, use_cache=True)
        for _ in range(steps - 1):
            for weight in weights:
                torch.mv(weight, vectors[weight.shape[1]])
    return time.process_time() - start


def measure(model: Emu2ForConditionalGeneration, prompt_length: int, repeats: int) -> Result:
    """Write one picture after a prompt of text in all three ways."""
    prompt = torch.randint(200, 1000, (1, prompt_length), generator=torch.Generator().manual_seed(prompt_length))
    prompt[0, -1] = model.config.image_start_token_id
    language_model = model.model.language_model

    def write(use_cache: bool, attention: str) -> tuple[float, Tensor]:
        language_model.set_attn_implementation(attention)
        start = time.process_time()
        embeddings = model.generate_visual(prompt, use_cache=use_cache)
        return time.process_time() - start, embeddings

    model.generate_visual(prompt[:, -8:], num_query=2)  # the first call sets libraries up
    before = [write(True, "sdpa") for _ in range(repeats)]
    published, published_embeddings = write(False, "eager")
    fused, fused_embeddings = write(False, "sdpa")
    after = [write(True, "sdpa") for _ in range(repeats)]
    cached_embeddings = after[-1][1]
    bare = statistics.median(bare_seconds(model, prompt, cached_embeddings.shape[1]) for _ in range(repeats))
    return Result(
        published=published,
        fused=fused,
        cached=statistics.median(seconds for seconds, _ in before + after),
        bare=bare,
        difference=max(
            (cached_embeddings - other).abs().max().item() for other in (published_embeddings, fused_embeddings)
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--repeats", type=int, default=3, help="cached roll-outs before and after the others")
    parser.add_argument("--embeddings", type=int, default=64, help="embeddings per picture, a square number")
    parser.add_argument("--prompts", type=int, nargs="+", default=sorted(TARGETS), help="prompt lengths in tokens")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = build_model(hidden_size=512, num_layers=8, num_query=options.embeddings)
    num_parameters = sum(p.numel() for p in model.model.language_model.parameters())
    print(
        f"language model: 8 layers, width 512, {num_parameters / 1e6:.1f} M parameters, float32; "
        f"{options.embeddings} embeddings; torch {torch.__version__}, threads: {torch.get_num_threads()}; CPU seconds"
    )
    print(
        f"{'prompt':>7} {'published':>10} {'fused':>8} {'cached':>8} {'ratio':>8} {'target':>7} "
        f"{'fused ratio':>12} {'difference':>11} {'limit':>8}"
    )
    missed = False
    for length in options.prompts:
        result = measure(model, length, options.repeats)
        ratio, target = result.published / result.cached, TARGETS.get(length)
        missed |= result.difference > TOLERANCE or (target is not None and ratio < target)
        print(
            f"{length:>7} {result.published:>10.2f} {result.fused:>8.2f} {result.cached:>8.3f} {ratio:>7.1f}x "
            f"{'-' if target is None else f'{target:.0f}x':>7} {result.fused / result.cached:>11.1f}x "
            f"{result.difference:>11.1e} {result.published / result.bare:>7.1f}x",
            flush=True,
        )
    if missed:
        print(f"missed: every ratio must reach its target, every difference stay within {TOLERANCE:.0e}")
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
