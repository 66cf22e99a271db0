"""A wrong request on the command line: one line on stderr, and exit code 2."""
import sys
from collections.abc import Callable


def answered(name: str, work: Callable[[], int], wrong: type[Exception] | tuple[type[Exception], ...]) -> int:
    """The exit code of `work`; 2, and one line that says what was wrong, if it raises one of `wrong`."""
    try:
        return work()
    except wrong as error:
        print(f"spec-toolkit {name}: {error}", file=sys.stderr)
        return 2
