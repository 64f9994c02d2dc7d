"""Which tokens the packaged teacher says most: writes frequent-tokens.json, which ``student:vocab=8192`` reads.

    python assets/decode/count_tokens.py

Counted in the training answers (never in held-out ones), most frequent first; of equal counts the lower id first.
"""

import json
from collections import Counter
from pathlib import Path

from speckd.pairs import load_pair

ROOT = Path(__file__).parents[2]
FILES = ("train.jsonl", "self-asked.jsonl", "templates.jsonl")
N_KEPT = 16384


def count(tokenizer, files: list[Path]) -> Counter:
    counts: Counter = Counter()
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            ids = row.get("response_ids") or tokenizer(row["response"], add_special_tokens=False)["input_ids"]
            counts.update(ids)
    return counts


def main() -> None:
    pair = load_pair(student="raw", device="cpu")
    counts = count(pair.tokenizer, [ROOT / "assets" / "responses" / name for name in FILES])
    order = sorted(counts, key=lambda token: (-counts[token], token))[:N_KEPT]
    heldout = count(pair.tokenizer, [ROOT / "assets" / "responses" / "heldout-greedy.jsonl"])
    total = sum(heldout.values())
    covered = {}
    for n_kept in (4096, 8192, N_KEPT):
        kept = set(order[:n_kept])
        covered[n_kept] = round(sum(n for token, n in heldout.items() if token in kept) / total, 4)
    data = {
        "what": "token ids by frequency in the packaged teacher's training answers",
        "files": list(FILES),
        "n_tokens": sum(counts.values()),
        "teacher_sha256": pair.teacher_sha256,
        "vocabulary_size": pair.vocabulary_size,
        "covered_of_heldout": covered,
        "ids": order,
    }
    target = Path(__file__).with_name("frequent-tokens.json")
    target.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(order)} tokens; share of held-out answers that they cover: {covered}")


if __name__ == "__main__":
    main()
