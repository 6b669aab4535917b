"""Which machine is asked: price, load, failure, age, other ways to the same one. No network."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.channel.server import KeyRing
from attestation.errors import Refused, UmayError, Unavailable, UsageError, VerificationError
from client_sdk import choosing
from client_sdk.choosing import Chooser
from client_sdk.driver import Driver, Limit
from client_sdk.effects import Spawn, Work, blocking, together, within
from client_sdk.finding import Chosen, Finder, Offer, Relays
from client_sdk.presented import Place
from tests.client_sdk.test_face import client
from tests.helpers.fake_enclave import POLICY, NoChain, verified
from tests.helpers.waiting import HANG_S, wait_for

KEY, CONFIGS = Ed25519PrivateKey.generate(), KeyRing().open_epoch().configs


def place(name: str, relay: str = "https://one.example") -> Place:
    boot = name.encode().hex().ljust(32, "0")
    return Place(boot, f"{relay}/umay/{boot}/", "ready")


@dataclass
class Guest:
    """One machine of the fleet; `error` is what its verification raises."""

    name: str
    price: tuple[int, int] = (1, 2)
    model: str = "demo"
    seconds: float = 3600
    relays: tuple[str, ...] = ("https://one.example",)
    error: UmayError | None = None
    pause: float = 0.0

    @property
    def boot(self) -> str:
        return place(self.name).boot


class Fleet(Finder):
    """A Finder of guests. `asked` are the verifications, by name."""

    def __init__(self, *guests: Guest) -> None:
        super().__init__(Relays(()), policy=POLICY, chain=NoChain(), clock=time.time)
        self.guests, self.asked = guests, list[str]()
        self.searches = 0
        self.down: UmayError | None = None

    def anchor(self) -> Work[Any]:
        yield from ()
        if self.down:
            raise self.down
        return None

    def offers(self) -> Work[list[Offer]]:
        yield from ()
        self.searches += 1
        offers = [
            Offer(tuple(place(g.name, relay) for relay in g.relays), g.price[0] + 3 * g.price[1])
            for g in self.guests
        ]
        return sorted(offers, key=lambda offer: offer.price)

    def verified(self, place: Place, anchor: Any) -> Work[Chosen]:
        guest = next(g for g in self.guests if g.boot == place.boot)
        self.asked.append(guest.name)
        if guest.pause:
            yield from blocking(lambda: time.sleep(guest.pause))
        if guest.error:
            raise guest.error
        boot, options = bytes.fromhex(place.boot), {"price": guest.price, "model": guest.model}
        return Chosen(place, verified(CONFIGS, KEY, boot, seconds=guest.seconds, **options))


class Room:
    """A Chooser over a fleet, and a driver. Upkeep is done where `upkeep` says so, not beside."""

    def __init__(self, *guests: Guest, **options: Any) -> None:
        self.fleet = Fleet(*guests)
        self.chooser = Chooser(self.fleet, where="https://one.example", **options)
        self.driver = Driver(None)  # type: ignore[arg-type]
        self.spawned: list[Work[None]] = []

    def choose(self, model: str | None = None, *avoid: str) -> str:
        return self.name(self.chosen(model, *avoid))

    def chosen(self, model: str | None = None, *avoid: str) -> Chosen:
        return self.driver.run(self._kept(self.chooser.choose(model, avoid=avoid)))

    def _kept(self, work: Work[Chosen]) -> Work[Chosen]:
        """The same, but what it spawns is kept here."""
        try:
            effect = next(work)
            while True:
                if isinstance(effect, Spawn):
                    self.spawned.append(effect.work)
                    effect = work.send(None)
                    continue
                try:
                    result = yield effect
                except BaseException as error:
                    effect = work.throw(error)
                else:
                    effect = work.send(result)
        except StopIteration as end:
            return end.value

    def name(self, chosen: Chosen) -> str:
        return next(g.name for g in self.fleet.guests if g.boot == chosen.place.boot)

    def upkeep(self) -> int:
        """How many rounds were wanted."""
        works, self.spawned = self.spawned, []
        for work in works:
            self.driver.run(work)
        return len(works)

    @property
    def warm(self) -> set[str]:
        return {self.name(machine.chosen) for machine in self.chooser._warm.values()}


REFUSAL = Refused("model", "unknown-model", "expected demo, got another")


def test_the_cheapest_that_passes_is_chosen_and_verified_once() -> None:
    room = Room(Guest("c", (3, 3)), Guest("a", (1, 1), error=REFUSAL), Guest("b", (2, 2)))
    assert [room.choose() for _ in range(5)] == ["b"] * 5
    assert room.fleet.asked == ["a", "b"] and room.fleet.searches == 1


def test_the_refusal_of_the_cheapest_is_told_where_none_passes() -> None:
    room = Room(Guest("a", error=REFUSAL), Guest("b", (2, 2), error=Unavailable("gone")))
    with pytest.raises(Refused, match="unknown-model"):
        room.choose()
    assert room.fleet.asked == ["a", "b"]
    with pytest.raises(Unavailable, match="expected an enclave that answers, got none"):
        Room().choose()


def test_three_of_a_model_are_kept_warm_from_the_second_question_on() -> None:
    room = Room(*(Guest(name, (at, at)) for at, name in enumerate("abcde", 1)))
    room.choose()
    assert room.upkeep() == 0 and room.warm == {"a"}
    room.choose()
    assert room.upkeep() == 1 and room.warm == {"a", "b", "c"}
    room.choose()
    assert room.upkeep() == 0 and room.fleet.asked == ["a", "b", "c"]


def test_upkeep_is_not_tried_at_every_request() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2), error=Unavailable("gone")))
    for _ in range(5):
        room.choose()
    assert room.upkeep() == 1 and room.warm == {"a"}
    room.chooser._next_upkeep = 0.0
    room.choose()
    assert room.upkeep() == 1 and room.fleet.asked == ["a", "b", "b"]


def test_a_machine_is_verified_anew_before_its_verification_ends() -> None:
    room = Room(Guest("a", seconds=choosing.AGEING_SECONDS - 1), Guest("b", (2, 2)))
    room.choose()
    room.fleet.guests[0].seconds = 3600
    assert room.choose() == "a"
    assert room.upkeep() == 1 and room.fleet.asked == ["a", "a", "b"]
    (ada,) = (m for m in room.chooser._warm.values() if room.name(m.chosen) == "a")
    assert ada.chosen.enclave.valid_until > time.time() + 3000


def test_where_that_fails_the_old_verification_serves_until_its_end() -> None:
    room = Room(Guest("a", seconds=60))
    room.choose()
    room.fleet.down = Unavailable("https://chain.example: Connection refused")
    room.choose()
    for work in room.spawned:
        with pytest.raises(Unavailable):
            room.driver.run(work)
    assert room.choose() == "a"
    room.fleet._clock = lambda: time.time() + 60 - choosing.MARGIN_SECONDS
    with pytest.raises(Unavailable, match=r"chain\.example"):
        room.choose()


def test_each_model_has_machines_of_its_own() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2), model="other"), Guest("c", (3, 3), model="other"))
    assert room.choose("other") == "b" and room.choose("demo") == "a" and room.choose() == "a"
    with pytest.raises(Unavailable, match="expected an enclave that runs third, got none"):
        room.choose("third")
    room.upkeep()
    assert room.warm == {"a", "b", "c"}


# Price and load


def test_below_the_cap_the_quicker_of_two_is_taken() -> None:
    room = Room(Guest("a", (1, 1)), Guest("b", (2, 2)), Guest("c", (9, 9)), max_price=(2, 2))
    room.choose()
    room.choose()
    room.upkeep()
    assert room.warm == {"a", "b"}
    for machine in room.chooser._warm.values():
        machine.seconds = 0.1 if room.name(machine.chosen) == "b" else 0.2
    assert {room.choose() for _ in range(20)} == {"b"}
    bela = room.chosen()
    uses = [room.chooser.use(bela) for _ in range(3)]
    assert room.choose() == "a"
    for use in uses:
        use.over()
        use.over()
    assert room.choose() == "b"


def test_two_are_drawn_so_that_the_quickest_is_not_overrun() -> None:
    room = Room(*(Guest(name) for name in "abc"), max_price=(9, 9))
    room.choose()
    room.choose()
    room.upkeep()
    for machine, seconds in zip(room.chooser._warm.values(), (0.1, 0.2, 0.3), strict=True):
        machine.seconds = seconds
    assert len({room.choose() for _ in range(60)}) == 2


def test_nothing_above_the_cap_is_asked_though_its_host_claims_less() -> None:
    room = Room(Guest("a", (3, 9)), Guest("b", (1, 4)), max_price=(2, 3))
    with pytest.raises(Unavailable, match="below the highest price that you accept"):
        room.choose()
    assert not room.warm


def test_without_a_cap_a_dearer_machine_only_stands_by() -> None:
    room = Room(Guest("a", (1, 1)), Guest("b", (2, 2)))
    room.choose()
    room.choose()
    room.upkeep()
    assert room.warm == {"a", "b"} and {room.choose() for _ in range(20)} == {"a"}


@pytest.mark.parametrize("wrong", ["3", 3, (1,), (1, 2, 3), (1, "2"), (True, 2)])
def test_a_cap_is_two_numbers(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_price: expected two numbers: nano coins per prompt"):
        client(max_price=wrong)


def test_the_time_until_an_answer_begins_is_a_mean() -> None:
    room = Room(Guest("a"))
    use = room.chooser.use(room.chosen())
    use._since -= 1.0
    use.began()
    (machine,) = room.chooser._warm.values()
    assert 1.0 <= machine.seconds < 1.5 and machine.load == 2 * machine.seconds
    before = machine.seconds
    room.chooser.use(room.chosen()).began()
    assert 0.5 < machine.seconds < before


# Failure


def test_a_machine_that_failed_is_taken_again_only_where_nothing_else_passes() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    room.chooser.leave(room.chosen())
    assert room.choose() == "b"
    room.chooser.leave(room.chosen())
    assert room.choose() == "a"  # the cheapest of those that rest


def test_a_full_machine_is_not_asked_before_its_time() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    ada = room.chosen()
    room.chooser.full(ada, 300)
    assert room.choose() == "b"
    room.chooser.full(room.chosen(), None)
    with pytest.raises(Unavailable, match="every machine is full") as caught:
        room.choose()
    assert 0 < (caught.value.retry_after or 0) <= choosing.FULL_SECONDS
    room.chooser._full.clear()
    assert room.choose() == "a" and room.fleet.asked == ["a", "b"]


def test_nobody_shuts_a_machine_out_for_ever() -> None:
    room = Room(Guest("a"))
    room.chooser.full(room.chosen(), 1e9)
    assert max(room.chooser._full.values()) < time.monotonic() + choosing.LONGEST_FULL_SECONDS + 1


def test_a_machine_that_two_relays_list_is_reached_through_the_other() -> None:
    both = ("https://one.example", "https://two.example")
    room = Room(Guest("a", relays=both), Guest("b", (2, 2), relays=both))
    first = room.chosen()
    assert first.place.relay == "https://one.example"
    room.chooser.leave_place(first, reached=False)
    second = room.chosen()
    assert second.place.relay == "https://two.example" and room.fleet.asked == ["a"]
    assert second.enclave is first.enclave
    assert room.chosen(None, first.place.base).place == second.place
    room.chooser.leave_place(second, reached=False)
    assert room.warm == set()


def test_a_relay_that_answers_wrongly_for_one_boot_may_serve_another() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    room.chooser.leave_place(room.chosen(), reached=True)
    assert room.choose() == "b"


def test_what_is_avoided_is_not_searched_either() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    assert room.choose(None, place("a").boot) == "b" and room.fleet.asked == ["b"]
    with pytest.raises(Unavailable):
        room.choose(None, place("a").boot, place("b").boot)


class Health:
    """A transport that is asked for health alone; `down` are the boots that do not answer."""

    def __init__(self, *down: str) -> None:
        self.down = {place(name).boot for name in down}
        self.urls: list[str] = []

    def get(self, url: str, *, limit: int, within: float | None = None) -> bytes:
        self.urls.append(url)
        if any(boot in url for boot in self.down):
            raise Unavailable(f"{url}: expected HTTP 200, got 502")
        return b'{"ready":true}'


def test_a_machine_that_idled_is_asked_whether_it_is_there_before_anything_is_sealed() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    health = room.driver.transport = Health("a")  # type: ignore[assignment]
    room.chosen()
    assert room.choose() == "a" and not health.urls
    for machine in room.chooser._warm.values():
        machine.seen -= choosing.IDLE_SECONDS
    assert room.choose() == "b" and health.urls == [f"{place('a').base}healthz"]
    health.down.clear()
    for machine in room.chooser._warm.values():
        machine.seen -= choosing.IDLE_SECONDS
    assert room.choose() == "b" == room.choose() and len(health.urls) == 2


def test_a_machine_that_hangs_does_not_take_the_time_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "ATTEMPT_SECONDS", 0.1)
    room = Room(Guest("a", pause=30), Guest("b", (2, 2)))
    assert room.choose() == "b" and room.fleet.asked == ["a", "b"]
    room.chooser._warm.clear()
    assert room.choose() == "b" and room.fleet.asked == ["a", "b", "b"]


def test_what_failed_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_KNOWN", 4)
    room = Room()
    for known in (room.chooser._resting, room.chooser._full):
        known.update({str(at): 0.0 for at in range(9)})
    room.chooser._rest("new")
    assert set(room.chooser._resting) == {"new"} and not room.chooser._full


# Directories


class Listings:
    """A transport of relays by URL; those that are not there do not answer."""

    def __init__(self, **boots: list[str]) -> None:
        self.boots = {f"https://{name}.example/umay/": listed for name, listed in boots.items()}

    def get(self, url: str, *, limit: int, within: float | None = None) -> bytes:
        if url.endswith("/config/price"):
            boot = url.split("/")[4]
            if not any(url.startswith(relay) and boot in ls for relay, ls in self.boots.items()):
                raise Unavailable(f"{url}: Connection refused")
            return b'{"prompt":%d,"completion":1}' % int(boot[0], 16)
        if url not in self.boots:
            raise Unavailable(f"{url}: Connection refused")
        listed = [{"boot": boot, "state": "ready"} for boot in self.boots[url]]
        return json.dumps({"boots": listed}).encode()


def found(listings: Listings, *names: str) -> list[Offer]:
    relays = Relays(tuple(f"https://{name}.example" for name in names))
    finder = Finder(relays, policy=POLICY, chain=NoChain(), clock=time.time)
    return Driver(listings).run(finder.offers())  # type: ignore[arg-type]


def test_the_listings_of_all_relays_that_answer_are_one_the_cheapest_first() -> None:
    one, two, three = ("1" * 32, "2" * 32, "3" * 32)
    offers = found(Listings(a=[three, one], b=[one, two]), "a", "gone", "b")
    assert [offer.boot for offer in offers] == [one, two, three]
    assert [place.relay for place in offers[0].places] == ["https://a.example", "https://b.example"]


def test_where_no_relay_answers_the_first_error_is_told() -> None:
    with pytest.raises(Unavailable, match=r"one\.example/umay/: Connection refused"):
        found(Listings(), "one", "two")


def test_a_boot_that_one_relay_only_invents_is_reached_through_the_other() -> None:
    one = "1" * 32
    listings = Listings(a=[one], b=[one])
    original = listings.get

    def get(url: str, *, limit: int, within: float | None = None) -> bytes:
        if url.startswith("https://a.example/umay/1"):
            raise Unavailable(f"{url}: expected HTTP 200, got 502")
        return original(url, limit=limit)

    listings.get = get  # type: ignore[method-assign]
    (offer,) = found(listings, "a", "b")
    assert [place.relay for place in offer.places] == ["https://b.example", "https://a.example"]


def test_a_directory_of_ones_own_gives_places_alone() -> None:
    class Mine:
        def places(self) -> Work[tuple[Place, ...]]:
            yield from ()
            return (place("a"),)

    mine = client(url=Mine())
    mine._transport.get = Listings().get  # type: ignore[method-assign]
    assert mine.places() == (place("a"),) and "a directory" in repr(mine)
    for wrong in (3, [], [3], ["ftp://x"]):
        with pytest.raises(UsageError, match="url: expected"):
            client(url=wrong)


# Many at once


def test_one_search_serves_all_who_wait_and_its_error_is_each_ones_own() -> None:
    room = Room(Guest("a", pause=0.2, error=REFUSAL))
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            room.choose()
        except VerificationError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8 == len({id(error) for error in errors})
    assert room.fleet.searches < 8
    assert {str(error) for error in errors} == {str(REFUSAL)}


def test_a_search_that_is_given_up_is_done_by_the_next() -> None:
    room = Room(Guest("a", pause=0.3))
    with pytest.raises(Unavailable, match="too late") as caught:
        room.driver.run(room.chooser.choose(), Limit.after(0.05, "too late"))
    assert caught.value.late
    assert room.choose() == "a"


def test_upkeep_beside_the_requests_ends_by_itself() -> None:
    room = Room(Guest("a"), Guest("b", (2, 2)))
    for _ in range(2):
        room.driver.run(room.chooser.choose())
    wait_for(lambda: room.warm == {"a", "b"})
    wait_for(lambda: not any(t.name == "umay-upkeep" for t in threading.enumerate()))


ENDS = """
import threading, time
from client_sdk.driver import Driver
from client_sdk.effects import Spawn, blocking, compute

