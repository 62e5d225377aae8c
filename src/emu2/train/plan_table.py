"""The look of a plan in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from emu2.train.plan import Plan


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
    usable = f"{size(plan.limit)} of a GPU are usable"
    if plan.accumulate is not None:
        how = f" with --accumulate {plan.accumulate}" if plan.accumulate > 1 else ""
        return Text(f"Fits{how}: {usable}.", style="green")
    worst = max(plan.kinds, key=lambda kind: kind.memory.peak)
    text = f"Does not fit: {usable}, and one record of {worst.kind!r} needs {size(worst.memory.peak)}."
    if worst.memory.lasting > plan.limit:
        text += (
            f" What lasts from step to step alone is {size(worst.memory.lasting)}: take more GPUs or larger ones, or "
            "set dtype=bfloat16 or parallel.cpu_offload=true."
        )
    elif worst.memory.peak <= plan.limit:
        text = "Does not fit: no number of micro-batches divides the batches of all kinds into ones that fit."
    return Text(text, style="red")


def _memory(plan: Plan) -> Table:
    lines = {
        "records": [str(kind.micro_batch) for kind in plan.kinds],
        "parameters": [_size(kind.memory.parameters) for kind in plan.kinds],
        "gradients": [_size(kind.memory.gradients) for kind in plan.kinds],
        "optimizer": [_size(kind.memory.optimizer) for kind in plan.kinds],
        "average": [_size(kind.memory.average) for kind in plan.kinds],
        "activations, all else": [_size(kind.memory.activations) for kind in plan.kinds],
        "peak": [_size(kind.memory.peak) for kind in plan.kinds],
        "largest micro-batch": [str(kind.largest_micro_batch or "none") for kind in plan.kinds],
    }
    return _by_kind("One micro-batch on one GPU", plan, lines)


def _work(plan: Plan) -> Table:
    lines = {
        "share of the steps": [f"{kind.share:.0%}" for kind in plan.kinds],
        "positions a record": [f"{kind.length:,}" for kind in plan.kinds],
        "pictures a record": [str(kind.pictures) for kind in plan.kinds],
        "records": [f"{kind.global_batch:,}" for kind in plan.kinds],
        "FLOPs a record": [f"{kind.flops:.3g}" for kind in plan.kinds],
        "FLOPs": [f"{kind.step_flops:.3g}" for kind in plan.kinds],
        "seconds": [f"{kind.step_seconds:,.3g}" for kind in plan.kinds],
    }
    return _by_kind("One optimizer step on all GPUs", plan, lines)


def _by_kind(title: str, plan: Plan, lines: dict[str, list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column()
    for kind in plan.kinds:
        table.add_column(kind.kind, justify="right", overflow="fold")
    for name, cells in lines.items():
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)
    return table


def _size(number: int) -> str:
    return size(number) if number else "-"


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
