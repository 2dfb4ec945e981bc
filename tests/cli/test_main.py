"""The verbs."""

import subprocess
import sys

import pytest

from emuiavf.cli import VERBS, main


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert [verb for verb in VERBS if verb not in out] == []


@pytest.mark.parametrize("argv", [[], ["nosuch"]])
def test_unknown_verb_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "emuiavf" in capsys.readouterr().err


def test_output_to_nobody_is_no_traceback() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "emuiavf", "stats", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(timeout=30)
    assert (child.returncode in (0, 1), err) == (True, "")
