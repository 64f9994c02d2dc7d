import pytest

from app.settings import ON_A_SPACE, Settings, settings_for


def test_a_laptop_is_open_and_a_space_is_limited() -> None:
    assert settings_for({}) == Settings()
    space = settings_for({"SPACE_ID": "someone/speckd"})
    assert space == ON_A_SPACE
    assert not space.own_models and space.max_new_tokens < Settings().max_new_tokens


def test_zero_gpu_counts_on_a_space_alone() -> None:
    assert not settings_for({"SPACES_ZERO_GPU": "true"}).zero_gpu
    assert settings_for({"SPACE_ID": "a/b", "SPACES_ZERO_GPU": "true"}).zero_gpu


def test_a_limit_is_overridden_by_its_variable() -> None:
    settings = settings_for({"SPACE_ID": "a/b", "SPECKD_MAX_NEW_TOKENS": "7", "SPECKD_OWN_MODELS": "yes"})
    assert settings.max_new_tokens == 7 and settings.own_models


@pytest.mark.parametrize("value", ["many", "-3", "0", "1.5", ""])
def test_a_limit_that_is_no_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="SPECKD_MAX_NEW_TOKENS"):
        settings_for({"SPECKD_MAX_NEW_TOKENS": value})
