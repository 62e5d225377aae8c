"""The plain kinds of records: pair and text to image."""

from __future__ import annotations

from typing import Any

from emu2.data.records import Record
from emu2.world.captions import WORDINGS, caption
from emu2.world.dice import Dice
from emu2.world.scene import Scene
from emu2.world.studio import Studio

#: How often each caption wording comes up when the configuration names none, in the order of WORDINGS.
PAIR_WEIGHTS = (1.0, 2.0, 3.0, 4.0)
#: A picture is only determined by a caption that tells much of it.
_DRAW_WEIGHTS = (1.0, 3.0, 4.0, 6.0)


def draw_wording(dice: Dice, studio: Studio, cumulative: tuple[float, ...]) -> str:
    """The wording that the configuration names, or one by these cumulative weights, in the order of WORDINGS."""
    return studio.config.wording or dice.weighted(WORDINGS, cumulative)


def _captioned(studio: Studio, dice: Dice, cumulative: tuple[float, ...]) -> tuple[Scene, str, dict[str, Any]]:
    scene = studio.scene(dice)
    wording = draw_wording(dice, studio, cumulative)
    words = caption(scene, wording, studio.atlas, sizes=studio.config.style == "full")
    return scene, words, {"scene": studio.facts(scene), "wording": wording, "caption": words}


def pair(studio: Studio, dice: Dice, key: str) -> Record:
    """A picture, then its caption, which is to be learned."""
    scene, words, truth = _captioned(studio, dice, PAIR_WEIGHTS)
    return Record("pair", (studio.render(scene), words), key, 1, {**truth, "answer": words})


def text_to_image(studio: Studio, dice: Dice, key: str) -> Record:
    """A caption, then its picture, which is to be learned."""
    scene, words, truth = _captioned(studio, dice, _DRAW_WEIGHTS)
    return Record("text_to_image", (words, studio.render(scene)), key, 1, truth)
