#!/usr/bin/env bash
# native_vllm.sh [TAG]: prints the path of an executable named vllm that runs on this machine, outside any container.
#
# It is the engine image's own vLLM, copied out together with the Python it was installed for: no second installation,
# and no need for this machine to have that Python. Only the C library is the machine's (glibc 2.36 or newer).
# Start it with --enforce-eager, as in the image; without that flag torch compiles and wants g++.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${PORTAL_TEST_CACHE:-$HOME/.cache/vllm-portal-tests}
COPY_GIB=3

say() { printf 'native_vllm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs in the image: a tar stream of the interpreter, its standard library, the installed packages, and every shared
# library these ask for but for the C library itself, which has to be the one of the machine's own loader.
CONTENTS=$(cat <<'IN'
cd /
modules=$(find usr/lib/python3.11/lib-dynload opt/vllm/lib -name '*.so*' -type f)
libraries=$(ldd usr/bin/python3.11 $modules 2>/dev/null | awk '$2 == "=>" && $3 ~ "^/(usr/)?lib/" { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libutil|libresolv|libstdc\+\+|libgcc_s)\.so' | sed -E 's#^/(usr/)?#usr/#')
exec tar --create --dereference usr/bin/python3.11 usr/lib/python3.11 \
    opt/vllm/bin/vllm opt/vllm/lib/python3.11/site-packages $libraries
IN
)

write_launcher() { # write_launcher FOLDER FINAL_PATH_OF_THAT_FOLDER
    local libraries
    libraries=$(dirname "$(find "$1/usr/lib" -name 'libz.so.1' | head -n 1)")
    mkdir -p "$1/bin"
    ln -s ../../../usr/bin/python3.11 "$1/opt/vllm/bin/python"
    printf 'home = %s\ninclude-system-site-packages = false\nversion = 3.11\n' "$2/usr/bin" >"$1/opt/vllm/pyvenv.cfg"
    cat >"$1/bin/vllm" <<OUT
#!/bin/sh
# The same defaults as in the engine image. exec: whoever starts this holds the engine's own process id.
export LD_LIBRARY_PATH="$2${libraries#"$1"}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export VLLM_CPU_KVCACHE_SPACE="\${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_NO_USAGE_STATS="\${VLLM_NO_USAGE_STATS:-1}"
exec "$2/opt/vllm/bin/python" "$2/opt/vllm/bin/vllm" "\$@"
OUT
    chmod 755 "$1/bin/vllm"
}

tag=$("$HERE/build_engine_image.sh" "$@")
image=$(docker image inspect --format '{{.Id}}' "$tag")
home=$CACHE/native-$(echo "${image#sha256:}" | cut -c1-16)

exec 9>"$CACHE/native_vllm.lock"
flock -w 600 9 || die "another run has held $CACHE/native_vllm.lock for 600 s"
if [ ! -x "$home/bin/vllm" ]; then
    rm -rf "$CACHE"/native-*
    [ "$(df --output=avail -B1G "$CACHE" | tail -n 1)" -ge "$COPY_GIB" ] || die "less than $COPY_GIB GiB free below $CACHE"
    say "copying vLLM out of $tag to $home"
    mkdir "$home.part"
    # Without a log driver: the daemon would write the whole stream to the container's log as well.
    docker run --rm --network none --log-driver none --entrypoint bash "$tag" -c "$CONTENTS" |
        tar -x --no-same-owner -C "$home.part"
    write_launcher "$home.part" "$home"
    mv "$home.part" "$home"
fi
echo "$home/bin/vllm"
