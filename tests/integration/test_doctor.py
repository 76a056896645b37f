"""The embedded model is sound, in both of the types in which it is used."""

import pytest

import caa_interp as caa
from caa_interp.doctor import environment_report, self_test


def test_the_embedded_model_passes(embedded):
    checks = {check.name: check for check in self_test(embedded)}
    assert [check for check in checks.values() if check.passed is False] == []
    assert [name for name, check in checks.items() if check.passed is None] == ["precision"]
    assert "the tokenizer's chat template" in checks["prompt form"].detail
    assert "A sweep takes the token tree;" in checks["token tree"].detail


@pytest.mark.slow
def test_the_embedded_model_passes_in_half_precision():
    checks = self_test(caa.load_model(dtype="bfloat16"))
    assert [check for check in checks if check.passed is not True] == []


def test_the_embedded_model_is_found():
    assert environment_report()["extras"]["embedded model"]["usable"] is True
