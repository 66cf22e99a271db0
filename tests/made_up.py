"""Made-up records for the tests of what reads records; no number here was measured."""
from spec_toolkit import results


def record(sampler, gpu_us, batch=1, draft_len=4, vocab=128256, limit_us=4.0, megabytes=1.0, experiment="ladder", run=None, flush="read",
           call_us=None, created="2026-11-24T00:00:00+00:00", gpu="NVIDIA Paper", stale=False, left_out=None, **spec):
    def times(name, us):
        return {f"{name}_{key}": us and us * factor for key, factor in (("median", 1.0), ("p10", 0.9), ("p90", 1.2))} | {
            f"{name}_samples": us and [us] * 5}
    spec = {"batch": batch, "draft_len": draft_len, "vocab": vocab, "seed": 0, "row_padding": 0, "dtype": "float32"} | spec
    made = results.Record(
        format=results.FORMAT, experiment=experiment, run_id=run or f"{experiment} {sorted(spec.items())} {flush}", created=created, sampler=sampler,
        sampler_kind="kernel" if sampler.startswith("v") else "baseline", source_hash=sampler, flush=flush, bytes=int(1e6 * megabytes),
        problem={"batch": batch, "draft_len": draft_len, "vocab": vocab, "dtype": spec["dtype"], "kind": "probs", "draft_rows": True, "seed": 0,
                 "shape": "zipf", "acceptance_requested": 0.7, "acceptance_measured": 0.7, "spec": spec},
        check={"passed": True}, gpu_us_missing=None if gpu_us else "it synchronises with the host", left_out=left_out or {},
        **times("gpu_us", gpu_us), **times("call_us", call_us or gpu_us and gpu_us + 20), **times("host_us", 9.0), **times("bind_us", 150.0),
        limits={"stream_read_us_median": limit_us, "empty_launch_us_median": 3.5},
        environment={"gpu": gpu, "torch": "2.11.0", "driver": "580", "git": "0123456789abcdef"})
    made.stale = stale
    return made
