"""The card of a trained student: one for the folder, for the Hub, and from both doors (``distill`` and the trainer)."""

from pathlib import Path
from typing import Any

from speckd.packaged import HUB_TEACHER, PACKAGED, STUDENTS
from speckd.pairs import Pair
from speckd.training.record import RunRecord, to_markdown


def is_hub_id(name: Any) -> bool:
    """Whether a name is spelt as the Hub spells them, and no folder here: an adapter may call its base anything."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def base_of(pair: Pair) -> str | None:
    """The Hub id of the model that a student was made from; None where it is a folder of somebody's machine."""
    if hasattr(pair.student, "peft_config"):
        base = next(iter(pair.student.peft_config.values())).base_model_name_or_path
    elif pair.student_id in STUDENTS:
        base = HUB_TEACHER
    else:
        base = getattr(pair.student.config, "_name_or_path", None) or pair.student_id
    base = HUB_TEACHER if base == PACKAGED else base
    return base if is_hub_id(base) else None


def model_card(pair: Pair, record: RunRecord, name: str, words: str, command: str = "") -> str:
    """The README.md of a trained student: what it is, how it was made, how good it is, how to load it.

    Args:
        pair: with the student. record: of its training.
        name: the student's; a Hub id where it lies there, which then stands in the lines that load it.
        words: a sentence on its figures. command: repeats the run, where one does.
    """
    adapter, base = hasattr(pair.student, "peft_config"), base_of(pair)
    front = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    front += ["tags: [speckd, distillation]"]
    front += [f"base_model: {base}"] if base else []
    front += ["---", ""]
    where = name if name.count("/") == 1 and is_hub_id(name) else "student"
    loading = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base or "folder/of/the/base/model"}")\n'
        f'model = PeftModel.from_pretrained(base, "{where}")'
        if adapter
        else f'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("{where}")'
    )
    report = to_markdown([record], name, words, command)
    exact = f"The figures hold for the teacher with sha256 `{pair.teacher_sha256}`."
    return "\n".join([*front, report, exact, "", "```python", loading, "```", ""])
