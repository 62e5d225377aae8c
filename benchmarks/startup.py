"""How long a person waits before anything happens: `import emu2` and `emu2 --help`.

    python benchmarks/startup.py            # the table
    python benchmarks/startup.py --check    # exit code 1 where a limit is passed

Every command runs in fresh processes, and the fastest counts: what else the machine does slows single runs down, and
never speeds one up. A bare `python -c pass` stands beside them as the measure of the machine.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

_EMU2 = str(Path(sys.executable).parent / "emu2")  # the script that installation puts beside the interpreter
#: What is measured -> its command line, and the seconds it may take (None: only for comparison).
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import emu2": ([sys.executable, "-c", "import emu2"], 0.5),
    "emu2 --help": ([_EMU2, "--help"], 1.0),
}


def fastest(command: list[str], repeats: int) -> float:
    """Seconds of the fastest of `repeats` fresh processes; a command that fails raises."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="runs of each command")
    parser.add_argument("--check", action="store_true", help="fail where a limit is passed")
    options = parser.parse_args()

    passed = True
    bare = 0.0
    print(f"{'command':<16} {'best s':>8} {'limit s':>8} {'x bare python':>14}")
    for name, (command, limit) in COMMANDS.items():
        seconds = fastest(command, options.repeats)
        bare = bare or seconds
        passed &= limit is None or seconds < limit
        print(f"{name:<16} {seconds:>8.3f} {'-' if limit is None else limit:>8} {seconds / bare:>14.1f}")
    return int(options.check and not passed)


if __name__ == "__main__":
    sys.exit(main())
