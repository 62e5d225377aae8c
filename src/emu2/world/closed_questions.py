"""Questions about pictures that name their answers: yes or no, and multiple choice.

"yes" and "no" are equally often right for every way of asking, and so is every letter of a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

from emu2.world.asking import Exchange, PictureQuestion, View, even, of_any_scene
from emu2.world.atlas import Emoji
from emu2.world.captions import NUMBERS, at, be, counted, is_plural, with_article
from emu2.world.compose import draw_counts
from emu2.world.dice import Dice
from emu2.world.questions import called, lone, noun_of
from emu2.world.scene import PLACES, Scene, SceneObject
from emu2.world.studio import Studio

_YES_NO = ("yes", "no")
_LETTERS = ("A", "B", "C", "D")
#: Numbers that "Are there exactly three dogs?" asks about, at most.
_MOST = 4


def _yes_no(
    about: str,
    asked: str,
    is_so: bool,
    so: str,
    not_so: str,
    told: Sequence[str],
    sought: tuple[str, Sequence[SceneObject]] | None,
) -> Exchange:
    return Exchange(
        "yes_no",
        asked,
        "yes" if is_so else "no",
        lambda label: f"Yes, {so}." if label == "yes" else f"No, {not_so}.",
        labels=_YES_NO,
        chance=even(_YES_NO),
        told=frozenset(told),
        sought=sought,
        facts={"about": about},
    )


# Yes or no -----------------------------------------------------------------------------------------------------------


def _present(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """ "Is there a dog?": all the things of a scene and one more are drawn, then which of them is asked about."""
    is_so = dice.chance(0.5)
    if view is None:
        counts = draw_counts(dice, studio.style)[: len(studio.pool) - 1]
        asked, *shown = [studio.atlas[studio.variant(dice, one)] for one in studio.some(dice, len(counts) + 1)]
        if is_so:
            shown[dice.below(len(shown))] = asked
        scene = studio.scene_of(
            dice, [one.index for one, number in zip(shown, counts, strict=True) for _ in range(number)]
        )
    else:
        scene, counted_here = view.scene, view.scene.counts(studio.atlas)
        shown = [studio.atlas[item.emoji] for item in scene.objects if noun_of(studio, item) not in view.told]
        if not shown:
            return None  # then the answer could only be "no"
        asked = dice.pick(shown) if is_so else studio.atlas[studio.variant(dice, dice.pick(studio.pool))]
        if not is_so and (asked.noun in counted_here or asked.noun in view.told):
            return None
    thing, verb = with_article(asked.noun), be(asked.noun)
    exchange = _yes_no(
        "presence",
        f"{verb.capitalize()} there {_any(asked)}{dice.pick(('', ' in the picture'))}?",
        is_so,
        f"there {verb} {thing} in the picture" if scene.counts(studio.atlas).get(asked.noun, 1) == 1 else _some(asked),
        f"there {verb} no {asked.noun} in the picture",
        (asked.noun,),
        (asked.noun, called(studio, scene, asked.noun)),
    )
    return scene, exchange


def _any(emoji: Emoji) -> str:
    return f"any {emoji.noun}" if is_plural(emoji.noun) else with_article(emoji.noun)


def _some(emoji: Emoji) -> str:
    return f"there are {emoji.plural} in the picture"


def _number(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """ "Are there exactly two dogs?": the true number and the one asked about are drawn alike."""
    most = min(_MOST, studio.style.capacity)
    if most < 2 or (view is not None and not view.quizzed):
        return None
    number, other = dice.sample(range(1, most + 1), 2)
    is_so = dice.chance(0.5)
    if view is None:
        concepts = studio.some(dice, min(2, len(studio.pool)))
        subject, *rest = [studio.atlas[studio.variant(dice, concept)] for concept in concepts]
        beside = dice.below(min(3, studio.style.capacity - number + 1)) if rest else 0
        scene = studio.scene_of(dice, [subject.index] * number + [rest[0].index for _ in range(beside)])
    else:
        scene = view.scene
        subject = studio.atlas[dice.pick(sorted({item.emoji for item in scene.objects}))]
        number = scene.counts(studio.atlas)[subject.noun]
        if number > most:
            return None
        other = dice.pick([count for count in range(1, most + 1) if count != number])
    stated = number if is_so else other

    def words(count: int) -> str:
        return f"one {subject.noun}" if count == 1 else counted(subject, count)

    verb = "Is" if stated == 1 and be(subject.noun) == "is" else "Are"
    told = f"there {'is' if number == 1 and be(subject.noun) == 'is' else 'are'} {words(number)}"
    asked = f"{verb} there exactly {words(stated)} in the picture?"
    sought = (subject.noun if stated == 1 else subject.plural, called(studio, scene, subject.noun))
    return scene, _yes_no("number", asked, is_so, told, told, (subject.noun,), sought)


def _place(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    items = lone(studio, view)
    if not items:
        return None
    item = dice.pick(items)
    is_so = dice.chance(0.5)
    stated = item.place if is_so else dice.pick([place for place in studio.style.places if place != item.place])
    noun = noun_of(studio, item)
    it_is = f"the {noun} {be(noun)} {at(item.place)}"
    return _yes_no(
        "place", f"{be(noun).capitalize()} the {noun} {at(stated)}?", is_so, it_is, it_is, (noun,), (noun, (item,))
    )


def _background(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    shown = view.scene.background.colours
    if len(shown) > 1 or "background" in view.told:
        return None
    is_so = dice.chance(0.5)
    stated = shown[0] if is_so else dice.pick([colour for colour in studio.style.colours if colour != shown[0]])
    it_is = f"the background is {shown[0]}"
    return _yes_no("colour", f"Is the background {stated}?", is_so, it_is, it_is, ("background",), None)


def _relation(studio: Studio, dice: Dice, view: View) -> Exchange | None:
    """ "Is the dog to the left of the cat?": things in different columns, or above and below: in different rows."""
    items = lone(studio, view)
    across = dice.chance(0.5)

    def line(place: str) -> int:
        row, column = divmod(PLACES.index(place), 3)
        return column if across else row

    pairs = [(one, two) for one, two in permutations(items, 2) if line(one.place) != line(two.place)]
    if not pairs:
        return None
    one, two = dice.pick(pairs)
    is_so = dice.chance(0.5)
    words = ("to the left of", "to the right of") if across else ("above", "below")
    true, false = words if line(one.place) < line(two.place) else words[::-1]
    first, second = noun_of(studio, one), noun_of(studio, two)
    it_is = f"the {first} {be(first)} {true} the {second}"
    asked = f"{be(first).capitalize()} the {first} {true if is_so else false} the {second}?"
    return _yes_no("relation", asked, is_so, it_is, it_is, (first, second), None)


_YES_NO_WAYS: tuple[PictureQuestion, ...] = (
    _present,
    _number,
    of_any_scene(_place),
    of_any_scene(_background),
    of_any_scene(_relation),
)


def yes_no(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """One of the questions that are answered with yes or no."""
    for way in dice.shuffled(_YES_NO_WAYS):
        found = way(studio, dice, view)
        if found is not None:
            return found
    return None


# Multiple choice -----------------------------------------------------------------------------------------------------


def choice(studio: Studio, dice: Dice, view: View | None) -> tuple[Scene, Exchange] | None:
    """A question with up to four answers to choose from, in random order."""
    if view is not None:
        return None
    scene, about, question, right, others = dice.pick(_CHOICES)(studio, dice)
    options = dice.shuffled([right, *dice.sample(others, min(len(_LETTERS) - 1, len(others)))])
    letters = _LETTERS[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    by_letter = dict(zip(letters, lines, strict=True))
    return scene, Exchange(
        "choice",
        "\n".join([question, *lines]),
        letters[options.index(right)],
        lambda label: by_letter[label],
        labels=letters,
        chance=even(letters),
        facts={"about": about, "options": options},
    )


#: Scene, what the question is about, the question, the right answer, and others that are wrong.
_Choice = tuple[Scene, str, str, str, list[str]]


def _choose_thing(studio: Studio, dice: Dice) -> _Choice:
    """The other things of the picture are among the answers, so that it takes more than finding what is there."""
    scene = studio.scene(dice)
    item = dice.pick(scene.objects)
    right = noun_of(studio, item)
    here = sorted({noun_of(studio, other) for other in scene.objects} - {right})
    strangers = [concept.noun for concept in studio.some(dice, min(6, len(studio.pool)))]
    strangers = [noun for noun in strangers if noun != right and noun not in here]
    wrong = (here + strangers)[: len(_LETTERS) - 1]
    return scene, "what", f"What is {at(item.place)}?", right, wrong


def _choose_place(studio: Studio, dice: Dice) -> _Choice:
    concept = studio.some(dice, 1)[0]
    rest = [other for other in studio.some(dice, min(3, len(studio.pool))) if other is not concept]
    emoji = [studio.variant(dice, each) for each in (concept, *rest[: dice.below(3)])]
    scene = studio.scene_of(dice, emoji)
    item, noun = scene.objects[0], studio.atlas[emoji[0]].noun
    wrong = [place for place in studio.style.places if place != item.place]
    return scene, "where", f"Where {be(noun)} the {noun}?", item.place, wrong


def _choose_colour(studio: Studio, dice: Dice) -> _Choice:
    while True:
        scene = studio.scene(dice)
        if len(scene.background.colours) == 1:
            break
    right = scene.background.colours[0]
    wrong = [colour for colour in studio.style.colours if colour != right]
    return scene, "colour", "What color is the background?", right, wrong


def _choose_number(studio: Studio, dice: Dice) -> _Choice:
    numbers = NUMBERS[1 : studio.style.capacity + 1]
    right = dice.pick(numbers)
    emoji = dice.pick(studio.pool)
    scene = studio.scene_of(dice, [studio.variant(dice, emoji)] * (numbers.index(right) + 1))
    noun = studio.atlas[scene.objects[0].emoji].plural
    return scene, "count", f"How many {noun} are there?", right, [number for number in numbers if number != right]


_CHOICES: tuple[Callable[[Studio, Dice], _Choice], ...] = (
    _choose_thing,
    _choose_place,
    _choose_colour,
    _choose_number,
)
