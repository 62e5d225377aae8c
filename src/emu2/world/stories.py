"""The interleaved document: a small story, told in sentences and shown in pictures."""

from __future__ import annotations

from typing import Any

from emu2.data.records import Record
from emu2.world.captions import be, caption, does, sentence, with_article
from emu2.world.compose import apart, arrange, draw_background
from emu2.world.dice import Dice
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio


def document(studio: Studio, dice: Dice, key: str) -> Record:
    """A story of 2 to 8 pictures: each sentence tells what changes, the picture after it shows the result."""
    pages = 2 + dice.below(studio.config.max_pages - 1)
    scene, told = _opening(studio, dice)
    segments: list[Any] = [told, studio.render(scene)]
    scenes, sentences = [studio.facts(scene)], [told]
    for _ in range(pages - 1):
        scene, told = _event(studio, dice, scene)
        segments += [told, studio.render(scene)]
        scenes.append(studio.facts(scene))
        sentences.append(told)
    return Record("document", tuple(segments), key, None, {"scenes": scenes, "sentences": sentences})


def _opening(studio: Studio, dice: Dice) -> tuple[Scene, str]:
    hero = dice.pick(studio.pool)
    scene = studio.scene_of(dice, [hero.index], sizes=("medium",))
    return scene, f"Here {be(hero.noun)} {caption(scene, 'full', studio.atlas)}."


def _event(studio: Studio, dice: Dice, scene: Scene) -> tuple[Scene, str]:
    """What happens next: someone comes, goes or moves, or the background changes. Only what is told changes."""
    events = [_comes, _moves, _turns]
    if len(scene.objects) > 1:
        events.append(_leaves)
    for event in dice.shuffled(events):
        for _ in range(20):
            after = event(studio, dice, scene)
            if after is not None and studio.allows(after[0]):
                return after
    # every event was ruled out twenty times: change everything at once
    return _opening(studio, dice)


def _comes(studio: Studio, dice: Dice, scene: Scene) -> tuple[Scene, str] | None:
    present = {item.emoji for item in scene.objects}
    guest = dice.pick(studio.pool)
    if guest.index in present or len(scene.objects) >= studio.style.capacity:
        return None
    return _with(
        studio, dice, scene, guest.index, scene.objects, f"{with_article(guest.noun)} {does(guest.noun, 'come')}"
    )


def _moves(studio: Studio, dice: Dice, scene: Scene) -> tuple[Scene, str] | None:
    mover = dice.pick(scene.objects)
    others = tuple(item for item in scene.objects if item is not mover)
    noun = studio.atlas[mover.emoji].noun
    return _with(studio, dice, scene, mover.emoji, others, f"the {noun} {does(noun, 'go')}", mover)


def _with(
    studio: Studio,
    dice: Dice,
    scene: Scene,
    emoji: int,
    others: tuple[SceneObject, ...],
    who: str,
    mover: SceneObject | None = None,
) -> tuple[Scene, str] | None:
    """The scene with `emoji` at a new place beside the `others`, which stay; `None` where it does not fit."""
    size = mover.size if mover else "medium" if len(others) < 2 else "small"
    item = arrange(dice, [emoji], studio.style, studio.atlas, sizes=(size,))[0]
    if mover is not None and (item.place == mover.place or item.rotation != mover.rotation):
        return None
    if any(other.place == item.place for other in others) or not apart(item, others, studio.atlas):
        return None
    where = "to the center" if item.place == "center" else f"to the {item.place}"
    return Scene((*others, item), scene.background), f"{sentence(who)} {where}."


def _turns(studio: Studio, dice: Dice, scene: Scene) -> tuple[Scene, str] | None:
    background = draw_background(dice, studio.style)
    if background == scene.background:
        return None
    return Scene(scene.objects, background), f"Now there is {background.text}."


def _leaves(studio: Studio, dice: Dice, scene: Scene) -> tuple[Scene, str] | None:
    leaver = dice.pick(scene.objects)
    rest = tuple(item for item in scene.objects if item is not leaver)
    noun = studio.atlas[leaver.emoji].noun
    return Scene(rest, scene.background), f"The {noun} {does(noun, 'go')} away."
