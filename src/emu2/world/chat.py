"""Conversations about pictures and clips, with exact answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from emu2.data.records import Record, Sought
from emu2.processing.grounding import Box
from emu2.world import closed_questions, pointing, questions, reading
from emu2.world.asking import FORMS, Exchange, PictureQuestion, View
from emu2.world.captions import at
from emu2.world.clip_questions import video, video_quiz
from emu2.world.clips import Clip
from emu2.world.dice import Dice
from emu2.world.grounded import boxes_of
from emu2.world.scene import Scene
from emu2.world.studio import Studio

if TYPE_CHECKING:
    from emu2.data.records import Segment

_PICTURE_QUESTIONS: dict[str, PictureQuestion] = {
    "what": questions.what,
    "count": questions.count,
    "things": questions.things,
    "where": questions.where,
    "colour": questions.colour,
    "group": questions.group,
    "yes_no": closed_questions.yes_no,
    "choice": closed_questions.choice,
    "clock": reading.clock,
    "letters": reading.letters,
    "flag": reading.flag,
    "referring": pointing.referring,
    "describe": questions.describe,
}
#: Kinds of questions that come up where none is asked for. "multi_turn" asks several others about one picture.
USUAL_QUESTIONS = (*_PICTURE_QUESTIONS, "video", "multi_turn")
#: All kinds. "quiz" asks many about one picture that do not build on each other, "video_quiz" about one clip.
QUESTIONS = (*USUAL_QUESTIONS, "quiz", "video_quiz")

#: What a conversation of several turns may open with that draws a scene of its own, how often it does, and what all
#: go on with.
_OPENINGS = ("count", "group")
_OWN_SCENE = 0.4
_SEQUELS = ("what", "where", "colour", "yes_no", "referring")
#: Questions that are asked again, in few words, and how often.
_REPEATED, _AGAIN = ("what", "where"), 0.4
#: Turns of such a conversation.
_TURNS = (2, 3, 4)
#: Draws of a next question before a conversation ends.
_ATTEMPTS = 100
#: What a quiz asks, most what teaches least at a time; and its turns.
_QUIZZED, _QUIZ_TURNS = ("yes_no", "yes_no", "yes_no", "count", "count", "things", "where", "what", "what"), 10

#: How often a short answer is hinted at, in LLaVA-1.5's words as the academic tasks of Emu2-Chat use them (paper,
#: section 3.2). Not always, so that the system message is enough; a choice always has its hint.
_HINTED = 0.5


def chat(studio: Studio, dice: Dice, key: str) -> Record:
    """A question about a picture or clip, or several, and the answers.

    Short answers and boxes come with the concise system message, sentences with the detailed one. `truth` holds what is
    true of the question and of its picture or clip; with several, "turns" holds the former for each.
    """
    weights: Mapping[str, float] = studio.config.question_weights
    kind = dice.weighted(tuple(weights), tuple(accumulate(weights.values())))
    form = dice.pick(FORMS)
    if kind in _SEVERAL:
        seen, exchanges = _SEVERAL[kind](studio, dice)
        usual = kind in USUAL_QUESTIONS
        form = _form_of(exchanges, form) if usual else "short"
        facts = {"question": kind, "turns": [exchange.truth(form) for exchange in exchanges]}
        return _record(studio, dice, key, seen, exchanges, form, facts, hinted=usual)
    if kind == "video":
        clip, exchange = video(studio, dice)
        return _record(studio, dice, key, clip, [exchange], form)
    found = _PICTURE_QUESTIONS[kind](studio, dice, None)
    if found is None:
        raise ValueError(
            f"Questions of the kind {kind!r} cannot be asked about concepts={studio.config.concepts!r} of the split "
            f"{studio.config.split!r}. Allow more concepts or leave out this kind of question."
        )
    scene, exchange = found
    return _record(studio, dice, key, scene, [exchange], form)


def _multi_turn(studio: Studio, dice: Dice) -> tuple[Scene, list[Exchange]]:
    """Two to four questions about one picture, none of which gives away the answer of a later one."""
    wanted = dice.pick(_TURNS)
    exchanges = []
    found = _PICTURE_QUESTIONS[dice.pick(_OPENINGS)](studio, dice, None) if dice.chance(_OWN_SCENE) else None
    if found is not None:
        scene, exchange = found
        exchanges.append(exchange)
    else:
        scene = _crowd(studio, dice)
    for _ in range(_ATTEMPTS):
        if len(exchanges) == wanted:
            break
        told: frozenset[str] = frozenset().union(*(each.told for each in exchanges))
        again = bool(exchanges) and exchanges[-1].kind in _REPEATED and dice.chance(_AGAIN)
        sequel = exchanges[-1].kind if again else dice.pick(_SEQUELS)
        found = _PICTURE_QUESTIONS[sequel](studio, dice, View(scene, told))
        if found is not None:
            exchanges.append(_continued(found[1], exchanges[-1] if exchanges else None))
    return scene, exchanges


def _quiz(studio: Studio, dice: Dice) -> tuple[Scene, list[Exchange]]:
    """Ten questions of few answers about one picture, each as if it were the only one: they may ask about the same
    thing again, but none comes twice."""
    opened = questions.count(studio, dice, None)
    assert opened is not None
    scene, exchange = opened
    exchanges = [exchange]
    for _ in range(_ATTEMPTS):
        if len(exchanges) == _QUIZ_TURNS:
            break
        found = _PICTURE_QUESTIONS[dice.pick(_QUIZZED)](studio, dice, View(scene, quizzed=True))
        if found is not None and all(_differ(found[1], each) for each in exchanges):
            exchanges.append(found[1])
    return scene, dice.shuffled(exchanges)


#: Kinds that ask several questions -> what they are about, and the questions.
_SEVERAL: dict[str, Callable[[Studio, Dice], tuple[Scene | Clip, list[Exchange]]]] = {
    "multi_turn": _multi_turn,
    "quiz": _quiz,
    "video_quiz": video_quiz,
}


def _differ(one: Exchange, other: Exchange) -> bool:
    """Whether two questions are not the same in other words; two that can be denied each have answers of their own."""
    if one.kind != other.kind:
        return True
    if one.kind != "yes_no":
        return one.told != other.told
    return _bare(one.asked) != _bare(other.asked)


def _bare(asked: str) -> str:
    """ "Is there a dog in the picture?" -> "Is there a dog?"."""
    return asked.replace(" in the picture?", "?")


def _continued(exchange: Exchange, before: Exchange | None) -> Exchange:
    """A question of the same kind as the one before, in as few words as that one allows: "And the cat?"."""
    if before is None or before.kind != exchange.kind or exchange.kind not in _REPEATED:
        return exchange
    short = at(exchange.facts["place"]) if exchange.kind == "what" else f"the {exchange.facts['subject']}"
    return replace(exchange, asked=f"And {short}?")


def _crowd(studio: Studio, dice: Dice) -> Scene:
    """A scene with things of at least two kinds, so that there is something to talk about."""
    while True:
        scene = studio.scene(dice)
        if len(scene.groups()) > 1:
            return scene


def _form_of(exchanges: list[Exchange], form: str) -> str:
    """Whoever asks for a box is answered in short."""
    return "short" if any(exchange.kind == "referring" for exchange in exchanges) else form


def _record(
    studio: Studio,
    dice: Dice,
    key: str,
    seen: Scene | Clip,
    exchanges: list[Exchange],
    form: str,
    facts: Mapping[str, Any] | None = None,
    hinted: bool = True,
) -> Record:
    """`facts`: what is true beside what is seen and the last answer."""
    from emu2.processing.prompts import SYSTEM_CONCISE, SYSTEM_DETAILED  # brings transformers along

    form = _form_of(exchanges, form)
    if isinstance(seen, Scene):
        what, shown, true = "scene", studio.render(seen), studio.facts(seen)
    else:
        what, shown, true = "clip", studio.film(seen), studio.clip_facts(seen)
    turns: list[tuple[str, tuple[Segment, ...]]] = [
        ("system", (SYSTEM_CONCISE if form == "short" else SYSTEM_DETAILED,))
    ]
    for number, exchange in enumerate(exchanges):
        asked = _hinted(exchange, form, dice) if hinted else exchange.asked
        turns.append(("user", (asked,) if number else (shown, asked)))
        turns.append(("assistant", (exchange.answer(form),)))
    sought = tuple(_sought(studio, seen, true, each) for each in exchanges)
    truth = {**exchanges[-1].truth(form), what: true, **(facts or {})}
    return Record.conversation("chat", tuple(turns), key, truth, sought)


def _sought(studio: Studio, seen: Scene | Clip, facts: Mapping[str, Any], exchange: Exchange) -> Sought | None:
    """`facts`: what is true of what is seen."""
    if exchange.sought is None or exchange.sought[0] not in exchange.asked:
        return None
    words, items = exchange.sought
    if isinstance(seen, Scene):
        return Sought(words, tuple(boxes_of(studio, items)))
    paths = [facts["objects"][seen.objects.index(item)]["boxes"] for item in items]
    size = (facts["image_size"], facts["image_size"])
    moments = (tuple(Box(tuple(box), size=size) for box in frame if box) for frame in zip(*paths, strict=True))
    return Sought(words, moments=tuple(moments))


def _hinted(exchange: Exchange, form: str, dice: Dice) -> str:
    """The question with a hint at the form of its answer, on a line of its own."""
    from emu2.data.readers.wording import LETTER_ANSWER, SHORT_ANSWER  # brings transformers along

    hinted = dice.chance(_HINTED)
    if form != "short" or exchange.kind == "referring" or "describe" in (exchange.kind, exchange.facts.get("about")):
        return exchange.asked
    if exchange.kind == "choice":
        return f"{exchange.asked}\n{LETTER_ANSWER}"
    return f"{exchange.asked}\n{SHORT_ANSWER}" if hinted else exchange.asked
