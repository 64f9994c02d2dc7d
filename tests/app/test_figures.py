import subprocess
import sys

import pytest

from app import figures
from tests.app import synthetic


def test_figures_need_neither_torch_nor_gradio() -> None:
    code = "import sys, app.figures as f; f.lanes; print(sorted({'torch', 'gradio', 'plotly'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_six_lanes_with_units_and_true_values() -> None:
    trace = synthetic.trace(20)
    figure = figures.lanes(trace, gate="topk", k=5, beta=0.25)
    lanes = {lane.name: lane for lane in figure.data}
    assert list(lanes) == ["divergence", "weight", "acceptance", "teacher_entropy", "student_entropy", "rank", "masked"]
    labels = figure.layout.yaxis.ticktext
    assert [label for label in labels if "(nats)" in label] == [
        "divergence (nats)", "teacher entropy (nats)", "student entropy (nats)"]  # fmt: skip
    assert figure.layout.xaxis.title.text
    assert list(lanes["weight"].z[0]) == [1.0 if rank <= 5 else 0.25 for rank in trace["topk_threshold"]]
    assert float(lanes["teacher_entropy"].customdata[0][3]) == pytest.approx(trace["teacher_entropy"][3], rel=0.01)
    for name in list(lanes)[:6]:
        assert all(0 <= value <= 1 for value in lanes[name].z[0])


def test_the_two_entropies_share_one_scale() -> None:
    trace = synthetic.trace(20)
    lanes = {lane.name: lane for lane in figures.lanes(trace).data}
    top = max(trace["teacher_entropy"] + trace["student_entropy"])
    assert lanes["student_entropy"].z[0][2] == pytest.approx(trace["student_entropy"][2] / top)
    assert lanes["teacher_entropy"].z[0][2] == pytest.approx(trace["teacher_entropy"][2] / top)


def test_the_veil_covers_the_masked_tokens_and_no_other() -> None:
    trace = synthetic.trace(30)
    figure = figures.lanes(trace, k=3)
    veil = figure.data[-1]
    covered = set()
    for x, width in zip(veil.x, veil.width, strict=True):
        covered |= set(range(round(x - width / 2 + 0.5), round(x + width / 2 + 0.5)))
    assert covered == {t for t, rank in enumerate(trace["topk_threshold"]) if rank > 3}
    assert veil.marker.pattern.shape == "/"


def test_infinite_divergence_has_the_strongest_colour_and_its_name() -> None:
    trace = synthetic.trace(5)
    trace["divergence"]["forward_kl"][2] = "inf"
    lane = next(lane for lane in figures.lanes(trace).data if lane.name == "divergence")
    assert lane.z[0][2] == 1.0 and lane.customdata[0][2] == "inf"


def test_no_token_is_markup_to_plotly() -> None:
    trace = synthetic.trace(len(synthetic.HOSTILE), tokens=synthetic.HOSTILE)
    for name in figures.lanes(trace).data[0].text[0]:
        assert "<" not in name and "\u202e" not in name and "\x00" not in name


@pytest.mark.parametrize("n_tokens", [1, 2, 256])
def test_any_length_makes_a_figure(n_tokens: int) -> None:
    figure = figures.lanes(synthetic.trace(n_tokens), gate="speck", divergence="tvd")
    assert len(figure.data[0].z[0]) == n_tokens
    assert 1 <= len(figure.layout.xaxis.tickvals) <= 15


def test_a_page_can_put_two_students_on_one_scale() -> None:
    trace = synthetic.trace(20)
    figure = figures.lanes(trace)
    tops, shown = figure.layout.meta["tops"], figure.layout.meta["divergences"]["forward_kl"]["scaled"]
    assert tops["entropy"] == max(trace["teacher_entropy"] + trace["student_entropy"])
    assert shown[3] * tops["forward_kl"] == pytest.approx(trace["divergence"]["forward_kl"][3])
