"""generation_config.json: every key applied as by transformers, without effect, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import enclave.guest
from attestation.errors import ParseError
from enclave.guest.engines import generation
from enclave.guest.engines.base import GenerateRequest
from enclave.guest.engines.generation import Generation, read_generation
from enclave.guest.engines.sampling import Rules, Sampler, Sampling, choose
from enclave.guest.engines.torch_engine import TorchEngine
from enclave.guest.engines.torch_settings import TorchSettings
from enclave.guest.model import ModelFiles, read_model

DEMO = Path(enclave.guest.__file__).parent / "demo_model"
MODEL = read_model(DEMO)
CONFIG = {"vocab_size": 1024, "eos_token_id": 2}
PROMPT = "<|user|>Tell me a story about a guardian.<|end|><|assistant|>"


def read(**keys: object) -> Generation:
    return read_generation(keys, CONFIG)


def with_keys(**keys: object) -> ModelFiles:
    found = json.loads(bytes(MODEL.files["generation_config.json"])) | keys
    files = MODEL.files | {"generation_config.json": bytearray(json.dumps(found).encode())}
    return ModelFiles(files, MODEL.manifest, MODEL.digest)


def written(keys: dict[str, object], **asked: object) -> list[int]:
    """The tokens of one answer of the slot engine to PROMPT."""
    engine = TorchEngine(with_keys(**keys), settings=TorchSettings(dtype="float32", slots=1))
    scheduler = engine._load()
    told: list[int] = []
    job = engine._job(GenerateRequest(prompt=PROMPT, **{"max_tokens": 40, **asked}), None)
    job.tell = lambda delta: told.extend(delta.token_ids)
    scheduler.add(job)
    while not scheduler.idle:
        scheduler.step()
    return told


@pytest.fixture(scope="module")
def reference():
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    encoder = TorchEngine(MODEL)._encoder
    ids = torch.tensor([encoder.encode_text(PROMPT, max_tokens=1024)])
    assert tokenizer.eos_token_id == 2

    def generate(**keys: object) -> list[int]:
        options = {"max_new_tokens": 40, "do_sample": False, **keys}
        return model.generate(ids, **options)[0, ids.shape[1] :].tolist()

    return generate


@pytest.fixture(scope="module")
def plain(reference) -> list[int]:
    tokens = reference()
    assert written({}) == tokens
    return tokens


APPLIED = {
    "repetition": lambda plain: {"repetition_penalty": 1.3},
    "repetition rewarded": lambda plain: {"repetition_penalty": 0.8},
    "suppressed": lambda plain: {"suppress_tokens": plain[:3]},
    "suppressed at the beginning": lambda plain: {"begin_suppress_tokens": plain[:1]},
    "early end": lambda plain: {"eos_token_id": [2, plain[5]]},
    "no early end": lambda plain: {"eos_token_id": [2, plain[5]], "min_new_tokens": 20},
    "shorter": lambda plain: {"max_new_tokens": 7},
    "all": lambda plain: {
        "repetition_penalty": 1.2, "suppress_tokens": plain[:2], "min_new_tokens": 30,
        "begin_suppress_tokens": [plain[3]],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", APPLIED)
def test_a_key_is_applied_as_by_transformers(reference, plain, name):
    keys = APPLIED[name](plain)
    expected = reference(**keys)
    assert expected != plain
    asked = {"max_tokens": None} if "max_new_tokens" in keys else {}
    assert written(keys, **asked) == expected


def test_a_request_may_ask_for_another_penalty(reference, plain):
    assert written({"repetition_penalty": 1.3}, repetition_penalty=1.0) == plain
    assert written({}, repetition_penalty=1.3) == reference(repetition_penalty=1.3)


def test_max_length_counts_the_prompt(plain):
    prompt = len(TorchEngine(MODEL)._encoder.encode_text(PROMPT, max_tokens=1024))
    assert len(written({"max_length": prompt + 5}, max_tokens=None)) == 5
    assert len(written({"max_length": 2}, max_tokens=None)) == 1
    assert len(written({"max_length": prompt + 5}, max_tokens=9)) == 9
    assert read(max_length=9, max_new_tokens=3).most(5, 100) == 3
    assert read(max_new_tokens=300).most(5, 100) == 100


def test_defaults():
    assert read(temperature=0.6).defaults == Sampling()
    told = read(do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.05).defaults
    assert told == Sampling(temperature=0.6, top_k=20, repetition_penalty=1.05)
    assert read(do_sample=True, top_p=0.9, min_p=0.1).defaults == Sampling(1.0, 0.9, 0, 0.1)
    assert read(eos_token_id=[7, 5]).stop_ids == {2, 5, 7}


REFUSED = {
    "temperature": (-1, "x", True, 1e9, float("nan")),
    "top_p": (0.0, 1.5, None.__class__),
    "min_p": (-0.1, 2),
    "repetition_penalty": (0.0, -1, float("inf"), "x"),
    "top_k": (-1, 1.5, True, 2**31 + 1),
    "min_new_tokens": (-1, 1.0),
    "max_new_tokens": (0, "x"),
    "max_length": (0, 2.5),
    "do_sample": (1, "yes"),
    "suppress_tokens": ([-1], [1024], ["x"], "x", [True], list(range(1024))),
    "begin_suppress_tokens": ([1024],),
    "eos_token_id": (1024, [-1], "x"),
    "a key of tomorrow": (1, False),
    **{name: ("other", 7, [3], True) for name in generation.NEUTRAL},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_applied_is_refused_by_name(key):
    for value in REFUSED[key]:
        with pytest.raises(ParseError, match=rf"^generation_config\.json: \w*{key[:8]}"):
            read(**{key: value})


def test_what_changes_no_token_is_accepted():
    for name, values in generation.NEUTRAL.items():
        for value in values:
            assert read(**{name: value}) == read()
    assert read(**dict.fromkeys(generation.WITHOUT_EFFECT, "any")) == read()
    assert read(**dict.fromkeys(REFUSED)) == read()


def test_every_key_of_transformers_has_its_place():
    known = {*generation.NUMBERS, *generation.COUNTS, *generation.TOKENS, "do_sample"}
    known |= generation.WITHOUT_EFFECT | generation.NEUTRAL.keys()
    assert transformers.GenerationConfig().to_dict().keys() <= known


@pytest.mark.parametrize("key", ["temperature", "num_beams", "suppress_tokens", "min_new_tokens"])
def test_settings_in_config_json_must_agree(key):
    value = [7] if key == "suppress_tokens" else 3
    with pytest.raises(ParseError, match=rf"^config\.json: {key}: expected it in"):
        read_generation({}, CONFIG | {key: value})
    if key != "num_beams":
        both = read_generation({key: value}, CONFIG | {key: value})
        assert both == read(**{key: value})


def test_neutral_settings_in_config_json_are_accepted():
    neutral = {
        "do_sample": False,
        "temperature": 1.0,
        "num_beams": 1,
        "top_k": 50,
        "max_length": None,
    }
    assert read_generation({}, CONFIG | neutral) == read()
    with pytest.raises(ParseError, match="eos_token_id"):
        read_generation({}, CONFIG | {"eos_token_id": 5000})


def test_rules_are_read_at_load():
    with pytest.raises(ParseError, match="no_repeat_ngram_size"):
        TorchEngine(with_keys(no_repeat_ngram_size=3))


def test_the_greatest_logit_wins_below_the_floor_with_rules_too():
    rules = Rules(suppress=(1,), begin_suppress=(2,), min_new_tokens=2, stop_ids=(0,))
    sampler = Sampler(
        Sampling(temperature=1e-46), seed=1, logit_bias={}, device=torch.device("cpu"), rules=rules
    )
    logits = torch.tensor([5.0, 9.0, 4.0, 1.0, 4.0])
    assert [choose([sampler], logits[None])[0] for _ in range(4)] == [4, 2, 0, 0]
    assert not sampler.plain
