"""The full-size listings of all six published layouts, against the recorded ones."""

import csv

import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from typer.testing import CliRunner

from emu2.convert.components import empty_unet
from emu2.convert.listing import LAYOUTS, format_shape, names, outgoing
from emu2.decoder.presets import unet_config

_FILES = {
    "native-base": "emu2.tsv",
    "native-chat": "emu2-chat.tsv",
    "native-gen": "emu2-gen.tsv",
    "hf-base": "hf-emu2.tsv",
    "hf-chat": "hf-emu2-chat.tsv",
    "hf-gen": "hf-emu2-gen.tsv",
}


def _rows(shared_dir, layout):
    path = shared_dir / "layout" / _FILES[layout]
    if not path.is_file():
        pytest.skip(f"no recorded layout at {path}")
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _name(row):
    return row.get("name") or row["hf_name"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_listing_equals_the_published_layout(layout, shared_dir):
    recorded = [(_name(row), row["shape"]) for row in _rows(shared_dir, layout) if row["kind"] == "param"]
    assert [(name, format_shape(shape)) for name, shape in names(layout)] == recorded


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotary_tables_stand_where_the_published_files_hold_them(layout, shared_dir):
    recorded = [_name(row) for row in _rows(shared_dir, layout)]
    assert [item.name for item in outgoing(layout)] == recorded


@pytest.mark.parametrize(("layout", "dtype_size"), [("hf-base", 4), ("hf-chat", 4), ("hf-gen", 2)])
def test_shards_are_cut_as_published(layout, dtype_size, shared_dir):
    rows = [row for row in _rows(shared_dir, layout) if "-of-" in row["file"]]
    recorded = {row["hf_name"]: row["file"].rpartition("/")[2] for row in rows}
    suffix = ".bin" if dtype_size == 4 else ".safetensors"
    stem = "pytorch_model" if dtype_size == 4 else "model.bf16"
    split = split_state_dict_into_shards_factory(
        {item.name: item for item in outgoing(layout)[: len(rows)]},
        get_storage_size=lambda item: item.info.numel * (dtype_size if item.is_parameter else 4),
        filename_pattern=f"{stem}{{suffix}}{suffix}",
        max_shard_size="10GB",
    )
    assert split.tensor_to_filename == recorded


def test_the_command_prints_the_listing():
    from emu2.cli.convert import app

    result = CliRunner().invoke(app, ["names", "--layout", "native-base"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0] == "visual.cls_token\t1x1x1792"
    assert len(lines) == 1381


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match=r"Unknown layout 'native-video'.*native-base.*hf-gen"):
        names("native-video")


def test_the_public_vision_tower_has_every_tensor_of_ours(shared_dir):
    path = shared_dir / "layout" / "evaclip-e-plus.tsv"
    with path.open(encoding="utf-8") as file:
        public = {row["name"]: row["shape"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    ours = {name: format_shape(shape) for name, shape in names("native-base") if name.startswith("visual.")}
    assert {name for name, shape in ours.items() if public.get(name) != shape} == {"visual.pos_embed"}
    unused = {name for name in public if name not in ours and not name.startswith(("text.", "logit_scale"))}
    assert unused == {"visual.norm.weight", "visual.norm.bias", "visual.head.weight", "visual.head.bias"}


def test_141_tensors_of_sdxl_change_shape():
    ours = {name: tuple(tensor.shape) for name, tensor in empty_unet().state_dict().items()}
    sdxl = empty_unet(
        {**unet_config("sdxl"), "cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 2816}
    )
    changed = [name for name, tensor in sdxl.state_dict().items() if tuple(tensor.shape) != ours[name]]
    assert len(changed) == 141
    assert [name for name in changed if ".attn2.to_" not in name] == ["add_embedding.linear_1.weight"]
    assert sum(tensor.numel() for tensor in sdxl.state_dict().values()) == 2_567_463_684
