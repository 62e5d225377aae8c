"""Settings of a run that have a subject of their own: how processes share it, adapters, where attention looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from emu2.data.settings import ANSWER, FRAME, PICTURE, kind_of

if TYPE_CHECKING:
    from emu2.train.config import RunConfig


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes that torchrun started share one run. With a single process nothing here matters.

    The processes form a grid of replicate x shard x tensor; its first two are data parallel: each reads its own slice
    of every batch. Saved on one grid, a run resumes on any other.

    shard: "full" splits parameters, gradients and optimizer over the data-parallel processes, block by block (FSDP2);
        "none" keeps all of them on each and averages gradients.
    replicate: with "full", so many groups each hold the whole run, split within the group (HSDP): usually the number of
        machines, so that parameters travel inside a machine only.
    tensor: split every layer of the language model over so many processes, which then read the same records. Must
        divide its numbers of heads.
    cpu_offload: with "full" on GPUs, parameters and optimizer wait in the host's memory.
    timeout_s: a process that waits longer than this for another one gives up, and with it the run. Longer than the
        slowest step and the writing of a checkpoint.
    """

    shard: Literal["none", "full"] = "none"
    replicate: int = 1
    tensor: int = 1
    cpu_offload: bool = False
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("replicate", "tensor"):
            if getattr(self, name) < 1:
                raise ValueError(f"parallel.{name} must be 1 or more; got {getattr(self, name)}.")
        if self.timeout_s <= 0:
            raise ValueError(f"parallel.timeout_s must be above 0; got {self.timeout_s}.")
        if self.shard == "none" and self.replicate > 1:
            raise ValueError(
                f"parallel.replicate={self.replicate} groups of shards need parallel.shard=full; with shard=none every "
                "process holds everything anyway."
            )
        if self.shard == "none" and self.cpu_offload:
            raise ValueError("parallel.cpu_offload needs parallel.shard=full: only shards wait on the host.")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on the linear layers of the language model and the bridge, instead of their weights.

    With them only the adapters move, whatever of "language" and "bridge" the run trains, and the run leaves `adapter/`
    instead of a whole model. The paper tunes everything; its first version, Emu, was tuned through LoRA.

    rank: of the two factors. alpha: their product counts alpha / rank times; None is twice the rank.
    dropout: of what goes into the factors.
    targets: ends of the names of the layers that get adapters; empty is every linear layer of the language model's
        blocks, its head, and both of the bridge.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be 1 or more; got {self.rank}.")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"lora.alpha must be above 0, or null; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout lies in [0, 1); got {self.dropout}.")


@dataclass(frozen=True)
class LookingBack:
    """Attention heads that are told where to look (`emu2.train.looking_back`; not the paper's).

    heads: kind of record -> the heads, (layer, head) of the language model, from 0. `unified`: kinds whose answers are
        the same words where their pictures are alike; the heads learn to see that. What is alike may differ between
        kinds: then so should heads. With ":picture" after the kind, they learn to find what its pictures mark, and to
        look at the picture where all of it matters. `chat`: kinds whose records know what is sought; the heads learn
        to find that in the picture, with ":answer" after the kind, to find the question's word for it from before the
        answer, and with ":frame3" to find it in the fourth frame of a clip. `contrastive` with contrast=regions: heads
        of the vision tower, which learn to look from each patch of a box at its middle.
    weight: of the loss.
    """

    heads: dict[str, tuple[tuple[int, int], ...]]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("looking_back.heads is empty: give it kinds of records, and heads for each.")
        for kind, heads in self.heads.items():
            if not heads or any(number < 0 for head in heads for number in head):
                raise ValueError(
                    f"looking_back.heads names at least one (layer, head) for each kind, from (0, 0); got {kind!r}: "
                    f"{heads}."
                )
        if self.weight <= 0:
            raise ValueError(f"looking_back.weight must be above 0; got {self.weight}.")

    def check(self, config: RunConfig) -> None:
        """Raise a ValueError where the rest of a run's settings does not allow it."""
        regions = config.objective == "contrastive" and config.contrast == "regions"
        if config.objective not in ("unified", "chat") and not regions:
            raise ValueError(
                f"looking_back belongs to the objectives 'unified' and 'chat', and to contrast=regions; this run's is "
                f"{config.objective!r}: leave it out."
            )
        hindering = {
            "compile": config.compile,
            "checkpoint_activations": config.checkpoint_activations,
            "data.pack": config.data.pack,
            "parallel.tensor": config.parallel.tensor > 1,
        }
        for name, given in hindering.items():
            if given:
                raise ValueError(
                    f"looking_back watches the attention of whole layers, one document to a row: leave out {name}."
                )
        read = sorted({kind_of(name) for name, weight in config.data.kinds.items() if weight > 0})
        if config.objective == "chat":
            further = [ANSWER, *(f"{FRAME}{number}" for number in range(max(config.data.frames)))]
        else:
            further = [] if regions else [PICTURE]
        read += [f"{kind}{what}" for what in further for kind in read]
        unread = [name for name in self.heads if name not in read]
        if unread:
            raise ValueError(
                f"looking_back.heads names {unread[0]!r}, which this run does not read; it reads {', '.join(read)}. "
                "Leave those heads out, or all with looking_back=null."
            )
