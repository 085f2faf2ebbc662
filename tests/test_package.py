"""What `import t2m_bench` offers, and that it imports nothing heavy."""

import subprocess
import sys
from importlib import resources

import t2m_bench

HEAVY = ("torch", "pandas", "numpy", "ray", "pydantic", "transformers", "typer")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, t2m_bench; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_found_and_others_are_not() -> None:
    assert {name: hasattr(t2m_bench, name) for name in (*t2m_bench.__all__, "nothing")} == {
        **dict.fromkeys(t2m_bench.__all__, True),
        "nothing": False,
    }


def test_the_package_says_that_it_is_typed() -> None:
    assert (resources.files("t2m_bench") / "py.typed").is_file()
