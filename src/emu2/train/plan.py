"""What a run will need before it is paid for: memory per GPU, time, checkpoints, data.

    plan(recipe("unified", "37b"), gpus=256, gpu="h100")

Memory is counted on fake tensors in a fake process group (`emu2.train.memory`); FLOPs are those of the model
(`emu2.train.flops`); days follow from a stated MFU. Nothing is downloaded, allocated or sent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch._subclasses.fake_tensor import FakeTensorMode

from emu2.data.settings import kind_of
from emu2.train.config import RunConfig
from emu2.train.distributed import World
from emu2.train.flops import GIB, FlopModel, Gpu, compute_dtype, known_gpu
from emu2.train.memory import StepMemory, fake_processes, simulate
from emu2.train.skeleton import Parts, RecordShape, record_shape, skeleton
from emu2.train.trainable import part_modules, set_trainable, trained_parameters

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Share of a GPU's memory that is left to the CUDA context, NCCL's buffers and the gaps between blocks.
RESERVE = 0.08
#: GPUs of one machine, which write to its disk together.
_PER_MACHINE = 8
_BYTES = {"float32": 4, "bfloat16": 2}
#: Rounds of the search for the largest micro-batch, and where it begins.
_TRIES = 3
_START = 8


@dataclass(frozen=True)
class KindPlan:
    """One kind of records.

    share: of the optimizer steps (one kind per step) or of the records (mixed). length: positions of a sequence.
    pictures: stills and frames of a record. global_batch: records of one optimizer step. micro_batch: of them in one
    forward pass on one GPU, with the plan's accumulation; memory: of that. largest_micro_batch: that fits; 0 when none
    does. flops: of training on one record. step_seconds: of one optimizer step at the plan's MFU.
    """

    kind: str
    share: float
    length: int
    pictures: int
    global_batch: int
    micro_batch: int
    memory: StepMemory
    largest_micro_batch: int
    flops: float
    step_seconds: float

    @property
    def step_flops(self) -> float:
        return self.global_batch * self.flops


@dataclass(frozen=True)
class Plan:
    """What `plan` found out; `table()` for people, `to_dict()` for programs.

    parameters: of each part; trained: those that move. limit: bytes of a GPU that a run may use. accumulate: into how
    many micro-batches each configured one must be cut to fit (`--accumulate`); None when nothing fits. flops_per_step,
    step_seconds: mean over the kinds by their share. checkpoint_bytes: weights that train, optimizer and average, over
    all GPUs. records_per_second, pictures_per_second: what the loader must deliver over all GPUs. assumptions: what was
    taken for granted.
    """

    recipe: str
    objective: str
    size: str
    gpus: int
    gpu: str
    mfu: float
    parameters: dict[str, int]
    trained: int
    limit: int
    accumulate: int | None
    kinds: tuple[KindPlan, ...]
    steps: int
    flops_per_step: float
    step_seconds: float
    checkpoint_bytes: int
    checkpoint_seconds: float
    model_bytes: int
    records_per_second: float
    pictures_per_second: float
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.accumulate is not None

    @property
    def days(self) -> float:
        return self.steps * self.step_seconds / 86400

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "fits": self.fits, "days": self.days}

    def table(self) -> RenderableType:
        """The plan as tables for a terminal."""
        from emu2.train.plan_table import render

        return render(self)

    def __rich__(self) -> RenderableType:
        return self.table()


def plan(
    config: RunConfig,
    gpus: int,
    gpu: str = "h100",
    *,
    mfu: float = 0.4,
    disk_gb_s: float = 2.0,
    records: Mapping[str, RecordShape] | None = None,
    parts: Parts | None = None,
) -> Plan:
    """Plan a run.

    Args:
        config: of the run.
        gpus: how many processes, one GPU each.
        gpu: "h100", "h200" or "a100".
        mfu: share of the peak that the run is expected to reach, in (0, 1].
        disk_gb_s: speed at which one machine of 8 GPUs writes a checkpoint.
        records: size of a record by kind, instead of `emu2.train.skeleton.RECORDS`.
        parts: configurations of the model's parts, instead of those of `config.size`.

    Raises:
        ValueError: unknown GPU or size, an impossible number of GPUs, an MFU out of range, a batch that the GPUs do
            not divide.
    """
    device = known_gpu(gpu)
    _check_layout(config, gpus)
    if not 0 < mfu <= 1:
        raise ValueError(f"The MFU is a share of the peak, above 0 and at most 1; got {mfu}.")
    if disk_gb_s <= 0:
        raise ValueError(f"The disk's speed in GB/s must be above 0; got {disk_gb_s}.")
    parts = parts or Parts.of_size(config)
    limit = int(device.memory * (1 - RESERVE))
    with FakeTensorMode():
        whole = skeleton(config, parts)
        set_trainable(whole, config.parts)
        numbers = {
            part: sum(p.numel() for _, module in modules for p in module.parameters())
            for part, modules in part_modules(whole).items()
        }
        trained = sum(p.numel() for _, _, p in trained_parameters(whole, config.parts))
    flops = FlopModel(whole, config)
    speed = gpus * device.peak[compute_dtype(config)] * mfu

    shares, batches = _kinds(config)
    shapes = {kind: record_shape(kind, config, records) for kind in shares}
    with fake_processes(gpus, config.parallel) as world:
        ranks = world.data_size
        largest = _largest(config, parts, shapes, world, limit)
        accumulate = _accumulate(batches, largest, ranks)
        cut = replace(config, accumulation=config.accumulation * (accumulate or 2))
        memories: dict[tuple[RecordShape, int], StepMemory] = {}
        kinds = []
        for kind, shape in shapes.items():
            rows = batches[kind] // ranks // accumulate if accumulate else 1
            if (shape, rows) not in memories:
                memories[shape, rows] = simulate(cut, parts, shape, rows, world)
            length, pictures = shape.length(config, parts.model), _pictures(config, shape)
            total, record = batches[kind] * config.accumulation, flops.row(length, pictures)
            kinds.append(
                KindPlan(
                    kind=kind,
                    share=shares[kind],
                    length=length,
                    pictures=pictures,
                    global_batch=total,
                    micro_batch=rows,
                    memory=memories[shape, rows],
                    largest_micro_batch=largest[kind],
                    flops=record,
                    step_seconds=total * record / speed,
                )
            )
    step_flops = sum(kind.share * kind.step_flops for kind in kinds)
    step_seconds = step_flops / speed
    size = _BYTES[config.dtype]
    checkpoint = trained * (3 * size + (4 if config.ema_decay else 0))
    machines = math.ceil(gpus / _PER_MACHINE)
    return Plan(
        recipe=config.name,
        objective=config.objective,
        size=config.size,
        gpus=gpus,
        gpu=gpu,
        mfu=mfu,
        parameters=numbers,
        trained=trained,
        limit=limit,
        accumulate=accumulate,
        kinds=tuple(kinds),
        steps=config.steps,
        flops_per_step=step_flops,
        step_seconds=step_seconds,
        checkpoint_bytes=checkpoint,
        checkpoint_seconds=checkpoint / (machines * disk_gb_s * 1e9),
        model_bytes=sum(numbers.values()) * size,
        records_per_second=sum(k.share * k.global_batch for k in kinds) / step_seconds,
        pictures_per_second=sum(k.share * k.global_batch * k.pictures for k in kinds) / step_seconds,
        assumptions=_assumptions(config, device, mfu, disk_gb_s, machines),
    )


def _kinds(config: RunConfig) -> tuple[dict[str, float], dict[str, int]]:
    """Share and batch of each kind; sources of one kind ("chat/gqa", "chat/llava") count as that kind."""
    data, total = config.data, sum(config.data.kinds.values())
    shares: dict[str, float] = {}
    batches: dict[str, int] = {}
    for name, weight in data.kinds.items():
        if weight > 0:
            kind = kind_of(name)
            shares[kind] = shares.get(kind, 0.0) + weight / total
            batches[kind] = max(batches.get(kind, 0), data.batch_sizes.get(name, data.batch_size))
    return shares, batches


def _check_layout(config: RunConfig, gpus: int) -> None:
    parallel = config.parallel
    if gpus < 1:
        raise ValueError(f"A plan needs at least one GPU; got {gpus}.")
    if gpus % (parallel.replicate * parallel.tensor):
        raise ValueError(
            f"{gpus} GPUs cannot be laid out as replicate={parallel.replicate} x shard x tensor={parallel.tensor}: "
            "replicate x tensor must divide the number of GPUs."
        )
    ranks = gpus // parallel.tensor
    for kind in config.data.kinds:
        batch = config.data.batch_sizes.get(kind, config.data.batch_size)
        if batch % ranks:
            raise ValueError(
                f"data.batch_size={batch} records cannot be shared by {ranks} data-parallel processes: choose a "
                f"multiple of {ranks}" + (f" (kind {kind!r})." if kind in config.data.batch_sizes else ".")
            )


def _largest(
    config: RunConfig, parts: Parts, shapes: Mapping[str, RecordShape], world: World, limit: int
) -> dict[str, int]:
    """Records of each kind that fit one GPU, where a batch is cut into several micro-batches."""
    cut = replace(config, accumulation=2)

    @cache
    def peak(shape: RecordShape, number: int) -> int:
        return simulate(cut, parts, shape, number, world).peak

    @cache
    def largest(shape: RecordShape) -> int:
        return largest_that_fits(partial(peak, shape), limit, _START)

    return {kind: largest(shape) for kind, shape in shapes.items()}


def _accumulate(batches: Mapping[str, int], largest: Mapping[str, int], ranks: int) -> int | None:
    """The smallest number of micro-batches that every kind's batch can be cut into so that each fits."""
    for parts in range(1, min(batches.values()) // ranks + 1):
        divides = all(batch % (parts * ranks) == 0 for batch in batches.values())
        if divides and all(batch // ranks // parts <= largest[kind] for kind, batch in batches.items()):
            return parts
    return None


def _pictures(config: RunConfig, shape: RecordShape) -> int:
    """Pictures of a record that the objective looks at."""
    if config.objective in ("contrastive", "autoencoder", "decoder"):
        return 1
    return 0 if config.objective == "language" else shape.pictures


def largest_that_fits(peak: Callable[[int], int], limit: int, start: int = 1, most: int = 4096) -> int:
    """A number, at most `most`, whose `peak` is within `limit` and which hardly can be larger; 0 if 1 is too large.

    Args:
        peak: rises, and ever faster if not in proportion, so that a straight line between two numbers errs on the safe
            side. Called a few times.
        limit: for `peak`.
        start: where to begin looking.
        most: where to stop looking.
    """
    low = min(start, most)
    while peak(low) > limit:
        if low == 1:
            return 0
        low = max(1, low // 8)
    high = min(2 * low, most)
    for _ in range(_TRIES):
        if high == low:
            break
        rise = (peak(high) - peak(low)) / (high - low)
        if peak(high) <= limit:
            ahead = high + int((limit - peak(high)) // rise) if rise > 0 else most
            low, high = high, min(ahead, most, 16 * high)
        else:
            between = low + int((limit - peak(low)) // rise)
            if peak(between) > limit:
                high = between
            elif between == low:
                break
            else:
                low = between
    return low if peak(high) > limit else high


def _assumptions(config: RunConfig, device: Gpu, mfu: float, disk_gb_s: float, machines: int) -> tuple[str, ...]:
    peak = device.peak[compute_dtype(config)]
    return (
        f"{device.name}: {device.memory / GIB:.1f} GiB, of which {RESERVE:.0%} are left to CUDA, NCCL and gaps; "
        f"{peak / 1e12:.0f} TFLOP/s peak in {compute_dtype(config)}",
        f"MFU {mfu:.0%}, data never waited for",
        f"checkpoints written at {disk_gb_s:g} GB/s by each of {machines} machine{'s' if machines > 1 else ''}",
        "records as long as in the column 'positions'; captions of 40 tokens, documents of 8 pictures in 1024 "
        "(emu2.train.skeleton.RECORDS)",
    )
