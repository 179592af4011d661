import pytest

from tests.utils.training.test_audit import trained
from utils.history import ITERATION_COLUMN
from utils.training.audit import AuditItem
from utils.training.seam_check import SeamCheck, compare_metrics, log_audit
from utils.training.step_outcome import EpochProgress
from utils.training.validation import NOT_VALIDATED


def test_no_metrics_to_compare_within_an_epoch() -> None:
    state = trained()
    assert compare_metrics(state, NOT_VALIDATED) == SeamCheck(0.25, None, None, None)
    state.progress = EpochProgress(batches=2, pending=1)
    assert compare_metrics(state, NOT_VALIDATED) == SeamCheck(None, None, None, None)


def test_weights_from_within_an_epoch_have_no_saved_metrics() -> None:
    state = trained()
    state.history[-1][ITERATION_COLUMN] = 1.0
    assert compare_metrics(state, NOT_VALIDATED).saved_ema == 0.25
    state.iteration += 2
    assert compare_metrics(state, NOT_VALIDATED).saved_ema is None


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (SeamCheck(0.25, None, None, None), "skipped (--noval)"),
        (
            SeamCheck(0.25, 0.25, None, 0.2),
            "0.25000 (saved 0.25000), of the non-EMA weights 0.20000",
        ),
        (SeamCheck(None, 0.25, None, 0.2), "EMA weights 0.25000, of the non-EMA weights 0.20000"),
        (SeamCheck(0.25, 0.2501, None, 0.2), "do not reproduce the saved mAP50-95"),
    ],
)
def test_audit_and_seam_check_are_logged(
    check: SeamCheck, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    log_audit([AuditItem("EMA", "restored", "349 tensors")], check)
    assert "  EMA  restored  349 tensors" in caplog.messages
    assert message in " ".join(caplog.messages)


def test_results_within_a_millionth_are_reproduced() -> None:
    assert SeamCheck(0.25, 0.25 + 9e-7, None, None).reproduced is True
    assert SeamCheck(0.25, 0.25 + 2e-6, None, None).reproduced is False
    assert SeamCheck(None, 0.25, None, None).reproduced is None
