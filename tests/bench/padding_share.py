"""What share of a training's tokens is padding, on the lengths of a file: what ``packing`` keeps out of the trunks.

    python tests/bench/padding_share.py [assets/responses/train.jsonl ...] [--batch 8]

By default texts of like length are put together, so that little is padded anyway; the other row is a plain shuffle.
"""

import argparse

import speckd
from speckd.data import ShuffledByLength, read_examples


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*", default=["assets/responses/train.jsonl"])
    options.add_argument("--batch", type=int, default=8)
    chosen = options.parse_args()
    words = speckd.load_pair(student="raw", device="cpu").tokenizer
    for file in chosen.files:
        examples = read_examples(file, words, on_bad="skip").examples
        lengths = [len(example.prompt_ids) + len(example.response_ids) for example in examples]
        for name, group in (("by length, the default", 16), ("plain shuffle", 1)):
            order = list(ShuffledByLength(lengths, chosen.batch, seed=0, group=group))
            batches = [order[start : start + chosen.batch] for start in range(0, len(order), chosen.batch)]
            real = sum(lengths[index] for index in order)
            padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
            print(f"{file}: {len(lengths):,} texts, batches of {chosen.batch}, {name}: {1 - real / padded:.1%} padding")


if __name__ == "__main__":
    main()
