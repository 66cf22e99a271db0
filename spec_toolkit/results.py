"""The record of a check and of a time: one JSON file per (experiment, sampler, problem), units in the keys.

Imports nothing of ours: samplers, problems, checks and timings are read by their attributes. Records of one `compare`
share a `run_id`; divide only times that do. Files are written under another name and renamed, so none is ever half there.
"""
from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
import tempfile
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

FORMAT = "spec_toolkit record 1"


class Record(dict):
    """A record as loaded. `path`: its file. `stale`: its sampler's source is not today's (if hashes were given)."""
    stale: bool = False
    path: Path | None = None

    def __repr__(self) -> str:
        p, time = self["problem"], self.get("gpu_us_median")
        return (f"Record({self['experiment']}: {self['sampler']} at batch {p['batch']}, draft_len {p['draft_len']}, vocab "
                f"{p['vocab']}, {'no GPU time' if time is None else f'{time:.1f} µs'}{', stale' if self.stale else ''})")


def spread(samples) -> dict[str, float]:
    """median, p10 and p90 (linear interpolation) of one or more samples."""
    p10, median, p90 = np.percentile(np.asarray(samples, dtype=float), [10, 50, 90])
    return {"median": float(median), "p10": float(p10), "p90": float(p90)}


def _times(name: str, samples) -> dict:
    """name_median, name_p10, name_p90 and name_samples, to 0.001; all None where there are no samples."""
    if not samples:
        return {f"{name}_{key}": None for key in ("median", "p10", "p90", "samples")}
    return ({f"{name}_{key}": round(value, 3) for key, value in spread(samples).items()}
            | {f"{name}_samples": [round(float(s), 3) for s in samples]})


def _version(*packages: str) -> str | None:
    for package in packages:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def environment(device: str = "cpu") -> dict:
    """What ran it: gpu (None on the CPU), driver, cuda, cupy, torch, python, numpy, platform, git commit."""
    import torch
    on_gpu = torch.device(device).type == "cuda"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None
    changed = _output("git", "status", "--porcelain", "--", "../spec_toolkit", "../kernels")
    return {"gpu": torch.cuda.get_device_name(device) if on_gpu else None,
            "driver": driver.splitlines()[0] if driver else None, "cuda": torch.version.cuda,
            "cupy": _version("cupy-cuda12x", "cupy-cuda13x", "cupy"),
            "nvrtc": _version("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc"),
            "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
            "platform": platform.platform(), "git": _output("git", "rev-parse", "HEAD"),
            "git_clean": None if changed is None else changed == ""}


def slug(text: str) -> str:
    """"NVIDIA H200" -> "h200": lower case, letters, digits and dots joined by dashes, without the maker's name."""
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"nvidia|geforce|tesla", "", str(text).lower())).strip("-") or "gpu"


def describe_problem(problem, rejected: int | None = None) -> dict:
    """The problem as it ran: sizes, dtype, seed and shape; draft_len is one number where all requests have the same."""
    spec, lengths = dict(problem.spec or {}), [int(k) for k in problem.draft_len]
    return {"batch": int(problem.batch), "draft_len": lengths[0] if len(set(lengths)) == 1 else lengths,
            "vocab": int(problem.vocab), "dtype": str(problem.dtype).removeprefix("torch."), "kind": problem.kind,
            "draft_rows": problem.draft is not None, "acceptance_requested": spec.get("acceptance"),
            "acceptance_measured": None if problem.acceptance is None else round(float(problem.acceptance), 4),
            "rejected": rejected, "seed": spec.get("seed"), "shape": spec.get("shape"), "spec": spec}


def problem_slug(described: dict, flush: str | None) -> str:
    """Readable sizes, then six hex digits of everything else that tells one record's problem from another's."""
    k = described["draft_len"]
    k = f"{min(k)}to{max(k)}" if isinstance(k, list) and k else k if isinstance(k, int) else 0
    identity = {key: value for key, value in described.items() if key not in ("rejected", "acceptance_measured")}
    digest = hashlib.sha256(_json([identity, flush], sort_keys=True).encode()).hexdigest()[:6]
    return slug(f"b{described['batch']}-k{k}-v{described['vocab']}-{described['dtype']}-{flush or 'check'}-{digest}")


