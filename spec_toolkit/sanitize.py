"""`spec-toolkit sanitize`: every rung below the four tools of NVIDIA's compute-sanitizer, recorded.

memcheck: reads and writes outside an array, or misaligned. racecheck: shared memory without a barrier between. initcheck: global
memory that is read before it is written. synccheck: barriers that not all threads reach. One process for each tool, all at once:
loading PyTorch below a tool takes longer than the kernels. Each process ends with a kernel that its tool must find, else the run
says nothing. What is found belongs to the rung whose kernel the report names, or else (it may name a function of a header only) to
the one that ran then; what is neither is counted apart, and fails.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from . import bench, results
from .sampler import list_kernels, load_sampler
from .sanitize_log import Log, excerpt, faults, read
from .sanitize_target import CONTROLS
from .tables import NONE, markdown

TOOLS = tuple(CONTROLS)
FORMAT = "spec_toolkit sanitizers 1"
LIMIT_S = 550          # a tool that takes longer is stopped, if no other limit is given
class NoSanitizer(RuntimeError):
    """compute-sanitizer is not on this machine."""


def find_sanitizer() -> str:
    """The path of compute-sanitizer: on PATH, in pip's package, or below $CUDA_HOME or /usr/local/cuda. NoSanitizer if there is none."""
    packages = [str(place) for folder in map(Path, site.getsitepackages()) for place in sorted(folder.glob("nvidia/*/bin"))]
    homes = [home for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda") if home]
    places = [*packages, *(f"{home}/bin" for home in homes)]
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))
    if not found:
        raise NoSanitizer("compute-sanitizer is not on PATH, nor in " + ", ".join(places) + ": pip install nvidia-cuda-sanitizer-api "
                          "(-cu12 for a driver of CUDA 12), or set CUDA_HOME to a toolkit that has it")
    return found


def run_tool(sanitizer: str, tool: str, names, limit: float) -> Log:
    """Run the target below one tool, `limit` seconds at most. Nothing is cached by PyTorch's allocator, so that each array is an allocation of its own."""
    command = [sanitizer, "--tool", tool, "--target-processes", "all", "--report-api-errors", "no", "--show-backtrace", "device",
               "--destroy-on-device-error", "kernel", "--print-limit", "1000",
               sys.executable, "-m", "spec_toolkit.sanitize_target", tool, *names]
    surroundings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_MODULE_LOADING": "LAZY"}
    began = time.perf_counter()
    with subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          start_new_session=True) as process:
        try:
            text, code = process.communicate(timeout=limit)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the tool and the Python below it
            text, code = process.communicate()[0], None
    print(f"{tool}: {'stopped' if code is None else 'ended'} after {time.perf_counter() - began:.0f} s", flush=True)
    return Log(tool, text, code, time.perf_counter() - began)


def summarise(logs: list[Log], samplers: dict, created: str) -> dict:
    """The record, but for its format and environment. samplers: name -> a kernel sampler."""
    kernels = {name: [launch.kernel for launch in sampler.contract.launches] for name, sampler in samplers.items()}
    seen = {log.tool: read(log, kernels) for log in logs}
    ran = next((s["ran"] for s in seen.values() if s["ran"]), None) or {}
    tools = {log.tool: {"seconds": round(log.seconds, 1), "errors": seen[log.tool]["errors"], "control": len(seen[log.tool]["found"]["control"]),
                        "foreign": len(seen[log.tool]["found"]["foreign"]), "faults": faults(log, seen[log.tool])} for log in logs}
    found = {}
    for name, sampler in samplers.items():
        wrong = [text for s in seen.values() for text in (s["ran"] or {}).get(name, {}).get("wrong", ())]
        found[name] = {"source_hash": sampler.source_hash, "created": created, **ran.get(name, {}), "wrong": wrong, "tools": {
            tool: {"errors": len(s["found"][name]), "excerpt": excerpt(s["found"][name])} for tool, s in seen.items()}}
    return {"created": created, "passed": _passed(tools, found), "tools": tools, "samplers": found}


