"""What a training run is made of: one typed, checked configuration.

A recipe returns a `RunConfig`; the command line overrides fields by dotted path (`optim.lr=3e-4`,
`data.kinds={"pair": 1}`); the resolved whole is saved with the run and compared when the run is resumed.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from emu2.data.settings import DataConfig
from emu2.train.settings import LookingBack, LoraSettings, ParallelConfig

#: The parts of a whole Emu2 that a run can train, each with its own rate. "video_temporal" are the parts of the video
#: U-Net that mix frames, "video_unet" is all of it; a run that trains both gives the temporal parts their own rate.
PARTS = ("vision", "bridge", "language", "text_tower", "vae", "unet", "video_temporal", "video_unet")

#: The parts that LoRA adapts; with it a run trains no other.
ADAPTED_PARTS = ("bridge", "language")

ObjectiveName = Literal[
    "contrastive",
    "language",
    "caption",
    "unified",
    "autoencoder",
    "decoder",
    "video_decoder",
    "chat",
    "gen",
]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and its safety limits.

    lr: peak learning rate of every trained part that `part_lr` does not name.
    part_lr: peak rate by part, for stages that train parts at different rates (paper, table 6).
    betas, eps: of AdamW. The paper's pretraining values are the defaults.
    weight_decay: applied to matrices only, never to biases, norms, class token and position tables. The paper gives no
        value for pretraining; 0.05 is what the first Emu used (facts of Emu-1's training notes).
    clip_norm: largest allowed norm of the whole gradient (5.0 in the paper's pretraining).
    warmup_steps: steps of the rise from 0 to the peak.
    warmup_shape: "linear", or "log": fast at first, then ever slower, log(1 + n) over log(1 + warmup_steps) after n
        steps. The paper names the decoder's warmup "log" (table 7) without a formula.
    part_start: step from which a part moves; before it the part's rate is 0 while AdamW already averages its gradients.
        It lets the video decoder train its temporal parts first, then everything.
    schedule: what follows the warmup, until the last step.
    min_lr_ratio: where the schedule ends, as a share of the peak.
    """

    lr: float = 1e-4
    part_lr: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-6
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    warmup_steps: int = 0
    warmup_shape: Literal["linear", "log"] = "linear"
    part_start: dict[str, int] = field(default_factory=dict)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: float = 0.0

    def __post_init__(self) -> None:
        _require(self.lr >= 0, f"optim.lr must be 0 or more; got {self.lr}.")
        for part, lr in self.part_lr.items():
            _require(part in PARTS, f"optim.part_lr names {part!r}, which is no part; parts are {', '.join(PARTS)}.")
            _require(
                lr >= 0, f"optim.part_lr[{part!r}] must be 0 or more; got {lr}. To freeze a part leave it out of parts."
            )
        _require(all(0 <= b < 1 for b in self.betas), f"optim.betas lie in [0, 1); got {self.betas}.")
        _require(self.weight_decay >= 0, f"optim.weight_decay must be 0 or more; got {self.weight_decay}.")
        _require(self.clip_norm > 0, f"optim.clip_norm must be above 0; got {self.clip_norm}.")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps must be 0 or more; got {self.warmup_steps}.")
        for part, start in self.part_start.items():
            _require(part in PARTS, f"optim.part_start names {part!r}, which is no part; parts are {', '.join(PARTS)}.")
            _require(start >= 0, f"optim.part_start[{part!r}] must be 0 or more; got {start}.")
        _require(0 <= self.min_lr_ratio <= 1, f"optim.min_lr_ratio lies in [0, 1]; got {self.min_lr_ratio}.")


