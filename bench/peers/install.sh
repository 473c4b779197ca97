#!/usr/bin/env bash
#
# Installs the servers that are no Rust and that `make bench-peers` compares a replica with, and prints the folder where they are:
# `bun`, and `python` for PYTHONPATH. It takes Node 20 or newer with npm, and Python 3.11 or newer with pip, on Linux.
#
# All of it is pinned, and goes to .tools/, in a folder named by what was asked for, so that a second time costs nothing and a
# new version is installed beside the old one. Redis is Debian's package: as root on Debian it is installed where it is missing,
# elsewhere it is named, with what to type.

set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
tools=$here/../../.tools

readonly bun=bun@1.4.5

say() { printf 'bench/peers/install.sh: %s\n' "$*" >&2; }

redis() {
    command -v redis-server >/dev/null && return
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        say "this takes a redis-server. On Debian: sudo apt-get install redis-server"
        return 1
    fi
    say "installing redis-server"
    # No service may start by itself: the benchmark starts its own.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get update -qq >&2
    apt-get install -qq --yes --no-install-recommends redis-server >&2
}

# No lock file and no install scripts: the package's own would only move the program, which a package of the platform has.
javascript() { # FOLDER
    npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --prefix "$1/node" "$bun" >&2
    local program
    for program in "$1"/node/node_modules/@oven/bun-linux-*/bin/bun; do
        # Those of other C libraries do not start.
        if "$program" --version >/dev/null 2>&1; then
            mv "$program" "$1/bun"
            rm -r "$1/node"
            return
        fi
    done
    say "no program of $bun starts here"
    return 1
}

python() { # FOLDER
    python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action=ignore --no-deps \
        --only-binary=:all: --require-hashes --requirement "$here/requirements.txt" --target "$1/python" >&2
}

redis

# Wheels are of one version of Python.
wanted=$({ cat "$here/requirements.txt" && echo "$bun" && python3 --version; } | sha256sum | cut -c 1-12)
mkdir -p "$tools"
tools=$(CDPATH='' cd -- "$tools" && pwd)
installed=$tools/bench-peers-$wanted
if [[ ! -d $installed ]]; then
    say "installing what a replica is compared with"
    folder=$(mktemp -d "$tools/fetch.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    mkdir "$folder/new"
    javascript "$folder/new" || { say "Bun is not there; the head of this file says what it takes"; exit 1; }
    python "$folder/new" || { say "FastAPI is not there; the head of this file says what it takes"; exit 1; }
    # When another run was quicker, its folder is as good.
    [[ -d $installed ]] || mv "$folder/new" "$installed"
fi
echo "$installed"
