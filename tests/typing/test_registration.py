import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_mypy_refuses_what_is_marked_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "--no-error-summary"]
    checked = subprocess.run([*command, HERE / "registration.py"], cwd=HERE.parents[1], capture_output=True, text=True)
    assert checked.stdout + checked.stderr == ""
