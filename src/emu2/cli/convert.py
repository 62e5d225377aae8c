"""`emu2 convert`: published checkpoints and public parts <-> our folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emu2.cli.common import ForceOption, JsonOption, bad_usage, console, write_json

if TYPE_CHECKING:
    import torch

HELP = """Convert published checkpoints, and build a fresh model from public parts.

[bold]Examples[/bold]

  emu2 convert load Emu2-Chat_pytorch_model.bf16.bin my-chat --tokenizer Emu2-Gen/tokenizer

  emu2 convert to-native my-chat Emu2-Chat.safetensors --variant chat

  emu2 convert parts my-start --vision EVA02_CLIP_E_psz14_plus_s9B.pt --llama llama-30b --decoder sdxl-base

  emu2 convert names --layout native-gen
"""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=HELP)

_Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.  \\[default: as stored]")]
_Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="FOLDER", help="A folder with a tokeniser, saved with the model."),
]
_Device = Annotated[str, typer.Option("--device", help="Where the model is built on the way.")]


@app.command("names")
def names_command(
    layout: Annotated[
        str, typer.Option("--layout", help="native-base, native-chat, native-gen, hf-base, hf-chat or hf-gen.")
    ],
) -> None:
    """Print every parameter's name and shape in a published layout at full size, tab-separated.

    Needs no weights, no memory, and about a second.
    """
    from emu2.convert.listing import format_shape, names

    sys.stdout.writelines(f"{name}\t{format_shape(shape)}\n" for name, shape in names(layout))


@app.command("load")
def load_command(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A native file or a published folder.")],
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where our folder is written.")],
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="base, chat or gen, for a native file.  \\[default: recognised by its names]"),
    ] = None,
    dtype: _Dtype = None,
    tokenizer: _Tokenizer = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Of the written files.")] = "5GB",
    skip_check: Annotated[bool, typer.Option("--no-check-finite", help="Also take NaN and infinity.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a published checkpoint into a folder of ours, from disk to disk (one shard in memory at a time)."""
    from emu2.convert.folder_info import inspect
    from emu2.convert.native import check_variant
    from emu2.convert.ours import to_ours

    _check_output(output, force)
    target = _dtype(dtype)
    if variant is not None:
        with bad_usage("--variant"):
            check_variant(variant)
    kind = to_ours(
        source,
        output,
        variant=variant,
        dtype=target,
        max_shard_size=max_shard_size,
        check_finite=not skip_check,
    )
    if tokenizer is not None:
        _save_processor(tokenizer, output)
    info = inspect(output)
    if as_json:
        write_json(source=str(source), kind=kind, folder=str(output), parameters=info.parameters, missing=info.missing)
        return
    console().print(f"{source} ({kind}) -> {output}: {info.parameters:,} parameters.", highlight=False)
    if info.missing:
        console().print(f"Still missing: {', '.join(info.missing)}.", highlight=False)


@app.command("to-native")
def to_native_command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of ours, or a published one.")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .safetensors, or .bin for a torch file.")],
    variant: Annotated[str, typer.Option("--variant", help="base, chat or gen (the whole pipeline).")],
    dtype: _Dtype = None,
    force: ForceOption = False,
) -> None:
    """Write the native file that the published code loads. The model passes through memory."""
    from emu2.convert.native import check_variant, save_native
    from emu2.convert.writing import check_suffix

    with bad_usage("--variant"):
        check_variant(variant)
    with bad_usage("FILE"):
        check_suffix(output)
    if output.exists() and not force:
        raise typer.BadParameter(f"{output} exists; give another name, or --force to overwrite it.")
    save_native(_load(source, _dtype(dtype), pipeline=variant == "gen"), output, variant)  # type: ignore[arg-type]
    console().print(f"{source} -> {output}", highlight=False)


@app.command("to-hf")
def to_hf_command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of ours.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to write.")],
    layout: Annotated[str, typer.Option("--layout", help="hf-base, hf-chat or hf-gen (the whole pipeline).")],
    dtype: _Dtype = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="10GB as published.")] = "10GB",
    force: ForceOption = False,
) -> None:
    """Write a folder in a published Hugging Face form. The model passes through memory."""
    from emu2.convert.published import check_layout, save_published

    with bad_usage("--layout"):
        check_layout(layout)
    _check_output(output, force)
    target = _dtype(dtype)
    loaded = _load(source, target, pipeline=layout == "hf-gen")
    save_published(loaded, output, layout, dtype=target, max_shard_size=max_shard_size)  # type: ignore[arg-type]
    console().print(f"{source} -> {output}", highlight=False)
    if layout != "hf-gen":
        console().print(
            "The tokeniser and the Python files of the published folder are not part of it.", highlight=False
        )