@dataclass(frozen=True)
class DiffusionConfig:
    """The decoder's objective (paper, section 2.2.3 and table 7).

    drop_embeddings: share of samples whose visual embeddings are replaced by the null ones.
    null: what a dropped sample sees. "zero_image" is the encoding of an all-zero normalised picture, which is what the
        released autoencoding mode uses as its null; "zeros" is plain zeros. The paper does not say which was trained.
    noise_offset: strength of the per-channel constant added to the noise.
    crop_scale: range of the random enlargement before the random square crop; (1, 1) with square pictures is no crop.
    timestep_power: noise levels are drawn as t = T (1 - u ** power), u uniform: 1 draws all alike (as the paper, as far
        as it says), more draws the noisy ones oftener, where a picture must come from its embeddings alone.
    snr_gamma: cap of the min-SNR loss weight; None weighs all noise levels alike (the paper gives no weighting).
    keyframes: of a clip, whose embeddings it is conditioned on (`video_decoder`). 1 is the middle frame, which the
        language model writes as it writes a picture; of more it writes as many pictures. The paper does not say.
    """

    drop_embeddings: float = 0.1
    null: Literal["zero_image", "zeros"] = "zero_image"
    noise_offset: float = 0.1
    crop_scale: tuple[float, float] = (1.0, 1.0)
    timestep_power: float = 1.0
    snr_gamma: float | None = None
    keyframes: int = 1

    def __post_init__(self) -> None:
        _require(
            0 <= self.drop_embeddings < 1, f"diffusion.drop_embeddings lies in [0, 1); got {self.drop_embeddings}."
        )
        _require(self.noise_offset >= 0, f"diffusion.noise_offset must be 0 or more; got {self.noise_offset}.")
        low, high = self.crop_scale
        _require(
            1 <= low <= high, f"diffusion.crop_scale must be (low, high) with 1 <= low <= high; got {self.crop_scale}."
        )
        _require(self.timestep_power > 0, f"diffusion.timestep_power must be above 0; got {self.timestep_power}.")
        _require(
            self.snr_gamma is None or self.snr_gamma > 0, f"diffusion.snr_gamma must be above 0; got {self.snr_gamma}."
        )
        _require(self.keyframes >= 1, f"diffusion.keyframes must be 1 or more; got {self.keyframes}.")


@dataclass(frozen=True)
class GenerationConfig:
    """What the `gen` objective changes at random in a prompt (paper, section 2.3.2 and supplement D, without rates).

    drop_boxes: share of records whose boxes are all left out, their phrases staying as plain text: a prompt gives boxes
        for its things or none, and both must draw.
    drop_entities: share of object pictures left out where a phrase still tells what stands there.
    background: share of object pictures with see-through parts (RGBA) that are put on a random background; the others
        are put on white.
    crop_scale: range of the side of a random crop of an object picture, as a share of its own; (1, 1) is no crop.
    """

    drop_boxes: float = 0.3
    drop_entities: float = 0.1
    background: float = 0.5
    crop_scale: tuple[float, float] = (0.8, 1.0)

    def __post_init__(self) -> None:
        for name in ("drop_boxes", "drop_entities", "background"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"gen.{name} is a probability; got {value}.")
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, f"gen.crop_scale is (low, high) with 0 < low <= high <= 1; got {(low, high)}.")


