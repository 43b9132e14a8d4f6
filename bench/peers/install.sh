#!/bin/sh
# Puts one peer into DIRECTORY, which is outside of the checkout; does nothing where it already is.
#
#   install.sh nginx|vllm-router|litellm DIRECTORY PYTHON
#
# Needs no root and starts nothing: nginx is unpacked from its Debian package, the two others get a virtual environment
# each, with the versions and hashes of NAME.txt. Prints nothing but what goes wrong.
set -eu
name=$1 directory=$2/$1 python=$3
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

from_debian() {
    [ ! -x "$directory/usr/sbin/$name" ] || return 0
    command -v apt-get >/dev/null || { echo "$name: is fetched with apt-get, which is not here" >&2; return 1; }
    mkdir -p "$directory/package"
    cd "$directory/package"
    apt-get -qq download "$name" 2>problems || {
        apt-get -qq update && apt-get -qq download "$name" # lists that are too old name packages that are gone
    } 2>problems || { cat problems >&2; return 1; }
    dpkg-deb -x "$name"_*.deb "$directory"
}

from_pypi() {
    [ -x "$directory/bin/python" ] && cmp -s "$here/$name.txt" "$directory/installed.txt" && return 0
    rm -rf "$directory"
    "$python" -m venv "$directory"
    # All that is needed is listed: looking for it again, older versions of pip find newer packages that have no hash.
    "$directory/bin/pip" -qq --disable-pip-version-check install --no-deps --require-hashes -r "$here/$name.txt"
    cp "$here/$name.txt" "$directory/installed.txt" # last: what is half there is made anew
}

case $name in
nginx) from_debian ;;
vllm-router | litellm) from_pypi ;;
*) echo "no peer has the name $name" >&2; exit 2 ;;
esac
