"""The commands that check: `check` and `fuzz` a sampler, `doctor` the machine."""
import argparse

from .cli_errors import answered


def add_check(commands) -> None:
    """`check v5`, `check --source my.cu`, `check --peer flashinfer`: the whole report of exactness."""
    parser = commands.add_parser("check", help="is a sampler exact? tokens, law, edges and poison; exit code 0 or 1 (2: a wrong request)")
    _add_samplers(parser)
    parser.add_argument("--draws", type=int, help="requests of each law (default: the level's)")
    parser.add_argument("--rebatchings", type=int, help="random batches that a request is moved to (default: the level's)")
    parser.add_argument("--level", default="quick", choices=("few", "quick", "thorough"), help="how much is tried (default: quick)")
    parser.add_argument("--json", metavar="FILE", help="write environment and reports there")
    parser.set_defaults(action=check)


def check(args: argparse.Namespace) -> int:
    from . import checking

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return answered("check", lambda: checking.run(**words), checking.WrongRequest)


def add_fuzz(commands) -> None:
    """`fuzz v5 --minutes 5`: random problems; a counter-example is printed as one line."""
    parser = commands.add_parser("fuzz", help="check a sampler on random problems; the smallest that fails is printed as one line")
    _add_samplers(parser)
    parser.add_argument("--examples", type=int, default=200, help="how many problems (default: 200)")
    parser.add_argument("--minutes", type=float, help="go on for so long instead")
    parser.set_defaults(action=fuzz)


def fuzz(args: argparse.Namespace) -> int:
    from . import checking

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return answered("fuzz", lambda: checking.run_fuzz(**words), checking.WrongRequest)


def _add_samplers(parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="v5, torch_vectorised, softmax+v5, flashinfer_chain, ...")
    parser.add_argument("--source", metavar="FILE", help="a kernel of your own (.cu, with its contract)")
    parser.add_argument("--peer", action="append", default=[], dest="peers", metavar="NAME", help="another library's sampler; may be repeated")
    parser.add_argument("--kind", choices=("probs", "logits"), help="of the problems (default: what the sampler takes)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other problems and draws of the same kind (default: 0)")


def add_doctor(commands) -> None:
    """`doctor`: what is installed, what works, and the command that mends each failure."""
    parser = commands.add_parser("doctor", help="what is installed here, what works, and what mends each failure; exit code 1 if something fails")
    parser.set_defaults(action=doctor)


def doctor(args: argparse.Namespace) -> int:
    from . import doctor

    findings = []
    for name, probe in doctor.PROBES.items():
        findings.append(doctor.asked(name, probe))
        print(findings[-1], flush=True)
    print("\n" + doctor.summary(findings))
    return 1 if any(finding.state == doctor.FAILED for finding in findings) else 0
