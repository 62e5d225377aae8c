"""Our own small goldens: the numbers this repository's network gave when it was last equal to the published code."""

import json

import torch
from helpers_golden import FILE, network_numbers


def test_network_numbers_are_those_of_the_golden_file(tiny_model):
    want = json.loads(FILE.read_text())
    got = network_numbers(tiny_model)
    assert got.keys() == want.keys()
    for name, values in want.items():
        if name in ("greedy", "beams"):
            assert got[name] == values, name
        else:
            torch.testing.assert_close(
                torch.tensor(got[name]), torch.tensor(values), atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
