from ms_detr.ops import OperatorStatus, status


def test_status_says_why_nothing_compiled_runs():
    state = status()
    assert isinstance(state, OperatorStatus)
    assert state.compiled is (not state.reason)
