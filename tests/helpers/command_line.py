"""Runs a verb in this process, as the command line does."""

import sys

from t2m_bench import cli


def run(*arguments: object) -> int:
    """Run the command line in this process; return its exit code."""
    before, sys.argv = sys.argv, ["t2m-bench", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = before
    return 0
