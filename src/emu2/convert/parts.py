"""A fresh Emu2 from public parts: EVA-02-CLIP-E-plus, a LLaMA, and SDXL for the image decoder.

What has no public counterpart starts fresh, seeded: the bridge, the rows of the new tokens (mean of the old rows; how
the authors initialised theirs is not published), and the U-Net weights whose input width changes. A report says of
every tensor whether it was copied, resized, made fresh or left unused.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from emu2 import tokens
from emu2.configuration import Emu2Config
from emu2.convert.native import build_pipeline
from emu2.convert.report import PartReport
from emu2.convert.sdxl import build_decoder
from emu2.model.eva import resize_pos_embed
from emu2.model.key_map import ReadingPlan
from emu2.model.pretrained import check_finite as refuse_non_finite
from emu2.model.pretrained import load_weights, meta_model
from emu2.model.published_config import special_token_ids
from emu2.model.runtime import resolve_device, resolve_dtype
from emu2.model.weight_files import Checkpoint, open_checkpoint

#: Where the tower's names begin: BAAI's EVA-CLIP, open_clip, timm.
_TOWER_PREFIXES = ("visual.", "visual.trunk.", "")
#: What such files hold beside the tower's blocks. Emu2 reads the last block's output, without norm or head.
_TOWER_UNUSED = ("norm.", "fc_norm.", "head.")
_CLIP_UNUSED = ("text.", "logit_scale", "logit_bias", "visual.head.")
#: Head size of EVA-02-CLIP-E-plus; its files do not say it.
_EVA_HEAD_SIZE = 112


@dataclass
class FreshEmu2:
    """The result of `from_parts`: the model, the decoder's parts if there are any, and the report by part."""

    model: Any
    report: dict[str, PartReport]
    unet: Any = None
    vae: Any = None
    scheduler_config: dict[str, Any] | None = None

    def pipeline(self, processor: Any = None) -> Any:
        """An `Emu2ImagePipeline` of it all. Raises ValueError when no decoder was given."""
        if self.unet is None:
            raise ValueError("There is no image decoder: call from_parts with decoder=<SDXL folder>.")
        return build_pipeline(self.model, self.unet, self.vae, self.scheduler_config, processor)

    def save(self, folder: str | Path, processor: Any = None) -> None:
        """Write a model folder, or a pipeline folder when there is a decoder."""
        (self.model if self.unet is None else self.pipeline(processor)).save_pretrained(folder)
        if processor is not None and self.unet is None:
            processor.save_pretrained(folder)


