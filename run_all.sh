#!/usr/bin/env bash
# Set up the environment, then run the notebooks (./run_all.sh --help) or the tests (./run_all.sh --tests).
set -euo pipefail; unset PYTHONDONTWRITEBYTECODE  # or each of many processes compiles what it imports
cd -P "$(dirname "${BASH_SOURCE[0]}")"
die() { echo "error: $*" >&2; exit 1; }
[ "$(uname -sm)" = "Linux x86_64" ] || die "requirements.lock is for Linux on x86-64, not for $(uname -sm)."
check=(keymyna_lib/run/environment.py requirements.lock)
stamp="$(sha256sum < requirements.lock) $PWD"  # an interrupted installation, or one made elsewhere, has no such stamp
active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" python=""

if [ -n "$active" ]; then
    if problems="$("$active/bin/python" "${check[@]}" 2>&1)"; then python="$active/bin/python"
    else
        echo "The active environment does not satisfy requirements.lock (${problems##*$'\n'}): using .venv instead."
        [ ! "$active" -ef .venv ] || rm -f .venv/stamp
    fi
elif [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ] && python3 "${check[@]}" &>/dev/null; then python=python3
fi

if [ -z "$python" ]; then
    python="$PWD/.venv/bin/python"
    if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ] || [ ! -x "$python" ]; then
        echo "Setting up .venv from requirements.lock (about 5 GB, one to five minutes) ..."
        rm -rf .venv
        if command -v uv >/dev/null; then
            uv venv --quiet --python '>=3.11,<3.13' .venv || uv venv --quiet --python 3.13 .venv
            install=(uv pip install --quiet --compile-bytecode --python "$python")  # a first import can take 10 s longer
        else
            fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
            for base in python3.12 python3.11 python3.13 python3 ""; do "$base" -c "$fits" &>/dev/null && break; done
            [ -n "$base" ] || die "no Python 3.11 to 3.13 with venv and pip (on Debian: apt install python3-venv)."
            "$base" -m venv .venv && install=("$python" -m pip install --quiet --disable-pip-version-check)
        fi
        "${install[@]}" --no-deps -r requirements.lock && "${install[@]}" --no-deps --no-build-isolation -e . \
            || die "the installation failed (package index? disk space? Python 3.13 also needs a C++ compiler)."
        echo "$stamp" > .venv/stamp
    fi
fi
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m keymyna_lib run "$@"
