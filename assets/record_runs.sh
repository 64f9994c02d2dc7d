#!/bin/sh
# Records the training runs that the page plays before anybody starts one, and that the lessons speak of: assets/runs/.
# `default` is what the page's Distill tab does at a first click. Takes a quarter of an hour on two cores.
#     sh assets/record_runs.sh [name ...]
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
mkdir -p assets/runs

record() {
    name=$1
    shift
    "$python" -m speckd distill assets/responses/train.jsonl --output "$scratch/$name" --limit 96 --max-length 128 \
        --max-new-tokens 64 --eval-data assets/responses/heldout-greedy.jsonl --eval-limit 16 --steps 30 \
        --batch-size 4 --warmup 3 --learning-rate 0.001 --eval-every 10 --probe-every 1 --answers 40 \
        --cache-folder "$scratch/cache" "$@"
    cp "$scratch/$name/recording.json" "assets/runs/$name.json"
}

for name in ${*:-default curriculum cold-start warm}; do
    case $name in
    default) record default --student young --compare topk:k=5:beta=0.01,none --in-turn --answer-every 3 ;;
    curriculum) record curriculum --student young --compare topk:k=5:beta=0.01,random:rate=0.55:beta=0.01 ;;
    cold-start) record cold-start --student raw --compare topk:k=5:beta=0.01,none ;;
    warm) record warm --student healed --compare topk:k=5:beta=0.01,none ;;
    *) echo "no such run: $name" >&2; exit 2 ;;
    esac
done
rm -rf "$scratch"