def from_parts(
    *,
    vision: str | Path | None = None,
    language_model: str | Path | None = None,
    decoder: str | Path | None = None,
    config: Emu2Config | None = None,
    image_size: int = 448,
    num_query: int = 64,
    num_video_query: int = 64,
    chat: bool = False,
    dtype: str | torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    seed: int = 0,
    check_finite: bool = True,
) -> FreshEmu2:
    """Build an untrained Emu2 out of public checkpoints.

    Args:
        vision: EVA-02-CLIP-E-plus: BAAI's `.pt` (bare or wrapped), open_clip's or timm's file, or its folder. None
            starts the tower fresh.
        language_model: a folder with config.json and weights of LLaMA, or of another transformers causal language
            model. None starts it fresh.
        decoder: a Stable Diffusion XL folder (`unet/`, `vae/`). None makes no decoder.
        config: the whole configuration. None derives it from the parts and the arguments below; both `vision` and
            `language_model` are needed then.
        image_size: side of the pictures; the tower's position embeddings are resized to it (published: 224 -> 448).
        num_query, num_video_query: embeddings of a still and of a frame.
        chat: also add the tokens of the chat vocabulary.
        dtype, device: of the result.
        seed: of everything fresh.
        check_finite: refuse NaN and infinity.

    Returns:
        `FreshEmu2` with `.model`, `.unet`, `.vae` and `.report`.

    Raises:
        FileNotFoundError, ValueError: a part is missing, damaged or of another architecture; tensors are named.
    """
    from emu2.model.modeling_emu2 import Emu2ForConditionalGeneration

    if config is None and (vision is None or language_model is None):
        raise ValueError("Without config, both vision and language_model are needed to derive it.")
    tower = _Tower(vision) if vision is not None else None
    text = _LanguageModel(language_model) if language_model is not None else None
    if config is None:
        assert tower is not None
        assert text is not None
        added = len(tokens.special_tokens(chat=chat))
        config = Emu2Config(
            vision_config=tower.vision_config(image_size),
            text_config={**text.fields, "vocab_size": text.rows + added, "pad_token_id": text.rows},
            num_query=num_query,
            num_video_query=num_video_query,
            **special_token_ids(text.rows),
        )
    config = copy.deepcopy(config)
    target, place = resolve_dtype(dtype), resolve_device(device or "cpu")

    made: dict[str, _Made] = {}
    report = {"vision tower": PartReport(None if vision is None else str(vision)), "language model": PartReport(None)}
    if tower is not None:
        made.update(tower.tensors(config, report["vision tower"], finite=check_finite))
    if text is not None:
        report["language model"].source = str(language_model)
        made.update(text.tensors(config, report["language model"], finite=check_finite))
    wanted = list(meta_model(Emu2ForConditionalGeneration, config).state_dict())
    fresh = _fresh_names(wanted, report, has_tower=tower is not None, has_text=text is not None)
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        model = load_weights(
            Emu2ForConditionalGeneration,
            config,
            Checkpoint("the given parts", []),
            ReadingPlan("ours"),
            dtype=target,
            made=made,
            fresh=fresh,
            device_map={"": place},
        )
    result = FreshEmu2(model, report)
    if decoder is not None:
        result.unet, result.vae, result.scheduler_config, decoder_report = build_decoder(
            Path(decoder),
            config.vision_config.hidden_size,
            dtype=target,
            device=place,
            seed=seed,
            check_finite=check_finite,
        )
        report.update(decoder_report)
    return result


class _Made:
    """A tensor made when it is asked for, in the form transformers' loader takes (see `LazyTensor`)."""

    def __init__(self, shape: tuple[int, ...], make: Callable[[], Tensor]):
        self.shape = shape
        self.make = make

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return "F32"

    def __getitem__(self, index: Any) -> Tensor:
        return self.make()[index].clone()


def _read(checkpoint: Checkpoint, name: str, *, finite: bool) -> Tensor:
    tensor = checkpoint.read(name)
    if finite:
        refuse_non_finite(name, tensor, checkpoint.source)
    return tensor


def _fresh_names(wanted: list[str], report: dict[str, PartReport], *, has_tower: bool, has_text: bool) -> list[str]:
    """Tensors without a source, entered in the report."""
    report["bridge"] = PartReport(None, fresh=[name for name in wanted if name.startswith("model.project_")])
    fresh = list(report["bridge"].fresh)
    for part, given in (("vision tower", has_tower), ("language model", has_text)):
        if not given:
            is_vision = part == "vision tower"
            report[part].fresh = [
                name
                for name in wanted
                if name.startswith("model.visual.") == is_vision and not name.startswith("model.project_")
            ]
            fresh += report[part].fresh
    return fresh


