"""ahead.py: every problem is bound once in another process, largest first; a failure is told and stops nothing."""
from concurrent.futures import Future

from spec_toolkit import ahead


class Pool:
    """Runs what is submitted at once, in this process."""

    def __init__(self, workers, mp_context, initializer):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001 (as a pool does)
            future.set_exception(error)
        return future


def test_problems_are_compiled_largest_first_and_failures_are_told(monkeypatch):
    seen = []

    def compile_one(arguments, device):
        seen.append(arguments["vocab"])
        if arguments["vocab"] == 20:
            raise RuntimeError("no compiler")
    monkeypatch.setattr(ahead, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(ahead, "_compile", compile_one)
    problems = [{"batch": 2, "draft_len": 1, "vocab": vocab} for vocab in (10, 20, 30)]
    assert ahead.compile_ahead(problems, "cpu") == {1: "RuntimeError: no compiler"} and seen == [30, 20, 10]


def test_a_problem_is_bound_by_its_arguments(monkeypatch):
    bound = []
    monkeypatch.setattr("spec_toolkit.baselines.load_baseline", lambda name: type("B", (), {"bind": lambda self, p: bound.append((name, p.vocab))})())
    ahead._compile({"batch": 1, "draft_len": 1, "vocab": 9}, "cpu")
    assert bound == [("torch_compile", 9)]
