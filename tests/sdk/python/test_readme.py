"""The programs in README.md run as they are printed there."""

import re
import subprocess
import sys

from support import REPOSITORY


def test_the_programs_of_the_readme_run(tmp_path):
    text = (REPOSITORY / "README.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert programs, "README.md has no Python program"
    for program in programs:
        script = tmp_path / "program.py"
        script.write_text(program)
        ran = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=100, check=False
        )
        assert ran.returncode == 0, f"{program}\n{ran.stdout}\n{ran.stderr}"
        assert ran.stdout, "a program that shows something"
