"""The files around the package: what is pinned, what is shipped, what must not be said in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def tracked_text() -> dict[Path, str]:
    """Every text file of the repository, as git knows it."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, done.stdout.split("\0")):
        file = ROOT / name
        if file.is_file() and b"\0" not in (data := file.read_bytes())[:8000]:
            texts[Path(name)] = data.decode("utf-8")
    return texts


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_constraints_pin_every_direct_dependency_exactly():
    pinned = {canonicalize_name(line.name) for line in constraints()}
    wanted = project()["dependencies"] + project()["optional-dependencies"]["dev"]
    names = {canonicalize_name(Requirement(line).name) for line in wanted} - {"emu2"}
    assert names <= pinned, f"not pinned in constraints.txt: {sorted(names - pinned)}"
    for line in constraints():
        assert [spec.operator for spec in line.specifier] == ["=="], f"{line} is not one exact version"


def test_constraints_satisfy_the_project():
    declared = {}
    for line in project()["dependencies"] + project()["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        declared[canonicalize_name(requirement.name)] = requirement.specifier
    for line in constraints():
        version = next(iter(line.specifier)).version
        if canonicalize_name(line.name) in declared:
            assert version in declared[canonicalize_name(line.name)], f"{line} contradicts pyproject.toml"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_name_each_package_once_per_python(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    names = [line.name for line in constraints() if line.marker is None or line.marker.evaluate(environment)]
    assert len(names) == len(set(names))


def test_torchvision_is_never_installed():
    assert "torchvision" not in {canonicalize_name(line.name) for line in constraints()}
    for lines in (project()["dependencies"], *project()["optional-dependencies"].values()):
        assert "torchvision" not in {canonicalize_name(Requirement(line).name) for line in lines}


def test_continuous_integration_runs_what_the_readme_names():
    last = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()[-1]
    assert last == "make test"
    assert last in (ROOT / "README.md").read_text()


def test_continuous_integration_fails_without_recorded_numbers(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        env={"PATH": "/usr/bin:/bin", "EMU2_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"no recorded numbers of the published code at {tmp_path}/parity/open" in done.stderr


def test_setup_refuses_an_old_python(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "setup.sh"), str(tmp_path / "venv"), "/bin/false"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "/bin/false does not run or is older than Python 3.10. Name another: make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_licences_of_what_is_shipped_lie_beside_it():
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    for name in re.findall(r"`(src/emu2/world/assets/LICENSE-\w+\.txt)`", notices):
        assert len((ROOT / name).read_text(encoding="utf-8")) > 1000
    assert notices.count("assets/LICENSE-") == 2
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_only_the_product_is_spoken_of():
    """No paths of one machine, and no note to a colleague, in what everyone reads."""
    machine_path = re.compile(r"(?<![\w.])/(work|root|home/\w+|tmp/\w+)/")
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_text().items()
        if name != Path("tests/unit/test_project_files.py")
        for number, line in enumerate(text.splitlines(), start=1)
        if machine_path.search(line)
    ]
    assert not found, "\n".join(found)
