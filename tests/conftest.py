"""What all tests share: the recorded numbers of the published code, and a tiny model of real parts."""

import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

# No test asks a hub for anything; a name that is no folder is answered at once instead of after retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Tiny tensors gain nothing from threads, and tests run side by side.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with facts and recorded numbers; it lies beside a checkout, or where EMU2_SHARED says."""
    folder = Path(os.environ.get("EMU2_SHARED", ROOT.parent / "shared"))
    if not (folder / "parity" / "open").is_dir():
        pytest.skip(f"no recorded numbers of the published code at {folder}; set EMU2_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def parity_dir(shared_dir) -> Path:
    return shared_dir / "parity" / "open"


@pytest.fixture(scope="session")
def load_parity(parity_dir):
    """load_parity(group) -> (tensors, description): one group of recorded inputs and outputs."""

    def load(group: str) -> tuple[dict[str, torch.Tensor], dict]:
        tensors_file, json_file = parity_dir / f"{group}.safetensors", parity_dir / f"{group}.json"
        tensors = load_file(tensors_file) if tensors_file.exists() else {}
        return tensors, json.loads(json_file.read_text())

    return load


@pytest.fixture(scope="session")
def tiny_config():
    """Vision 32 wide, 2 blocks, 28-pixel pictures of 4x4 patches, 4 embeddings each; LLaMA 48 wide, 2 layers."""
    from emu2 import Emu2Config

    return Emu2Config(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 28,
            "patch_size": 7,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 400,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "pad_token_id": 100,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query=4,
        num_video_query=4,
        image_start_token_id=101,
        image_end_token_id=102,
        image_token_id=103,
        video_token_id=104,
        pad_token_id=100,
    )


@pytest.fixture
def tiny_model(tiny_config):
    """A seeded Emu2 of real parts, float32, in eval mode."""
    from emu2 import Emu2ForConditionalGeneration

    torch.manual_seed(0)
    return Emu2ForConditionalGeneration(tiny_config).eval()


@pytest.fixture
def opened(tmp_path):
    """opened(format, path, kind, ...): a source of records, the same after a trip through pickle."""

    def _opened(form, path, kind, **settings):
        paths = {name: str(settings.pop(name)) for name in ("images", "annotations") if name in settings}
        spec = {"format": form, "path": str(path), "cache": str(tmp_path / "cache"), **paths, **settings}
        from emu2.data.readers import open_source

        source = open_source(spec, kind)
        again = pickle.loads(pickle.dumps(source))
        assert again.fingerprint() == source.fingerprint()
        assert again.size == source.size
        return source

    return _opened
