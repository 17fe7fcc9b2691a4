import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", ["registration.py", "typed.py"])
def test_mypy_refuses_what_is_marked_and_nothing_else(file: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "--no-error-summary"]
    checked = subprocess.run([*command, HERE / file], cwd=HERE.parents[1], capture_output=True, text=True)
    assert checked.stdout + checked.stderr == ""
