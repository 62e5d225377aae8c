"""Learning from the prompt: show a model a few counted pictures, and ask for the next.

    python examples/few_shot.py                               # the small model that ships
    python examples/few_shot.py --shots 8 --questions 20
    python examples/few_shot.py train-demo/model --concepts 16    # the one of `make train-demo`

Every episode of the emoji world is `picture, [cat: 2, dog: 1]., ..., picture`, and the answer is known.
"""

import argparse

import emu2
from emu2.world import World, WorldConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano", help="a model folder, or the name of one that ships")
    parser.add_argument("--shots", type=int, default=4, choices=[0, 1, 2, 4, 8, 16], help="pictures shown with answers")
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--concepts", type=int, default=20, help="things that the model knows")
    parser.add_argument("--style", default="corners", help="of the scenes that it knows")
    options = parser.parse_args()

    m = emu2.load(options.model)
    size = m.model.config.vision_config.image_size
    # The split "seen" has the things of training in scenes that training never draws.
    config = WorldConfig(
        image_size=size,
        kinds={"counting": 1},
        split="seen",
        concepts=options.concepts,
        style=options.style,
        shots=(options.shots,),
    )
    world = World(config)
    right = 0
    for index in range(options.questions):
        record = world["counting", index]
        answer = m.complete(list(record.segments[: record.answer_from]), max_new_tokens=24)
        truth = record.segments[record.answer_from].strip()
        given = answer.split(".")[0].strip() + "."
        right += given == truth
        print(f"{'right' if given == truth else 'wrong'}   {given[:40]!r:44} truth: {truth}")
    print(f"{right} of {options.questions} right")


if __name__ == "__main__":
    main()
