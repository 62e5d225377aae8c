"""What a run reads: which kinds of records, from which world, in what batches."""

from dataclasses import dataclass, field
from typing import Literal

#: After a kind's name: what its conversations' answers look at, not their questions; what its pictures' ends look at;
#: and what a question looks at in one frame of a clip, the frame's number following.
ANSWER, PICTURE, FRAME = ":answer", ":picture", ":frame"


def kind_of(name: str) -> str:
    """The kind of record that a name in `data.kinds` stands for: "chat" of "chat", and of "chat/vqav2" beside it."""
    return name.partition("/")[0]


@dataclass(frozen=True)
class DataConfig:
    """Records of the emoji world, mixed and batched.

    kinds: kind of record -> weight in the mixture.
    mode: "mixed" draws every record of a batch by weight; "one_kind" draws one kind for the whole optimizer step, which
        is what the paper's step and sample counts fit.
    batch_size: records in one forward pass.
    max_length: longest sequence in tokens; a longer document is a bad sample.
    image_size: side of the pictures the world draws, in pixels.
    concepts: how many different things the world shows, or their names; None is all of them.
    split: of the world's concepts.
    world: further fields of `emu2.world.WorldConfig`.
    worlds: name in `kinds` -> fields (`concepts` too) in which its world differs: some kinds may show fewer things, or
        plainer scenes, than others of the same run.
    pool: draw from only this many different records of each kind, so that frozen features can be kept; None draws new
        records for ever.
    image_first: probability that pictures and clips stand before their text in pairs and in interleaved documents
        (`unified`; 0.5 in the paper).
    image_firsts: kind of record -> that probability, where it differs.
    frames: how many frames of a clip are read; of several numbers one is drawn for each record (8, 12, 16 in the
        paper's chat). A clip with fewer than the smallest number is a bad sample.
    frame_choice: "random" draws them (the paper's pretraining), "uniform" takes midpoints of equal parts (its chat).
    pack: put several documents into one row of at most `max_length` tokens, each seeing only itself; changes no loss.
    bucket: sort the records of one step by length before they are cut into micro-batches, so that rows of one batch
        need little padding; changes no loss.
    workers: processes that read ahead of the training; 0 reads in the training process. The records are the same.
    validation_split: of the world, for the records that `validate_every` measures on.
    sources: kind -> where its records come from, as `emu2.data.readers.open_source` reads it: {"format": "webdataset",
        "path": "pairs/{00000..00099}.tar", ...}. Kinds without an entry are drawn by the emoji world.
    batch_sizes: kind -> records in one forward pass, where that differs from `batch_size`; with `mode="one_kind"` only
        (the paper gives every kind of data a batch of its own).
    opening: kind -> so many of the run's first steps read nothing else, one kind after another: what is not learned
        beside others may be learned before them.
    """

    kinds: dict[str, float] = field(default_factory=lambda: {"pair": 1.0})
    mode: Literal["mixed", "one_kind"] = "mixed"
    batch_size: int = 32
    max_length: int = 512
    image_size: int = 64
    concepts: int | tuple[str, ...] | None = None
    split: str = "train"
    world: dict[str, object] = field(default_factory=dict)
    worlds: dict[str, dict[str, object]] = field(default_factory=dict)
    pool: int | None = None
    image_first: float = 0.5
    image_firsts: dict[str, float] = field(default_factory=dict)
    frames: tuple[int, ...] = (8,)
    frame_choice: Literal["random", "uniform"] = "random"
    pack: bool = False
    bucket: bool = False
    workers: int = 0
    validation_split: str = "seen"
    sources: dict[str, dict[str, object]] = field(default_factory=dict)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    opening: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kinds or any(weight < 0 for weight in self.kinds.values()) or sum(self.kinds.values()) <= 0:
            raise ValueError(
                f"data.kinds needs at least one kind with a weight above 0, and none below; got {self.kinds}."
            )
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be 1 or more; got {self.batch_size}.")
        if self.max_length < 2:
            raise ValueError(f"data.max_length must be 2 or more; got {self.max_length}.")
        if self.pool is not None and self.pool < 1:
            raise ValueError(f"data.pool must be 1 or more, or null; got {self.pool}.")
        if self.workers < 0:
            raise ValueError(f"data.workers must be 0 or more; got {self.workers}.")
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"data.frames needs at least one number, each 1 or more; got {self.frames}.")
        if not 0 <= self.image_first <= 1:
            raise ValueError(f"data.image_first is a probability; got {self.image_first}.")
        for kind, share in self.image_firsts.items():
            if kind not in map(kind_of, self.kinds) or not 0 <= share <= 1:
                raise ValueError(
                    f"data.image_firsts gives a probability to kinds of records that data.kinds weighs; got {kind!r}: "
                    f"{share}."
                )
        for name in ("sources", "batch_sizes", "worlds", "opening"):
            unknown = sorted(set(getattr(self, name)) - set(self.kinds))
            if unknown:
                raise ValueError(
                    f"data.{name} names {unknown[0]!r}, which data.kinds does not weigh; "
                    f"it weighs {', '.join(self.kinds)}."
                )
        if self.batch_sizes and self.mode != "one_kind":
            raise ValueError(
                'data.batch_sizes needs data.mode="one_kind": in a mixed batch all kinds share data.batch_size.'
            )
        for kind, size in self.batch_sizes.items():
            if size < 1:
                raise ValueError(f"data.batch_sizes[{kind!r}] must be 1 or more; got {size}.")
        for kind, steps in self.opening.items():
            if steps < 1 or not self.kinds[kind]:
                raise ValueError(
                    f"data.opening gives a number of steps, 1 or more, to kinds with a weight above 0; got {kind!r}: "
                    f"{steps}, of weight {self.kinds[kind]}."
                )

    def image_first_of(self, kind: str) -> float:
        """The probability for records of this kind."""
        return self.image_firsts.get(kind, self.image_first)
