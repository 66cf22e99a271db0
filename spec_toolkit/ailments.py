"""What a probe of the doctor may say, and what the probes ask the machine with. No CuPy, no torch: it must work where nothing does."""
from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OK, FAILED, ABSENT = "ok", "FAILED", "absent"
MARKS = {OK: "ok  ", FAILED: "FAIL", ABSENT: "-   "}


class Broken(Exception):
    """Something that should work here does not. mend: the command or the setting that mends it."""

    def __init__(self, found: str, mend: str):
        super().__init__(found)
        self.mend = mend


class Absent(Broken):
    """Something that this machine does without; mend: how to get it."""


@dataclass(frozen=True)
class Finding:
    name: str
    state: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        lines = [f"{MARKS[self.state]} {self.name:<14} {self.found}"]
        return "\n".join(lines + [f"     {'mend' if self.state == FAILED else 'get it'}: {self.mend}"] * bool(self.mend))


def version(*packages: str) -> str | None:
    """"name 1.2, other 3.4" of those that are installed, None if none is."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or None


def has_gpu() -> bool:
    """Does the machine show an NVIDIA GPU, whatever the state of its driver?"""
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/gpus").is_dir() or bool(run("nvidia-smi", "-L"))


def run(*command: str) -> str | None:
    """What a command prints, None if it fails or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
