"""The kinds of records that move: the captioned clip and the storyboard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from emu2.data.records import Record
from emu2.world.atlas import Atlas
from emu2.world.captions import WORDINGS, at, be, caption, does, is_plural, with_article
from emu2.world.clips import MOTIONS, WAYS, Clip, Motion
from emu2.world.dice import Dice
from emu2.world.motions import Role, leg, shoot
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio

#: How often each caption wording comes up when the configuration names none, in the order of WORDINGS.
_WORDING_WEIGHTS = (1.0, 2.0, 4.0, 7.0)
#: Running sums of the weights of MOTIONS for an object that is drawn first, and for those beside it.
_LEADS = (5.0, 6.5, 8.0, 9.5, 10.5, 11.5, 12.0)
_OTHERS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 8.0)
_STRAIGHT = ("goes", "returns")
#: Running sums of the weights of one, two and three objects.
_CASTS = (0.5, 0.85, 1.0)

#: Ways out of the picture, over the edges of EDGES.
_OUT = {"left": "out to the left", "right": "out to the right", "top": "out at the top", "bottom": "out at the bottom"}

#: Seconds between two pictures of a storyboard.
_INTERVAL = 2
#: Ways tried before the story goes on with another scene.
_ATTEMPTS = 40


def random_clip(studio: Studio, dice: Dice) -> Clip:
    """A clip of one to three different things, of which at least the first is likely to move."""

    def cast() -> list[Role]:
        count = dice.weighted((1, 2, 3), _CASTS)
        concepts = studio.some(dice, min(count, len(studio.pool), studio.style.capacity))
        motions = [dice.weighted(MOTIONS, _OTHERS if number else _LEADS) for number in range(len(concepts))]
        # the direction belongs to the role: left to the attempts at a clip, diagonals would fail more often
        return [
            Role(studio.variant(dice, concept), motion, dice.pick(tuple(WAYS)) if motion in _STRAIGHT else None)
            for concept, motion in zip(concepts, motions, strict=True)
        ]

    return shoot(studio, dice, cast)


def video_pair(studio: Studio, dice: Dice, key: str) -> Record:
    """A clip, then its caption, which is to be learned."""
    clip = random_clip(studio, dice)
    wording = studio.config.wording or dice.weighted(WORDINGS, _WORDING_WEIGHTS)
    words = clip_caption(clip, wording, studio.atlas)
    truth = {"clip": studio.clip_facts(clip), "wording": wording, "caption": words, "answer": words}
    return Record("video_pair", (studio.film(clip), words), key, 1, truth)


def _deed(motion: Motion, noun: str, exact: bool) -> str:
    """What an object does, as a verb phrase; `exact` also tells from where to where."""
    start, end = motion.places
    verb = {"goes": "go", "returns": "go", "comes": "come", "leaves": "go", "circles": "circle", "bounces": "bounce"}
    said = does(noun, verb.get(motion.kind, "stay"))
    if motion.kind == "stays":
        return f"{said} {at(start)}"
    if motion.kind == "goes":
        return f"{said} from the {start} to the {end}" if exact or not motion.way else f"{said} {motion.way}"
    if motion.kind == "returns":
        there = f"from the {start} to the {end}" if exact or not motion.way else motion.way
        return f"{said} {there} and back"
    if motion.kind == "comes":
        return f"{said} in from the {motion.way}" + (f" and {does(noun, 'stop')} {at(end)}" if exact else "")
    if motion.kind == "leaves":
        out = _OUT[motion.way]
        return f"{said} from the {start} {out}" if exact else f"{said} {out}"
    if motion.kind == "circles":
        return f"{said} {motion.way}" + (f" around the {end}" if exact else "")
    return f"{said} {motion.way}" + (f" {at(start)}" if exact else "")


def clip_caption(clip: Clip, wording: str, atlas: Atlas) -> str:
    """The caption of a clip; the same clip and wording give the same words.

    wording: "name" tells who moves which way; "background" also on what; "place" from where to where, and where the
    others stay; "full" all of this.

    Raises:
        ValueError: unknown wording.
    """
    if wording not in WORDINGS:
        raise ValueError(f"There is no caption wording {wording!r}; choose one of {', '.join(WORDINGS)}.")
    exact = wording in ("place", "full")
    movers = [number for number, motion in enumerate(clip.motions) if motion.moves]
    told = range(len(clip.objects)) if exact or not movers else movers
    # who moves comes first, who stays after it
    order = sorted(told, key=lambda number: not clip.motions[number].moves)
    clauses = []
    for number in order:
        noun = atlas[clip.objects[number].emoji].noun
        clauses.append(f"{with_article(noun)} {_deed(clip.motions[number], noun, exact)}")
    background = f" on {clip.background.text}" if wording in ("background", "full") else ""
    return "; ".join(clauses) + background


# Storyboards ---------------------------------------------------------------------------------------------------------


def storyboard(studio: Studio, dice: Dice, key: str) -> Record:
    """A film of one to three things as a storyboard: a subtitle, the frame after it, and so on in time order.

    Things go straight from place to place, one at a time. Long ways take two frames, one of them half-way, so the
    frames show more than where ways end.
    """
    pages = 3 + dice.below(max(1, studio.config.max_pages - 2))
    scene, told = _opening(studio, dice, "Here")
    scenes, subtitles = [scene], [told]
    while len(scenes) < pages:
        for after, words in _next(studio, dice, scenes[-1], pages - len(scenes)):
            scenes.append(after)
            subtitles.append(words)
    segments: list[Any] = []
    for scene, words in zip(scenes, subtitles, strict=True):
        segments += [words, studio.render(scene)]
    truth = {
        "scenes": [studio.facts(scene) for scene in scenes],
        "sentences": subtitles,
        "seconds": [page * _INTERVAL for page in range(pages)],
    }
    return Record("storyboard", tuple(segments), key, None, truth)


def _opening(studio: Studio, dice: Dice, start: str) -> tuple[Scene, str]:
    count = min(1 + dice.below(3), len(studio.pool), studio.style.capacity)
    emoji = [studio.variant(dice, concept) for concept in studio.some(dice, count)]
    sizes = ("medium",) if count < 3 else ("small",)
    scene = studio.scene_of(dice, emoji, sizes=sizes, upright=True)
    return scene, f"{start} {be(studio.atlas[scene.groups()[0][0]].noun)} {caption(scene, 'full', studio.atlas)}."


def _next(studio: Studio, dice: Dice, scene: Scene, room: int) -> list[tuple[Scene, str]]:
    """The next one or two frames: a thing goes somewhere, or all wait, or the film cuts to another scene."""
    if dice.chance(0.1):
        return [(scene, "Nothing moves.")]
    for _ in range(_ATTEMPTS):
        mover = dice.below(len(scene.objects))
        motion = leg(studio, dice, scene.objects, mover)
        if motion is None:
            continue
        noun = studio.atlas[scene.objects[mover].emoji].noun
        end = _with_mover(scene, mover, motion, 1.0)
        if not studio.allows(end):
            continue
        if room >= 2 and dice.chance(0.5):
            half = _with_mover(scene, mover, motion, 0.5)
            if studio.allows(half):
                way = motion.way or f"towards the {motion.places[1]}"
                return [
                    (half, f"The {noun} {does(noun, 'start')} to go {way}."),
                    (end, f"{'They' if is_plural(noun) else 'It'} {does(noun, 'stop')} {at(motion.places[1])}."),
                ]
        return [(end, f"The {noun} {does(noun, 'go')} to the {motion.places[1]}.")]
    return [_opening(studio, dice, "Cut: here")]


def _with_mover(scene: Scene, mover: int, motion: Motion, time: float) -> Scene:
    x, y = motion.at(time)
    objects: list[SceneObject] = list(scene.objects)
    objects[mover] = replace(objects[mover], x=x, y=y)
    return Scene(tuple(objects), scene.background)