def _plain(value):
    """NumPy and torch scalars and arrays as JSON has them; anything else by its name."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _json(value, **options) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, **options)


def to_text(value) -> str:
    """JSON with a key on each line and a list of numbers on one."""
    return re.sub(r"\[\n\s*-?\d[-+.\deE,\s]*\]", lambda found: "[" + ", ".join(found[0][1:-1].replace(",", " ").split()) + "]",
                  _json(value, indent=1)) + "\n"


def make_record(experiment: str, sampler, problem, check, timing=None) -> Record:
    """The record as a dict; timing None = checked but not timed (no GPU)."""
    floor = dict(timing.limits) if timing else {}
    limits = {}
    for name in [key for key in floor if key.endswith("_us")]:
        limits |= _times(name, floor.pop(name))
    return Record(
        format=FORMAT, experiment=experiment, run_id=timing.run_id if timing else uuid.uuid4().hex[:12],
        created=timing.created if timing else datetime.now(UTC).isoformat(timespec="seconds"),
        sampler=sampler.name, sampler_kind=getattr(sampler, "kind", None), draw=getattr(sampler, "draw", None),
        source_hash=sampler.source_hash, problem=describe_problem(problem, timing.rejected if timing else None),
        check=check.to_dict(), flush=timing.flush if timing else None, bytes=timing.bytes if timing else None,
        **_times("gpu_us", timing and timing.gpu_us), gpu_us_missing=timing.gpu_us_missing if timing else "not timed",
        **_times("call_us", timing and timing.call_us), **_times("host_us", timing and timing.host_us),
        **_times("bind_us", timing and getattr(timing, "bind_us", None)), left_out=dict(getattr(timing, "left_out", None) or {}),
        limits=limits | floor, environment=environment(str(problem.device)))


def record(experiment: str, sampler, problem, check, timing=None, out="results") -> Path:
    """Write the record to out/<gpu | cpu>/<experiment>/<sampler>-<problem>.json, over an older one of the same; its path.

    ValueError if the check has not passed and there is a time: no time without a pass.
    """
    if timing and not check:
        raise ValueError(f"{sampler.name}: a time is recorded only with a passed check, this one says: {check}")
    made = make_record(experiment, sampler, problem, check, timing)
    folder = Path(out) / slug(made["environment"]["gpu"] or "cpu") / slug(experiment).replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(sampler.name).replace('-', '_')}-{problem_slug(made['problem'], made['flush'])}.json"
    write_atomically(path, to_text(made))
    return path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the path and rename: a reader sees the old file or the new one, whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def archive(folder, path) -> int:
    """Pack every .json file below folder into path (.tar.gz), under the folder's own name; how many. Written atomically."""
    folder, path = Path(folder), Path(path)
    files, packed = sorted(folder.rglob("*.json")), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for file in files:
            tar.add(file, Path(folder.resolve().name) / file.relative_to(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, packed.getvalue())
    return len(files)


def is_stale(record: dict, current_hashes: dict) -> bool:
    """True if the sampler's source is not today's, or the sampler is gone; a hash of None means "cannot be told here"."""
    today = current_hashes.get(record["sampler"], "")
    return today is not None and today != record["source_hash"]


def json_files(folder, pattern: str = "*.json"):
    """(path, object) of the JSON files below folder that hold an object, by path. ValueError names one that is not JSON."""
    for path in sorted(Path(folder).rglob(pattern)):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a JSON record: {error}") from error
        if isinstance(data, dict):
            yield path, data


def load_records(folder, experiment: str | None = None, current_hashes: dict | None = None) -> list[Record]:
    """All records below folder, by path; other JSON files are passed over, a broken one is a ValueError naming it.

    current_hashes (name -> source_hash) marks the stale ones; without it none is marked.
    """
    found = []
    for path, data in json_files(folder):
        if data.get("format") != FORMAT or experiment not in (None, data["experiment"]):
            continue
        loaded = Record(data)
        loaded.path, loaded.stale = path, current_hashes is not None and is_stale(data, current_hashes)
        found.append(loaded)
    return found
