#!/bin/sh
# child.sh COMMAND ARGUMENT...: runs one engine and writes down how it ended.
#
# The process launcher starts this in the engine's directory, as the leader of a session of its own, with the engine's
# log as stdout and stderr and the locked lock file as one more descriptor, which every process below inherits: the
# lock is held for as long as anything of the engine lives, also when this shell is killed.
echo $$ >pid

# SIGTERM goes on to vLLM's first process alone, as in a container; it ends the others in good order.
stop='' main=''
trap 'stop=1; [ -z "$main" ] || kill -TERM "$main" 2>/dev/null' TERM
"$@" </dev/null &
main=$!
[ -z "$stop" ] || kill -TERM "$main" 2>/dev/null

# `wait` also returns when a signal has come; a process that is not waited for yet still answers to `kill -0`.
while :; do
    wait "$main"
    code=$?
    kill -0 "$main" 2>/dev/null || break
done

echo "$code" >exit_code.new && mv exit_code.new exit_code
rm -f hf_token
# Workers that outlive a crash of their parent hold on to GPU memory. This shell is in the group too, and done.
kill -KILL 0
