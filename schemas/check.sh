#!/usr/bin/env bash
#
# Holds the interface descriptions, whole as a replica serves them, to their formats: OpenAPI by openapi-spec-validator,
# AsyncAPI by AsyncAPI's own parser, both by spectral's rules, and a client generator must take OpenAPI. Schemathesis sends a
# replica what OpenAPI allows and what it does not, and must find no answer that is not in it. And holds what `tidings audit
# replay` prints to the official schema of CloudEvents, by their JavaScript library, and to their Python one. And has event
# streams pass a proxy that compresses at once.
#
#   schemas/check.sh BINARY

set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/tools.sh" python)
fuzz=$("$here/tools.sh" fuzz)
node=$("$here/tools.sh" node)
proxy=$("$here/tools.sh" proxy)

folder=$(mktemp -d)
replica=
trap 'if [[ $replica ]]; then kill "$replica"; wait "$replica" || true; fi; rm -rf "$folder"' EXIT
for document in openapi asyncapi; do
    "$1" contract "$document" >"$folder/$document.yaml"
done

PYTHONPATH=$python python3 -m openapi_spec_validator "$folder/openapi.yaml"
NODE_PATH=$node/node_modules node "$here/asyncapi.cjs" "$folder/asyncapi.yaml"
# A replica with a NATS of its own, so that what is replayed is what one writes.
server=$("$here/../nats/install.sh")
"$1" serve --listen 127.0.0.1:0 --data-dir "$folder/data" --nats-server "$server" --drain-seconds 0 --heartbeat-seconds 1 \
    >"$folder/said" 2>&1 &
replica=$!
python3 "$here/announce.py" "$folder/data/http.url" || { cat "$folder/said" >&2; exit 1; }
"$1" audit replay --data-dir "$folder/data" >"$folder/replica.ndjson"
"$1" audit replay --file "$here/examples/export.ndjson" >"$folder/file.ndjson" 2>"$folder/said"
events=("$here"/examples/cloudevent.*.json "$folder"/{replica,file}.ndjson)
NODE_PATH=$node/node_modules node "$here/cloudevent.cjs" "${events[@]}"
PYTHONPATH=$python python3 "$here/cloudevent.py" "${events[@]}"
NODE_PATH=$proxy/node_modules node "$here/../tests/proxies/compressing.cjs" "$(<"$folder/data/http.url")"

# Its overrides go by the name of the file beside the rules.
cp "$here/spectral.yaml" "$folder"
cd "$folder"
"$node/node_modules/.bin/spectral" lint --quiet --fail-severity warn --ruleset spectral.yaml openapi.yaml asyncapi.yaml
"$node/node_modules/.bin/openapi-typescript" openapi.yaml --output client.d.ts >/dev/null
echo "openapi.yaml, asyncapi.yaml: spectral finds nothing, and a client is generated"

# Last, as it leaves all sorts of broadcasts. It takes half a minute, by its configuration; the bound is for the slowest machine.
schemathesis=(python3 -m schemathesis.cli --config-file "$here/schemathesis.toml" run openapi.yaml)
PYTHONPATH=$fuzz timeout 300 "${schemathesis[@]}" --url "$(<data/http.url)" >said 2>&1 || { cat said >&2; exit 1; }
sed -n 's/^ *\([0-9,]* generated.*passed\).*/openapi.yaml: schemathesis: \1/p' said
