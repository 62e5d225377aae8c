"""Questions about pictures: what, how many, where, which colour, which group.

Whatever a question's words are, its answers come up equally often, so nobody can answer without looking. That is why
some questions draw their answer first and a scene for it afterwards.
"""

from __future__ import annotations

from emu2.world.asking import Exchange, PictureQuestion, View, even, of_any_scene
from emu2.world.atlas import Emoji
from emu2.world.captions import NUMBERS, at, be, caption, counted, sentence, with_article
from emu2.world.dice import Dice
from emu2.world.everyday import SUBGROUP_KINDS
from emu2.world.scene import Scene, SceneObject
from emu2.world.studio import Studio

#: Kinds of things, at most, in a picture whose things are counted whatever they are.
_MOST_KINDS = 3


def noun_of(studio: Studio, item: SceneObject) -> str:
    """The short name of an object."""
    return studio.atlas[item.emoji].noun


def called(studio: Studio, scene: Scene, noun: str) -> list[SceneObject]:
    """The objects of a name."""
    return [item for item in scene.objects if noun_of(studio, item) == noun]


def lone(studio: Studio, view: View) -> list[SceneObject]:
    """The objects that are the only ones of their name and not yet given away."""
    counts = view.scene.counts(studio.atlas)
    names = [(noun_of(studio, item), item) for item in view.scene.objects]
    return [item for name, item in names if counts[name] == 1 and name not in view.told]


# What, where ---------------------------------------------------------------------------------------------------------


