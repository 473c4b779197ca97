#!/usr/bin/env bash
#
# Holds the interface descriptions, whole as a replica serves them, to their formats: OpenAPI by openapi-spec-validator,
# AsyncAPI by AsyncAPI's own parser, both by spectral's rules, and a client generator must take OpenAPI.
#
#   schemas/check.sh BINARY

set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/tools.sh" python)
node=$("$here/tools.sh" node)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for document in openapi asyncapi; do
    "$1" contract "$document" >"$folder/$document.yaml"
done

PYTHONPATH=$python python3 -m openapi_spec_validator "$folder/openapi.yaml"
NODE_PATH=$node/node_modules node "$here/asyncapi.cjs" "$folder/asyncapi.yaml"
# Its overrides go by the name of the file beside the rules.
cp "$here/spectral.yaml" "$folder"
cd "$folder"
"$node/node_modules/.bin/spectral" lint --quiet --fail-severity warn --ruleset spectral.yaml openapi.yaml asyncapi.yaml
"$node/node_modules/.bin/openapi-typescript" openapi.yaml --output client.d.ts >/dev/null
echo "openapi.yaml, asyncapi.yaml: spectral finds nothing, and a client is generated"
