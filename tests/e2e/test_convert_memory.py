"""Loading a sharded checkpoint holds the model and little more than one shard."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SLACK = 16 * 2**20  # what a Python process may come to hold on the way, whatever it loads


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_peak_memory_stays_within_the_model_and_a_shard():
    path = Path(__file__).parents[2] / "benchmarks" / "loading.py"
    spec = importlib.util.spec_from_file_location("loading", path)
    loading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loading)
    for row in loading.run(layers=4, cases=(("hf-base", "bfloat16"), ("hf-gen-encoder", "bfloat16"))):
        assert row["shard"] < row["model"] / 2, row
        assert row["rise"] <= row["bound"] + _SLACK, row
