"""Host memory and time of loading published checkpoints.

Writes a synthetic checkpoint of about 100 million parameters in the published forms, several shards each, then loads
each in a process of its own and measures how far that process' resident memory, memory-mapped files included, rises
above where it stood before. The bound is the model where it must live, plus 1.3 times the largest shard:

    python benchmarks/loading.py            # a table
    python benchmarks/loading.py --check    # exit code 1 where the bound is missed

Linux only: the peak is read from /proc and reset there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The promise: peak <= model + FACTOR * largest shard.
FACTOR = 1.3
#: Form on disk, and the dtype asked for.
CASES = (
    ("hf-base", "float32"),
    ("hf-base", "bfloat16"),
    ("hf-gen-encoder", "bfloat16"),
    ("ours", "float32"),
    ("native-bin", "bfloat16"),
    ("native-safetensors", "bfloat16"),
    ("convert", "bfloat16"),
)


def build_config(layers: int):
    """A LLaMA of width 1024 with a small tower; 12.8 million parameters per layer."""
    from emu2 import Emu2Config

    return Emu2Config(
        vision_config={
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "image_size": 128,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 8000,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "max_position_embeddings": 512,
            "pad_token_id": 7000,
        },
        pad_token_id=7000,
    )


def write_checkpoints(folder: Path, *, layers: int, max_shard_size: str) -> None:
    """The same random weights in every form that is measured."""
    import torch

    from emu2 import Emu2ForConditionalGeneration
    from emu2.convert import save_native, save_published
    from emu2.convert.writing import outgoing_of_model, write_shards
    from emu2.model.published_config import config_to_published

    torch.manual_seed(0)
    model = Emu2ForConditionalGeneration(build_config(layers))
    save_published(model, folder / "hf-base", "hf-base", max_shard_size=max_shard_size)
    model.save_pretrained(folder / "ours", max_shard_size=max_shard_size)
    model.to(torch.bfloat16)
    encoder = folder / "hf-gen-encoder"
    encoder.mkdir()
    fields = config_to_published(model.config, version="base", dtype=torch.bfloat16)
    (encoder / "config.json").write_text(json.dumps(fields))
    write_shards(
        outgoing_of_model(model, "hf"),
        encoder,
        "model.bf16{suffix}.safetensors",
        index_names=("model.safetensors.index.json",),
        max_shard_size=max_shard_size,
    )
    save_native(model, folder / "native.bin", "base")
    save_native(model, folder / "native.safetensors", "base")


def status(field: str) -> int:
    """A size of this process from /proc, in bytes: VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux.")


def measure(folder: Path, form: str, dtype: str, layers: int) -> dict:
    """Load once in this process. Everything is imported, and the allocator warm, before the measurement starts."""
    import torch
    from transformers.utils import logging

    from emu2 import Emu2ForConditionalGeneration
    from emu2.convert import load_native, to_ours

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = build_config(layers)
    warm = build_config(1)
    warm.text_config.hidden_size, warm.text_config.intermediate_size = 64, 64
    with tempfile.TemporaryDirectory() as small:
        Emu2ForConditionalGeneration(warm).save_pretrained(small)
        Emu2ForConditionalGeneration.from_pretrained(small, dtype=torch.bfloat16)

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before, start = status("VmRSS"), time.perf_counter()
    if form == "convert":
        with tempfile.TemporaryDirectory(dir=folder) as target:
            to_ours(folder / "hf-base", target, dtype=dtype, max_shard_size="50MB")
        held, shard = 0, max(path.stat().st_size for path in (folder / "hf-base").glob("*.bin")) + 50_000_000
    else:
        if form.startswith("native"):
            file = folder / f"native.{form.removeprefix('native-')}"
            model = load_native(file, config=config, dtype=dtype)
            shards = [file]
        else:
            model = Emu2ForConditionalGeneration.from_pretrained(folder / form, dtype=dtype)
            shards = [*(folder / form).glob("*.bin"), *(folder / form).glob("*.safetensors")]
        held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        shard = max(path.stat().st_size for path in shards)
    return {
        "form": form,
        "dtype": dtype,
        "seconds": time.perf_counter() - start,
        "rise": status("VmHWM") - before,
        "model": held,
        "shard": shard,
        "bound": held + int(FACTOR * shard),
    }


def run(*, layers: int = 6, max_shard_size: str = "50MB", cases=CASES) -> list[dict]:
    """All measurements, each in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--folder", name, "--layers", str(layers)]
        call = [sys.executable, __file__, *options]
        subprocess.run([*call, "--write", max_shard_size], check=True, stderr=subprocess.DEVNULL)
        assert (folder / "native.bin").is_file()
        results = []
        for form, dtype in cases:
            done = subprocess.run([*call, "--measure", form, dtype], check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
        return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit code 1 where the bound is missed")
    parser.add_argument("--layers", type=int, default=6, help="of the language model")
    parser.add_argument("--max-shard-size", default="50MB")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_checkpoints(arguments.folder, layers=arguments.layers, max_shard_size=arguments.write)
        return 0
    if arguments.measure:
        print(json.dumps(measure(arguments.folder, *arguments.measure, arguments.layers)))
        return 0
    results = run(layers=arguments.layers, max_shard_size=arguments.max_shard_size)
    print(f"{'form':20} {'dtype':9} {'model':>7} {'shard':>7} {'peak':>7} {'bound':>7}  MiB    seconds")
    missed = False
    for row in results:
        sizes = " ".join(f"{row[key] / 2**20:7.0f}" for key in ("model", "shard", "rise", "bound"))
        missed |= row["rise"] > row["bound"]
        print(
            f"{row['form']:20} {row['dtype']:9} {sizes}  {'' if row['rise'] <= row['bound'] else 'MISSED':6} "
            f"{row['seconds']:6.1f}"
        )
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
