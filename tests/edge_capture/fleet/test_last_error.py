from __future__ import annotations

import logging

from edge_capture.fleet.last_error import LastError

log = logging.getLogger("edge_capture.test")


def test_the_newest_error_is_kept_while_it_listens() -> None:
    errors = LastError()
    with errors.listening():
        log.warning("a warning")
        assert errors.text is None
        log.error("microphone %s is gone", "USB")
        assert errors.text == "microphone USB is gone"
        log.error("x" * 9000)
        assert errors.text == "x" * 500
    log.error("after it")
    assert errors.text == "x" * 500
