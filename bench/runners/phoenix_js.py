"""phoenix.js on Node over long polling: passes its task to `phoenix_js.mjs`, which prints the result."""

import subprocess
import sys
from pathlib import Path

from bench.meter import Result, report

MODULES = Path(__file__).parents[2] / "tests" / "interop" / "node_modules"

if __name__ == "__main__":
    if (MODULES / "phoenix").is_dir():
        script = Path(__file__).with_suffix(".mjs")
        sys.exit(subprocess.run(("node", str(script), str(MODULES), sys.argv[1]), check=False).returncode)
    report(Result(problem="phoenix.js is not installed: run tests/interop/install.sh"))
