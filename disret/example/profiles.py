"""Which form of the example this machine can run, and whether it has the room.

    python -m disret.example.profiles auto|paper|embedded

prints the profile; why it was chosen goes to standard error.
"""

from disret import paths
from disret.command_line import UserError, argument_parser, run, say
from disret.data.catalog import MSMARCO_QUERIES, datasets
from disret.data.download import mirror_from
from disret.data.hub import hub_obstacle, reachable
from disret.files import check_free_space

NEEDED_BYTES = {"paper": 6_000_000_000, "embedded": 1_000_000_000}


def choose(wanted: str) -> str:
    """Resolve `auto`, and check that the chosen profile can run.

    Raises:
        UserError: too little disk space, or `paper` without the hosts it needs.
    """
    profile = wanted
    if wanted == "auto":
        import torch

        obstacle = _out_of_reach() if torch.cuda.is_available() else "no CUDA device is present"
        profile, other = ("embedded", "paper") if obstacle else ("paper", "embedded")
        reason = obstacle or "a CUDA device is present and the hosts answer"
        say(f"profile {profile}: {reason} (PROFILE={other} forces the other).")
    elif wanted == "paper" and (obstacle := _out_of_reach()):
        raise UserError(f"PROFILE=paper cannot run: {obstacle}; PROFILE=embedded can.")
    check_free_space(paths.HOME, NEEDED_BYTES[profile], f"the {profile} example")
    return profile


def _out_of_reach() -> str | None:
    """What the paper's profile needs from the network and cannot have."""
    obstacle = hub_obstacle()
    if obstacle or mirror_from(None) is not None:
        return obstacle
    hosts = [MSMARCO_QUERIES.url, datasets()["scifact"].archive.url]
    silent = [host for host in hosts if not reachable(host)]
    return f"no answer from {', '.join(silent)}" if silent else None


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.example.profiles")
    parser.add_argument("profile", choices=["auto", "paper", "embedded"])
    print(choose(parser.parse_args().profile))


if __name__ == "__main__":
    run(main)
