#!/usr/bin/env bash
# Installs the build given as $1 into an empty folder, compiles a program in C and one in C++ against it with pkg-config
# alone, runs them and the installed tb, and checks that every public header compiles by itself and that only tb_* symbols
# are exported.
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$1 to=$(mktemp -d)
trap 'rm -rf "$to"' EXIT
cmake --install "$build" --prefix "$to" >"$to/log"
PKG_CONFIG_PATH=$(dirname "$(find "$to" -name tensorbrain.pc)")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
gcc -std=c17 -Wall -Wextra -Werror "$source/tests/project/outside.c" \
    $(pkg-config --cflags --libs tensorbrain) -o "$to/outside"
# shellcheck disable=SC2046
g++ -std=c++17 -Wall -Wextra -pedantic -Werror "$source/tests/project/outside.cpp" \
    $(pkg-config --cflags --libs tensorbrain) -o "$to/outside-cpp"
lib=$(dirname "$(find "$to" -name libtensorbrain.so | head -1)")
LD_LIBRARY_PATH=$lib "$to/outside"
LD_LIBRARY_PATH=$lib "$to/outside-cpp"
"$to/bin/tb" ops | grep "^matmul " >/dev/null
for header in "$to"/include/tensorbrain/tb_*.h; do
    # shellcheck disable=SC2046
    printf '#include "%s"\n' "$header" | gcc -std=gnu17 -fsyntax-only -x c $(pkg-config --cflags tensorbrain) - ||
        { echo "$header does not compile alone"; exit 1; }
    name=$(basename "$header")
    [[ $name == tb_op.h || $name == tb_kernel.h ]] || grep -q "\"$name\"" "$to/include/tensorbrain/tensorbrain.h" ||
        { echo "tensorbrain.h lacks $name"; exit 1; }
done
foreign=$(nm -D --defined-only "$lib/libtensorbrain.so" | awk '{print $3}' | sed 's/@.*//' | grep -v '^tb_' || true)
[ -z "$foreign" ] || { echo "exported, but not tb_*: $foreign"; exit 1; }
echo "installed library ok"
