from __future__ import annotations

import pytest

from edge_capture.__main__ import main


@pytest.mark.parametrize("command", ["file", "stdin", "mic", "send", "devices"])
def test_the_help_has_an_example_of_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"natterjack-edge {command}" in capsys.readouterr().out
