"""Which concept belongs to which split, for ever.

A *concept* is an emoji without its skin tone, hair and gender modifiers. Its split follows from a hash of its code
points, so it depends on nothing else: not on the order of the table, the version of the font or of Python.
"""

import hashlib

#: Splits of the concepts, with the share of each in per cent.
CONCEPT_SPLITS = {"train": 80, "val": 10, "held": 10}

#: Splits of the records. "seen" holds scenes that are never drawn for training, made of the concepts training uses.
SPLITS = ("train", "seen", "val", "held")

#: One scene in this many is set aside for the split "seen". With the eight plain backgrounds of the simpler styles that
#: leaves every arrangement two for "seen", so that stories can change the background there too.
SEEN_SCENES_ONE_IN = 4


def stable_hash(text: str) -> int:
    """A 64-bit number that depends on `text` alone (Python's own `hash` differs from run to run)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def concept_split(concept: str) -> str:
    """The split ("train", "val" or "held") of a concept, given by its code points, e.g. "1F436"."""
    position = stable_hash(f"emu2 world concept {concept}") % 100
    for split, share in CONCEPT_SPLITS.items():
        if position < share:
            return split
        position -= share
    raise AssertionError("the shares add up to 100")


def concept_split_of(split: str) -> str:
    """The split whose concepts the records of `split` show."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    return "train" if split == "seen" else split


def is_seen_scene(arrangement: str, background: int) -> bool:
    """Whether a scene is set aside for the split "seen", hence never drawn for training.

    arrangement: what stands where. background: its number. Of every four consecutive backgrounds exactly one is set
    aside for each arrangement, so that neither split lacks any arrangement.
    """
    return (stable_hash(f"emu2 world scene {arrangement}") - background) % SEEN_SCENES_ONE_IN == 0