class _Tower:
    """The vision tower of an EVA-CLIP file, whichever of three namings it is in."""

    def __init__(self, source: str | Path):
        self.checkpoint = open_checkpoint(source)
        infos = self.checkpoint.infos
        prefix = next((prefix for prefix in _TOWER_PREFIXES if prefix + "cls_token" in infos), None)
        if prefix is None:
            raise ValueError(
                f"{source} holds no EVA-CLIP vision tower: looked for cls_token, visual.cls_token and "
                f"visual.trunk.cls_token among its {len(infos)} tensors."
            )
        self.prefix = prefix
        self.unused = [
            name
            for name in infos
            if name.startswith(_CLIP_UNUSED)
            or (name.startswith(prefix) and name[len(prefix) :].startswith(_TOWER_UNUSED))
        ]
        unused = set(self.unused)
        self.names = {name[len(prefix) :]: name for name in infos if name.startswith(prefix) and name not in unused}
        strange = [name for name in infos if not name.startswith(prefix) and name not in unused]
        if strange:
            raise ValueError(f"{source}: {len(strange)} tensor(s) are of no known EVA-CLIP part: {strange[:4]}.")

    def vision_config(self, image_size: int) -> dict[str, Any]:
        """The tower's configuration from its shapes."""
        shape = {name: self.checkpoint.infos[source].shape for name, source in self.names.items()}
        try:
            width, patch = shape["cls_token"][-1], shape["patch_embed.proj.weight"][-1]
            hidden = shape["blocks.0.mlp.fc1.weight"][0]
        except KeyError as error:
            raise ValueError(f"{self.checkpoint.source} lacks the tensor {error} of an EVA-CLIP tower.") from error
        if width % _EVA_HEAD_SIZE:
            raise ValueError(
                f"{self.checkpoint.source} is {width} wide, no multiple of {_EVA_HEAD_SIZE}, the head size of "
                "EVA-02-CLIP-E-plus; the file does not say how many heads it has. Pass config."
            )
        return {
            "hidden_size": width,
            "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in shape if name.startswith("blocks.")),
            "num_attention_heads": width // _EVA_HEAD_SIZE,
            "intermediate_size": hidden,
            "image_size": image_size,
            "patch_size": patch,
        }

    def tensors(self, config: Emu2Config, report: PartReport, *, finite: bool) -> dict[str, _Made]:
        report.unused = self.unused
        made = {}
        for name, source in self.names.items():
            ours, shape = f"model.visual.{name}", self.checkpoint.infos[source].shape
            grid = config.vision_config.grid_size
            if name == "pos_embed" and shape[1] != 1 + grid * grid:
                made[ours] = _Made((1, 1 + grid * grid, shape[2]), self._resized(source, grid, finite))
                report.resized.append(ours)
            else:
                made[ours] = _Made(shape, partial(_read, self.checkpoint, source, finite=finite))
                report.copied.append(ours)
        return made

    def _resized(self, source: str, grid: int, finite: bool) -> Callable[[], Tensor]:
        return lambda: resize_pos_embed(_read(self.checkpoint, source, finite=finite), grid)


class _LanguageModel:
    """A transformers causal language model folder, to be given more token rows."""

    def __init__(self, folder: str | Path):
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise ValueError(f"{folder} is not a language model folder: looked for config.json and weights.")
        drop = ("architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "_name_or_path")
        self.fields = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in drop}
        self.fields.setdefault("model_type", "llama")
        self.checkpoint = open_checkpoint(folder)
        infos = self.checkpoint.infos
        prefix = "model." if any(name.startswith("model.") for name in infos) else ""
        self.names: dict[str, str] = {}
        self.unused: list[str] = []
        for name in infos:
            if name.endswith(".rotary_emb.inv_freq"):
                self.unused.append(name)
            elif name.startswith("lm_head."):
                self.names[name] = name
            else:
                self.names["model.language_model." + name.removeprefix(prefix)] = name
        embedding = self.names.get("model.language_model.embed_tokens.weight")
        if embedding is None:
            raise ValueError(f"{folder} has no token embeddings: looked for {prefix}embed_tokens.weight.")
        #: Rows of the old vocabulary; the id of the first new token.
        self.rows = infos[embedding].shape[0]

    def tensors(self, config: Emu2Config, report: PartReport, *, finite: bool) -> dict[str, _Made]:
        total = config.text_config.vocab_size
        if total < self.rows:
            raise ValueError(f"{self.checkpoint.source} has {self.rows} tokens; the configuration has only {total}.")
        report.unused = list(self.unused)
        made = {}
        for name, source in self.names.items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                report.unused.append(source)
                continue
            shape = self.checkpoint.infos[source].shape
            if name in ("model.language_model.embed_tokens.weight", "lm_head.weight") and total > self.rows:
                made[name] = _Made((total, *shape[1:]), self._extended(source, total, finite))
                report.resized.append(name)
            else:
                made[name] = _Made(shape, partial(_read, self.checkpoint, source, finite=finite))
                report.copied.append(name)
        return made

    def _extended(self, source: str, total: int, finite: bool) -> Callable[[], Tensor]:
        def extend() -> Tensor:
            old = _read(self.checkpoint, source, finite=finite)
            mean = old.mean(dim=0, dtype=torch.float32, keepdim=True)
            return torch.cat([old.float(), mean.expand(total - old.shape[0], -1)])

        return extend


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from warning about the tensors that are meant to be fresh."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
