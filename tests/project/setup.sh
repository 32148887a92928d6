#!/usr/bin/env bash
# scripts/dev setup before a Debian of stubs: nothing to do, root, sudo, and a user who may not install.
# shellcheck disable=SC2016 # what is quoted is for the stubs to expand
set -euo pipefail
dev=$(cd "$(dirname "$0")/../.." && pwd)/scripts/dev
stubs=$(mktemp -d)
export TMPDIR=$stubs
trap 'rm -rf "$stubs"' EXIT

stub() { printf '#!/bin/sh\n%s\n' "$2" >"$stubs/$1"; chmod +x "$stubs/$1"; }
setup() { code=0; said=$(PATH=$stubs:$PATH "$dev" setup 2>&1) || code=$?; }
expect() # code, text
{
    [ "$code" = "$1" ] && grep -qF -- "$2" <<<"$said" && return 0
    printf 'wanted exit code %s and: %s\ngot %s: %s\n' "$1" "$2" "$code" "$said"
    exit 1
}

stub dpkg-query 'echo installed'
stub apt-get 'exit 1'
setup
expect 0 "nothing to install"

# libyaml-dev and python3-torch are missing from here on
stub dpkg-query 'case "$*" in *libyaml-dev | *python3-torch) exit 1 ;; *) echo installed ;; esac'
stub id 'echo 1000'
stub sudo 'exit 1'
setup
expect 3 "Run as root: apt-get install --no-install-recommends libyaml-dev python3-torch"

stub sudo "[ \"\$1\" = -n ] || echo \"sudo \$*\" >>$stubs/log"
setup
expect 0 "installing: libyaml-dev python3-torch"
grep -q "sudo apt-get install .* libyaml-dev python3-torch" "$stubs/log"

stub id 'echo 0'
stub apt-get "echo \"root \$*\" >>$stubs/log"
setup
expect 0 "setup    ok"
grep -q "root install .* libyaml-dev python3-torch" "$stubs/log"

stub apt-get '[ "$1" = update ] || { echo "no such package"; exit 100; }'
setup
expect 3 "installing failed"
echo "setup ok"
