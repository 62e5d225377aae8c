"""Records of files in training runs: every kind fits its objective, bad samples are counted, a changed list is told."""

import json
import random
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from helpers_readers import COLOURS, encoded, pair_members, tar_bytes, video, write
from helpers_train import run_config, tiny_whole, trainer

from emu2.data.readers import open_source
from emu2.recipes.start import open_sources
from emu2.train.objectives import objective_class

NOTE = {"caption": "red left, blue right", "ref_exps": [[0, 3, 0, 0, 0.5, 1, 1], [10, 14, 0.5, 0, 1, 1, 1]]}
TURNS = [
    {"from": "human", "value": "<image>\nleft?"},
    {"from": "gpt", "value": "red"},
    {"from": "human", "value": "right?"},
    {"from": "gpt", "value": "blue"},
]
DOCUMENT = {
    "text_list": ["red left", "blue right", "that is all"],
    "image_info": [
        {"image_name": f"{colour}.png", "matched_text_index": i} for i, colour in enumerate(("red", "blue"))
    ],
}
#: Kind of record -> (format, objectives that learn it).
FORMS = {
    "pair": ("webdataset", ("contrastive", "caption", "unified", "autoencoder", "decoder")),
    "text_to_image": ("webdataset", ("unified", "gen")),
    "video_pair": ("video2dataset", ("caption", "unified", "video_decoder")),
    "document": ("mmc4", ("unified",)),
    "grounded_pair": ("grit", ("unified",)),
    "text": ("text", ("language", "unified")),
    "chat": ("llava", ("chat",)),
    "grounded_generation": ("grit", ("gen",)),
    "composition": ("grit", ("gen",)),
    "edit": ("instructpix2pix", ("gen",)),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Format -> the spec of two records."""
    root = tmp_path_factory.mktemp("data")
    write(root / "pairs/0.tar", tar_bytes(pair_members(COLOURS)))
    write(
        root / "clips/0.tar",
        tar_bytes([("0.mp4", video(6)), ("0.txt", "it grows"), ("1.mp4", video(4)), ("1.txt", "so")]),
    )
    write(root / "docs/0.jsonl", [DOCUMENT] * 2)
    write(root / "docs/0.tar", tar_bytes((f"{colour}.png", encoded(colour)) for colour in COLOURS))
    write(
        root / "grit/0.tar",
        tar_bytes((f"{i}.{end}", data) for i in range(2) for end, data in (("png", encoded()), ("json", NOTE))),
    )
    write(root / "red.png", encoded())
    write(root / "chat.jsonl", [{"image": "red.png", "conversations": TURNS}] * 2)
    edit = {"original_image": "red.png", "edit_prompt": "blue", "edited_image": "red.png"}
    write(root / "edits.jsonl", [edit] * 2)
    prompt = ["a ", {"box": [0, 0, 8, 8], "phrase": "red", "image": "red.png"}, " left"]
    write(root / "prompts.jsonl", [{"prompt": prompt, "image": "red.png"}] * 2)
    write(root / "text.txt", "red left\nblue right\n")
    cache = str(root / "cache")
    paths = {
        "webdataset": "pairs",
        "video2dataset": "clips",
        "mmc4": "docs/0.jsonl",
        "grit": "grit",
        "llava": "chat.jsonl",
        "instructpix2pix": "edits.jsonl",
        "generation": "prompts.jsonl",
        "text": "text.txt",
    }
    specs = {form: {"format": form, "path": str(root / path), "cache": cache} for form, path in paths.items()}
    specs["mmc4"]["images"] = str(root / "docs")
    specs["text"]["unit"] = "line"
    return specs


def roomy_whole():
    """System messages take some eighty tokens of the tiny tokeniser."""
    whole = tiny_whole()
    whole.model.config.text_config.max_position_embeddings = 512
    return whole


CASES = [(kind, form, name) for kind, (form, names) in FORMS.items() for name in names]


@pytest.mark.parametrize(("kind", "form", "name"), [*CASES, ("composition", "generation", "gen")])
def test_records_fit_their_objective(sources, kind, form, name):
    config = run_config(name)
    config = replace(config, data=replace(config.data, max_length=400, kinds={kind: 1.0}))
    objective = objective_class(name)(roomy_whole(), config, torch.device("cpu"))
    source = open_source(sources[form], kind)
    samples = [objective.sample(source[index], random.Random(index)) for index in range(2)]
    assert objective.collate(samples, [source[index].key for index in range(2)])


def test_urls_give_the_records_that_files_give(sources, tmp_path):
    root = Path(sources["llava"]["path"]).parent
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/mirror", recursive=True)
    for kind, (form, _) in FORMS.items():
        spec = sources[form]
        there = {name: value.replace(str(root), "memory://mirror") for name, value in spec.items()}
        near, far = open_source(spec, kind), open_source({**there, "cache": str(tmp_path)}, kind)
        assert far.fingerprint() == near.fingerprint()
        for index in range(near.size):
            assert far[index].key == near[index].key
            assert far[index].segments == near[index].segments
    write(root / "own/a.png", encoded())
    write(root / "own/a.txt", "mine")
    memory.put(str(root / "own"), "/own", recursive=True)
    assert open_source({"format": "folder", "path": "memory://own"}, "pair")[0].segments[1] == "mine"


def test_a_run_on_files_counts_what_is_bad_by_cause(tmp_path):
    jpeg = encoded(size=(300, 300), form="JPEG")
    bad = [
        *[("90.jpg", jpeg[:900]), ("90.txt", "truncated")],
        *[("91.png", encoded())],
        *[("92.gif", b"GIF89a" + bytes(7) + b";"), ("92.txt", "no pixels")],
        *[("93.png", encoded()), ("93.txt", b"caf\xe9")],
        *[("94.png", encoded()), ("94.txt", "red left " * 40)],
        *[("95.png", encoded()), ("95.txt", "its header is damaged")],
    ]
    pairs = bytearray(tar_bytes([*bad, *pair_members([*COLOURS, *COLOURS, *COLOURS])]))
    header = pairs.index(b"95.png")
    pairs[header : header + 512] = b"\xff" * 512
    clips = tar_bytes([("0.mp4", video(6)), ("0.txt", "red"), ("1.mp4", video(6)[:400]), ("1.txt", "red")])
    data = {"pair": ("webdataset", bytes(pairs)), "video_pair": ("video2dataset", clips)}
    specs = {
        kind: {"format": form, "path": str(write(tmp_path / kind / "0.tar", content)), "cache": str(tmp_path / "cache")}
        for kind, (form, content) in data.items()
    }
    config = run_config("caption", steps=18, max_bad_share=0.9)
    config = replace(config, data=replace(config.data, kinds={"pair": 5.0, "video_pair": 1.0}, sources=specs))
    summary = trainer(config, tmp_path / "run", sources=open_sources(config.data)).run()
    causes = {cause.partition(": ")[2] if "max_length" not in cause else "too long" for cause in summary.bad}
    assert causes == {
        "truncated or broken picture",
        "missing caption",
        "zero-size picture",
        "text is not UTF-8",
        "too long",
        "corrupt tar member",
        "missing picture",  # of the caption whose picture's header is damaged
        "unreadable video",
    }
    assert set(json.loads((tmp_path / "run" / "summary.json").read_text())["bad"]) == set(summary.bad)


def test_a_run_is_not_resumed_on_another_shard_list(tmp_path):
    shards = tmp_path / "pairs"
    write(shards / "0.tar", tar_bytes(pair_members(COLOURS)))
    spec = {"format": "webdataset", "path": str(shards), "cache": str(tmp_path / "cache")}
    config = run_config("caption", steps=2)
    config = replace(config, data=replace(config.data, sources={"pair": spec}))
    trainer(config, tmp_path / "run", sources=open_sources(config.data)).run()
    write(shards / "1.tar", tar_bytes(pair_members(COLOURS, 4)))
    with pytest.raises(ValueError, match="data of kind 'pair' changed since the checkpoint"):
        trainer(config, tmp_path / "run", sources=open_sources(config.data)).run(resume=True)
