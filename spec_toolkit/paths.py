"""Where the kernels, notebooks and recorded results are: inside the installed package, or beside it in a checkout."""
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed, beside = PACKAGE / name, PACKAGE.parent / name
    return installed if installed.is_dir() else beside


def kernels_dir() -> Path:
    """The .cu and .cuh sources."""
    return _folder("kernels")


def notebooks_dir() -> Path:
    """The notebooks, without outputs."""
    return _folder("notebooks")


def results_dir() -> Path:
    """The committed records and figures, one folder per GPU."""
    return _folder("results")


def checkout() -> Path | None:
    """The root of the source tree when the package runs from one, else None."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
