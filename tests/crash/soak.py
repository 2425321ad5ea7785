"""`python -m tests.crash.soak --minutes 20`: clients of all kinds against a host that is killed every few seconds."""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.crash.mortal_host import MortalHost
from tests.crash.soak_client import SoakClient, Tally
from tests.crash.soundness import faults

CLIENTS = 4
STUCK = 90.0
CHECK_EVERY = 10
WAIT_FOR_A_TRAP = 1.0


@dataclass(slots=True)
class Summary:
    """What the soak has done and found."""

    seed: int
    seconds: float = 0
    deaths: dict[str, int] = field(default_factory=dict)
    deeds: dict[str, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    stored: int = 0

    def __str__(self) -> str:
        deaths = ", ".join(f"{count} {how}" for how, count in sorted(self.deaths.items()))
        deeds = ", ".join(f"{count} {what}" for what, count in sorted(self.deeds.items()))
        found = "\n".join(["nothing was lost, every invariant holds"] if not self.found else self.found[:40])
        return (
            f"seed {self.seed}, {self.seconds:.0f} s, {self.stored} responses\n"
            f"deaths: {deaths}\ndeeds: {deeds}\n{found}"
        )

    def die(self, how: str) -> None:
        self.deaths[how] = self.deaths.get(how, 0) + 1


def soak(folder: Path, seconds: float, seed: int, *, pause: tuple[float, float] = (0.2, 3.0)) -> Summary:
    """Kill and restart a host for so long while clients use it; `pause` is between how many seconds it lives."""
    chance, tally, summary = random.Random(seed), Tally(), Summary(seed)
    host = MortalHost(folder, PAUSE="0.02")
    host.start("--shutdown-grace", "0.5")
    clients = [SoakClient(number, seed, lambda: str(host.client.base_url), tally) for number in range(CLIENTS)]
    began = time.monotonic()
    try:
        for client in clients:
            client.start()
        while time.monotonic() - began < seconds:
            time.sleep(chance.uniform(*pause))
            _end_somehow(host, chance, summary)
            if host.starts % CHECK_EVERY == 0:
                summary.found += [f"after start {host.starts}: {fault}" for fault in faults(host.store)]
            host.start("--shutdown-grace", "0.5")
        for client in clients:
            client.enough.set()
        for client in clients:
            client.join(STUCK)
            if client.is_alive():
                summary.found.append(f"{client.name} is stuck since {time.monotonic() - client.last_did:.0f} s")
            summary.found += client.found
        if host.stop() != 0:
            summary.found.append(f"the host did not end in order\n{host.log[-2000:]}")
        summary.found += [f"at the end: {fault}" for fault in faults(host.store)]
        summary.found += [f"left in flight: {name}" for (name,) in host.query("SELECT id FROM turns")]
        ((summary.stored,),) = host.query("SELECT count(*) FROM responses")
    finally:
        host.close()
    summary.seconds, summary.deeds = time.monotonic() - began, tally.counts
    return summary


def _end_somehow(host: MortalHost, chance: random.Random, summary: Summary) -> None:
    """SIGTERM sometimes, SIGKILL at any moment, or at a crash point."""
    how = chance.choices(("SIGTERM", "SIGKILL", "at a crash point"), (2, 4, 4))[0]
    if how == "SIGTERM":
        if host.stop() != 0:
            summary.found.append(f"the host did not end in order\n{host.log[-2000:]}")
    elif how == "at a crash point":
        host.set(Trap(chance.choice(list(CrashPoint)), chance.randint(1, 4)))
        if not host.has_died(within=WAIT_FOR_A_TRAP):
            host.trap.unlink(missing_ok=True)
            how = "SIGKILL"
    host.kill()
    summary.die(how)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, help="leave the store and the logs in this new folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as fleeting:
        folder = arguments.keep or Path(fleeting)
        folder.mkdir(parents=True, exist_ok=True)
        summary = soak(folder, arguments.minutes * 60, arguments.seed)
    print(summary)
    sys.exit(1 if summary.found else 0)


if __name__ == "__main__":
    main()