def _passed(tools: dict, samplers: dict) -> bool:
    return not any(t["faults"] for t in tools.values()) and not any(
        s["wrong"] or any(tool["errors"] for tool in s["tools"].values()) for s in samplers.values())


def record(out="results", names=None, limit: float | None = None) -> bool:
    """Run all tools at once, print the table and what was found, write out/<gpu>/sanitizers/sanitizers.json; True if this run is clean.

    names None: every rung. Rungs that a record there has and this run has not are kept in it. A run of which a tool did not come to its
    end replaces no record. limit: seconds after which a tool is stopped, None = LIMIT_S. Raises NoSanitizer, bench.NeedsGPU.
    """
    bench.gpu_of("cuda")
    sanitizer = find_sanitizer()
    samplers = {name: load_sampler(name) for name in names or list_kernels()}
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        logs = list(pool.map(lambda tool: run_tool(sanitizer, tool, list(samplers), limit or LIMIT_S), TOOLS))
    environment, created = results.environment("cuda"), datetime.now(UTC).isoformat(timespec="seconds")
    made = {"format": FORMAT, "environment": environment, **summarise(logs, samplers, created)}
    print(table(made), *explanations(made), sep="\n", flush=True)
    path = Path(out) / results.slug(environment["gpu"] or "cpu") / "sanitizers" / "sanitizers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and any(tool["faults"] for tool in made["tools"].values()):
        print(f"{path} is left as it was", flush=True)
    else:
        results.write_atomically(path, results.to_text(_joined(made, load(path.parent))))
    return made["passed"]


def _joined(made: dict, before: dict | None) -> dict:
    """The record, with the rungs that only the one before it has."""
    found = {**(before["samplers"] if before else {}), **made["samplers"]}
    ordered = {name: found[name] for name in sorted(found, key=lambda name: (list_kernels() + [name]).index(name))}
    return made | {"passed": _passed(made["tools"], found), "samplers": ordered}


def load(folder) -> dict | None:
    """The newest record below folder, or None."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).rglob("sanitizers.json"))]
    return max((r for r in read if r.get("format") == FORMAT), key=lambda r: r["created"], default=None)


def table(made: dict, hashes: dict | None = None) -> str:
    """A Markdown table of a record: findings of each tool in each rung; hashes: of today, to mark what is stale."""
    rows = []
    for name, one in made["samplers"].items():
        stale = hashes is not None and hashes.get(name, "") not in (None, one["source_hash"])
        rows.append([name + (" (stale)" if stale else ""), *(str(one["tools"][tool]["errors"]) for tool in made["tools"]),
                     str(one.get("problems", NONE)), f"{one['exact']} of {one['requests']}" if "exact" in one else NONE])
    rows.append(["a kernel that must be found", *("found" if tool["control"] else "NOT FOUND" for tool in made["tools"].values()), NONE, NONE])
    rows.append(["seconds of the last run, all at once", *(f"{tool['seconds']:.0f}" for tool in made["tools"].values()), NONE, NONE])
    return markdown(["findings in", *made["tools"], "problems", "requests exact"], rows)


def page(made: dict, hashes: dict | None = None) -> str:
    """The table of a record, where and when it was made, and what was found."""
    said = explanations(made)
    days = sorted({one.get("created", made["created"])[:10] for one in made["samplers"].values()} | {made["created"][:10]})
    return (table(made, hashes) + f"\n{made['environment']['gpu']}, driver {made['environment'].get('driver')}; {' to '.join(dict.fromkeys((days[0], days[-1])))}, "
            f"the last run at commit {(made['environment'].get('git') or 'unknown')[:9]}.\n" + ("\n```\n" + "\n".join(said) + "\n```\n" if said else ""))


def explanations(made: dict) -> list[str]:
    """A line or more for everything that keeps a record from passing."""
    lines = [f"{tool}: {fault}" for tool, one in made["tools"].items() for fault in one["faults"]]
    for name, one in made["samplers"].items():
        lines += [f"FAIL {name}, {tool}: {found['errors']} findings, the first:\n{found['excerpt']}" for tool, found in one["tools"].items() if found["errors"]]
        lines += [f"FAIL {name}: {one['wrong'][0]}"] if one["wrong"] else []
    return lines
