"""Subjects of examinations that know everything, or nothing."""

import numpy as np
import torch
from PIL import Image

from emu2.evaluate.exam import MiniatureConfig
from emu2.evaluate.rows import UnableError

#: A world small enough for tests: 32-pixel pictures, plain backgrounds, a few everyday things.
TINY = MiniatureConfig(
    questions=2, episodes=2, drawings=2, clips=2, shots=(0, 1, 2), drawing_shots=(0, 1), rivals=4, shown=1, frames=3,
    style="simple", concepts=60,
)  # fmt: skip


class Oracle:
    """Gives the right answer to everything."""

    image_size = 32

    def complete(self, asks, max_new_tokens=96):
        return [ask.answer for ask in asks]

    def chat(self, asks, *, grounding=False):
        return [ask.answer for ask in asks]

    def choose(self, asks, choices):
        return [list(offered).index(ask.answer) for ask, offered in zip(asks, choices, strict=True)]

    def draw(self, asks):
        return [ask.answer for ask in asks]

    def film(self, asks, num_frames):
        return [ask.answer for ask in asks]

    def features(self, pictures):
        return torch.stack(
            [torch.from_numpy(np.asarray(one.resize((8, 8)), float).copy()).flatten()[None] for one in pictures]
        )


class Constant(Oracle):
    """Says and draws the same whatever it is asked; of several words in the prompt it takes the first."""

    def complete(self, asks, max_new_tokens=96):
        opened = (ask.prompt[0] if isinstance(ask.prompt[0], str) else "" for ask in asks)
        return [f"{text.split(',')[0].split(' ')[0]}." for text in opened]

    def chat(self, asks, *, grounding=False):
        return ["yes" for _ in asks]

    def choose(self, asks, choices):
        return [0 for _ in asks]

    def draw(self, asks):
        return [Image.new("RGB", (self.image_size, self.image_size), "white") for _ in asks]

    def film(self, asks, num_frames):
        return [[self.draw([ask])[0]] * num_frames for ask in asks]


class Mute(Oracle):
    """Has a vision tower and a language model of a short context, and nothing else."""

    def chat(self, asks, *, grounding=False):
        raise UnableError("it cannot chat")

    def draw(self, asks):
        raise UnableError("it has no image decoder")

    def film(self, asks, num_frames):
        raise UnableError("it has no video decoder")

    def complete(self, asks, max_new_tokens=96):
        if any(sum(not isinstance(part, str) for part in ask.prompt) > 2 for ask in asks):
            raise UnableError("too many pictures")
        return super().complete(asks)
