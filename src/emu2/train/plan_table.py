"""The look of a plan in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from emu2.train.plan import KindPlan, Plan


def render(plan: Plan) -> RenderableType:
    """Tables of memory, work and needs, then what was assumed."""
    head = Text.assemble(
        (f"{plan.recipe} {plan.size}", "bold"),
        f" on {plan.gpus} x {plan.gpu}: {sum(plan.parameters.values()) / 1e9:.2f} billion parameters, "
        f"{plan.trained / 1e9:.2f} of them train",
    )
    notes = [Text(f"- {line}", style="dim") for line in plan.assumptions]
    return Group(head, _verdict(plan), _memory(plan), _work(plan), _needs(plan), *notes)


def _verdict(plan: Plan) -> Text:
    if plan.fits:
        return Text(f"Fits: every micro-batch stays within {size(plan.limit)} a GPU.", style="green")
    worst = max(plan.kinds, key=lambda kind: kind.memory.peak)
    text = f"Does not fit: {worst.kind} needs {size(worst.memory.peak)} a GPU, and {size(plan.limit)} are usable."
    if worst.memory.lasting > plan.limit:
        return Text(
            f"{text} What lasts from step to step alone is {size(worst.memory.lasting)}: take more GPUs, larger ones, "
            "bfloat16 weights (--dtype bfloat16), or parallel.cpu_offload.",
            style="red",
        )
    if worst.largest_micro_batch:
        text += f" {worst.largest_micro_batch} records a GPU fit: lower data.batch_size and raise accumulation."
    elif worst.largest_micro_batch == 0:
        text += " Not even one record a GPU fits: take more GPUs, or set checkpoint_activations."
    return Text(text, style="red")


def _memory(plan: Plan) -> Table:
    columns = ("parameters", "gradients", "optimizer", "average", "activations*", "peak")
    table = Table(title="Memory per GPU", title_justify="left")
    table.add_column("records")
    for name in ("records a GPU", *columns, "largest that fits"):
        table.add_column(name, justify="right")
    for kind in plan.kinds:
        memory = kind.memory
        parts = (memory.parameters, memory.gradients, memory.optimizer, memory.average, memory.activations)
        over = "red" if memory.peak > plan.limit else ""
        table.add_row(
            kind.kind,
            str(kind.micro_batch),
            *(size(part) if part else "-" for part in parts),
            Text(size(memory.peak), style=over),
            _largest(kind),
        )
    table.caption = "* and gathered parameters, gradients on their way, temporary results: all else at the peak"
    table.caption_justify = "left"
    return table


def _largest(kind: KindPlan) -> str:
    if kind.largest_micro_batch is None:
        return "?"
    return str(kind.largest_micro_batch) if kind.largest_micro_batch else "none"


def _work(plan: Plan) -> Table:
    table = Table(title="Work per optimizer step", title_justify="left")
    table.add_column("records")
    for name in ("share", "positions", "pictures", "records a step", "FLOPs a record", "FLOPs a step", "seconds"):
        table.add_column(name, justify="right")
    for kind in plan.kinds:
        table.add_row(
            kind.kind,
            f"{kind.share:.0%}",
            f"{kind.length:,}",
            str(kind.pictures),
            f"{kind.global_batch:,}",
            f"{kind.flops:.3g}",
            f"{kind.step_flops:.3g}",
            f"{kind.step_seconds:,.3g}",
        )
    return table


def _needs(plan: Plan) -> Table:
    table = Table(show_header=False, title="The run", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    rows = (
        ("optimizer steps", f"{plan.steps:,}"),
        ("FLOPs a step, mean", f"{plan.flops_per_step:.3g}"),
        (f"seconds a step at {plan.mfu:.0%} MFU", f"{plan.step_seconds:,.3g}"),
        ("days", f"{plan.days:,.2f}"),
        ("GPU hours", f"{plan.days * 24 * plan.gpus:,.0f}"),
        ("checkpoint", f"{size(plan.checkpoint_bytes)}, {plan.checkpoint_seconds:,.0f} s to write"),
        ("trained model", size(plan.model_bytes)),
        ("records a second from the loader", f"{plan.records_per_second:,.1f}"),
        ("pictures a second", f"{plan.pictures_per_second:,.1f}, {plan.pictures_per_second / plan.gpus:,.2f} a GPU"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def size(number: float) -> str:
    """Bytes for people: 1.5 GiB, 12.3 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.2f} TiB"
