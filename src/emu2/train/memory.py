"""Memory of one training step on one GPU, counted allocation by allocation without allocating anything.

The step runs on fake tensors (torch's FakeTensorMode) in a fake process group of any size, through the same sharding,
optimizer and averaging as a real run. Every storage that an operation creates is counted until it is freed; the largest
sum is the peak.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from emu2.train.blocks import checkpoint_activations
from emu2.train.config import RunConfig
from emu2.train.distributed import World
from emu2.train.flops import tensor_bytes
from emu2.train.optim import MovingAverage, build_optimizer
from emu2.train.settings import ParallelConfig
from emu2.train.skeleton import Parts, RecordShape, micro_batch_loss, skeleton
from emu2.train.trainable import parameter_groups, set_trainable, trained_parameters
from emu2.train.whole import Whole

#: Blocks of a stack that is simulated for a deeper one, and how many more in the second simulation.
_SHALLOW, _DEEPER = 3, 2


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one GPU.

    parameters, gradients, optimizer, average: what it holds of each (its shards). activations: everything else at the
    peak: activations, gathered parameters, gradients on their way, temporary results. peak: the most at any moment.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    peak: int

    @property
    def lasting(self) -> int:
        """What is held from step to step, however small the micro-batch."""
        return self.parameters + self.gradients + self.optimizer + self.average


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of all live storages that operations under it touch: `live`, and the most so far, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._outer: Any = None

    def __enter__(self) -> StorageTracker:
        self._outer = active_fake_mode()
        self._resize = torch.UntypedStorage.resize_
        tracker, resize = self, self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            # FSDP frees and refills gathered parameters by resizing their storage.
            result = resize(storage, size)
            if id(storage) in tracker._sizes:
                tracker._count(storage)
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # let it become operations on its local shard, which are seen here
        # The fake form of a wait makes a new tensor, the real one does not.
        waits = func is torch.ops._c10d_functional.wait_tensor.default
        result = args[0] if waits else func(*args, **(kwargs or {}))
        if active_fake_mode() is self._outer:  # not what DTensor tries out to learn shapes
            tree_map_only(Tensor, self.see, result)
        return result

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's storage, if it is new."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        if id(storage) not in self._sizes:
            self._sizes[id(storage)] = 0
            weakref.finalize(storage, self._forget, id(storage)).atexit = False
        self._count(storage)

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes() - self._sizes[id(storage)]
        self._sizes[id(storage)] = storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


@contextmanager
def fake_processes(number: int, parallel: ParallelConfig) -> Iterator[World]:
    """A world of `number` processes of which only this one exists, and which sends nothing.

    Raises:
        RuntimeError: this process belongs to a real group already.
    """
    if number == 1:
        yield World()
        return
    import torch.distributed as dist

    if dist.is_initialized():
        raise RuntimeError("A plan needs a process of its own: this one belongs to a process group already.")
    # Imported for what they register: the group itself, and collectives on fake tensors.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=number, store=FakeStore())
    try:
        yield _laid_out(number, parallel)
    finally:
        dist.destroy_process_group()


def _laid_out(number: int, parallel: ParallelConfig) -> World:
    """The world `World.start` would make of so many processes, without the groups that only talk."""
    world = World()
    world.parallel, world.size, world.data_size = parallel, number, number // parallel.tensor
    replicate = world.data_size if parallel.shard == "none" else parallel.replicate
    grid = (replicate, world.data_size // replicate, parallel.tensor)
    world.mesh = init_device_mesh("cpu", grid, mesh_dim_names=("replicate", "shard", "tensor"))
    return world


def simulate(config: RunConfig, parts: Parts, shape: RecordShape, rows: int, world: World) -> StepMemory:
    """One training step of `rows` records a micro-batch on one GPU of `world`.

    Every block of a stack is like the others, so deep stacks are simulated at two small depths, and the numbers of the
    full depth lie on the line through both.

    Args:
        config: of the run.
        parts: of its model.
        shape: of one record.
        rows: records of one micro-batch on one GPU.
        world: the processes that share the run, from `fake_processes`.
    """
    depths = parts.depths()
    base = {stack: min(depth, _SHALLOW) for stack, depth in depths.items()}
    start = _simulate(config, parts.at_depths(base), shape, rows, world)
    totals = dataclasses.asdict(start)
    for stack, depth in depths.items():
        if depth <= _SHALLOW:
            continue
        deeper = min(depth, _SHALLOW + _DEEPER)
        more = _simulate(config, parts.at_depths({**base, stack: deeper}), shape, rows, world)
        for name, value in dataclasses.asdict(more).items():
            slope = (value - getattr(start, name)) / (deeper - _SHALLOW)
            totals[name] += round(slope * (depth - _SHALLOW))
    return StepMemory(**totals)


def _simulate(config: RunConfig, parts: Parts, shape: RecordShape, rows: int, world: World) -> StepMemory:
    with FakeTensorMode():
        whole = skeleton(config, parts)
        if config.checkpoint_activations:
            checkpoint_activations(whole)
        if config.autocast:
            _norms_in_float32(whole)
        world.place(whole, config)
        set_trainable(whole, config.parts)
        optimizer = build_optimizer(parameter_groups(whole, config.parts, config.optim), config.optim)
        named = [(name, parameter) for _, name, parameter in trained_parameters(whole, config.parts)]
        trained = [parameter for _, parameter in named]
        average = MovingAverage(named, config.ema_decay) if config.ema_decay else None

        def move() -> None:
            world.clip(trained, config.optim.clip_norm)
            optimizer.step()
            if average is not None:
                average.update(named)

        # AdamW makes its state in its first step. And the first time it meets an operation, torch tries out on whole
        # tensors how to split it, which must not be counted.
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        move()
        if world.parallel.tensor > 1:
            micro_batch_loss(whole, config, shape, rows).backward()
        gradients = tensor_bytes(parameter.grad for parameter in trained if parameter.grad is not None)
        if config.accumulation == 1:
            optimizer.zero_grad(set_to_none=True)

        everything = [tensor for module in whole.modules() for tensor in (*module.parameters(), *module.buffers())]
        states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        shadows = list(average.shadow.values()) if average is not None else []
        tracker = StorageTracker()
        for tensor in (*everything, *states, *shadows, *(p.grad for p in trained if p.grad is not None)):
            tracker.see(tensor)
        with tracker:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast is not None):
                loss = micro_batch_loss(whole, config, shape, rows)
            loss.backward()
            del loss
            move()
        held = (tensor_bytes(everything), gradients, tensor_bytes(states), tensor_bytes(shadows))
    return StepMemory(*held, activations=max(tracker.peak - sum(held), 0), peak=tracker.peak)


def _norms_in_float32(whole: Whole) -> None:
    """Autocast computes norms in float32 on GPUs, not on CPUs, where these fake tensors live: let them do it, too."""

    def forward(self: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        if isinstance(self, nn.LayerNorm):
            return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps)

    for module in whole.modules():
        for norm in module.modules():
            if isinstance(norm, nn.LayerNorm | nn.GroupNorm):
                norm.forward = MethodType(forward, norm)  # type: ignore[method-assign]
