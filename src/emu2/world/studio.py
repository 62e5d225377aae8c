"""What every kind of record is made with: the concepts at hand, the style of scenes, and the split's rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from emu2.world.atlas import Atlas, Emoji, resolve_concepts
from emu2.world.captions import WORDINGS, caption
from emu2.world.compose import STYLES, arrange, draw_background, draw_counts
from emu2.world.dice import Dice
from emu2.world.scene import Scene
from emu2.world.splits import concept_split_of, is_seen_scene

if TYPE_CHECKING:
    from emu2.processing.video import Video
    from emu2.world.clips import Clip
    from emu2.world.world import WorldConfig

#: Scenes drawn before it is said that there are none. One in four is right for the rarer split, and every arrangement
#: has some, so this never happens with the styles there are.
_ATTEMPTS = 1000


class Studio:
    """Draws scenes and pictures for one configuration. Every scene it hands out obeys the split's rule."""

    def __init__(self, config: WorldConfig, atlas: Atlas) -> None:
        self.config = config
        self.atlas = atlas
        self.style = STYLES[config.style]
        #: The concepts that records may show.
        self.pool: list[Emoji] = resolve_concepts(atlas, config.concepts, concept_split_of(config.split))
        if not self.pool:
            raise ValueError(f"The split {config.split!r} has none of the concepts {config.concepts!r}; choose others.")

    def allows(self, scene: Scene) -> bool:
        """Whether the split may show this scene: training never shows those that are set aside for "seen"."""
        if self.config.split not in ("train", "seen"):
            return True
        return is_seen_scene(scene.arrangement, scene.background.number) == (self.config.split == "seen")

    def until_allowed(self, draw: Callable[[], Scene]) -> Scene:
        """The first scene of `draw` that the split may show; `draw` is called until there is one.

        Raises:
            ValueError: there seems to be none.
        """
        for _ in range(_ATTEMPTS):
            scene = draw()
            if self.allows(scene):
                return scene
        raise ValueError(
            f"No scene for the split {self.config.split!r} was found in {_ATTEMPTS} attempts; the configuration leaves "
            "too few different scenes. Allow more concepts or the style 'full'."
        )

    def some(self, dice: Dice, count: int) -> list[Emoji]:
        """`count` different concepts.

        Raises:
            ValueError: the pool is smaller.
        """
        if count > len(self.pool):
            raise ValueError(
                f"This needs {count} different concepts, but the split {self.config.split!r} has only {len(self.pool)} "
                f"of concepts={self.config.concepts!r}. Allow more concepts or leave out the kinds that need them."
            )
        return dice.sample(self.pool, count)

    @cached_property
    def kinds_of_things(self) -> dict[str, list[Emoji]]:
        """Kind of thing ("animal") -> the pool's concepts of that kind; kinds with one concept are left out."""
        found: dict[str, list[Emoji]] = {}
        for concept in self.pool:
            if concept.kind:
                found.setdefault(concept.kind, []).append(concept)
        return {kind: concepts for kind, concepts in found.items() if len(concepts) > 1}

    def variant(self, dice: Dice, concept: Emoji) -> int:
        """One of the concept's emoji (skin tones, genders) where the configuration asks for variants."""
        return dice.pick(self.atlas.variants(concept.index)).index if self.config.variants else concept.index

    def scene(self, dice: Dice) -> Scene:
        """A scene of any kind."""

        def draw() -> Scene:
            counts = draw_counts(dice, self.style)[: len(self.pool)]
            kinds = [self.variant(dice, concept) for concept in self.some(dice, len(counts))]
            emoji = [index for index, count in zip(kinds, counts, strict=True) for _ in range(count)]
            return Scene(arrange(dice, emoji, self.style, self.atlas), draw_background(dice, self.style))

        return self.until_allowed(draw)

    def scene_of(
        self, dice: Dice, emoji: Sequence[int], sizes: Sequence[str] | None = None, upright: bool = False
    ) -> Scene:
        """A scene of these emoji, whose places, sizes and background are left to the dice; `upright` turns none."""
        if self.config.gallery is not None and len(emoji) == 1:
            # The dice choose one of the few scenes that there are of this thing.
            number = dice.below(self.config.gallery)
            dice = Dice("emu2 world gallery", self.config.seed, self.config.split, *emoji, sizes, upright, number)
        style = replace(self.style, tilted=0.0) if upright else self.style
        return self.until_allowed(
            lambda: Scene(
                arrange(dice, emoji, style, self.atlas, sizes=sizes),
                draw_background(dice, self.style),
            )
        )

    def render(self, scene: Scene) -> Image.Image | str:
        """The scene's picture, at the configuration's size."""
        return scene.render(self.config.image_size, self.atlas)

    def film(self, clip: Clip) -> Video:
        """The clip's frames, at the configuration's size."""
        return clip.render(self.config.image_size, self.atlas)

    def clip_facts(self, clip: Clip) -> dict[str, Any]:
        """What is true of the clip, JSON-able."""
        return clip.to_dict(self.config.image_size, self.atlas)

    def facts(self, scene: Scene) -> dict[str, Any]:
        """What is true of the scene, JSON-able."""
        return scene.to_dict(self.config.image_size, self.atlas)

    @cached_property
    def tellers(self) -> dict[str, Teller]:
        """Wording -> a studio of the same things that tells its scenes in these words instead of drawing them."""
        return {wording: Teller(self, wording) for wording in WORDINGS}


class Teller(Studio):
    """A studio whose pictures are captions, so that what is asked of pictures can be asked of words alone."""

    def __init__(self, studio: Studio, wording: str) -> None:
        super().__init__(studio.config, studio.atlas)
        self.wording = wording

    def render(self, scene: Scene) -> str:
        """The scene's caption."""
        return caption(scene, self.wording, self.atlas, sizes=self.style is STYLES["full"])
