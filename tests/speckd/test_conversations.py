"""What is trained is what the template writes, id by id: for templates as models bring them along."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from speckd.conversations import encode_conversation, encode_prompt, encode_turn, end_of_turn_ids, template_switches
from speckd.data import collate, read_examples, token_text
from tests import tiny

CHATML = tiny.CHAT_TEMPLATE
THINKING = (  # as Qwen3: an empty block before the last answer alone; a switch puts it in the prompt
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}"
    "{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
FORCED = (  # as DeepSeek-R1: the model is made to think, and what it thought is not written
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
INST = (  # as Mistral and Llama 2, over a tokenizer that writes a blank before every word
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TRIMMED = CHATML.replace("message['content'] +", "message['content'] | trim +")
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARTS = (  # as LLaVA and SmolVLM: a content that is plain text is not written, without a word
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALLS = (  # as Qwen3: a thinking block before the last turn alone, calls behind the content
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function.name + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def metaspace() -> PreTrainedTokenizerFast:
    """Words with a blank before each, as Llama 2's and Mistral's tokenizers write them, and single bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁[INST]", "▁[/INST]"]
    vocabulary = {word: index for index, word in enumerate(words)}
    for letter in sorted(set("[INST]/abcdefghijklmnopqrstuvwxyzBQW?. ")):
        vocabulary.setdefault(letter, len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = INST
    return made


def words_of(template: str | None) -> Any:
    if template == INST:
        return metaspace()
    words = tiny.tokenizer()
    words.chat_template = template
    return words


@pytest.mark.parametrize("template", [CHATML, THINKING, FORCED, INST, TRIMMED, MARKED])
@pytest.mark.parametrize("answer", ["Because.", " Because of \n it ", "e"])
def test_prompt_and_response_are_the_templates_own_rendering(template: str, answer: str) -> None:
    words = words_of(template)
    whole = [*ASKED[1:], {"role": "assistant", "content": answer}]
    prompt, response = encode_turn(words, whole[:-1], answer)
    text = words.apply_chat_template(whole, tokenize=False)
    expected = words(text.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert prompt + response == expected
    assert response[-1] == words.eos_token_id and words.eos_token_id not in response[:-1]
    if template != FORCED:  # there the generation prompt holds a word that the conversation does not
        assert prompt == encode_prompt(words, whole[:-1])[: len(prompt)]
    unfinished = encode_turn(words, whole[:-1], answer, finished=False)[1]
    assert unfinished == response[: len(unfinished)] and words.eos_token_id not in unfinished
    assert answer.strip() in words.decode(unfinished)


def test_the_thinking_block_that_the_template_writes_is_trained_or_by_a_switch_part_of_the_prompt() -> None:
    words = words_of(THINKING)
    assert words.decode(encode_turn(words, ASKED, "No.")[1]) == "<think>\n\n</think>\n\nNo.<|im_end|>"
    prompt, response = encode_turn(words, ASKED, "No.", {"enable_thinking": False})
    assert words.decode(response) == "No.<|im_end|>" and words.decode(prompt).endswith("</think>\n\n")
    assert prompt == encode_prompt(words, ASKED, {"enable_thinking": False})
    reasoned = [*ASKED, {"role": "assistant", "content": "No.", "reasoning_content": "Hm."}]
    assert words.decode(encode_conversation(words, reasoned).response_ids).startswith("<think>\nHm.\n</think>")


def test_a_response_has_the_blank_that_the_template_writes_and_no_other() -> None:
    words = metaspace()
    response = encode_turn(words, ASKED[1:], "Because")[1]
    whole = words.apply_chat_template([*ASKED[1:], {"role": "assistant", "content": "Because"}], return_dict=False)
    assert whole[-len(response) :] == response
    assert words.convert_ids_to_tokens(response)[0].startswith("▁")


def test_an_end_of_turn_that_is_an_added_token_without_a_name_ends_the_response() -> None:
    words = tiny.tokenizer()
    words.add_tokens([AddedToken("<end_of_turn>", special=False, normalized=False)])
    words.chat_template = CHATML.replace("<|im_end|>", "<end_of_turn>")
    turn = words.convert_tokens_to_ids("<end_of_turn>")
    assert turn not in words.all_special_ids
    assert encode_turn(words, ASKED, "No.")[1][-1] == turn and end_of_turn_ids(words) == [turn]


def test_every_turn_of_a_conversation_has_its_place_and_marks_of_the_template_go_first() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    turns.append({"role": "assistant", "content": "c"})
    for template in (CHATML, MARKED, THINKING):
        words = words_of(template)
        found = encode_conversation(words, turns)
        assert found.trained is not None
        said = [token for token, mark in zip(found.response_ids, found.trained, strict=True) if mark]
        block = "<think>\n\n</think>\n\n" if template == THINKING else ""
        assert words.decode(said) == f"a<|im_end|>{block}c<|im_end|>"
        last = encode_conversation(words, turns, turns="last")
        assert words.decode(last.response_ids) == f"{block}c<|im_end|>" and last.trained is None


def test_a_template_that_reads_parts_alone_is_given_parts() -> None:
    words = words_of(PARTS)
    prompt, response = encode_turn(words, ASKED, "No.")
    assert words.decode(prompt) == words_of(CHATML).apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True
    )
    assert words.decode(response) == "No.<|im_end|>"


def test_calls_of_a_turn_in_between_are_trained_though_the_last_turn_is_written_otherwise() -> None:
    words = words_of(CALLS)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    turns = [*ASKED, call, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "No."}]
    found = encode_conversation(words, turns)
    said = [token for token, mark in zip(found.response_ids, found.trained or [], strict=True) if mark]
    assert words.decode(said) == "<tool_call>f</tool_call><|im_end|><think>\n\n</think>\n\nNo.<|im_end|>"
    assert words.decode(encode_conversation(words, turns[:3]).response_ids).endswith("f</tool_call><|im_end|>")


