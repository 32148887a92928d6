#!/usr/bin/env bash
# A marker that the build could not read must stop it: one more op that no table knows is worse than an error.
set -euo pipefail
list=$(cd "$(dirname "$0")/../.." && pwd)/engine/list_markers.cmake
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lists() { cmake -DMARKER=TB_OP -DLINE=ENTRY "-DSOURCES=$work/a.c" "-DOUT=$work/out" -P "$list" 2>"$work/err"; }

printf '/* one file, TB_OP(none) */\nTB_OP(one) = {\n};\nTB_OP(two, .doc = "[");\n' >"$work/a.c"
lists
[ "$(tr '\n' ' ' <"$work/out")" = "ENTRY(one) ENTRY(two) " ]
for bad in 'TB_OP(\n    two) = {' 'TB_OP (two)' '  TB_OP(two)' 'TB_OP(Two)'; do
    printf "TB_OP(one) = {\n};\n$bad\n" >"$work/a.c"
    if lists; then echo "not refused: $bad"; exit 1; fi
    tr -s "\n " " " <"$work/err" | grep -q "a.c: a TB_OP( without its name" || { cat "$work/err"; exit 1; }
done
echo "unreadable markers are refused"
