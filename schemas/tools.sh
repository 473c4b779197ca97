#!/usr/bin/env bash
#
# Installs what checks the interface, and prints the folder where it is:
#
#   schemas/tools.sh python    openapi-spec-validator and CloudEvents' own library, for PYTHONPATH; takes Python 3.11 or
#                              newer with pip
#   schemas/tools.sh websocket Autobahn's cases for WebSockets (kosoku), for PYTHONPATH; takes Python 3.11 or newer with
#                              pip, on Linux
#   schemas/tools.sh fuzz      schemathesis, for PYTHONPATH; takes Python 3.11 or newer with pip
#   schemas/tools.sh client    openapi-python-client, for PYTHONPATH; takes Python 3.11 or newer with pip
#   schemas/tools.sh node      spectral, AsyncAPI's own parser, a client generator and CloudEvents' own library, in
#                              node_modules; takes Node 20 or newer with npm
#   schemas/tools.sh proxy     the proxy of tests/proxies, in node_modules; takes Node 20 or newer with npm
#
# All of it is pinned. It goes to .tools/, in a folder named by what was asked for, so that a second time costs nothing
# and a new version is installed beside the old one. Runs side by side do not disturb each other.

set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
tools=$here/../.tools

readonly packages=(
    @asyncapi/parser@3.6.6
    @stoplight/spectral-cli@6.16.3
    cloudevents@10.0.0
    openapi-typescript@7.13.0
)

say() { printf 'schemas/tools.sh: %s\n' "$*" >&2; }

digest() { python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])'; }

wheels() { # FOLDER REQUIREMENTS
    python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action=ignore --no-deps \
        --only-binary=:all: --require-hashes --requirement "$here/$2" --target "$1" >&2
}

python() { wheels "$1" requirements.txt; }
websocket() { wheels "$1" requirements-websocket.txt; }
fuzz() { wheels "$1" requirements-fuzz.txt; }
client() { wheels "$1" requirements-client.txt; }

# No lock file: the ones named are pinned, and run here only, on files of our own and without install scripts.
node() { # FOLDER
    npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts --prefix "$1" "${packages[@]}" >&2
}

# A proxy serves what comes: its lock file pins all of it, by content.
proxy() { # FOLDER
    mkdir -p "$1"
    cp "$here"/../tests/proxies/package{,-lock}.json "$1"
    npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$1" >&2
}

case ${1:-} in
    # Wheels are of one version of Python.
    python) wanted=$({ cat "$here/requirements.txt" && python3 --version; } | digest) ;;
    websocket) wanted=$({ cat "$here/requirements-websocket.txt" && python3 --version; } | digest) ;;
    fuzz) wanted=$({ cat "$here/requirements-fuzz.txt" && python3 --version; } | digest) ;;
    client) wanted=$({ cat "$here/requirements-client.txt" && python3 --version; } | digest) ;;
    node) wanted=$(echo "${packages[@]}" | digest) ;;
    proxy) wanted=$(digest <"$here/../tests/proxies/package-lock.json") ;;
    *)
        say "what? python, websocket, fuzz, client, node or proxy"
        exit 2
        ;;
esac

mkdir -p "$tools"
tools=$(CDPATH='' cd -- "$tools" && pwd)
installed=$tools/contracts-$1-$wanted
if [[ ! -d $installed ]]; then
    say "installing what checks the interface ($1)"
    folder=$(mktemp -d "$tools/fetch.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    "$1" "$folder/new" || { say "that failed; the head of this file says what it takes"; exit 1; }
    # When another run was quicker, its folder is as good.
    [[ -d $installed ]] || mv "$folder/new" "$installed"
fi
echo "$installed"
