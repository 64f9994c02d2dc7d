#!/bin/sh
# Record the decodings that the page shows before any model is in memory, and that the lesson on drafts speaks of. Run
# again whenever the shipped drafts, the policies or the form of a record change; one thread, by the time that the
# process worked:  sh assets/decode/record_decodings.sh [name ...]   (about a minute each)
set -e
cd "$(dirname "$0")/../.."
PY=${PY:-.venv/bin/python}
export OMP_NUM_THREADS=1
SKY="Why is the sky blue?"
mkdir -p assets/decode/recorded
record() {
    name=$1
    shift
    "$PY" -m speckd decode "$@" --json "assets/decode/recorded/$name.json" | tail -n 6
    echo "assets/decode/recorded/$name.json"
}

for name in ${*:-default eagle tree ddd student sampled lookup plain hispec}; do
    case $name in
    default) record default "$SKY" --draft lookup+eagle --policy ddd:x=-0.6:width=3:n=4:steps=1+2+3:nodes=5:p=0.1 ;;
    eagle) record eagle "$SKY" --draft eagle --policy confidence:p=0.5 --continuations ;;
    tree) record tree "$SKY" --draft eagle --policy tree:width=4:depth=3:nodes=8 ;;
    ddd) record ddd "$SKY" --draft eagle --policy ddd:x=-0.9:width=4:n=6:steps=1+2+3:nodes=8 ;;
    student) record student "$SKY" --draft student:vocab=8192 --policy fixed:g=4 --continuations ;;
    sampled) record sampled "$SKY" --draft eagle --policy fixed:g=3 --sample --temperature 1 --seed 1 ;;
    lookup) record lookup "Say three times: the student proposes, the teacher verifies." --draft lookup --policy fixed:g=8 ;;
    plain) record plain "$SKY" --draft none ;;
    hispec) record hispec "$SKY" --draft hispec:draft=4:middle=8 ;;
    *) echo "no such decoding: $name" >&2; exit 2 ;;
    esac
done