@app.command("merge")
def merge_command(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The 'adapter' folder of a run.")],
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the merged model is written.")],
    dtype: _Dtype = None,
    force: ForceOption = False,
) -> None:
    """Merge an adapter into its model for good. The model passes through memory."""
    from emu2.inference.adapted import apply_adapter
    from emu2.model.adapters import fold_adapter
    from emu2.train.whole import Whole

    _check_output(output, force)
    whole = Whole.load(source, _dtype(dtype) or _stored_dtype(source))
    apply_adapter(whole.model, whole.processor, adapter)
    fold_adapter(whole.model)
    whole.save(output)
    console().print(f"{source} + {adapter} -> {output}", highlight=False)


@app.command("parts")
def parts_command(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the fresh model is written.")],
    vision: Annotated[Path, typer.Option("--vision", help="EVA-02-CLIP-E-plus: .pt, open_clip or timm weights.")],
    llama: Annotated[Path, typer.Option("--llama", help="A folder of LLaMA, or of another causal language model.")],
    decoder: Annotated[
        Path | None, typer.Option("--decoder", help="A Stable Diffusion XL folder (unet/ and vae/).")
    ] = None,
    image_size: Annotated[int, typer.Option("--image-size", help="Side of the pictures, in pixels.")] = 448,
    num_query: Annotated[int, typer.Option("--num-query", help="Embeddings a picture takes.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Also add the tokens of the chat vocabulary.")] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    device: _Device = "cpu",
    tokenizer: _Tokenizer = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that starts fresh.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build an untrained Emu2 out of EVA-02-CLIP-E-plus, a LLaMA and, if given, SDXL."""
    from emu2.convert.parts import from_parts

    _check_output(output, force)
    fresh = from_parts(
        vision=vision,
        language_model=llama,
        decoder=decoder,
        image_size=image_size,
        num_query=num_query,
        chat=chat,
        dtype=_dtype(dtype) or dtype,
        device=device,
        seed=seed,
    )
    fresh.save(output, _processor(tokenizer, fresh.model.config) if tokenizer is not None else None)
    if as_json:
        fields = ("copied", "resized", "fresh", "unused")
        report = {
            part: {"source": entry.source, **{name: len(getattr(entry, name)) for name in fields}}
            for part, entry in fresh.report.items()
        }
        write_json(folder=str(output), report=report)
        return
    for part, entry in fresh.report.items():
        console().print(f"{part}: {entry}", highlight=False)
    console().print(f"-> {output}", highlight=False)


def _stored_dtype(folder: Path) -> "torch.dtype":
    """The dtype that a model folder was saved in, as its configuration says; float32 where it says nothing."""
    import json

    from emu2.model.runtime import resolve_dtype

    nested = folder / "multimodal_encoder" / "config.json"
    file = nested if nested.is_file() else folder / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return resolve_dtype(settings.get("dtype") or settings.get("torch_dtype") or "float32")


def _check_output(folder: Path, force: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise typer.BadParameter(f"{folder} exists and is not empty; give another name, or --force to write into it.")


def _dtype(name: str | None) -> "torch.dtype | None":
    from emu2.model.runtime import resolve_dtype

    if name is None:
        return None
    with bad_usage("--dtype"):
        return resolve_dtype(name)


def _load(source: Path, dtype: "torch.dtype | None", *, pipeline: bool) -> Any:
    """The model or pipeline in `source`, in the stored dtype unless one is given."""
    from emu2.convert.folder_info import recognise
    from emu2.convert.published import load_published

    kind = recognise(source)
    if (kind in ("emu2-pipeline", "hf-gen")) != pipeline:
        wanted = "a pipeline folder (Emu2-Gen's form)" if pipeline else "a model folder"
        raise typer.BadParameter(f"{source} is {kind!r}; this needs {wanted}.")
    if kind == "emu2-pipeline":
        from emu2 import Emu2ForConditionalGeneration, Emu2ImagePipeline

        encoder = Emu2ForConditionalGeneration.from_pretrained(source / "multimodal_encoder", dtype=dtype)
        return Emu2ImagePipeline.from_pretrained(source, multimodal_encoder=encoder, dtype=encoder.dtype)
    if kind == "emu2":
        from emu2 import Emu2ForConditionalGeneration

        return Emu2ForConditionalGeneration.from_pretrained(source, dtype=dtype)
    if kind.startswith("hf-"):
        return load_published(source, dtype=dtype)
    raise typer.BadParameter(f"{source} is {kind!r}, which cannot be written in a published form.")


def _processor(tokenizer: Path, config: Any) -> Any:
    from emu2.convert.ours import processor_for

    with bad_usage("--tokenizer"):
        return processor_for(tokenizer, config)


def _save_processor(tokenizer: Path, output: Path) -> None:
    """Put the processor where a model or a pipeline folder holds it."""
    from emu2 import Emu2Config

    is_pipeline = (output / "model_index.json").is_file()
    config = Emu2Config.from_pretrained(output / "multimodal_encoder" if is_pipeline else output)
    _processor(tokenizer, config).save_pretrained(output / "processor" if is_pipeline else output)
