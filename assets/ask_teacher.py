"""Let the teacher ask itself questions and answer them: text to train drafts and students on, as much as is wanted.

    python assets/ask_teacher.py asked.jsonl --batches 12 --batch-size 4096 --device cuda \
        --avoid assets/prompts/heldout.jsonl,assets/prompts/dev.jsonl,assets/prompts/fresh.jsonl

A user's turn is sampled from the chat template's own user prefix (temperature 1.0, top-p 0.92, at most 44 tokens) and
kept where it ends by itself, has 4 to 36 words, is ASCII, is no repeat and shares no five words in a row with a prompt
that is to be avoided. About six in ten are. Each is answered once: sampled (temperature 0.8, top-p 0.95) or, for the
share of --greedy-share, greedily; at most 96 tokens.

Batch b is drawn from the seed and b alone, so a file that was interrupted goes on where its last whole batch ended.
Large batches on a GPU are the point: there, sorting the vocabulary for the nucleus would take longer than the model, so
the nucleus is found by halving the range of its lowest probability.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from speckd.heads import Head
from speckd.pairs import load_pair
from speckd.rollouts import stop_token_ids

ASKING = {"temperature": 1.0, "top_p": 0.92, "n_tokens": 44}
ANSWERING = {"temperature": 0.8, "top_p": 0.95, "n_tokens": 96}
HALVINGS = 16  # of the range in which the nucleus' lowest probability is looked for
MARK = "question"


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row from its nucleus, by inverse CDF in the order of ids: (B, V) and (B,) to (B,)."""
    chances = torch.softmax(logits.float() / temperature, -1)
    low, high = torch.zeros_like(uniforms), chances.amax(-1)
    for _ in range(HALVINGS):  # invariant: tokens from ``low`` on hold at least top_p
        middle = (low + high) / 2
        enough = (chances * (chances >= middle[:, None])).sum(-1) >= top_p
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    cumulative = (chances * (chances >= low[:, None])).cumsum(-1)
    picks = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)
    return picks.squeeze(-1).clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def write(
    model: Any,
    texts: list[list[int]],
    greedy: Tensor,
    stops: list[int],
    generator: torch.Generator,
    *,
    temperature: float,
    top_p: float,
    n_tokens: int,
) -> list[list[int]]:
    """Continue each text: what the model writes after it, the stop token included where it came.

    Args:
        greedy: (B,) bool, the rows that take the most probable token.
        generator: on the CPU, so that the uniforms are the same on every device.
    """
    device = next(model.parameters()).device
    trunk, head = model.get_decoder(), Head.of(model)
    length = max(len(text) for text in texts)
    ids = torch.tensor([[0] * (length - len(text)) + text for text in texts], device=device)
    mask = torch.tensor([[0] * (length - len(text)) + [1] * len(text) for text in texts], device=device)
    uniforms = torch.rand(n_tokens, len(texts), generator=generator).to(device)
    greedy, ends = greedy.to(device), torch.tensor(stops, device=device)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, done = DynamicCache(config=model.config), torch.zeros(len(texts), dtype=torch.bool, device=device)
    written: list[Tensor] = []
    for step in range(n_tokens):
        states = trunk(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = head.logits(states)
        token = torch.where(greedy, logits.argmax(-1), draw(logits, uniforms[step], temperature, top_p))
        written.append(token)
        done |= torch.isin(token, ends)
        if step % 8 == 7 and bool(done.all()):  # looking makes a GPU wait
            break
        ids, places = token[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
    return [_until_stop(row, stops) for row in torch.stack(written, 1).tolist()]


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    return ids[: next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))]


def five_words(text: str) -> set[tuple[str, ...]]:
    """Every run of five words; words are runs of letters, digits and apostrophes, in lower case."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


class Sieve:
    """Which asked prompts are kept."""

    def __init__(self, avoid: list[str]) -> None:
        self.seen: set[str] = set()
        self.avoided = set().union(*(five_words(text) for text in avoid)) if avoid else set()

    def keeps(self, prompt: str) -> bool:
        plain = " ".join(re.findall(r"[a-z0-9']+", prompt.lower()))
        if not (prompt.isascii() and prompt.isprintable() and 4 <= len(prompt.split()) <= 36):
            return False
        if plain in self.seen or five_words(prompt) & self.avoided:
            return False
        self.seen.add(plain)
        return True


def ask(options: argparse.Namespace) -> None:
    """Fill the file batch by batch."""
    pair = load_pair(options.teacher, options.teacher, device=options.device, dtype=options.dtype)
    model, tokenizer = pair.teacher, pair.tokenizer
    stops = stop_token_ids(model, tokenizer)
    whole = tokenizer.apply_chat_template([{"role": "user", "content": MARK}], tokenize=False)
    prefix = tokenizer(whole[: whole.rindex(MARK)], add_special_tokens=False)["input_ids"]
    sieve = Sieve([row["prompt"] for file in options.avoid.split(",") if file for row in rows_of(Path(file))])
    first = _resume(options.output, sieve)
    started = time.monotonic()
    for number in tqdm(range(first, options.batches), initial=first, total=options.batches, disable=None):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        nobody = torch.zeros(options.batch_size, dtype=torch.bool)
        asked = write(model, [prefix] * options.batch_size, nobody, stops, generator, **ASKING)
        ended = tokenizer.batch_decode([ids[:-1] for ids in asked if ids[-1] in stops])
        prompts = sorted((text.strip() for text in ended if sieve.keeps(text.strip())), key=len)
        turns = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
            )
            for prompt in prompts
        ]
        greedy = torch.rand(len(turns), generator=generator) < options.greedy_share
        answers = write(model, turns, greedy, stops, generator, **ANSWERING) if turns else []
        lines = []
        for prompt, ids, is_greedy in zip(prompts, answers, greedy.tolist(), strict=True):
            finished = ids[-1] in stops
            response = tokenizer.decode(ids[:-1] if finished else ids)
            if response.strip():
                row = {"prompt": prompt, "response": response, "finished": finished, "response_ids": ids}
                lines.append(json.dumps(row | {"greedy": is_greedy, "batch": number}) + "\n")
        with options.output.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        seconds = time.monotonic() - started
        tqdm.write(f"batch {number}: {len(lines)} of {options.batch_size} kept, {seconds:.0f} s so far")


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; a last line that was cut short is none."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _resume(output: Path, sieve: Sieve) -> int:
    """Cut the file to its whole batches, tell the sieve what it holds, and return the next batch's number."""
    if not output.exists():
        return 0
    rows = list(rows_of(output))
    last = max((row["batch"] for row in rows), default=-1)  # it may have been cut off: it is drawn again
    kept = [row for row in rows if row["batch"] < last]
    output.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    for row in kept:
        sieve.keeps(row["prompt"])
    return max(0, last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="FILE", help="JSONL; continued where it is there")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64, help="questions asked at once (64)")
    parser.add_argument("--greedy-share", type=float, default=0.0, help="of the answers (0)")
    parser.add_argument("--avoid", default="", metavar="FILES", help="prompts to stay away from, with commas")
    parser.add_argument("--teacher", default="packaged")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--seed", type=int, default=0)
    ask(parser.parse_args())


if __name__ == "__main__":
    main()
