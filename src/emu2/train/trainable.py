"""The parts of a whole Emu2: what a run trains, what it freezes, and at which rate each part moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from emu2.decoder.inflate import is_temporal
from emu2.model.adapters import has_adapter, is_adapter_parameter
from emu2.train.config import ADAPTED_PARTS, OptimConfig
from emu2.train.pieces import layout

if TYPE_CHECKING:
    from emu2.train.whole import Whole


def part_modules(whole: Whole) -> dict[str, list[tuple[str, nn.Module]]]:
    """Part -> its modules, each with the prefix its parameter names take. Parts that the whole lacks are left out."""
    model = whole.model
    parts: dict[str, list[tuple[str, nn.Module]]] = {
        "vision": [("model.visual", model.model.visual)],
        "bridge": [
            ("model.project_up", model.model.project_up),
            ("model.project_down", model.model.project_down),
        ],
        "language": [("model.language_model", model.model.language_model), ("lm_head", model.lm_head)],
    }
    for name in ("text_tower", "vae", "unet", "video_unet"):
        module = getattr(whole, name)
        if module is not None:
            parts[name] = [(name, module)]
    if whole.video_unet is not None:
        parts["video_temporal"] = [
            (f"video_unet.{name}", module) for name, module in temporal_modules(whole.video_unet)
        ]
    return parts


def temporal_modules(video_unet: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a video U-Net that mix frames, by name, none inside another."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in video_unet.named_modules():
        if is_temporal(name) and not (found and name.startswith(f"{found[-1][0]}.")):
            found.append((name, module))
    return found


def set_trainable(whole: Whole, trained: tuple[str, ...]) -> None:
    """Let `trained` parts move, in training mode; freeze every other one, in evaluation mode.

    Raises:
        ValueError: a part to be trained does not exist in this whole, or nothing of it can move.
    """
    parts = part_modules(whole)
    for part in trained:
        if part not in parts:
            raise ValueError(f"This model has no {part!r} to train; it has {', '.join(parts)}.")
    whole.model.eval()
    # Parts may lie inside one another (the temporal parts in the video U-Net), so everything is frozen first.
    for modules in parts.values():
        for _, module in modules:
            module.requires_grad_(False)
            module.eval()
    adapted = has_adapter(whole.model)
    moves = False
    for part in trained:
        for _, module in parts[part]:
            for name, parameter in module.named_parameters():
                # Beside an adapter the weights it adapts stay as they are.
                parameter.requires_grad_(not adapted or part not in ADAPTED_PARTS or is_adapter_parameter(name))
                moves = moves or parameter.requires_grad
            module.train()
    if trained and not moves:
        raise ValueError(
            f"Nothing is trainable: the parts {', '.join(trained)} hold no parameter"
            + (" of the adapter." if adapted else ".")
        )


def trained_parameters(whole: Whole, trained: tuple[str, ...]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(part, name, parameter) of everything that moves, in a fixed order, each parameter once (tied ones share).

    Where one part lies inside another, the smaller one has it, so that it moves at its own rate.
    """
    parts = part_modules(whole)
    seen: set[int] = set()
    for part in sorted(trained, key=lambda part: part == "video_unet"):  # its temporal parts first
        for prefix, module in parts[part]:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield part, f"{prefix}.{name}", parameter


def parameter_groups(whole: Whole, trained: tuple[str, ...], optim: OptimConfig) -> list[dict[str, Any]]:
    """Groups for the optimizer: by part, within a part with and without weight decay, and by the way they are split.

    Each group carries `part`, `peak_lr`, which the schedule scales, and `start`, the step it moves from. Matrices
    decay; biases, norms, and the tables looked up by position or token do not.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part, name, parameter in trained_parameters(whole, trained):
        decays = _decays(name, parameter)
        group = groups.setdefault(
            (part, decays, layout(parameter)),
            {
                "params": [],
                "part": part,
                "peak_lr": optim.part_lr.get(part, optim.lr),
                "start": optim.part_start.get(part, 0),
                "weight_decay": optim.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _decays(name: str, parameter: Tensor) -> bool:
    tables = ("pos_embed", "cls_token", "embed_tokens", "embed_positions")
    return parameter.ndim >= 2 and not any(table in name for table in tables)
