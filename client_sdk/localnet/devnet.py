"""A whole network on this machine, as child processes: `umay up` and `umay demo`.

simulator, chain → log with its genesis release → contract → policy → agents and guests
→ anchored → relay → proxy. Chain, log and service keys survive in the directory; guests
make new keys at every start. Machines are simulated, and the policy written here says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from attestation.errors import ParseError, Unavailable
from attestation.files import replace
from attestation.formats.digests import engine_digest
from attestation.formats.measurement import measurement_digest
from client_sdk.config import Config
from client_sdk.localnet.drills import ask
from client_sdk.localnet.models import DEMO_NAME, ServedModel, demo
from client_sdk.localnet.netfiles import (
    GUESTS,
    HOST,
    GuestSpec,
    NetworkFiles,
    PolicyFacts,
    policy_toml,
)
from client_sdk.localnet.supervisor import Child, Supervisor
from client_sdk.presented import Place, fetch_places
from client_sdk.transport import Transport
from contracts.chain import ToncenterV2
from contracts.deploy import deploy
from contracts.localnet.process import faucet
from contracts.log_client import fetch_checkpoint
from contracts.logservice.store import load_or_create_key

UMAY = ("-m", "client_sdk")
MODEL_NAME = DEMO_NAME
FAUCET_NANO = 100_000_000_000
POLL_SECONDS = 0.2
TOLD_SECONDS = 5.0
DRAIN_S = 2
Option = str | Path | int | None | list[str]


class Network:
    """One network in `directory`. `with Network(…) as network: network.start()`.

    `threads` bounds each guest's engine; `model` None is the demo model; `record` makes the
    relay keep every byte it handles, for the demo.
    """

    def __init__(
        self,
        directory: Path,
        *,
        guests: tuple[GuestSpec, ...] = GUESTS,
        record: bool = False,
        threads: int | None = None,
        model: ServedModel | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.files = NetworkFiles(directory)
        self.guests = guests
        self.parts: list[tuple[str, str, str]] = []
        self.supervisor = Supervisor(self.files.errors)
        self.model = model or demo()
        self._record, self._threads, self._tell = record, threads, tell
        self._transport = Transport()
        self._ports: dict[str, int] = {}
        self._ended: dict[str, set[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()

    # Addresses

    def url(self, part: str, path: str = "") -> str:
        return f"http://{HOST}:{self._ports[part]}{path}"

    @property
    def relay(self) -> str:
        return self.url("relay")

    @property
    def chain_url(self) -> str:
        return self.url("chain", "/api/v2")

    @property
    def origin(self) -> str:
        return f"{HOST}:{self._ports['log']}/log"

    @property
    def contract(self) -> str:
        return str(self.files.read_json("network.json")["contract"])

    def chain(self) -> ToncenterV2:
        return ToncenterV2(self.chain_url, timeout=30)

    def log_key(self) -> object:
        return load_or_create_key(self.files.log_key, origin=self.origin)

    # Start

    def start(self) -> None:
        """Everything, until both guests are anchored and the relay lists them.

        Raises Unavailable naming the part that did not come.
        """
        self._ports = self.files.ports(self._names())
        self._start_hardware_and_chain()
        self._start_log()
        self._deploy()
        self._write_policy(engines=())
        self._start_anchoring()
        for guest in self.guests:
            self._start_guest(guest)
        self._start_relay()
        self.wait_ready(len(self.guests))
        self._write_policy(engines=self._engines())
        config = Config(self.relay, self.chain_url, self.files.policy)
        replace(self.files.config, config.to_toml().encode())

    def start_proxy(self) -> str:
        """The local OpenAI endpoint; its base URL. The token is in the directory."""
        self.files.api_token()
        self._tell("proxy")
        proxy = self._umay(
            "proxy",
            "client proxy",
            listen=self._listen("proxy"),
            url=self.relay,
            policy=self.files.policy,
            chain=self.chain_url,
            token_file=self.files.token,
        )
        base = str(proxy.ready()["base_url"])
        self.parts.append(("proxy", base, "OpenAI endpoint for this machine"))
        return base

    def add_guest(self, guest: GuestSpec) -> str:
        """One more guest, not behind the relay; its agent's URL. It may never be admitted."""
        self.guests = (*self.guests, guest)
        new = tuple(name for name in self._names() if name not in self._ports)
        self._ports.update(self.files.new_ports(new))
        self._start_guest(guest)
        return self.url(f"agent-{guest.name}")

    def wait_ready(self, count: int) -> tuple[Place, ...]:
        """The relay's listing, once it holds `count` guests that are anchored."""
        began = time.monotonic()
        shown, told = -1, began
        while (now := time.monotonic()) < began + self.model.patience_s:
            self.supervisor.check()
            places = self._listed(self.relay)
            ready = sum(place.state == "ready" for place in places)
            if ready != shown or now - told >= TOLD_SECONDS:
                shown, told = ready, now
                self._tell(f"guests: {ready} of {count} anchored, {now - began:.0f} s")
            if ready >= count:
                return places
            time.sleep(POLL_SECONDS)
        raise Unavailable(
            f"expected {count} guests to be anchored within {self.model.patience_s:.0f} s, "
            f"got {shown}; "
            f"what each part wrote is in {self.files.errors}"
        )

    def _names(self) -> tuple[str, ...]:
        guests = [f"{kind}-{g.name}" for g in self.guests for kind in ("guest", "agent", "feed")]
        return ("chain", "log", "relay", "proxy", *guests)

    def _listen(self, part: str) -> str:
        return f"{HOST}:{self._ports[part]}"

    def _start_hardware_and_chain(self) -> None:
        self._tell("simulator and chain")
        socket = self.files.socket()
        simulator = self._module(
            "simulator", "enclave.simulator", socket=socket, state=self.files.simulator
        )
        chain = self._module(
            "chain", "contracts.localnet", dir=self.files.chain, listen=self._listen("chain")
        )
        simulator.ready()
        chain.ready()
        self.parts.append(("simulator", str(socket), "TDX and GPU, SIMULATED"))
        self.parts.append(("chain", self.chain_url, "embedded: the real TVM, no validators"))

    def _start_log(self) -> None:
        self._tell("log")
        if not self.files.release.exists():
            self.files.write_json("release.json", self._release())
        log = self._umay(
            "log",
            "log serve",
            dir=self.files.log,
            listen=self._listen("log"),
            origin=self.origin,
            key=self.files.log_key,
            policy=self.files.policy,
            chain=self.chain_url,
            release=self.files.release,
        )
        log.ready()
        self.parts.append(("log", self.url("log", "/log"), "transparency log"))

    def _release(self) -> dict[str, object]:
        """The first entry of the log: what this network starts out with."""
        return {"name": "local", "measurement": self._measurement(), "model": self._model()}

    def _release_index(self) -> int | None:
        """The log's first entry, while it is what the guests run."""
        first = self.files.read_json("release.json")
        return 0 if first.get("measurement") == self._measurement() else None

    def _measurement(self) -> str:
        registers = ask(self.files.socket(), {0: "measurement"})[1]
        return measurement_digest("tdx", tuple(registers)).hex()

    def _model(self) -> str:
        return self.model.digest

    def _deploy(self) -> None:
        """The log's contract, once; its address commits to the log's first checkpoint."""
        if self.files.read_json("network.json"):
            self._tell_contract()
            return
        from attestation.log import checkpoint as checkpoints
        from contracts.codec import LogState
        from contracts.wallet import Wallet

        self._tell("contract")
        chain = self.chain()
        wallet = Wallet.open(chain, self.files.wallet)
        faucet(self.chain_url.removesuffix("/api/v2"), wallet.address, FAUCET_NANO)
        key = self._log_public_key()
        note = fetch_checkpoint(self.url("log", "/log"))
        head = checkpoints.verify(note, origin=self.origin, log_key=key)
        genesis = LogState.genesis(origin=self.origin, log_key=key, size=head.size, root=head.root)
        deployed = deploy(chain, wallet, genesis)
        self.files.write_json(
            "network.json",
            {"contract": deployed.address, "code_hash": deployed.code_hash.hex()},
        )
        self._tell_contract()

    def _tell_contract(self) -> None:
        self.parts.append(("contract", self.contract, "AttestationLog on the chain"))

    def _log_public_key(self) -> bytes:
        key = load_or_create_key(self.files.log_key, origin=self.origin)
        return key.public_key().public_bytes_raw()

    def _write_policy(self, *, engines: tuple[str, ...]) -> None:
        """Accepts today's guest; what earlier starts ran stays accepted for the audit."""
        network = self.files.read_json("network.json")
        measurement = self._measurement()
        history = dict(self.files.read_json("releases.json"))
        listed = history.get(measurement)
        known = set(listed) if isinstance(listed, list) else set()
        history[measurement] = sorted(known | set(engines))
        self.files.write_json("releases.json", history)
        roots = ask(self.files.socket(), {0: "roots"})[1]
        facts = PolicyFacts(
            contract=str(network["contract"]),
            code_hash=str(network["code_hash"]),
            origin=self.origin,
            log_key=self._log_public_key().hex(),
            roots={name: digest.hex() for name, digest in roots.items()},
            model_name=self.model.name,
            model_digest=self._model(),
            releases=tuple(
                (
                    f"local-{number}",
                    digest,
                    _engines_of(found, digest == measurement and not engines),
                )
                for number, (digest, found) in enumerate(history.items(), 1)
            ),
        )
        replace(self.files.policy, policy_toml(facts).encode())

    def _start_anchoring(self) -> None:
        self._tell("anchoring")
        anchoring = self._umay(
            "anchor",
            "log anchor",
            log=self.url("log", "/log"),
            chain=self.chain_url,
            contract=self.contract,
            wallet=self.files.wallet,
        )
        anchoring.ready()

    def _start_guest(self, guest: GuestSpec) -> None:
        self._tell(f"guest {guest.name}")
        socket = self.files.socket()
        agent = self._umay(
            f"agent-{guest.name}",
            "host agent",
            listen=self._listen(f"agent-{guest.name}"),
            feed_listen=self._listen(f"feed-{guest.name}"),
            token_file=self.files.directory / "feed.token",
            guest=self.url(f"guest-{guest.name}"),
            log=self.url("log", "/log"),
            chain=self.chain_url,
            contract=self.contract,
            simulator=socket,
            release=self._release_index(),
            drain=DRAIN_S,
        )
        self._launch(guest)
        agent.ready()
        prices = f"{guest.prompt_price} / {guest.completion_price} nano per prompt / answer token"
        self.parts.append((f"agent of guest {guest.name}", self.url(f"agent-{guest.name}"), prices))

    def restart(self, child: str) -> None:
        """A guest that has ended, as a new boot with new keys behind the agent it had."""
        guest = next(guest for guest in self.guests if f"guest-{guest.name}" == child)
        self._ended[child] = {place.boot for place in self._listed(self._agent(child))}
        self._launch(guest, again=True)

    def serves(self, child: str) -> bool:
        """Whether the new boot of a guest that was started again is anchored and answers."""
        listed = self._listed(self._agent(child))
        new = [place for place in listed if place.boot not in self._ended.get(child, ())]
        return any(place.state == "ready" for place in new)

    def _agent(self, child: str) -> str:
        return self.url(child.replace("guest-", "agent-", 1))

    def _launch(self, guest: GuestSpec, *, again: bool = False) -> None:
        self._module(
            f"guest-{guest.name}",
            "enclave.guest",
            again=again,
            listen=self._listen(f"guest-{guest.name}"),
            host_config=self.files.host_config(guest, engine=self.model.engine),
            model=guest.model or self.model.directory,
            model_name=self.model.name,
            agent=self.url(f"feed-{guest.name}"),
            simulator=self.files.socket(),
            vm=guest.name,
            threads=self._threads,
            drain=DRAIN_S,
        )

    def _start_relay(self) -> None:
        relay = self._umay(
            "relay",
            "host relay",
            listen=self._listen("relay"),
            upstream=[self.url(f"agent-{guest.name}") for guest in self.guests],
            record=self.files.record if self._record else None,
            drain=DRAIN_S,
        )
        relay.ready()
        self.parts.append(("relay", self.relay, "sees ciphertext only"))

    def _umay(self, name: str, command: str, **options: Option) -> Child:
        return self.supervisor.start(name, [*UMAY, *command.split(), *_flags(options)])

    def _module(self, name: str, module: str, *, again: bool = False, **options: Option) -> Child:
        return self.supervisor.start(name, ["-m", module, *_flags(options)], again=again)

    def _listed(self, url: str) -> tuple[Place, ...]:
        try:
            return fetch_places(self._transport, url)
        except (Unavailable, ParseError):
            return ()

    def _engines(self) -> tuple[str, ...]:
        """Digests of the engine configs that the guests report, pinned from now on."""
        places = fetch_places(self._transport, self.relay)
        configs = {self._transport.get(f"{place.base}config/engine") for place in places}
        return tuple(sorted(engine_digest(config).hex() for config in configs))


def _flags(options: Mapping[str, Option]) -> list[str]:
    """{"feed_listen": x} as ["--feed-listen", x]; lists repeat the flag, None leaves it out."""
    flags = []
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                flags += ["--" + name.replace("_", "-"), str(item)]
    return flags


def _engines_of(listed: object, unknown: bool) -> tuple[str, ...]:
    """Engine digests of a release; none while its guests have not reported yet."""
    return tuple(str(item) for item in listed) if isinstance(listed, list) and not unknown else ()