def _what(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    open_items = [item for item in view.scene.objects if noun_of(studio, item) not in view.told]
    if not open_items:
        return None
    item = dice.pick(open_items)
    noun = noun_of(studio, item)
    where = at(item.place)
    questions = [f"What is {where}?", f"What can be seen {where}?"]
    if len(view.scene.objects) == 1:
        questions += ["What is this?", "What is in the picture?"]
    return Exchange(
        "what",
        dice.pick(questions),
        noun,
        lambda label: f"There {be(label)} {with_article(label)} {where}.",
        chance=1 / len(studio.pool),
        told=frozenset((noun,)),
        sought=(where, (item,)),
        facts={"place": item.place},
    )


def _where(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    items = lone(studio, view)
    if not items:
        return None
    item = dice.pick(items)
    noun = noun_of(studio, item)
    places = studio.style.places
    return Exchange(
        "where",
        dice.pick((f"Where {be(noun)} the {noun}?", f"In which part of the picture {be(noun)} the {noun}?")),
        item.place,
        lambda label: f"The {noun} {be(noun)} {at(label)}.",
        labels=places,
        chance=even(places),
        told=frozenset((noun,)),
        sought=(noun, (item,)),
        facts={"subject": noun},
    )


# How many ------------------------------------------------------------------------------------------------------------


def _count(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """The number is drawn first, none to as many as the style holds, then things beside those asked about."""
    most = studio.style.capacity
    if view is not None and not view.quizzed:
        return None
    if view is None:
        count = dice.below(most + 1)
        # at least one thing in all, and sometimes two kinds beside the one that is asked about
        others = dice.below(most - count + 1) if count else 1 + dice.below(most)
        concepts = studio.some(dice, 1 + min(2, others, len(studio.pool) - 1))
        subject, *rest = [studio.atlas[studio.variant(dice, concept)] for concept in concepts]
        emoji = [subject.index] * count + [dice.pick(rest).index for _ in range(others)]
        scene = studio.scene_of(dice, emoji)
    else:
        scene, here = view.scene, view.scene.counts(studio.atlas)
        subject = studio.atlas[_one_of(studio, dice, scene)]
        count = here.get(subject.noun, 0)
    labels = ("zero", *NUMBERS[1 : most + 1])
    questions = (
        f"How many {subject.plural} are there?",
        f"How many {subject.plural} are in the picture?",
        f"Count the {subject.plural}.",
    )
    return scene, Exchange(
        "count",
        dice.pick(questions),
        labels[count],
        lambda label: _there_are(subject, labels.index(label)),
        labels=labels,
        chance=even(labels),
        told=frozenset((subject.noun,)),
        sought=(subject.plural, called(studio, scene, subject.noun)),
        facts={"subject": subject.noun},
    )


def _one_of(studio: Studio, dice: Dice, scene: Scene) -> int:
    """The emoji of one of a scene's things, or sometimes of one that it may lack, as often as each number comes up."""
    if dice.chance(1 / (studio.style.capacity + 1)):
        return studio.variant(dice, dice.pick(studio.pool))
    return dice.pick(sorted({item.emoji for item in scene.objects}))


def _there_are(emoji: Emoji, count: int) -> str:
    verb = "is" if count == 1 and be(emoji.noun) == "is" else "are"
    return f"There {verb} {counted(emoji, count)} in the picture."


def _things(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """How many things of all kinds; the number is drawn first. Other numbers might give it away, but not in a quiz."""
    most = studio.style.capacity
    if view is not None and not view.quizzed:
        return None
    if view is None:
        count = 1 + dice.below(most)
        concepts = studio.some(dice, 1 + dice.below(min(_MOST_KINDS, count, len(studio.pool))))
        kinds = [studio.variant(dice, concept) for concept in concepts]
        scene = studio.scene_of(dice, kinds + [dice.pick(kinds) for _ in range(count - len(kinds))])
    else:
        scene = view.scene
    labels = NUMBERS[1 : most + 1]
    questions = ("How many things are there?", "How many things are in the picture?", "Count the things.")
    return scene, Exchange(
        "things",
        dice.pick(questions),
        labels[len(scene.objects) - 1],
        lambda label: f"There {'is one thing' if label == 'one' else f'are {label} things'} in the picture.",
        labels=labels,
        chance=even(labels),
        sought=("things", scene.objects),
    )


# Which colour --------------------------------------------------------------------------------------------------------


def _colour(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    if "background" in view.told:
        return None
    colours = studio.style.colours
    told = frozenset(("background",))
    shown = view.scene.background.colours
    if len(shown) == 1:
        return Exchange(
            "colour",
            dice.pick(("What color is the background?", "Which color does the background have?")),
            shown[0],
            lambda label: f"The background is {label}.",
            labels=colours,
            chance=even(colours),
            told=told,
        )
    return Exchange(
        "colour",
        dice.pick(("Which two colors are in the background?", "What are the two colors of the background?")),
        " and ".join(shown),
        lambda label: f"The background is {label}.",
        chance=2 / (len(colours) * (len(colours) - 1)),
        accepted=(" and ".join(reversed(shown)),),
        told=told,
    )


# Which group ---------------------------------------------------------------------------------------------------------


def _group(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """The group is drawn first. The question does not name the thing: then it could be answered without looking."""
    groups = groups_of(studio)
    if view is not None or not groups:
        return None
    labels = sorted(groups)
    group = dice.pick(labels)
    concept = dice.pick(groups[group])
    others = [other for other in studio.some(dice, min(3, len(studio.pool))) if other is not concept]
    others = others[: dice.below(3) if dice.chance(0.5) else 0]
    emoji = [studio.variant(dice, each) for each in (concept, *others)]
    scene = studio.scene_of(dice, emoji)
    item = scene.objects[0]
    where = at(item.place)
    questions = [f"What kind of thing is {where}?", f"Which group does the thing {where} belong to?"]
    if not others:
        questions = ["What kind of thing is this?", "Which group does the thing in the picture belong to?"]
    noun = noun_of(studio, item)
    return scene, Exchange(
        "group",
        dice.pick(questions),
        group,
        lambda label: f"The {noun} {be(noun)} {_membership(noun, label)}.",
        labels=labels,
        chance=even(labels),
        told=frozenset((noun,)),
        sought=(where, (item,)),
        facts={"subject": noun, "place": item.place},
    )


def _membership(noun: str, group: str) -> str:
    return with_article(group) if be(noun) == "is" else f"in the group {group}"


def groups_of(studio: Studio) -> dict[str, list[Emoji]]:
    """Group ("animal") -> the pool's concepts in it, without those whose group is open to doubt.

    An everyday thing may be of another kind than the rest of its subgroup (a carrot is a plant, other vegetables are
    vegetables); who sees it cannot know which word is meant.
    """
    found = {
        kind: [concept for concept in concepts if SUBGROUP_KINDS.get(concept.subgroup, kind) == kind]
        for kind, concepts in studio.kinds_of_things.items()
    }
    return {kind: concepts for kind, concepts in found.items() if concepts}


# Describe ------------------------------------------------------------------------------------------------------------


def _describe(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    """The short form names what is there, the detailed form tells everything."""
    if view.told:
        return None
    questions = ["Describe the picture.", "What does the picture show?", "What do you see?"]
    if len(view.scene.objects) > 1:
        questions += ["What is in the picture?"]
    full = caption(view.scene, "full", studio.atlas, sizes=studio.config.style == "full")
    return Exchange(
        "describe",
        dice.pick(questions),
        caption(view.scene, "name", studio.atlas),
        lambda _: f"{sentence(full)}.",
        told=frozenset((*view.scene.counts(studio.atlas), "background")),
    )


what: PictureQuestion = of_any_scene(_what)
where: PictureQuestion = of_any_scene(_where)
count: PictureQuestion = _count
things: PictureQuestion = _things
colour: PictureQuestion = of_any_scene(_colour)
group: PictureQuestion = _group
describe: PictureQuestion = of_any_scene(_describe)
