"""Records per second and core that the emoji world makes, for each kind and two settings.

    python benchmarks/world.py [--records 1000] [--size 64]

"warm" means that every drawing has been resized once; with all concepts that takes a few thousand records.
"""

import argparse
import time
from itertools import islice

from emu2.processing.grounding import Box
from emu2.processing.video import Video
from emu2.world import KINDS, World, WorldConfig


def _pictures(segment: object) -> int:
    """How many pictures the world drew for a segment: the frames of a clip, the object in a box."""
    if isinstance(segment, Video):
        return len(segment)
    return int(segment.image is not None if isinstance(segment, Box) else not isinstance(segment, str))


def rate(world: World, kind: str, records: int) -> tuple[float, float]:
    """Records and pictures per second of processor time."""
    pictures, start = 0, time.process_time()
    for index in range(records):
        pictures += sum(map(_pictures, world[kind, index].segments))
    taken = time.process_time() - start
    return records / taken, pictures / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="records of each kind")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    arguments = parser.parse_args()
    settings = {
        "corners, 64 everyday concepts": WorldConfig(image_size=arguments.size, style="corners", concepts=64),
        "simple, 64 everyday concepts": WorldConfig(image_size=arguments.size, style="simple", concepts=64),
        "full, all concepts": WorldConfig(image_size=arguments.size, style="full"),
    }
    for name, config in settings.items():
        world = World(config)
        start = time.process_time()
        for _ in islice(world.stream(), 100):
            pass
        print(f"{name}: first 100 records of the mixture, cold: {100 / (time.process_time() - start):.0f} records/s")
        for _ in islice(world.stream(100), arguments.records * 3):
            pass
        print(f"  {'kind':<20} {'records/s':>10} {'pictures/s':>11}   (warm)")
        for kind in KINDS:
            records, pictures = rate(world, kind, arguments.records)
            print(f"  {kind:<20} {records:>10.0f} {pictures:>11.0f}")


if __name__ == "__main__":
    main()
