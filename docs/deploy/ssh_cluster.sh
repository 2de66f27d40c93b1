#!/usr/bin/env bash
# A raydask cluster over ssh: the head on one machine, a node on each other.
#
#   ssh_cluster.sh up   HEAD MACHINE...     start it; HEAD is an address that all can reach
#   ssh_cluster.sh down HEAD MACHINE...     let the nodes leave, then end the head
#
# Each machine needs the same raydask in the PATH of a command that ssh runs; only HEAD needs Redis.
# In the environment: RAYDASK_SECRET (made and printed if not set), PORT (6400), OPTIONS for each
# node (such as "--num-cpus 8"), DRAIN_SECONDS (60), and SSH, what to use as ssh.
set -euo pipefail

usage() {
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 2
}

[[ $# -ge 2 ]] || usage
action=$1 head=$2
shift 2
port=${PORT:-6400}
ssh=${SSH:-ssh}
options=${OPTIONS:-}

# The secret goes through standard input: a command's words can be read by everybody.
with_secret() {
    local machine=$1 command=$2
    "$ssh" "$machine" "read -r RAYDASK_SECRET; export RAYDASK_SECRET; $command" \
        <<<"$RAYDASK_SECRET"
}

up() {
    if [[ -z ${RAYDASK_SECRET:-} ]]; then
        RAYDASK_SECRET=$(python3 -c 'import secrets; print(secrets.token_hex(16))')
        echo "RAYDASK_SECRET=$RAYDASK_SECRET"
    fi
    with_secret "$head" "raydask start --head --host $head --port $port $options"
    local machine starts=()
    for machine in "$@"; do
        with_secret "$machine" "raydask start --address $head:$port $options" &
        starts+=($!)
    done
    local start failed=0
    for start in "${starts[@]}"; do
        wait "$start" || failed=1
    done
    return $failed
}

down() {
    local machine leaving=()
    for machine in "$@"; do
        # Where there is none any more, that is as it should be.
        "$ssh" "$machine" "raydask stop --address $head:$port --drain \
            --drain-seconds ${DRAIN_SECONDS:-60} || true" &
        leaving+=($!)
    done
    wait "${leaving[@]}"
    "$ssh" "$head" "raydask stop --address $head:$port || true"
}

case $action in
    up) up "$@" ;;
    down) down "$@" ;;
    *) usage ;;
esac
