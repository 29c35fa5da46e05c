#!/usr/bin/env bash
# The wire's definition and the code generated from it.
#
#   tools/proto.sh generate   write the generated code
#   tools/proto.sh generated  fail when the generated code is not what the definition gives
#   tools/proto.sh lint       check names and structure
#   tools/proto.sh breaking   fail when old and new programs could no longer talk
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=.venv/bin
definition=kubediffusion_proto/v1/worker.proto
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The generator is pinned, see docs/decisions: code from a later one refuses the older
# protobuf releases that the neighbours in a user's process may need. It lives in an
# environment of its own, which uv keeps in its cache: with a cache no network is needed.
generator=(
  tool run --quiet --python '>=3.11,<3.14' --from grpcio-tools==1.71.2
  --with grpcio==1.71.2 --with protobuf==5.29.6 --with setuptools==80.9.0
  python -m grpc_tools.protoc
)

generate_into() {
  local protoc=(
    -I proto "--python_out=$1" "--pyi_out=$1" "--grpc_python_out=$1" "$definition"
  )
  UV_OFFLINE=1 "$bin/uv" "${generator[@]}" "${protoc[@]}" 2>/dev/null ||
    "$bin/uv" "${generator[@]}" "${protoc[@]}"
}

check_generated() {
  local file folder=${definition%/*} status=0
  generate_into "$scratch"
  for file in "$scratch/$folder"/*; do
    diff -u "proto/$folder/${file##*/}" "$file" || status=1
  done
  if [ $status -ne 0 ]; then
    echo "error: the generated code is not what $definition gives; run: make proto" >&2
  fi
  return $status
}

# Compares with the newest release; before the first one with the last commit.
check_breaking() {
  local reference
  if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    echo "No commit to compare the wire with: nothing to check."
    return
  fi
  reference=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || echo HEAD)
  if ! git cat-file -e "$reference:proto/$definition" 2>/dev/null; then
    echo "$reference has no $definition: nothing to check."
    return
  fi
  echo "Comparing the wire with $reference."
  git archive "$reference" -- buf.yaml proto | tar -x -C "$scratch"
  "$bin/buf" breaking --against "$scratch"
}

case ${1:-} in
  generate) generate_into proto ;;
  generated) check_generated ;;
  lint) "$bin/buf" lint ;;
  breaking) check_breaking ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
