"""What every recipe starts from: records, and a model from nothing or from a folder."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu2.data.records import Record
from emu2.data.settings import DataConfig, kind_of
from emu2.data.sources import EndlessSource, PooledSource, Source
from emu2.recipes.fresh import add_text_tower, add_video_decoder, fresh_whole
from emu2.train.config import RunConfig

if TYPE_CHECKING:
    from emu2.train.loop import RunSummary
    from emu2.train.whole import Whole

__all__ = ["fresh_whole", "open_sources", "quiet_libraries", "start_whole", "train", "world_sources", "world_tokenizer"]

#: Size -> records whose texts its tokeniser learns merges from, of the kind "text" and of every other kind, and the
#: size of its text vocabulary. The small world has few words; the whole one has the names of three thousand things.
_TOKENISERS = {"debug": (400, 400, 640), "nano": (4000, 250, 1536)}
#: Kinds whose words the small tokeniser learns; the whole world's knows all of them.
_SMALL_WORLD = ("pair", "text", "counting", "naming", "document")


def quiet_libraries() -> None:
    """Keep advice to programmers and progress bars of the libraries out of a program's own output."""
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()


def open_sources(data: DataConfig) -> dict[str, Source]:
    """Every name that `data` weighs, as a source: of files where `data.sources` says so, else of the emoji world.

    Raises:
        ValueError: no data found, an unknown or another format, or a kind that the world does not draw.
    """
    weighed = [name for name, weight in data.kinds.items() if weight > 0]
    drawn = [name for name in weighed if name not in data.sources]
    sources = world_sources(drawn_kinds(data, dict.fromkeys(drawn, 1.0))) if drawn else {}
    for name in weighed:
        if name in data.sources:
            sources[name] = _of_files(name, data)
    return {name: sources[name] for name in weighed}


def _of_files(name: str, data: DataConfig) -> Source:
    from emu2.data.readers import open_source

    try:
        source = open_source(data.sources[name], kind_of(name))
    except ValueError as error:
        raise ValueError(f"data.sources.{name}: {error}") from error
    return PooledSource(source, data.pool) if data.pool else source


def world_sources(data: DataConfig) -> dict[str, Source]:
    """Every kind that `data` weighs, as a source of the emoji world; pooled where the run asks for it."""
    from emu2.world import World, WorldConfig

    shared = {"image_size": data.image_size, "split": data.split, "concepts": data.concepts, **data.world}
    sources: dict[str, Source] = {}
    for name in data.kinds:
        settings: dict[str, Any] = {**shared, **data.worlds.get(name, {})}
        world = World(WorldConfig(kinds=[kind_of(name)], **settings))
        source: Source = EndlessSource(partial(_record, world, name))
        sources[name] = PooledSource(source, data.pool) if data.pool else source
    return sources


def _record(world: Any, name: str, index: int) -> Record:
    """A record of one of a run's names; two names of one kind, each with a world of its own, share no key."""
    record: Record = world.record(kind_of(name), index)
    return record if name == record.kind else replace(record, key=f"{name}-{record.key}")


def held_out(data: DataConfig) -> dict[str, Source] | None:
    """Records that no training step reads, for the kinds that the world draws; None where it draws none."""
    drawn = {name: weight for name, weight in data.kinds.items() if weight > 0 and name not in data.sources}
    if not drawn:
        return None
    return world_sources(replace(drawn_kinds(data, drawn), split=data.validation_split, pool=None))


def drawn_kinds(data: DataConfig, kinds: dict[str, float]) -> DataConfig:
    """The same data with other kinds, all of them drawn by the world."""
    worlds = {name: settings for name, settings in data.worlds.items() if name in kinds}
    return replace(data, kinds=kinds, sources={}, batch_sizes={}, worlds=worlds)


def world_tokenizer(data: DataConfig, size: str = "debug") -> Any:
    """A tokeniser of our own for the words of a world."""
    from emu2.processing.tokenizer import train_tokenizer
    from emu2.world.world import KINDS

    sentences, others, vocabulary = _TOKENISERS[size]
    kinds = dict.fromkeys(_SMALL_WORLD if size == "debug" else KINDS, 1.0)
    # The pictures are thrown away, so they may be tiny.
    words = replace(drawn_kinds(data, kinds), pool=None, image_size=16, mode="mixed", worlds={})
    texts = [
        segment
        for kind, source in world_sources(words).items()
        for index in range(sentences if kind == "text" else others)
        for segment in source[index].segments
        if isinstance(segment, str)
    ]
    return train_tokenizer(texts, vocabulary, chat=True)


def start_whole(config: RunConfig, model: str | Path | None) -> Whole:
    """The model a run starts from: a folder's, or a fresh one of `config.size`; with what its stage needs added.

    Raises:
        ValueError: the folder holds no Emu2, or another kind of one than the stage starts from; the size cannot start
            from nothing.
    """
    from emu2.recipes.checks import check_folder, check_start
    from emu2.train.unread import reads_in_pieces
    from emu2.train.whole import Whole

    if model is None:
        if config.size not in _TOKENISERS:
            return fresh_whole(config.size, None)  # says why not
        whole = fresh_whole(config.size, world_tokenizer(config.data, config.size), seed=config.seed)
    else:
        check_folder(model)
        in_pieces = reads_in_pieces(config, int(os.environ.get("WORLD_SIZE", "1")))
        whole = Whole.load(model, in_pieces=in_pieces)
        check_start(config, whole, str(model))
    return completed(config, whole)


def completed(config: RunConfig, whole: Whole) -> Whole:
    """The same model with what a stage needs beyond it: a fresh text tower or video decoder, chat's tokens, adapters.

    Raises:
        ValueError: no preset of a video decoder fits the model.
    """
    if config.objective == "contrastive" and whole.text_tower is None:
        add_text_tower(whole, seed=config.seed)
    if config.objective == "video_decoder" and whole.video_unet is None:
        add_video_decoder(whole, seed=config.seed)
    if config.objective == "chat":
        from emu2.model.vocabulary import add_chat_tokens

        add_chat_tokens(whole.model, whole.processor.tokenizer)
    if config.lora is not None:
        from emu2.model.adapters import add_lora

        lora = config.lora
        add_lora(whole.model, lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=config.seed)
    return whole


def train(
    config: RunConfig,
    out: str | Path,
    *,
    model: str | Path | None = None,
    whole: Whole | None = None,
    resume: bool = False,
    **trainer: Any,
) -> RunSummary:
    """Carry out one recipe.

    Args:
        config: of the run.
        out: the run's folder.
        model: folder to start from; None starts from nothing.
        whole: a model in memory to train in place, instead of `model`.
        resume: continue the run in `out`.
        trainer: further arguments of `Trainer`.
    """
    from emu2.train.loop import Trainer

    sources = open_sources(config.data)  # before the model: no data is found sooner than no memory
    whole = start_whole(config, model) if whole is None else whole
    if config.validate_every:
        trainer.setdefault("validation", held_out(config.data))
    return Trainer(config, whole, sources, out, **trainer).run(resume=resume)