def test_a_turn_that_is_closed_by_two_tokens_ends_with_both_and_one_that_is_not_with_one() -> None:
    words = tiny.tokenizer()
    words.add_tokens([AddedToken("<|END_RESPONSE|>", special=False, normalized=False)])
    words.chat_template = CHATML.replace(
        "'<|im_end|>\n'", "('<|END_RESPONSE|>' if message.role == 'assistant' else '') + '<|im_end|>\n'"
    )
    assert words.decode(encode_turn(words, ASKED, "No.")[1]) == "No.<|END_RESPONSE|><|im_end|>"  # as Cohere
    assert end_of_turn_ids(words) == [words.eos_token_id]
    words.chat_template = (  # as Phi-4-mini: an end of text behind the last turn, whoever's it is
        CHATML.replace("'<|im_end|>\n'", "'<|END_RESPONSE|>'").replace("{% endif %}", "{% else %}<|im_end|>{% endif %}")
    )
    assert words.decode(encode_turn(words, ASKED, "No.")[1]) == "No.<|END_RESPONSE|>"


def test_a_mark_that_ends_within_a_character_of_several_tokens_holds_all_of_them() -> None:
    words = words_of(
        MARKED.replace(
            "{{ m.content + '<|im_end|>' }}{% endgeneration %}", "{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}"
        )
    )
    found = encode_conversation(words, [*ASKED, {"role": "assistant", "content": "No 🙂"}])
    assert words.decode(found.response_ids) == "No 🙂"


def test_the_reading_says_what_the_template_leaves_out() -> None:
    words = words_of(
        "{% for m in messages if m.role != 'system' %}{{ m.role + ':' + m.content + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    read = read_examples([{"messages": ASKED, "response": "No."}], words)
    assert "the chat template leaves system texts out" in read.summary()
    assert "leaves" not in read_examples([{"messages": ASKED, "response": "No."}], words_of(CHATML)).summary()


def test_without_a_template_turns_stand_behind_one_another_and_the_reading_says_so() -> None:
    words = words_of(None)
    prompt, response = encode_turn(words, ASKED, " No.")
    assert words.decode(prompt) == "Be brief.\n\nWhy?" and words.decode(response) == " No.<|im_end|>"
    read = read_examples([{"messages": ASKED, "response": "No."}], words)
    assert "no chat template: turns stand behind one another" in read.summary()


def test_an_appended_end_of_text_does_not_close_a_prompt_before_its_answer() -> None:
    words = words_of(None)
    end = [(words.eos_token, words.eos_token_id)]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end[0][0]}", special_tokens=end)
    assert words("a")["input_ids"][-1] == words.eos_token_id
    prompt, response = encode_turn(words, [{"role": "user", "content": "a"}], "b")
    assert words.decode(prompt) == "a" and words.decode(response) == "b<|im_end|>"


def test_a_turn_that_the_template_refuses_is_a_bad_line_with_its_number() -> None:
    words = words_of("{{ raise_exception('roles must alternate') }}")
    rows = [{"prompt": "a", "response": "b"}]
    with pytest.raises(ValueError, match=r"line 1: the chat template refuses it \(roles must alternate\)"):
        read_examples(rows, words)


def test_between_the_turns_no_token_counts() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    example = read_examples([{"messages": [*turns, {"role": "assistant", "content": "c"}]}], tiny.tokenizer()).examples[
        0
    ]
    row = {"input_ids": example.prompt_ids + example.response_ids, "n_prompt": len(example.prompt_ids), "number": 1}
    labels = collate([{**row, "trained": example.trained}], 0)["labels"]
    assert int((labels != -100).sum()) == example.n_trained == 4


@pytest.mark.parametrize("given", ["[1]", "nonsense", 3])
def test_switches_that_are_no_object_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="chat_template_kwargs is no JSON object"):
        template_switches(given)


def test_a_byte_of_sentencepiece_shows_itself_and_not_the_letters_of_its_name() -> None:
    words = metaspace()
    assert token_text(words, words.convert_tokens_to_ids("<0xF0>")) == "<F0>"
    assert token_text(words, words.convert_tokens_to_ids("<0x0A>")) == "\n"
