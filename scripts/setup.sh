#!/usr/bin/env bash
# Builds the virtual environment that the Makefile's targets run in.
#
#     scripts/setup.sh VENV [PYTHON]
#
# PYTHON is an interpreter of version 3.10 or newer; without it the first one found is taken. TORCH_INDEX names the
# index to take torch from, in place of the choice made below.
set -euo pipefail

venv=$1
wanted=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
cpu_index=https://download.pytorch.org/whl/cpu  # PyTorch's own index of builds without CUDA

say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# A name on the PATH may be a version manager's stand-in that does not run, so each candidate is tried.
find_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$name" >/dev/null && is_recent "$name"; then
            echo "$name"
            return
        fi
    done
    fail "no Python of version 3.10 or newer was found. Install one, or name it: make PYTHON=/path/to/python3.12"
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --constraint "$root/constraints.txt" "$@"; }

# Plain `torch` brings several gigabytes of CUDA libraries on Linux, so a machine without a GPU takes the CPU build:
# from the index that pip is set up with where that offers it, else from PyTorch's own, and only then the plain one.
install_torch() {
    local version
    version=$(sed -n 's/^torch==//p' "$root/constraints.txt")
    if [ -n "${TORCH_INDEX:-}" ]; then
        say "torch $version from $TORCH_INDEX"
        pip_install "torch==$version" --index-url "$TORCH_INDEX"
    elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        say "torch $version with CUDA, for the GPU found here"
        pip_install "torch==$version"
        "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)' ||
            say "warning: pip chose a torch without CUDA, so the GPU will not be used; TORCH_INDEX=URL names another index"
    elif [ "$(uname -s)" != Linux ]; then
        say "torch $version"
        pip_install "torch==$version"
    else
        say "torch $version for CPUs (no GPU found)"
        pip_install "torch==$version+cpu" 2>/dev/null ||
            pip_install "torch==$version" --index-url "$cpu_index" --retries 1 ||
            { say "no CPU build is on offer; taking the one with CUDA, which runs on CPUs too"; pip_install "torch==$version"; }
    fi
}

python=${wanted:-$(find_python)}
is_recent "$python" || fail "$python does not run or is older than Python 3.10. Name another: make PYTHON=/path/to/python3.12"

version_of() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null; }

say "a virtual environment in $venv with $("$python" --version)"
# What is there is brought up to date, unless it belongs to another Python or does not run.
clear=--clear
if [ "$(version_of "$venv/bin/python")" = "$(version_of "$python")" ]; then clear=; fi
"$python" -m venv $clear "$venv" ||
    fail "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
install_torch
say "emu2 and what it needs (editable, tested versions of constraints.txt)"
pip_install --editable "$root[dev]"
say "set-up done"