began = threading.Event()

def work():
    yield from blocking(lambda: print("asks", flush=True))
    yield from compute(lambda: (began.set(), time.sleep(0.3), print("verified", flush=True)))
    yield from blocking(lambda: time.sleep(600))

def main():
    yield Spawn(work())

Driver(None).run(main())
began.wait()
"""


def test_a_program_ends_though_upkeep_waits_and_not_within_a_verification() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["asks", "verified"]


# The driver


def test_work_together_gives_values_and_errors_in_order() -> None:
    def one(at: int) -> Work[int]:
        yield from ()
        if at % 2:
            raise Unavailable(str(at))
        return at

    results = Driver(None).run(together([one(at) for at in range(6)], at_once=3))  # type: ignore
    assert [str(result) for result in results] == list("012345")
    assert [isinstance(result, Unavailable) for result in results] == [False, True] * 3


def test_the_tighter_of_two_limits_holds() -> None:
    def slow() -> Work[None]:
        yield from blocking(lambda: time.sleep(0.5))

    driver = Driver(None)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="inner"):
        driver.run(within(0.05, slow(), told="inner"), Limit.after(60, "outer"))
    with pytest.raises(Unavailable, match="outer"):
        driver.run(within(60, slow(), told="inner"), Limit.after(0.05, "outer"))


def test_what_a_closed_driver_is_asked_for_is_not_done() -> None:
    driver = Driver(None)  # type: ignore[arg-type]
    driver.close()
    with pytest.raises(UsageError, match="closed"):
        driver.run(blocking(lambda: None))
