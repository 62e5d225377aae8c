"""How a run is spread over processes: the part of its settings that changes where numbers live, never what they are."""

from dataclasses import dataclass
from typing import Literal


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
