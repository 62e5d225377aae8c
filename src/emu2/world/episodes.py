"""Few-shot episodes: demonstrations that say what is asked for, then a query.

A record's segments are picture, text, picture, text, ..., picture, answer. The query and the demonstrations do not
depend on how many there are: with the same index, k demonstrations are the first k of any longer run, so that figures
for different k compare the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from emu2.data.records import Record, Sought
from emu2.processing.grounding import Box
from emu2.world.dice import Dice
from emu2.world.grounded import boxes_of
from emu2.world.scene import Scene
from emu2.world.studio import Studio

#: Made-up words are two syllables of these, 4,900 in all, less the real words among them.
_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_REAL_WORDS = (
    "bale bane bare base bike bite bone bore dame dare data date demo dire diva dive dodo dome done dope "
    "dose dove doze duke fade fake fame fare fate file fine fire five fore fume fuse gala gaze gene gone "
    "kilo kite lake lama lane late lava laze life like lime line live logo lone lose love luke luna mama "
    "mane mare mate maze memo mike mile mine mini mode mole mono more move mule mute name nine node none "
    "nose note pale pane papa pare pave peso pile pine pipe pita pole polo pope pose puke puma pure rape "
    "rare rate rave ride ripe rise robe rode role rope rose rude rule rune safe saga sake sale same save "
    "side silo sire site size soda sofa sole solo some sore sumo sure take tale tame tape taro tide tile "
    "time tire tofu toga tone tore tuba tube tune vase veto vile vine visa vote zero zone"
)
MADE_UP_WORDS: tuple[str, ...] = tuple(
    word
    for word in map("".join, product(_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS))
    if word not in _REAL_WORDS.split()
)

#: In a counting episode every concept is shown at most this often.
MAX_COUNT = 3


def draw_shots(studio: Studio, key: str) -> int:
    """How many demonstrations; drawn apart from everything else, so that it changes nothing else."""
    return Dice(key, "shots").pick(studio.config.shots)


def draw_order(studio: Studio, dice: Dice, key: str, choices: int) -> Iterator[int]:
    """Which of the choices each demonstration shows: each choice once in every round of as many demonstrations, or,
    without `rounds`, any one at any time. Drawn one by one, so that what a demonstration draws comes in between."""
    left: list[int] = []
    for _ in range(draw_shots(studio, key)):
        if studio.config.rounds:
            left = left or dice.shuffled(range(choices))
            yield left.pop()
        else:
            yield dice.below(choices)


def choice_of(words: Sequence[str]) -> str:
    """The opening that names the words: "bako or limu?"."""
    return f"{', '.join(words[:-1])} or {words[-1]}?"


def episode(
    studio: Studio,
    kind: str,
    key: str,
    opening: str,
    demonstrations: list[tuple[Scene, str]],
    query: tuple[Scene, str],
    truth: dict[str, Any],
    *,
    whole: bool = False,
) -> Record:
    """A record of an opening (or none), demonstrations and a query; `truth` is what holds beside scenes and answers.

    whole: what decides lies in no part of the pictures, so that all of each is sought.
    """
    segments: list[Any] = [opening] if opening else []
    for scene, words in (*demonstrations, query):
        segments += [studio.render(scene), words]
    facts = {
        **truth,
        "answer": query[1],
        "shots": len(demonstrations),
        "scene": studio.facts(query[0]),
        "demonstrations": [{"scene": studio.facts(scene), "answer": words} for scene, words in demonstrations],
    }
    # an episode marks something in all of its pictures or in none
    scenes = [scene for scene, _ in (*demonstrations, query)]
    size = studio.config.image_size
    if whole:
        boxes = [[Box((0, 0, size, size), None, (size, size))]] * len(scenes)
    else:
        boxes = [boxes_of(studio, [scene.objects[scene.marked]]) for scene in scenes if scene.marked is not None]
    sought = tuple(Sought("", tuple(of_one)) for of_one in boxes)
    return Record(kind, tuple(segments), key, len(segments) - 1, facts, sought=sought)


def naming(studio: Studio, dice: Dice, key: str) -> Record:
    """Family 1: made-up words stand for concepts, anew in every episode.

    The document opens with the words ("bako or limu?"), so that a reader without demonstrations knows the choices and
    is right once in 2 (or 4) times. With `rounds` every run of as many demonstrations as there are words holds each
    word once. In an echo (`echoed`) all pictures of a word are one and the same: the easiest case of looking back for
    what is alike.
    """
    ways = dice.pick(studio.config.ways)
    concepts = studio.some(dice, ways)
    words = dice.sample(MADE_UP_WORDS, ways)
    again = bool(studio.config.echoed) and dice.chance(studio.config.echoed)
    shown: dict[int, Scene] = {}

    def show(choice: int) -> tuple[Scene, str]:
        if not again or choice not in shown:
            shown[choice] = studio.scene_of(dice, [studio.variant(dice, concepts[choice])])
        return shown[choice], f"{words[choice]}."

    target = dice.below(ways)
    query = show(target)
    demonstrations = [show(choice) for choice in draw_order(studio, dice, key, ways)]
    truth = {
        "ways": ways,
        "label": words[target],
        "choices": [f"{word}." for word in words],
        "binding": {word: concept.noun for word, concept in zip(words, concepts, strict=True)},
        "chance": 1 / ways,
    }
    return episode(studio, "naming", key, choice_of(words), demonstrations, query, truth)


def tally(counts: dict[str, int]) -> str:
    """The form of counting answers, in alphabetical order: `[cat: 2, dog: 1].`"""
    return f"[{', '.join(f'{noun}: {count}' for noun, count in sorted(counts.items()) if count)}]."


def counting(studio: Studio, dice: Dice, key: str) -> Record:
    """Family 4: how many of each, as `[cat: 2, dog: 1].`

    All pictures of an episode show the same few concepts, each up to three times or not at all; every answer that this
    leaves is equally likely.
    """
    kinds = 1 + dice.below(min(studio.style.max_kinds, len(studio.pool)))
    concepts = studio.some(dice, kinds)
    capacity = studio.style.capacity
    possible = [counts for counts in product(range(MAX_COUNT + 1), repeat=kinds) if 1 <= sum(counts) <= capacity]

    def show() -> tuple[Scene, str]:
        counts = dice.pick(possible)
        emoji = [
            studio.variant(dice, concept) for concept, count in zip(concepts, counts, strict=True) for _ in range(count)
        ]
        named = {concept.noun: count for concept, count in zip(concepts, counts, strict=True)}
        return studio.scene_of(dice, emoji, sizes=("small",)), tally(named)

    query = show()
    demonstrations = [show() for _ in range(draw_shots(studio, key))]
    truth = {
        "names": sorted(concept.noun for concept in concepts),
        "choices": [
            tally({concept.noun: count for concept, count in zip(concepts, counts, strict=True)}) for counts in possible
        ],
        "chance": 1 / len(possible),
    }
    return episode(studio, "counting", key, "", demonstrations, query, truth)
