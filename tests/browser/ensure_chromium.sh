#!/usr/bin/env bash
# ensure_chromium.sh: afterwards there is a Chromium, and axe-core in the tests' cache; or one line on stderr says why
# not. What is missing comes from the distribution (root and apt needed) and from npm's registry.
set -euo pipefail

CACHE=${PORTAL_TEST_CACHE:-$HOME/.cache/vllm-portal-tests}
AXE_VERSION=4.14.1
AXE_SHA256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c # of axe.min.js

say() { printf 'ensure_chromium: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
axe_is_whole() { echo "$AXE_SHA256  $CACHE/axe-$AXE_VERSION.min.js" | sha256sum --check --status 2>/dev/null; }

missing=()
command -v chromium >/dev/null || missing+=(chromium)
axe_is_whole || command -v npm >/dev/null || missing+=(npm)

mkdir -p "$CACHE"
if ((${#missing[@]})); then
    [ "$(id -u)" = 0 ] || die "${missing[*]}: not on the PATH, and only root can install it"
    command -v apt-get >/dev/null || die "${missing[*]}: not on the PATH, and there is no apt-get to install it with"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -q update && apt-get -qy install --no-install-recommends "${missing[@]}"; } \
        >"$CACHE/apt.log" 2>&1 || die "apt-get failed; see $CACHE/apt.log"
fi

if ! axe_is_whole; then
    fetched=$(mktemp -d)
    trap 'rm -rf "$fetched"' EXIT
    (cd "$fetched" && npm pack --silent "axe-core@$AXE_VERSION" >/dev/null) || die "npm cannot fetch axe-core@$AXE_VERSION"
    tar -xzf "$fetched/axe-core-$AXE_VERSION.tgz" -C "$fetched" package/axe.min.js
    mv "$fetched/package/axe.min.js" "$CACHE/axe-$AXE_VERSION.min.js"
    axe_is_whole || die "axe-core@$AXE_VERSION is not what it was: its SHA-256 differs"
fi
echo "$CACHE/axe-$AXE_VERSION.min.js"
