"""The page with a guest's metrics: every name, in the order of docs/spec/metrics.md."""

from __future__ import annotations

from enclave.guest.guest import Guest
from enclave.guest.metrics import Family, histogram, labelled, page, single


def metrics_page(guest: Guest, *, open_requests: int) -> bytes:
    """The page of this moment. `open_requests` are those that the server has."""
    return page([*_requests(guest, open_requests), *_engine(guest), *_keys(guest)])


def _requests(guest: Guest, open_requests: int) -> list[Family]:
    found = guest.metrics
    about = {"boot": guest.boot.boot_id.hex(), "model": guest.model_name}
    text = "The boot id and the name of the model; the value is 1."
    return [
        Family("umay_guest_info", "gauge", text, (("", about, 1),)),
        single("umay_uptime_seconds", "gauge", "Since the guest has booted.", guest.uptime()),
        labelled(
            "umay_requests_total", "counter", "Sealed requests by outcome.",
            "outcome", found.requests,
        ),
        single(
            "umay_requests_repeated_total", "counter",
            "Answers that were given again for the same idempotency key.", guest.runs.repeated,
        ),
        single("umay_requests_open", "gauge", "Requests that arrive or are answered.",
               open_requests),
        single(
            "umay_prompt_tokens_total", "counter",
            "Tokens of prompts, in blocks of 1024; right on average.", found.prompt.tokens,
        ),
        single(
            "umay_completion_tokens_total", "counter",
            "Tokens of answers, in blocks of 1024; right on average.", found.completion.tokens,
        ),
        histogram("umay_first_token_seconds", "From a request to its first token.",
                  found.first_token),
        histogram("umay_inter_token_seconds", "Mean time between two tokens, once per answer.",
                  found.between_tokens),
    ]  # fmt: skip


def _engine(guest: Guest) -> list[Family]:
    stats, failed = guest.engine.stats(), guest.engine.failure() is not None
    drains = not failed and guest.drain.begun
    states = {"serving": int(not failed and not drains), "draining": int(drains),
              "failed": int(failed)}  # fmt: skip
    restarts = guest.parsers.restarts
    return [
        labelled("umay_engine_state", "gauge", "1 for the state that the engine is in.",
                 "state", states),
        single("umay_engine_slots", "gauge", "Answers that can be written at a time.", stats.slots),
        single("umay_engine_running", "gauge", "Slots in use.", stats.running),
        single("umay_engine_waiting", "gauge", "Requests that wait for a slot.", stats.waiting),
        single("umay_body_process_restarts_total", "counter",
               "Processes that read bodies and ended before their time.", restarts),
    ]  # fmt: skip


def _keys(guest: Guest) -> list[Family]:
    current = guest.epochs.current
    age = 0 if current is None else max(0, round(guest.clock() - current.begins))
    fill = 0.0 if current is None else round(current.keys.guard.fill, 4)
    return [
        single("umay_ready", "gauge", "1 while an epoch is current and the engine works.",
               int(guest.ready)),
        single("umay_epoch_age_seconds", "gauge", "Since the current keys are used.", age),
        single("umay_key_rotations_total", "counter", "How often new keys replaced others.",
               guest.epochs.rotations),
        single("umay_replay_table_fill_ratio", "gauge",
               "Of the current epoch's table of requests, from 0 to 1.", fill),
    ]  # fmt: skip


__all__ = ["metrics_page"]
