#!/usr/bin/env bash
#
# Sees to it that the programs are here which the tests put around a replica: a real browser and its driver, real
# balancers, the linter of Prometheus, one for shell scripts, and what the commands of the documents use. They are
# Debian's packages. As root on Debian (a container, the CI) what is missing is installed; elsewhere it is named, with
# what to type, and the tests that need it say so when they fail.

set -euo pipefail

# A program, and the package that brings it.
readonly wanted=(
    chromium:chromium
    chromedriver:chromium-driver
    curl:curl
    haproxy:haproxy
    jq:jq
    nginx:nginx-light
    promtool:prometheus
    shellcheck:shellcheck
)

say() { printf 'tests/install.sh: %s\n' "$*" >&2; }

# Servers live in a folder that is not on everybody's PATH.
PATH="$PATH:/usr/sbin:/sbin"

missing=()
for pair in "${wanted[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
((${#missing[@]})) || exit 0

if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    say "some tests need programs that are not here. On Debian: sudo apt-get install ${missing[*]}"
    exit 0
fi

say "installing ${missing[*]}"
# No service may start by itself: the tests start what they need, on ports of their own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq >&2
apt-get install -qq --yes --no-install-recommends "${missing[@]}" >&2
