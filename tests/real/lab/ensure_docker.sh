#!/usr/bin/env bash
# ensure_docker.sh: afterwards a Docker daemon answers, or one line on stderr says why none does.
#
# A daemon that answers is left alone, whoever started it. Otherwise Docker Engine comes from the distribution (root
# and apt needed) and dockerd is started by hand, because a container or a bare virtual machine has no service
# manager that would. That daemon outlives this script; its log is $PORTAL_TEST_CACHE/dockerd.log.
set -euo pipefail

CACHE=${PORTAL_TEST_CACHE:-$HOME/.cache/vllm-portal-tests}
LOG=$CACHE/dockerd.log
START_SECONDS=60

say() { printf 'ensure_docker: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# `docker` alone proves nothing: it may be a client without a daemon. Only a server's answer counts.
daemon_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

daemon_answers && exit 0

mkdir -p "$CACHE"
exec 9>"$CACHE/ensure_docker.lock"
flock -w 300 9 || die "another run has held $CACHE/ensure_docker.lock for 300 s"
daemon_answers && exit 0

[ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST does not answer; unset it to use a daemon on this machine"
[ "$(id -u)" = 0 ] || die "no Docker daemon answers, and only root can install and start one here"

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null || ! command -v iptables >/dev/null; then
    command -v apt-get >/dev/null || die "no Docker daemon, and no apt-get to install one with"
    say "installing docker.io, iptables, debootstrap"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -q update && apt-get -qy install --no-install-recommends docker.io iptables debootstrap; } \
        >"$CACHE/apt.log" 2>&1 || die "apt-get failed; see $CACHE/apt.log"
    # A package's own start script may have brought a daemon up already.
    daemon_answers && exit 0
fi

# A daemon that was killed leaves its number behind, and the next one refuses to start if any process has it by now.
for left in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    [ -f "$left" ] || continue
    case $(cat "/proc/$(cat "$left")/comm" 2>/dev/null || true) in
    dockerd | containerd) ;;
    *) rm -f "$left" ;;
    esac
done

say "starting dockerd (log: $LOG)"
# Descriptors are closed for the daemon: it would hold the lock for as long as it lives, and one of whoever called this.
setsid dockerd >"$LOG" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
dockerd=$!
deadline=$((SECONDS + START_SECONDS))
until daemon_answers; do
    kill -0 "$dockerd" 2>/dev/null || die "dockerd ended at once: $(tail -n 1 "$LOG")"
    [ "$SECONDS" -lt "$deadline" ] || die "dockerd does not answer after $START_SECONDS s: $(tail -n 1 "$LOG")"
    sleep 0.5
done
