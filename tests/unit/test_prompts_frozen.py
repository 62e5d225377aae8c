"""Prompts are frozen: a trained model has learned these very words, and asks for them when it is used."""

import json

import pytest
from helpers_prompts import FILE, names, processor, prompts


@pytest.fixture(scope="module")
def shown():
    return prompts(processor())


def test_the_snapshot_holds_every_kind():
    assert list(json.loads(FILE.read_text(encoding="utf-8"))) == names()


@pytest.mark.parametrize("name", names())
def test_prompts_are_those_of_the_snapshot(shown, name):
    assert shown[name] == json.loads(FILE.read_text(encoding="utf-8"))[name]
