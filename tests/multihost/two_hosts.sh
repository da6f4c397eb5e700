#!/usr/bin/env bash
# Two hosts train together, the link between them is cut, both end, and both go on: `two_hosts.sh [FOLDER]`, as root.
#
# A host is a network namespace with an address of its own; a veth pair joins the two. PYTHON names the interpreter.
# FOLDER, a new one if not given, keeps the logs.
set -euo pipefail

readonly END_SECONDS=120   # from the cut to the end of both: 30 s without a heartbeat, and what the ending takes
readonly TRAIN_SECONDS=240 # from the start of a training to its end, or to the place of the cut
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE PYTHON=${PYTHON:-python}
FOLDER=${1:-$(mktemp -d)}
HOSTS=("kerasbig0-$$" "kerasbig1-$$")
readonly ADDRESSES=(10.77.0.1 10.77.0.2) PORT=12345
PIDS=()

say() { echo "$1 ($((SECONDS - $2)) s)"; }

fail() {
    echo "FAILED: $1" >&2
    tail -n 15 "$FOLDER"/*/worker-*.log >&2 || true
    exit 1
}

clean() {
    for pid in "${PIDS[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait
    for host in "${HOSTS[@]}"; do ip netns del "$host" 2>/dev/null || true; done
}
trap clean EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

make_hosts() {
    for host in "${HOSTS[@]}"; do
        ip netns add "$host"
        ip -n "$host" link set lo up
    done
    ip link add link0 netns "${HOSTS[0]}" type veth peer name link0 netns "${HOSTS[1]}"
    for number in 0 1; do
        ip -n "${HOSTS[number]}" address add "${ADDRESSES[number]}/24" dev link0
        ip -n "${HOSTS[number]}" link set link0 up
    done
}

link() { ip -n "${HOSTS[1]}" link set link0 "$1"; }

# True if the worker on the second host can be reached from the first.
joined() { ip netns exec "${HOSTS[0]}" timeout 3 bash -c "</dev/tcp/${ADDRESSES[1]}/$PORT" 2>/dev/null; }

# start RUN: one worker on each host, in the folder that both share.
start() {
    local workers="[\"${ADDRESSES[0]}:$PORT\", \"${ADDRESSES[1]}:$PORT\"]"
    for number in 0 1; do
        TF_CONFIG="{\"cluster\": {\"worker\": $workers}, \"task\": {\"type\": \"worker\", \"index\": $number}}" \
            ip netns exec "${HOSTS[number]}" "$PYTHON" "$HERE/../killed_training.py" "$1/plan.json" "$1" \
            >>"$1/worker-$number.log" 2>&1 </dev/null &
        PIDS+=($!)
    done
}

# ended SECONDS SINCE: waits for both workers and sets CODES.
ended() {
    local since=$2 number
    CODES=("" "")
    while [[ -z ${CODES[0]} || -z ${CODES[1]} ]]; do
        for number in 0 1; do
            [[ -z ${CODES[number]} ]] || continue
            if ! kill -0 "${PIDS[number]}" 2>/dev/null; then
                CODES[number]=0
                wait "${PIDS[number]}" || CODES[number]=$?
                say "worker $number ended with ${CODES[number]}" "$since"
            elif ((SECONDS - since > $1)); then
                fail "worker $number has not ended after $1 s"
            fi
        done
        sleep 0.2
    done
    PIDS=()
}

finished() {
    ended "$TRAIN_SECONDS" "$SECONDS"
    [[ ${CODES[*]} == "0 0" ]] || fail "$1: expected both workers to end with 0, got ${CODES[*]}"
    [[ -f $2/weights.npz ]] || fail "$1: no weights.npz"
}

# True once a worker has stopped itself, as the plan says.
stopped() { [[ $(cut -d " " -f 3 "/proc/$1/stat" 2>/dev/null) == T ]]; }

make_hosts
mkdir -p "$FOLDER/whole" "$FOLDER/cut"
since=$SECONDS
echo "[]" >"$FOLDER/whole/plan.json"
start "$FOLDER/whole"
finished "uninterrupted training" "$FOLDER/whole"
say "uninterrupted training done" "$since"

# The first entry only leaves a mark, which says whether the first epoch was trained; the second holds the place of the cut.
cat >"$FOLDER/cut/plan.json" <<'END'
[{"worker": 0, "place": "step", "epoch": 0, "step": 3, "signal": "SIGCONT"},
 {"worker": 0, "place": "step", "epoch": 1, "step": 2, "signal": "SIGSTOP"}]
END
readonly MARK=$FOLDER/cut/killed-0-step-0-3 STATE=$FOLDER/cut/resume.npz
since=$SECONDS
start "$FOLDER/cut"
until stopped "${PIDS[0]}"; do
    kill -0 "${PIDS[0]}" 2>/dev/null || fail "worker 0 ended before the cut"
    ((SECONDS - since <= TRAIN_SECONDS)) || fail "no place for the cut after $TRAIN_SECONDS s"
    sleep 0.1
done
[[ -f $STATE && -f $MARK ]] || fail "no resume.npz at the place of the cut"
cp "$STATE" "$FOLDER/before.npz"
joined || fail "the hosts do not reach each other before the cut"
link down
kill -CONT "${PIDS[0]}"
say "link cut in the training" "$since"
since=$SECONDS
! joined || fail "the hosts still reach each other after the cut"
ended "$END_SECONDS" "$since"
[[ ${CODES[0]} != 0 && ${CODES[1]} != 0 ]] || fail "expected both workers to end with an error after the cut, got ${CODES[*]}"
cmp "$STATE" "$FOLDER/before.npz" || fail "resume.npz changed after the cut"
"$PYTHON" "$HERE/look.py" state "$STATE" || fail "resume.npz is not intact"

rm "$MARK"
link up
since=$SECONDS
start "$FOLDER/cut"
finished "training gone on with" "$FOLDER/cut"
[[ ! -e $MARK ]] || fail "the training began afresh instead of going on"
[[ ! -e $STATE ]] || fail "resume.npz is left after the end"
say "link up again, training gone on with and done" "$since"
"$PYTHON" "$HERE/look.py" equal "$FOLDER/whole/weights.npz" "$FOLDER/cut/weights.npz" || fail "the weights differ"
say "all as expected" 0
