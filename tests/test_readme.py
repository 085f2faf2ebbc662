import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_module_and_no_other() -> None:
    block = re.search(r"```text\nt2m_bench/\n(.*?)```", README, re.DOTALL)
    assert block is not None
    named = {line.split()[0] for line in block.group(1).splitlines()}
    package = REPOSITORY / "t2m_bench"
    there = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert named == there


def test_the_commands_run_as_written(tmp_path: Path) -> None:
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    assert block is not None
    commands = block.group(1).splitlines()
    assert len(commands) >= 4
    (tmp_path / "launch").symlink_to(REPOSITORY / "launch")
    tool = Path(sys.executable).with_name("t2m-bench")
    for command in commands:
        name, *arguments = command.split()
        assert name == "t2m-bench"
        done = subprocess.run([tool, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
