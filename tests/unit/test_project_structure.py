"""The house rules that a reader relies on: one direction of imports, short files, light start-up, nothing forbidden."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
MODULES = sorted((SOURCE / "emu2").rglob("*.py"))

#: Part of the package -> its floor. A module imports from lower floors and from its own part only.
FLOORS = {
    "tokens": 0,
    "configuration": 0,
    "presets": 0,
    "model": 1,
    "processing": 1,
    "decoder": 2,
    "data": 2,
    "world": 3,
    "convert": 3,
    "inference": 3,
    "train": 3,
    "evaluate": 4,
    "serve": 4,
    "recipes": 5,
    "demo": 5,
    "cli": 6,
}
#: Modules of floor 0 that may import each other, in this order.
GROUND = ("tokens", "configuration", "presets")
#: The package's own front door: it names modules of every floor, and imports none before they are asked for.
FRONT_DOOR = ("emu2", "emu2.auto")
#: Importing torchvision breaks transformers where its build does not fit torch's, and these bring it along.
FORBIDDEN_LIBRARIES = {"torchvision", "timm", "open_clip", "xformers", "lpips", "cleanfid"}
#: Parts whose modules talk to a person; all others return values or raise.
MAY_PRINT = ("cli", "recipes")


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """`emu2.model.eva` -> `model`; `emu2` -> ''."""
    return [*name.split("."), ""][1]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def imports(tree: ast.AST):
    """(line, dotted name) of everything imported at any depth; what only type checkers see is left out.

    `from emu2 import tokens` counts as `emu2.tokens`, since any public name of the package is reached that way.
    """
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            yield from (found for branch in node.orelse for found in imports(branch))
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, not relative to the module"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        else:
            yield from imports(node)


def public_home(name: str) -> str:
    """Where a name imported from the package itself really lives: `emu2.Video` -> `emu2.processing.video`."""
    import emu2

    if part_of(name) in emu2._EXPORTS:
        return emu2._EXPORTS[part_of(name)]
    return name


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in MODULES}


def test_modules_import_from_lower_floors_and_their_own_part_only(trees):
    wrong = []
    for file, tree in trees.items():
        name = module_name(file)
        if name in FRONT_DOOR:
            continue
        part = part_of(name)
        assert part in FLOORS, f"{name} stands on no floor: add its part to FLOORS"
        for line, imported in imports(tree):
            if imported.split(".")[0] != "emu2" or imported == "emu2.__version__":
                continue
            other = part_of(public_home(imported))
            below = FLOORS.get(other, 99) < FLOORS[part]
            on_the_ground = part in GROUND and other in GROUND[: GROUND.index(part)]
            if other != part and not below and not on_the_ground:
                wrong.append(f"{file.relative_to(ROOT)}:{line} ({part}, floor {FLOORS[part]}) imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_forbidden_libraries_are_never_imported(trees):
    found = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file, tree in trees.items()
        for line, name in imports(tree)
        if name.split(".")[0] in FORBIDDEN_LIBRARIES
    ]
    assert not found, "\n".join(found)


def test_remote_code_is_never_trusted(trees):
    found = [
        f"{file.relative_to(ROOT)}:{node.value.lineno}"
        for file, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not found, f"code from a model folder must never run: {found}"


def test_pickles_are_opened_with_weights_only(trees):
    def is_call(node: ast.AST, names: tuple[str, ...]) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in names

    found = []
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if is_call(node, ("torch.load",)):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if given.get("weights_only") != "True":
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
            if is_call(node, ("pickle.load", "pickle.loads")):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"a pickle can hold code: {found}"


def test_library_code_does_not_print(trees):
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in trees.items()
        if part_of(module_name(file)) not in MAY_PRINT
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found, f"return the value, or log it: {found}"


@pytest.mark.parametrize("mark", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later(mark):
    found = [str(file.relative_to(ROOT)) for file in MODULES if mark in file.read_text(encoding="utf-8")]
    assert not found, f"{mark} in {found}"


def test_files_are_short():
    too_long = []
    for file in MODULES:
        limit = 600 if file.name.startswith("modeling_") else 400
        length = len(file.read_text(encoding="utf-8").splitlines())
        if length > limit:
            too_long.append(f"{file.relative_to(ROOT)}: {length} lines, at most {limit}")
    assert not too_long, "\n".join(too_long)


def test_every_module_imports_in_a_fresh_interpreter():
    """In one process, each time from an empty table of emu2's modules: no module leans on what another imported."""
    program = """
import importlib, sys, traceback
failed = []
for name in sys.argv[1:]:
    for loaded in [key for key in sys.modules if key == "emu2" or key.startswith("emu2.")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception:
        failed.append(f"{name}: {traceback.format_exc(limit=-2)}")
sys.exit("\\n".join(failed) or 0)
"""
    names = [module_name(file) for file in MODULES]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "statement",
    ["import emu2", "import emu2.cli", "import emu2.model, emu2.processing, emu2.decoder, emu2.train, emu2.world"],
)
def test_start_up_is_light(statement):
    """What takes seconds to import waits until it is used; benchmarks/startup.py has the times."""
    heavy = ("torch", "transformers", "diffusers", "accelerate", "peft", "av", "numpy", "PIL")
    program = f"{statement}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    import emu2

    for name in emu2.__all__:
        assert getattr(emu2, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'Emu3'; it offers .*Emu2Config"):
        _ = emu2.Emu3
