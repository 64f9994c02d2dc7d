#!/bin/sh
# Record the answers that the page shows before any model is in memory. Run again whenever the packaged students or the
# form of a trace change: sh assets/record_traces.sh   (about a minute each on two cores)
set -e
cd "$(dirname "$0")/.."
PY=${PY:-.venv/bin/python}
mkdir -p assets/traces
record() { file=$1; shift; "$PY" -m speckd inspect "$@" --json "assets/traces/$file.json" >/dev/null; echo "assets/traces/$file.json"; }
record healed "Why is the sky blue?" --max-new-tokens 64
record young "Why is the sky blue?" --max-new-tokens 64 --student young
record written-by-the-student "Why is the sky blue?" --max-new-tokens 64 --source student
record surely-wrong "What is 17 + 25?" --max-new-tokens 24
# The same answer at two other temperatures: greedy text does not depend on it, so only the lists differ.
record cool "Why is the sky blue?" --max-new-tokens 64 --temperature 0.5
record hot "Why is the sky blue?" --max-new-tokens 64 --temperature 2
