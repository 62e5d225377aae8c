"""The paper in miniature: what the paper claims, measured on a small model and scenes that it never trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu2.evaluate import control, drawings, films, in_context, understanding
from emu2.evaluate.exam import Exam, MiniatureConfig, Models
from emu2.evaluate.rows import Group, Row
from emu2.evaluate.subject import LoadedSubject, Subject

if TYPE_CHECKING:
    from emu2.inference.face import Emu2

#: All groups of rows, in the order of the table.
GROUPS: dict[str, Group] = {
    "captioning": understanding.GROUPS[0],
    "chat": understanding.GROUPS[1],
    "naming": in_context.GROUPS[0],
    "families": in_context.GROUPS[1],
    "tuning": understanding.GROUPS[2],
    "autoencoding": drawings.GROUPS[0],
    "text_to_image": drawings.GROUPS[1],
    "subject": control.GROUPS[0],
    "edit": control.GROUPS[1],
    "drawing": control.GROUPS[2],
    "video": films.GROUPS[0],
}
VARIANTS = ("base", "chat", "gen")


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured with.

    names: variant -> folder of the model. seconds: group -> how long it took.
    """

    rows: tuple[Row, ...]
    config: MiniatureConfig
    names: dict[str, str]
    seconds: dict[str, float]
    settings: dict[str, Any]

    @property
    def summary(self) -> dict[str, int]:
        """How many rows have a target, reach it, miss it, and could not be measured."""
        told = [row.reached for row in self.rows]
        return {
            "rows": len(self.rows),
            "reached": told.count(True),
            "missed": told.count(False),
            "without target": sum(row.measured is not None and row.reached is None for row in self.rows),
            "not measured": sum(row.measured is None for row in self.rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, JSON-able."""
        return {
            "models": self.names,
            "summary": self.summary,
            "config": asdict(self.config),
            "settings": self.settings,
            "seconds": self.seconds,
            "rows": [row.to_dict() for row in self.rows],
        }

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write miniature.json and the page index.html; returns both."""
        from emu2.evaluate.page import write_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        scores = folder / "miniature.json"
        scores.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return scores, write_page(folder / "index.html", self)


def miniature(
    models: Models,
    config: MiniatureConfig | None = None,
    *,
    only: Sequence[str] = (),
    names: dict[str, str] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure every row, or those of the groups named in `only`.

    A row whose part of the model is missing says so; nothing is left out.

    Args:
        models: the variants; one model may serve as all three.
        config: how much is asked.
        only: keys of `GROUPS`.
        names: variant -> what the report calls it. settings: what else the report shall tell.
        progress: is told each group's name as it begins.

    Raises:
        ValueError: an unknown group.
    """
    unknown = [name for name in only if name not in GROUPS]
    if unknown:
        raise ValueError(f"There is no group {unknown[0]!r}; choose from {', '.join(GROUPS)}.")
    exam = Exam(config or MiniatureConfig(), models.base.image_size)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name, group in GROUPS.items():
        if only and name not in only:
            continue
        if progress is not None:
            progress(group.name)
        started = time.perf_counter()
        rows += group.rows(models, exam)
        seconds[name] = round(time.perf_counter() - started, 1)
    return Report(tuple(rows), exam.config, names or {}, seconds, settings or {})


def variant_folders(model: str | Path, chat: str | Path | None = None, gen: str | Path | None = None) -> dict[str, str]:
    """Variant -> its folder: what was given, else a folder of that name in the model's, else the model's itself.

    A name that is no folder stands for a model of that name and its siblings: "nano", "nano-chat", "nano-gen".
    """
    path = Path(model).expanduser()
    given = {"base": None, "chat": chat, "gen": gen}
    found = {}
    for variant, own in given.items():
        if own is not None:
            found[variant] = str(own)
        elif (path / variant).is_dir():
            found[variant] = str(path / variant)
        elif path.exists() or variant == "base":
            found[variant] = str(model)
        else:
            found[variant] = f"{model}-{variant}"
    return found


def scenes_of(model: str | Path) -> dict[str, Any]:
    """`style` and `concepts` of the scenes that a model was trained on, as its card has them; empty where it has not.

    Raises:
        ValueError: there is a card, and it cannot be read.
    """
    from emu2.inference.names import model_card

    scenes = model_card(str(model)).get("scenes", {})
    return {name: scenes[name] for name in ("style", "concepts") if name in scenes}


def examined(
    folders: dict[str, str],
    load: Callable[[str], Emu2],
    *,
    batch_size: int = 32,
    steps: int = 20,
    guidance: float = 1.0,
    seed: int = 0,
) -> Models:
    """The variants, each folder loaded once.

    Args:
        folders: as `variant_folders` gives them. load: what loads one.
        batch_size, steps, guidance, seed: as in `LoadedSubject`.
    """
    loaded: dict[str, Subject] = {}
    for folder in folders.values():
        if folder not in loaded:
            loaded[folder] = LoadedSubject(
                load(folder), batch_size=batch_size, steps=steps, guidance=guidance, seed=seed
            )
    return Models(**{variant: loaded[folders[variant]] for variant in VARIANTS})
