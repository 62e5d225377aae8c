"""What a whole pipeline of stages may cost: the same model sizes on a GPU or on two CPU cores.

The recipes' own numbers are the budget "gpu". The budget "cpu" takes fewer steps and smaller batches, shows fewer
things where words must be learned for each, and reads frozen features from a cache where pictures come round again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emu2 import recipes
from emu2.train.config import RunConfig, with_overrides


@dataclass(frozen=True)
class Budget:
    """How a pipeline is carried out.

    lanes: stages that run side by side, where neither starts from the other.
    shared: settings of every stage, as `--set` takes them.
    stages: size -> stage -> settings of that stage.
    """

    lanes: int
    shared: tuple[str, ...] = ()
    stages: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)


#: Things that CPU runs show, 20 of 1341, in the corners of plain pictures. With 32 things in nine places and two sizes
#: single things were named (94 %), but of three in a picture a quarter only, after 2600 steps of captions; drawings had
#: the right colours in the right places and no shape after 4200. A thing in a place has to be seen some hundred times.
_FEW = ("data.concepts=20", 'data.world={"style": "corners", "max_pages": 3, "shots": [2, 4, 8]}')
#: Captions that tell all of a scene: half the words of a mixture of wordings.
_TOLD = '"pair": {"wording": "full"}'

#: Steps from seconds a step. As it stands it took 2 h 36 min, in three pieces, on two cores of an Intel Xeon with
#: AVX-512, AMX and their bfloat16, one thread in each of two lanes. In brackets: seconds a step, and of the whole stage
#: with what is measured on the way. On an AMD EPYC, without AMX, stages took half as long again.
#:
#:   lane 1   vision (1.5, 302) -> caption (1.3, 2588) -> unified (1.45, 3199) -> chat (1.05, 2102), video_decoder
#:            (1.3, 930)
#:   lane 2   language (0.4, 391), autoencoder (0.3, 1547), after caption reading (1.05, 1160), decoder (1.0, 2934),
#:            after unified gen (0.85, 2231)
#:
#: Frozen features are cached where pictures may come round: for the image decoder, 0.055 s a picture instead of 0.094,
#: each time with other noise; for naming episodes, each time with other words (their pictures are drawn from a gallery:
#: whole episodes that come round are learned by heart instead of read from the prompt).
#: Processors that have the instructions take 0.5 to 0.8 of float32's time, in all stages but the U-Nets'; others more.
_BF16 = "autocast=bfloat16"
_NANO_CPU: dict[str, Sequence[str]] = {
    # Few things and plain scenes from the start: among pictures of all things on all backgrounds the backgrounds tell
    # captions apart, and after 400 steps the tower knew nothing else.
    "vision": (
        _BF16,
        "steps=200",
        "data.batch_size=64",
        *_FEW,
        f"data.worlds={{{_TOLD}}}",
        "optim.warmup_steps=20",
    ),
    "autoencoder": (_BF16, "steps=5000", "data.batch_size=8", "optim.warmup_steps=100"),
    # Looking back is learned here at a tenth of what pictures cost. Episodes told in words do not teach it: after 1000
    # steps of them, and after `unified`, one answer in ten at most was one of the words offered. Echoes do: three in
    # four after 800 steps of which half were echoes, nearly all after 500 more; but not yet the right one of the two.
    "language": (
        _BF16,
        "steps=1000",
        "data.batch_size=16",
        'data.worlds={"text": {"told": 0.4, "echoed": 0.9, "shots": [2, 4, 8], "ways": [2, 2, 4]}}',
        "optim.warmup_steps=60",
    ),
    "caption": (
        _BF16,
        "steps=2000",
        "data.batch_size=32",
        'data.kinds={"pair": 0.96, "video_pair": 0.04}',
        'data.batch_sizes={"video_pair": 8}',
        *_FEW,
        f"data.worlds={{{_TOLD}}}",
        # The tower has seen a hundredth of the pictures that the recipe's rates are for: it learns as fast as the rest.
        'optim.part_lr={"vision": 1.5e-3, "language": 1.5e-3, "bridge": 2e-3}',
        "optim.warmup_steps=60",
    ),
    "unified": (
        _BF16,
        "steps=2200",
        "data.batch_size=12",
        # Drawing from words, seeing, and episodes whose demonstrations say what is asked for, how things are called and
        # in what form. Naming takes most, and comes first: with `looking_back` a base model found the right word after
        # 150 batches of 16 of nothing else, and kept that in a mixture like this; in a mixture that told heads about
        # rules too it had not after 390. In rounds the last word of each can be counted out: without them, and with
        # some episodes of few demonstrations, one demonstration told two names apart (68 % instead of 57). Red circles
        # come next: the head that is told to find them had not done so after 190 batches in a mixture, and had after
        # 200 of nothing else. Then rules: with colours, numbers, sides and kinds of things all varying at once, heads
        # that were told about rules hardly found any after 700 batches (0.55 of 0.5 by chance); 225 batches in which
        # only what decides varied took the right answers from 72 to 80 %, and not those about sides. Rules whose words
        # are "left" and "right" teach to see sides, numbers and colours (all of them after 150 batches and a few more),
        # of things of all kinds: with the named twenty alone, colours of others were no rule. Kinds of things are told
        # by things that come again (rule/group): among episodes in which a thing hardly ever did, 64 % stayed right;
        # most of them of made-up kinds (mingled), or kinds of things that it has seen are learned instead.
        'data.opening={"naming": 400, "visual_prompt/all": 250, "rule/spoken": 150, "rule/plain": 260}',
        # Captions are learned with their pictures only, and embeddings weigh as much as words: otherwise captions that
        # the stage before had learned were lost within 150 steps.
        'data.image_firsts={"pair": 1.0}',
        "visual_loss_weight=1.0",
        "visual_loss=whitened",
        "optim.lr=9e-4",
        'data.kinds={"pair": 0.20, "grounded_pair": 0.02, "text_to_image": 0.13, "video_pair": 0.01, "text": 0.03, '
        '"naming": 0.12, "naming/one": 0.04, "rule": 0.03, "rule/all": 0.04, "rule/group": 0.04, "rule/plain": 0.05, '
        '"rule/spoken": 0.04, "tuple": 0.03, "tuple/all": 0.05, "counting": 0.03, "counting/all": 0.05, '
        '"visual_prompt": 0.02, "visual_prompt/all": 0.03, "drawing": 0.02, "document": 0.02}',
        'data.batch_sizes={"pair": 32, "grounded_pair": 32, "text_to_image": 32, "text": 32, "video_pair": 8, '
        '"naming": 16, "naming/one": 48}',
        *_FEW,
        "data.world.rounds=false",
        # Of things that have no name here only the demonstrations tell the name. Made-up words stand for any thing, of
        # which eight pictures each come round, so that the tower sees them once.
        f'data.worlds={{{_TOLD}, "naming": {{"concepts": null, "ways": [2, 4], "shots": [8], '
        '"echoed": 0.15, "gallery": 8}, "naming/one": {"concepts": null, "ways": [2, 4, 4], '
        '"shots": [0, 0, 1, 1, 2, 2], "gallery": 8}, "rule": {"shots": [8, 8, 8, 0]}, '
        '"rule/all": {"shots": [8], "concepts": null, "cast": 2, "mingled": 0.5}, '
        '"rule/group": {"shots": [8], "concepts": null, "cast": 2, "mingled": 0.8, "deciding": ["group"]}, '
        '"rule/plain": {"shots": [8], "concepts": null, "distracted": 0.0}, '
        '"rule/spoken": {"shots": [8], "concepts": null, "spoken": 1.0}, '
        '"text": {"told": 0.3, "echoed": 0.8}, "tuple/all": {"concepts": null}, "counting/all": {"concepts": null}, '
        '"visual_prompt/all": {"concepts": null}}',
        "kept_features=24000",
        "optim.warmup_steps=100",
    ),
    # Full pictures in small batches: with 1.8 things a picture, and batches of 48, it learned at a third of the pace.
    "reading": (
        _BF16,
        "steps=1100",
        "data.batch_size=24",
        *_FEW,
        "data.world.shots=[2]",
        "data.world.frames=[8]",
        'data.kinds={"grounded_pair/read": 0.75, "pair": 0.09, "pair/all": 0.04, "naming": 0.03, "video_pair": 0.04, '
        '"visual_prompt": 0.03, "edit": 0.02}',
        'data.worlds.pair/all={"concepts": null}',
        'data.worlds.naming={"concepts": null}',
        "optim.warmup_steps=40",
    ),
    # Things that have no name here are not drawn either: one picture in four of them made half of the loss and was not
    # learned. Steps of much noise, where places and shapes are found, come more often than in the recipe.
    "decoder": (
        "steps=3000",
        "data.batch_size=16",
        "data.pool=4000",
        # Drawings for their borders, which no other kind has: a decoder that never saw one draws none.
        'data.kinds={"pair": 0.5, "video_pair": 0.35, "drawing": 0.15}',
        *_FEW,
        "data.world.frames=[8]",
        "optim.lr=1.5e-3",
        "diffusion.timestep_power=4.0",
        "optim.warmup_steps=100",
        "ema_decay=0.995",
    ),
    # As many embeddings of a picture as in the stages before: read from 36 instead of 16, the unified model's captions
    # name nothing (0 of 64 pictures instead of 47), and 900 steps do not make up for that.
    "chat": (
        _BF16,
        "steps=2000",
        "num_query=16",
        "data.batch_size=16",
        # Clock faces and signs alone for a while, as clips: in a mixture from the start they were not read.
        'data.kinds={"chat": 0.36, "chat/read": 0.26, "chat/clips": 0.38}',
        'data.opening={"chat/clips": 300, "chat/read": 220}',
        'data.batch_sizes={"chat/clips": 8, "chat/read": 24}',
        'data.worlds.chat/read={"questions": {"clock": 0.55, "letters": 0.45}}',
        *_FEW,
        # Ten questions about one picture teach more of yes, no and numbers than ten pictures with one each.
        # Sentences about yes and no, and descriptions, are asked for often enough that they come out right.
        'data.world={"style": "corners", "questions": {"quiz": 0.23, "yes_no": 0.11, "count": 0.17, "things": 0.05, '
        '"what": 0.10, "where": 0.07, "colour": 0.02, "group": 0.06, "referring": 0.08, '
        '"multi_turn": 0.05, "describe": 0.05, "choice": 0.01}}',
        "optim.lr=8e-4",
        "optim.warmup_steps=40",
    ),
    # Words lead to one picture only where they tell its places. Which thing it is lies in the last hundredths of the
    # embeddings' variance, and 20,000 drawings of `unified` did not teach it by a plain squared error. The rate need
    # not spare what was learned before.
    "gen": (
        _BF16,
        "steps=2600",
        "data.batch_size=16",
        'data.kinds={"text_to_image": 0.32, "grounded_generation": 0.08, "composition": 0.08, "composition/all": 0.08, '
        '"edit": 0.16, "drawing": 0.08, "video_pair": 0.2}',
        'data.batch_sizes={"drawing": 8, "video_pair": 12}',
        *_FEW,
        "data.world.frames=[8]",
        'data.worlds={"text_to_image": {"wording": "full"}, "composition/all": {"concepts": null}, '
        '"drawing": {"shots": [0, 1, 2, 4]}, "video_pair": {"wording": "full"}}',
        "visual_loss=whitened",
        "optim.lr=2e-3",
        "optim.warmup_steps=40",
    ),
    # The spatial weights are the image decoder's, and stay.
    "video_decoder": (
        "steps=700",
        "data.batch_size=2",
        "data.pool=1000",
        *_FEW,
        "data.world.frames=[8]",
        "optim.lr=1e-3",
        "diffusion.timestep_power=4.0",
        "optim.warmup_steps=40",
        "ema_decay=0.995",
    ),
}

BUDGETS: dict[str, Budget] = {
    # Small models leave a GPU waiting for its next order, and wait for records themselves: two at a time, and readers
    # for sixteen cores.
    "gpu": Budget(lanes=2, shared=("device=cuda", "autocast=bfloat16", "data.workers=6")),
    # Two programs use two cores better than two threads do, and read for themselves.
    "cpu": Budget(lanes=2, shared=("data.workers=0",), stages={"nano": _NANO_CPU}),
}

#: Lines of a stage's log, samples and measurements on held-out records, and checkpoints before the last one.
_LINES, _LOOKS, _SAVES = 200, 6, 10


def stages(size: str, budget: str, *, seed: int = 0, settings: Sequence[str] = ()) -> dict[str, RunConfig]:
    """The stages of a size that starts from nothing, in order, as a budget carries them out.

    Args:
        settings: further ones, `key=value` for all stages or `STAGE.key=value` for one.

    Raises:
        ValueError: unknown size or budget; a size that does not start from nothing; a setting that is wrong.
    """
    from emu2 import presets

    if size not in presets.FROM_NOTHING:
        raise ValueError(f"All stages run at the sizes {' and '.join(presets.FROM_NOTHING)}; got {size!r}.")
    if budget not in BUDGETS:
        raise ValueError(f"There is no budget {budget!r}; there are {', '.join(BUDGETS)}.")
    chosen = BUDGETS[budget]
    names = recipes.names(size)
    made = {}
    for name in names:
        own = chosen.stages.get(size, {}).get(name, ())
        config = with_overrides(recipes.recipe(name, size), [*chosen.shared, *own, f"seed={seed}"])
        given = [setting for setting in settings if setting.partition(".")[0] not in names]
        given += [setting.removeprefix(f"{name}.") for setting in settings if setting.startswith(f"{name}.")]
        made[name] = _paced(with_overrides(config, [*_warmup(config, given), *given]), given)
    return made


def _warmup(config: RunConfig, given: Sequence[str]) -> list[str]:
    """A stage made shorter warms up for a tenth of its steps at most."""
    steps = [setting.partition("=")[2] for setting in given if setting.startswith("steps=")]
    if not steps or not steps[-1].isdigit():
        return []
    return [f"optim.warmup_steps={min(config.optim.warmup_steps, int(steps[-1]) // 10)}"]


def _paced(config: RunConfig, given: Sequence[str]) -> RunConfig:
    """How often a stage logs, shows and saves, by its length; what was given stays."""
    named = {setting.partition("=")[0] for setting in given}
    times = {"log_every": _LINES, "validate_every": _LOOKS, "save_every": _SAVES}
    every: dict[str, Any] = {
        name: max(1, config.steps // number) for name, number in times.items() if name not in named
    }
    return replace(config, **every)