@dataclass(frozen=True)
class RunConfig:
    """One training run: an objective, the parts it trains, its data, its length.

    name: of the recipe; written into logs and the run folder.
    objective: which loss is computed.
    parts: what moves; everything else is frozen and in evaluation mode.
    size: preset the model is built at when no model folder is given.
    steps: optimizer steps.
    accumulation: micro-batches of `data.batch_size` records in one optimizer step. The loss is normalised by the valid
        targets of all of them, so that accumulated equals one large batch (contrastive excepted: its negatives are
        those of the micro-batch).
    resolution: side in pixels at which the vision tower reads pictures; its positions are resized where the model read
        them at another. None keeps the model's. (Stage 1 goes from 224 to 448.)
    num_query: embeddings of a still picture; None keeps the model's. (The paper's chat reads 256, its other stages 64.)
    num_video_query: likewise of a video frame.
    lora: train low-rank adapters instead of the weights; None trains the weights.
    text_loss_weight, visual_loss_weight: of cross entropy and of the regression (`unified`). The paper gives none.
    visual_loss: "plain" is the paper's mean squared error of embeddings (`unified`, `gen`). "whitened" measures, on the
        first records and before the first step, how embeddings spread, and counts errors by that in every direction
        (`emu2.model.losses.whitening`): for towers that trained for minutes.
    looking_back: also teach attention heads where to look (`unified`, `chat`); None does not.
    kept_features: frozen features of so many different pictures are kept, the last ones seen, each computed by itself,
        so that it is the same whatever came with it (`unified`, `chat`, `gen`); for worlds whose pictures come round
        (`gallery`). 0 keeps none.
    contrast: what meets its text (`contrastive`): "pictures" meet their captions, as in CLIP, "regions" the phrases
        whose boxes they lie in, of grounded pairs.
    kept_weight: of how far the embeddings of pictures without boxes have gone from where they were when the run began
        (`contrastive` with contrast=regions), so that what was trained on them still reads them. 0 lets them go.
    soften: what the vision tower's attention scores are divided by before the first step (likewise): attention that
        has become hard does not learn.
    kl_weight: of the KL term (`autoencoder`), per latent number.
    ema_decay: keep a moving average of the trained parts and save that one; None keeps none.
    seed: of initial weights, order of data, noise.
    dtype: of the weights that train. CPU work is float32.
    log_every, sample_every, save_every: in optimizer steps; 0 switches samples or checkpoints off (a last checkpoint is
        always written).
    keep_checkpoints: newest checkpoints kept on disk.
    max_bad_share: the run stops when more than this share of the samples so far could not be read.
    autocast: compute in this type where torch holds it safe, while the weights keep `dtype`; None computes in `dtype`.
    checkpoint_activations: compute the blocks' activations again in the backward pass instead of keeping them.
    compile: let torch.compile fuse each transformer block.
    nonfinite: what follows a loss or gradient that is not finite, after which no weight moves and the batch is kept
        under nonfinite/: "stop" the run, or "skip" the step and count it.
    stop_deadline_s: a run that is told to stop (SIGTERM, SIGINT) has so many seconds to write its checkpoint.
    validate_every: measure held-out losses and make samples every so many optimizer steps; 0 never does.
    validate_batches: micro-batches of held-out records in one measurement.
    parallel: how processes started by torchrun share the run.
    save_async: go on training while a checkpoint is being written.
    tracker: "wandb" also sends what is logged to Weights & Biases (its package must be installed); log.jsonl and
        TensorBoard files are written anyway.
    """

    name: str
    objective: ObjectiveName
    parts: tuple[str, ...]
    size: str = "debug"
    steps: int = 1000
    accumulation: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    gen: GenerationConfig = field(default_factory=GenerationConfig)
    resolution: int | None = None
    num_query: int | None = None
    num_video_query: int | None = None
    lora: LoraSettings | None = None
    text_loss_weight: float = 1.0
    visual_loss_weight: float = 1.0
    visual_loss: Literal["plain", "whitened"] = "plain"
    looking_back: LookingBack | None = None
    kept_features: int = 0
    contrast: Literal["pictures", "regions"] = "pictures"
    kept_weight: float = 0.0
    soften: float = 1.0
    kl_weight: float = 1e-4
    ema_decay: float | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 10
    sample_every: int = 0
    save_every: int = 0
    keep_checkpoints: int = 2
    max_bad_share: float = 0.1
    autocast: Literal["bfloat16"] | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    nonfinite: Literal["stop", "skip"] = "stop"
    stop_deadline_s: float = 60.0
    validate_every: int = 0
    validate_batches: int = 4
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    save_async: bool = False
    tracker: Literal["wandb"] | None = None

    def __post_init__(self) -> None:
        _require(bool(self.parts), "parts is empty: name at least one part to train.")
        for part in self.parts:
            _require(part in PARTS, f"parts names {part!r}, which is no part; parts are {', '.join(PARTS)}.")
        for part in self.optim.part_lr:
            _require(part in self.parts, f"optim.part_lr names {part!r}, which this run does not train ({self.parts}).")
        for part in self.optim.part_start:
            _require(
                part in self.parts, f"optim.part_start names {part!r}, which this run does not train ({self.parts})."
            )
        if self.lora is not None:
            others = [part for part in self.parts if part not in ADAPTED_PARTS]
            _require(
                not others,
                f"lora adapts {' and '.join(ADAPTED_PARTS)} only, and this run would train {', '.join(others)} too: "
                "name other parts, or leave out lora.",
            )
        if self.looking_back is not None:
            self.looking_back.check(self)
        _require(self.kept_features >= 0, f"kept_features must be 0 or more; got {self.kept_features}.")
        _require(self.kept_weight >= 0, f"kept_weight must be 0 or more; got {self.kept_weight}.")
        _require(self.soften > 0, f"soften must be above 0; got {self.soften}.")
        for name, value in (("kept_weight", self.kept_weight), ("soften", self.soften - 1.0)):
            _require(
                not value or self.contrast == "regions",
                f"{name}={getattr(self, name)} is for contrast=regions; this run's is {self.contrast!r}.",
            )
        for name in ("resolution", "num_query", "num_video_query"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be 1 or more, or null; got {value}.")
        _require(self.steps >= 1, f"steps must be 1 or more; got {self.steps}.")
        _require(self.accumulation >= 1, f"accumulation must be 1 or more; got {self.accumulation}.")
        _require(
            self.optim.warmup_steps <= self.steps,
            f"optim.warmup_steps ({self.optim.warmup_steps}) is more than steps ({self.steps}).",
        )
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, f"ema_decay lies in (0, 1); got {self.ema_decay}.")
        _require(self.log_every >= 1, f"log_every must be 1 or more; got {self.log_every}.")
        _require(self.keep_checkpoints >= 1, f"keep_checkpoints must be 1 or more; got {self.keep_checkpoints}.")
        _require(0 <= self.max_bad_share <= 1, f"max_bad_share lies in [0, 1]; got {self.max_bad_share}.")
        _require(self.stop_deadline_s > 0, f"stop_deadline_s must be above 0; got {self.stop_deadline_s}.")
        for name in ("sample_every", "save_every", "validate_every"):
            _require(getattr(self, name) >= 0, f"{name} must be 0 or more; got {getattr(self, name)}.")
        _require(self.validate_batches >= 1, f"validate_batches must be 1 or more; got {self.validate_batches}.")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as JSON-able values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The inverse of `to_dict`; unknown fields and wrong types are refused by name."""
    return _build(RunConfig, values, path="")


def with_overrides(config: RunConfig, settings: typing.Iterable[str]) -> RunConfig:
    """`config` with fields replaced by `key=value` settings, keys being dotted paths.

    Values are read as JSON where they are JSON, else as plain text.

    Raises:
        ValueError: no `=`, an unknown key (the known ones are listed), a value of the wrong type or out of range.
    """
    values = to_dict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"A setting is written key=value, as in optim.lr=3e-4; got {setting!r}.")
        *parents, leaf = key.strip().split(".")
        target = values
        for name in parents:
            if target is values and name == "lora" and values[name] is None:
                values[name] = dataclasses.asdict(LoraSettings())
            elif parents[:2] in (["data", "sources"], ["data", "worlds"]) and isinstance(target, dict):
                target.setdefault(name, {})
            target = target.get(name) if isinstance(target, dict) else None  # type: ignore[assignment]
        if not isinstance(target, dict) or (leaf not in target and not _is_open(parents)):
            raise ValueError(f"There is no setting {key.strip()!r}; there are: {', '.join(_paths(to_dict(config)))}.")
        target[leaf] = _parse(text)
    return from_dict(values)


def _is_open(parents: list[str]) -> bool:
    """Whether the dict at this path takes new keys (a table by name, not a dataclass)."""
    tables = ("optim.part_lr", "optim.part_start", "data.kinds", "data.world", "data.batch_sizes")
    path = ".".join(parents)
    return path in tables or path.startswith(("data.sources", "data.worlds"))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text.strip(), text.strip())


def _paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for key, value in values.items():
        paths += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return paths


def _build(cls: type, values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{path.rstrip('.') or 'The config'} must be a table of settings; got {values!r}.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"There is no setting {path}{unknown[0]!s}; {path.rstrip('.') or 'a run'} has {', '.join(known)}."
        )
    return cls(**{name: _coerce(hints[name], value, f"{path}{name}") for name, value in values.items()})


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type, or ValueError. Numbers widen (int to float); lists become tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{path}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _coerce(option, value, path)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[0])
    if origin is Literal:
        _require(value in args, f"{path} is one of {', '.join(map(repr, args))}; got {value!r}.")
        return value
    if origin is tuple:
        fits = isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args))
        _require(fits, f"{path} is a list{'' if args[-1] is Ellipsis else f' of {len(args)} values'}; got {value!r}.")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_coerce(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        _require(isinstance(value, dict), f"{path} is a table of names and values; got {value!r}.")
        return {str(k): _coerce(args[1], v, f"{path}[{k!r}]") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        _require(type(value) is hint, f"{path} is of type {hint.__name__}; got {value!r}.")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
