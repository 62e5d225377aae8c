"""The processes that train one model together: torchrun starts them, a device mesh orders them, FSDP2 splits the model.

    replicate x shard x tensor     the grid of processes, tensor innermost
    data rank                      place among the replicate x shard processes that read different records

A `World` of one process does nothing, so the loop calls it everywhere. Every rank must run the same modules the same
number of times, or the collectives of FSDP2 wait for ever; whoever writes an objective gets `World.any` to agree on
what runs (a rank without pictures encodes one and drops it where another rank has some).
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from emu2.train.pieces import full, is_sharded, layout, local
from emu2.train.settings import ParallelConfig
from emu2.train.sharding import leave_on_device, shard_whole, split_layers
from emu2.train.unread import make_room, read_pieces

if TYPE_CHECKING:
    from emu2.train.config import RunConfig
    from emu2.train.whole import Whole

T = TypeVar("T")


class World:
    """This process's place among all that train one model.

    rank, size: of all processes. data_rank, data_size: of those that read different records. device: of this process.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        self.rank, self.size = 0, 1
        self.data_rank, self.data_size = 0, 1
        self.device = torch.device(device)
        self.parallel = ParallelConfig()
        self.mesh: DeviceMesh | None = None
        #: Objects travel in one group, checkpoints in another: the second may be busy beside the training.
        self._talk: dist.ProcessGroup | None = None
        self.checkpoint_group: dist.ProcessGroup | None = None
        self._data: dist.ProcessGroup | None = None

    @classmethod
    def start(cls, parallel: ParallelConfig, device: str) -> World:
        """The world that torchrun (or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT)
        made, or a world of one.

        Raises:
            ValueError: the processes do not fill the grid that `parallel` asks for.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device)
        replicate, shard = _grid(size, parallel)
        world = cls(_own_device(device))
        if not dist.is_initialized():
            # Gloo beside NCCL: objects, offloaded parameters and checkpoints travel through the host's memory.
            backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=parallel.timeout_s))
            atexit.register(_leave)
        world.parallel, world.rank, world.size = parallel, dist.get_rank(), size
        world.data_rank, world.data_size = world.rank // parallel.tensor, size // parallel.tensor
        world.mesh = init_device_mesh(
            world.device.type, (replicate, shard, parallel.tensor), mesh_dim_names=("replicate", "shard", "tensor")
        )
        timeout = timedelta(seconds=parallel.timeout_s)
        world._talk = dist.new_group(backend="gloo", timeout=timeout)
        world.checkpoint_group = dist.new_group(backend="gloo", timeout=timeout)
        for column in range(parallel.tensor):
            group = dist.new_group(list(range(column, size, parallel.tensor)), timeout=timeout)
            if world.rank % parallel.tensor == column:
                world._data = group
        return world

    @property
    def main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    # What the ranks tell each other

    def gather(self, value: T) -> list[T]:
        """`value` of every data rank, in their order. Any small object that pickles; peers are our own processes."""
        return self._gather_all(value)[:: self.parallel.tensor]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Which of the flags any process raised."""
        return tuple(any(column) for column in zip(*self._gather_all(flags), strict=True))

    def first(self, value: T | None) -> T | None:
        """The value of the lowest rank that has one."""
        return next((v for v in self._gather_all(value) if v is not None), None)

    def wait(self) -> None:
        """Until every process is here."""
        self._gather_all(None)

    def _gather_all(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._talk)
        return values

    def all_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """Rows of every data rank, float[N, E], and where this rank's begin; gradients go back to their owners.

        rows: float[n, E], n free to differ.
        """
        if self.data_size == 1:
            return rows, 0
        from torch.distributed.nn.functional import all_gather

        counts = self.gather(len(rows))
        padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
        parts = all_gather(padded, group=self._data)
        first = sum(counts[: self.data_rank])
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), first

    # The model

    def place(self, whole: Whole, config: RunConfig) -> None:
        """Bring the whole to its device, type and shards. In place; parameters keep their names.

        What trains is split over the data ranks, and so is the language model, trained or not, where sharding is asked
        for. Frozen towers that run stay whole on every rank: each encodes its own pictures at its own pace.

        Raises:
            ValueError: a layer cannot be split over `parallel.tensor` processes.
        """
        dtype = getattr(torch, config.dtype)
        if self.mesh is None:
            whole.to(self.device, dtype)
            return
        from emu2.train.trainable import set_trainable

        # Block by block the shards go to the device, so it never holds the whole.
        whole.to("cpu", dtype)
        set_trainable(whole, config.parts)
        if self.parallel.tensor > 1:
            split_layers(whole, self.mesh["tensor"])
        if self.data_size > 1:
            # Pooled features are a view, and nobody works in place on them.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            shard_whole(whole, self.mesh, self.parallel, config.autocast)
        if whole.unread is not None:
            make_room(whole.model, self.device, offload=self.parallel.cpu_offload)
        for module in whole.modules():
            leave_on_device(module, self.device)
        if whole.unread is not None:
            read_pieces(whole.model, whole.unread, self.checkpoint_group)
            whole.unread = None

    def scale(self, loss: Tensor) -> Tensor:
        """What to call backward on: gradients are averaged over the data ranks, whose losses are shares of one sum."""
        return loss * self.data_size if self.data_size > 1 else loss

    def reduce_rest(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients that FSDP2 does not manage (scalars, which it cannot split)."""
        if self.data_size == 1:
            return
        for parameter in parameters:
            if is_sharded(parameter):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grad = local(parameter.grad)
            dist.all_reduce(grad, group=self._data)
            grad.div_(self.data_size)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        """Clip the gradients' norm over all parameters and ranks to `limit`; returns the norm before."""
        if self.mesh is None:
            return nn.utils.clip_grad_norm_(parameters, limit)
        grads: dict[Any, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                grads.setdefault(layout(parameter.grad), []).append(parameter.grad)
        norms = [full(nn.utils.get_total_norm(group)).to(self.device) for group in grads.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=self.device)
        # Where pieces are added up in another order the last bit may differ, and copies would drift apart.
        dist.broadcast(norm, 0)
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for group in grads.values():
            pieces = [local(grad) for grad in group]
            torch._foreach_mul_(pieces, factor.to(pieces[0].device))
        return norm


def _grid(size: int, parallel: ParallelConfig) -> tuple[int, int]:
    """(replicate, shard) of `size` processes."""
    data, rest = divmod(size, parallel.tensor)
    if rest:
        raise ValueError(
            f"{size} processes cannot be grouped by parallel.tensor={parallel.tensor}: start a multiple of it."
        )
    if parallel.shard == "none":
        return data, 1
    if data % parallel.replicate:
        raise ValueError(
            f"parallel.replicate={parallel.replicate} does not divide the {data} data-parallel processes ({size} "
            f"processes, parallel.tensor={parallel.tensor}): start another number, or set another replicate."
        )
    return parallel.replicate, data // parallel.replicate


def _own_device(device: str) -> torch.device:
    """`cuda` is the GPU of this process's rank on its machine."""
    chosen = torch.device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    return chosen


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
