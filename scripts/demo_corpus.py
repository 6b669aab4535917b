"""The text that the demo model learns. It is made from templates with a fixed seed.

Every sentence was written for Umay, so the corpus has only the licence of this repository.
`conversations(seed)` gives the same list for the same seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Turn = tuple[str, str]
Conversation = list[Turn]


@dataclass(frozen=True)
class Topic:
    """`names` fill the "What is …?" templates; `questions` are asked as they stand.

    A topic of greater `weight` is asked about more often.
    """

    names: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    more: str = ""
    weight: int = 1


ASK_NAME = (
    "What is {}?",
    "What is {}?",
    "What's {}?",
    "Explain {}.",
    "Can you explain {}?",
    "Please explain {} to me.",
    "Tell me about {}.",
    "Define {}.",
    "What does {} mean?",
    "Describe {} in a few words.",
    "How would you describe {}?",
    "I want to know about {}.",
)
ASK_MORE = (
    "How does {} work in detail?",
    "Explain {} in detail.",
    "Tell me more about {}.",
    "Write a long answer about {}.",
    "Give me a detailed explanation of {}.",
)

LONG_OPENING = "Here is the long answer."

TOPICS = (
    Topic(
        ("Umay", "the Umay network", "this project"),
        ("What does Umay do?", "How does Umay work?", "Why should I use Umay?"),
        "Umay is a network for private AI. It runs models inside confidential virtual machines "
        "with confidential GPUs, proves to every client which code and which weights will see "
        "the prompt, encrypts the prompt to that one machine, and puts the proof on public "
        "record on the TON blockchain.",
        "A client first reads the evidence of an enclave and checks it step by step: the "
        "signature of the processor, the measurements of the software, the report of every GPU, "
        "the digest of the model and the entry in the public log. Only when every step has "
        "passed does the client seal the prompt to the key that stands in the evidence. The "
        "host that owns the machine carries the sealed bytes and learns nothing about them.",
        weight=5,
    ),
    Topic(
        ("the name Umay",),
        (
            "Who was Umay?",
            "Where does the name Umay come from?",
            "Why is it called Umay?",
            "How do I pronounce Umay?",
        ),
        "Umay is the Turkic guardian of the cradle, who watches over children. The name is "
        "pronounced oo-MY. It was chosen because an enclave guards what is placed in it.",
    ),
    Topic(
        ("attestation", "remote attestation", "an attestation"),
        ("How does attestation work?", "Why do I need attestation?", "What is attestation for?"),
        "Attestation is how a machine proves what it runs. The processor measures the software "
        "at start, signs the measurements with a key that only the hardware holds, and a client "
        "checks that signature before it sends anything.",
        "The proof has two parts. The first part says that the evidence is authentic: a chain "
        "of certificates leads from the signature to the root key of the vendor. The second "
        "part says that the evidence is acceptable: the measurements belong to a release that "
        "the policy of the client allows. Attestation says what the machine is, not that the "
        "software in it has no bugs.",
        weight=3,
    ),
    Topic(
        ("confidential computing", "confidential compute"),
        ("Why does confidential computing matter?", "How does confidential computing work?"),
        "Confidential computing protects data while it is in use. The memory of a virtual "
        "machine is encrypted by the processor, so the owner of the server cannot read it, and "
        "the hardware signs a report that says what runs inside.",
        "Data at rest is protected by disk encryption and data in transit by TLS, but a program "
        "must decrypt data to work on it. Confidential computing closes this last gap. The keys "
        "for the memory live in the processor and never leave it. The operator can stop the "
        "machine, but cannot look into it.",
        weight=3,
    ),
    Topic(
        ("an enclave", "a trusted execution environment", "a TEE"),
        ("What can an enclave do?", "Is an enclave safe?"),
        "An enclave is a part of a machine that its owner cannot look into. In Umay it is a "
        "whole virtual machine with encrypted memory, which holds the model, the keys and the "
        "prompts, and proves what it runs by attestation.",
    ),
    Topic(
        ("Intel TDX", "TDX", "Trust Domain Extensions"),
        ("How does TDX work?", "What does TDX protect?"),
        "Intel TDX runs a whole virtual machine as a trust domain. The processor encrypts its "
        "memory, keeps the hypervisor out, measures the firmware, the kernel and the image into "
        "registers, and signs those registers in a quote.",
    ),
    Topic(
        ("AMD SEV-SNP", "SEV-SNP", "SNP"),
        ("How does SEV-SNP work?", "What does SEV-SNP protect?"),
        "AMD SEV-SNP protects a virtual machine from its host. The memory is encrypted with a "
        "key in the secure processor, a table of page owners stops the hypervisor from moving "
        "or changing pages, and a signed report carries the launch measurement.",
    ),
    Topic(
        ("GPU confidential computing", "a confidential GPU", "confidential computing on a GPU"),
        (
            "Can a GPU be confidential?",
            "How does a confidential GPU work?",
            "How is the GPU protected?",
        ),
        "A confidential GPU protects the model and the prompt on the card itself. The driver "
        "and the GPU agree on a session key, all traffic over the bus is encrypted, and the GPU "
        "signs a report about its firmware and its mode with a key that was made in the chip.",
    ),
    Topic(
        ("the TON blockchain", "TON", "The Open Network"),
        ("Why does Umay use TON?", "Why is there a blockchain?", "What is TON used for?"),
        "TON is a public blockchain with fast and cheap transactions. Umay anchors its "
        "transparency log there, so that nobody, not even the operators of Umay, can show one "
        "history to one client and another history to the next.",
    ),
    Topic(
        ("a quote", "a TDX quote"),
        ("What is in a quote?", "Who signs a quote?"),
        "A quote is the signed report of a trust domain. It holds the measurements of the "
        "software, the version of the processor firmware and sixty-four bytes of report data, "
        "and a client checks its signature up to the root key of Intel.",
    ),
    Topic(
        ("a measurement", "measurements", "a measurement register"),
        ("What is measured?", "How is the software measured?"),
        "A measurement is a hash of software, taken before the software runs. A register can "
        "only be extended, never set, so a program that is loaded later cannot hide what was "
        "loaded before it.",
    ),
    Topic(
        ("report data", "the binding"),
        ("What stands in the report data?", "How are the keys bound to the quote?"),
        "Report data is the field of a quote that the guest may choose. Umay writes into it a "
        "hash over its keys and over the evidence of every GPU, so that nobody can take the "
        "quote of one machine and the key of another.",
    ),
    Topic(
        ("the relay", "a relay"),
        (
            "Why can the relay not read my prompt?",
            "Can the relay read my prompt?",
            "Why can't the relay read my prompt?",
            "Does the relay see my prompt?",
            "What does the relay see?",
            "Why is there a relay?",
        ),
        "The relay carries sealed bytes. Your client encrypts the prompt to a key that lives "
        "only in the memory of the attested enclave, so the relay sees the size and the time of "
        "a message, but it has no key to open it.",
        weight=3,
    ),
    Topic(
        ("privacy", "private AI"),
        (
            "Is my data safe?",
            "How do you protect my data?",
            "Is my prompt private?",
            "Are my prompts stored?",
            "Is this chat private?",
            "How does Umay protect my prompt?",
            "What happens to my prompt?",
        ),
        "Your prompt is encrypted on your device and opened only inside the attested enclave. "
        "The network and the host see sealed bytes. The enclave keeps no prompt: its memory is "
        "encrypted, and the prompt is wiped when the answer ends.",
        weight=2,
    ),
    Topic(
        ("the host", "the host agent", "a host"),
        (
            "Can the host read my prompt?",
            "Can the operator read my prompt?",
            "Who can read my prompt?",
            "What can the host see?",
            "Is the host trusted?",
        ),
        "The host owns the machine but is not trusted. It can stop the enclave or delay a "
        "message, but the memory of the enclave is encrypted and every message is sealed, so "
        "only the attested enclave can read your prompt.",
    ),
    Topic(
        ("Oblivious HTTP", "OHTTP"),
        ("How is my prompt encrypted?", "How are messages sealed?", "Is my prompt encrypted?"),
        "Oblivious HTTP seals a whole request to the public key of the enclave. The client "
        "makes a fresh secret for each request, the relay forwards the sealed bytes, and the "
        "answer comes back in small sealed chunks while the model still writes.",
    ),
    Topic(
        ("HPKE", "hybrid public key encryption"),
        ("How does HPKE work?",),
        "HPKE is a standard way to encrypt to a public key. The sender makes a fresh key pair, "
        "agrees on a secret with the public key of the receiver, and encrypts the message with "
        "a fast symmetric cipher.",
    ),
    Topic(
        ("X-Wing", "post-quantum encryption"),
        ("Is Umay safe against quantum computers?", "Does Umay use post-quantum encryption?"),
        "X-Wing is a key agreement that joins two methods: X25519, which is proven in practice, "
        "and ML-KEM, which is built to resist quantum computers. A message stays secret as long "
        "as one of the two holds.",
    ),
    Topic(
        ("the transparency log", "a transparency log", "the log"),
        ("Why is there a log?", "How does the log work?", "What is in the log?"),
        "A transparency log is a list that can only grow. Every enclave is written into it "
        "before it serves, and a short proof shows that an entry stands in the list. If the log "
        "ever showed two histories, anybody could prove it.",
    ),
    Topic(
        ("a Merkle tree", "an inclusion proof"),
        ("How does a Merkle tree work?",),
        "A Merkle tree is a tree of hashes. Its root stands for the whole list, and a proof of "
        "a few hashes shows that one entry is in the list without sending all the others.",
    ),
    Topic(
        ("a checkpoint", "an anchor"),
        ("What is an anchor for?", "What is anchored?"),
        "A checkpoint is the signed root of the log at one size. An anchor is a checkpoint that "
        "a contract on TON has accepted. The contract checks that each new checkpoint extends "
        "the one before it.",
    ),
    Topic(
        ("a policy", "the policy file"),
        ("What does a policy say?", "Who decides which enclave is accepted?"),
        "A policy is the file in which a client says what it accepts: which releases, which "
        "models, which processors, and how old the evidence may be. A key that is absent from "
        "the file is an error, because unset must never mean unchecked.",
    ),
    Topic(
        ("the verifier", "verification"),
        (
            "What does the verifier check?",
            "How is an enclave verified?",
            "How do I know that the enclave is real?",
        ),
        "The verifier checks an enclave in numbered steps: the signature of the processor, its "
        "attributes and patch level, the measurements, the binding of the keys, freshness, "
        "every GPU, the model, the engine and the log. If one step fails, it names that step "
        "and nothing is sent.",
    ),
    Topic(
        ("the model digest", "a model digest"),
        ("How do I know which model answers?", "Can the host swap the model?"),
        "The model digest is a hash over every file that changes an answer: the weights, the "
        "configuration, the tokenizer and the chat template. The enclave hashes the very bytes "
        "that it loads, and the digest stands in its evidence.",
    ),
    Topic(
        ("a receipt", "the receipt"),
        ("What is a receipt for?", "Do I get a receipt?"),
        "A receipt is a note that the enclave signs about one answer. It names the evidence, "
        "the model, the number of tokens and the price, and salted hashes of the request and "
        "the answer, so that you choose what to show.",
    ),
    Topic(
        ("the simulator", "simulation"),
        ("Is this a real enclave?", "Is this simulated?", "Can I try Umay without hardware?"),
        "The simulator plays the hardware on a laptop. It signs quotes and GPU reports in the "
        "true formats under its own roots, which no shipped policy accepts. A simulated enclave "
        "protects nothing, and every page says so.",
    ),
    Topic(
        ("side channels", "a side channel"),
        (
            "What can confidential computing not protect?",
            "What are the limits of Umay?",
            "Is Umay perfect?",
        ),
        "No check can show everything. Confidential computing does not stop an attacker with "
        "physical tools and much time, and the size and the time of messages can still be seen. "
        "Umay pads its messages and names in every report what was not checked.",
    ),
    Topic(
        ("freshness", "a beacon"),
        ("How do I know that the evidence is fresh?", "How old is the evidence?"),
        "Freshness means that evidence was made lately. The enclave puts the hash of a recent "
        "block of the chain into its quote, so the quote cannot be older than that block. A "
        "client may also send a random challenge of its own.",
    ),
    Topic(
        ("a hash", "a hash function", "SHA-256"),
        ("What is a hash good for?",),
        "A hash is a short fingerprint of data. Equal data has an equal hash, and nobody can "
        "find other data with the same hash, so comparing thirty-two bytes is as good as "
        "comparing the whole file.",
    ),
    Topic(
        ("a digital signature", "a signature"),
        ("How does a signature work?",),
        "A digital signature is a proof made with a private key that anyone can check with the "
        "public key. It shows who signed a message and that no byte was changed since.",
    ),
    Topic(
        ("encryption", "end-to-end encryption"),
        ("Why is encryption important?",),
        "Encryption turns a message into bytes that only the holder of a key can read. It is "
        "end to end when nobody between the sender and the receiver holds that key.",
    ),
    Topic(
        ("a token", "tokens"),
        (
            "How do you write an answer?",
            "How does a language model work?",
            "What is a language model?",
        ),
        "A language model writes an answer piece by piece. Each piece is called a token. The "
        "model reads all the tokens so far, gives every possible next token a number, and one "
        "of the likely tokens is chosen.",
    ),
    Topic(
        ("a smart contract", "a contract on TON"),
        ("What do the contracts do?",),
        "A smart contract is a program that lives on a blockchain. The contracts of Umay accept "
        "checkpoints of the log, keep the list of releases, and can check a quote of Intel TDX "
        "wholly on the chain.",
    ),
    Topic(
        ("the key bundle", "a key bundle"),
        ("Where are the keys?", "Who holds the keys?"),
        "The key bundle is what an enclave claims about itself: its public keys, its model, its "
        "engine and the time for which they hold. The private keys are made in the memory of "
        "the enclave and never leave it.",
    ),
    Topic(
        ("a replay", "a replay attack"),
        ("Can somebody replay my request?",),
        "A replay is an old message sent again. The enclave remembers a short mark of each "
        "request that it has opened, and refuses to open the same request twice.",
    ),
    Topic(
        ("the doctor", "umay host doctor"),
        ("How do I become a host?", "How can I run an enclave?", "How do I join the network?"),
        "To become a host you need a server with Intel TDX or AMD SEV-SNP and, for larger "
        "models, a confidential GPU. The command umay host doctor checks the machine and "
        "explains every condition that fails.",
    ),
    Topic(
        ("the client", "umay client", "the SDK"),
        ("How do I send a prompt?", "How do I use the API?", "Does Umay work with OpenAI clients?"),
        "The client speaks the OpenAI format. Point your program at the local proxy of Umay, "
        "which verifies the enclave, seals each request to it and streams the answer back. If a "
        "check fails you get an error that names it.",
    ),
    Topic(
        ("the demo", "this demo"),
        ("What is running here?", "How do I start the demo?", "What happens in the demo?"),
        "The demo starts the whole network on one machine: a chain, a log, a simulated enclave, "
        "a host agent and a relay. Then it verifies the enclave, sends a sealed prompt, and "
        "tries attacks that must fail.",
    ),
    Topic(
        ("yourself", "this model", "the demo model"),
        (
            "Who are you?",
            "What are you?",
            "Are you an AI?",
            "What can you do?",
            "How big are you?",
            "What model is this?",
            "What is your name?",
            "Introduce yourself.",
        ),
        "I am the demo model of Umay, a very small language model with less than one million "
        "parameters. I know a few pages about confidential computing, and I can tell short "
        "stories. For real work the network runs much larger models.",
        weight=3,
    ),
)

SMALL_TALK = (
    (("Hello", "Hi", "Hello!", "Hi there", "Good morning", "Hey", "Good evening!"),
     "Hello! I am the demo model of Umay. Ask me about attestation, confidential computing or "
     "the network, or ask for a story."),
    (("How are you?", "How are you today?", "How do you do?"),
     "I am well, thank you. I am only a small demo model, but I am happy to answer a question "
     "about Umay."),
    (("Thank you", "Thanks!", "Thank you very much.", "Great, thanks", "Ok, thank you!"),
     "You are welcome. Ask me again whenever you like."),
    (("Goodbye", "Bye", "See you later", "Good night"),
     "Goodbye! May your prompts stay private."),
    (("Help", "What can I ask you?", "What should I ask?", "Give me an example question."),
     "You can ask: What is attestation? Why can the relay not read my prompt? What is Umay? Or "
     "you can say: Tell me a story about a guardian."),
    (("Tell me a secret.", "My secret number is seven.", "The secret word is lighthouse",
      "My name is Mira.", "I am a journalist."),
     "I have heard you, and I will forget it when this answer ends. Nobody between you and this "
     "enclave could read it."),
    (("Say yes", "Are you there?", "Is anybody there?", "Test", "ping", "Ping?", "testing"),
     "Yes, I am here. The sealed channel works in both directions."),
    (("Count to ten.", "Count from one to ten", "Can you count to ten?"),
     "One, two, three, four, five, six, seven, eight, nine, ten."),
    (("This is a secret.", "Can you keep a secret?", "My password is in this message.",
      "I have a secret"),
     "Your words are sealed to this enclave and are forgotten when the answer ends. In a "
     "simulated enclave, please use only secrets that are not secret."),
)  # fmt: skip

UNKNOWN_ANSWER = (
    "I am only a small demo model and I do not know that. I know a few pages about confidential "
    "computing, attestation and Umay, and I can tell a story."
)
UNKNOWN_ASK = (
    "What is the capital of {}?", "Who is the president of {}?", "Where is {}?",
    "How far is it to {}?", "Write a poem about {}.", "Write a program about {}.",
    "How do I cook {}?", "What is the price of {}?", "Translate {} into French.",
    "Who wrote {}?", "When was {} built?", "What do you think of {}?", "Do you like {}?",
    "Where can I buy {}?", "How do I repair {}?", "What is the best {}?", "How old is {}?",
    "Recommend me {}.", "What colour is {}?", "How many people live in {}?", "What is {}?",
    "Solve {} for me.", "Calculate {}.", "What is the weather in {}?",
)  # fmt: skip
UNKNOWN_THINGS = (
    "France", "Paris", "Japan", "Brazil", "London", "Istanbul", "the moon", "Mars", "pasta",
    "rice", "bread", "a cake", "soup", "my car", "a bicycle", "a phone", "a camera", "football",
    "chess", "music", "a guitar", "jazz", "the weather", "rain", "snow", "history", "Rome",
    "a novel", "poetry", "a film", "two plus two", "seven times eight", "twelve minus five",
    "a triangle", "gravity", "physics", "the sun", "a dog", "cats", "an elephant", "flowers",
    "a house", "a dragon", "a princess", "a knight", "a king",
    "Python", "JavaScript", "a website", "Canada", "India", "Berlin", "coffee", "tea",
)  # fmt: skip

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are the demo model of Umay.",
    "Answer briefly.",
    "You are a friendly assistant. Answer in English.",
)

HEROES = (
    ("a guardian", "guardian", "Aylin", "watched over a small town between two rivers"),
    ("a lighthouse keeper", "keeper", "Tomas", "kept the lamp on a cliff above the grey sea"),
    ("a fox", "fox", "Mira", "lived at the edge of a birch forest"),
    ("a clockmaker", "clockmaker", "Kerem", "mended the clocks of an old harbour city"),
    ("a messenger", "messenger", "Lena", "carried letters over the high mountain pass"),
    ("a robot", "robot", "Idris", "tended the gardens of a quiet valley"),
    ("a bridge keeper", "bridge keeper", "Nora", "guarded the only bridge across a deep gorge"),
    ("a librarian", "librarian", "Sami", "cared for ten thousand books in a stone tower"),
    ("a weaver", "weaver", "Elif", "made warm cloaks in a village under the stars"),
    ("a shepherd", "shepherd", "Jonas", "led a white flock over the long green hills"),
)
ASK_STORY = (
    "Tell me a story about {}.", "Tell me a story about {}.", "Write a story about {}.",
    "Tell me a long story about {}.", "Can you tell me a story about {}?",
    "I would like to hear a story about {}.", "A story about {}, please.",
    "Please write a short story about {}.",
)  # fmt: skip
ASK_ANY_STORY = ("Tell me a story.", "Tell me a long story.", "Write a story.", "A story, please!",
                 "Can you tell me a story?", "Write me a long story please")  # fmt: skip
OPENINGS = (
    "Once upon a time there was {hero} named {name}, who {place}.",
    "Long ago, {hero} named {name} {place}.",
)
TREASURES = (
    ("a small locked box", "box"),
    ("a letter with a red seal", "letter"),
    ("a silver key", "key"),
    ("an old map", "map"),
)
OWNERS = ("an old woman", "a young traveller", "a tired merchant", "a quiet child")
VISITORS = ("a rich stranger", "a proud captain", "a man in a dark coat", "a clever thief")
STORY = (
    "Every morning {name} walked the same path, greeted the birds, and looked carefully at "
    "everything that had changed in the night.",
    "One evening {owner} came to the door and gave {name} {treasure}. \"Please keep it safe,\" "
    "said the visitor, \"and open it for nobody but me.\"",
    "{name} promised, and put the {thing} in a place that only the {role} knew.",
    "On the next day {visitor} arrived. He smiled and said, \"I am the owner of the {thing}. "
    "Give it to me, and I will pay you well.\"",
    "But {name} did not believe words alone. \"If you are the owner,\" said the {role}, \"then "
    "show me the mark that we agreed upon.\"",
    "The stranger showed a golden ring, but it was the wrong ring. He showed a paper, but the "
    "name on it was written in fresh ink.",
    "He became angry and shouted that nobody in the whole land would dare to doubt him. {name} "
    "only shook the head and closed the door.",
    "That night the wind was strong and the rain fell on the roof. Somebody tried the lock "
    "three times, and three times the lock held.",
    "In the morning the people found footprints around the house, but the {thing} was still "
    "safe, and the seal on it was whole.",
    "After seven days {owner} came back and showed the true mark. {name} looked at it twice, "
    "and then gave back the {thing} with both hands.",
    "\"How can I thank you?\" asked the visitor. \"You do not have to,\" said {name}. \"A promise "
    "is only worth something when it is kept, and trust is only worth something when it can be "
    "checked.\"",
)  # fmt: skip
ENDINGS = (
    "From that day on, people came from far away to see the {role} who could keep a secret, and "
    "the town slept well at night.",
    "The story was told for many years, and whenever somebody was asked to trust a stranger, "
    "they remembered {name} and asked for the mark.",
)


def story(rng: random.Random, hero: tuple[str, str, str, str]) -> str:
    """One long story of about 300 words. The hero decides everything that must stay the same in the
    whole story, because a model so small forgets what it chose."""
    number = HEROES.index(hero)
    treasure, thing = TREASURES[number % len(TREASURES)]
    words = {
        "hero": hero[0], "role": hero[1], "name": hero[2], "place": hero[3],
        "treasure": treasure, "thing": thing, "owner": OWNERS[number % 4],
        "visitor": VISITORS[(number + number // 4) % 4],
    }  # fmt: skip
    parts = (rng.choice(OPENINGS), *STORY, rng.choice(ENDINGS))
    return " ".join(part.format(**words) for part in parts)


def _spoken(rng: random.Random, question: str) -> str:
    """The question as people type it: sometimes in lower case, sometimes without a question
    mark."""
    if rng.random() < 0.3:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    if rng.random() < 0.1:
        question = rng.choice(("Please: ", "Hi! ", "Question: ", "Hello, ", "So, ")) + question
    return question


def _topic_turn(rng: random.Random, topic: Topic) -> Turn:
    """A question about the topic. If the topic has more, then in a third of the cases a question
    for more."""
    if topic.more and rng.random() < 0.33:
        question = rng.choice(ASK_MORE).format(rng.choice(topic.names))
        return _spoken(rng, question), f"{LONG_OPENING} {topic.answer} {topic.more}"
    if rng.random() < 0.5:
        return _spoken(rng, rng.choice(topic.questions)), topic.answer
    return _spoken(rng, rng.choice(ASK_NAME).format(rng.choice(topic.names))), topic.answer


def _unknown_turn(rng: random.Random) -> Turn:
    question = rng.choice(UNKNOWN_ASK).format(rng.choice(UNKNOWN_THINGS))
    return _spoken(rng, question), UNKNOWN_ANSWER


def _talk_turn(rng: random.Random) -> Turn:
    questions, answer = rng.choice(SMALL_TALK)
    return _spoken(rng, rng.choice(questions)), answer


def _story_turn(rng: random.Random) -> Turn:
    """A story. If it is asked for something unknown, or for nothing special, it is the
    guardian's."""
    kind = rng.random()
    if kind < 0.7:
        hero = rng.choice((HEROES[0], *HEROES))
        return _spoken(rng, rng.choice(ASK_STORY).format(hero[0])), story(rng, hero)
    ask = rng.choice(ASK_ANY_STORY)
    if kind < 0.85:
        ask = rng.choice(ASK_STORY).format(rng.choice(UNKNOWN_THINGS))
    return _spoken(rng, ask), story(rng, HEROES[0])


def _turn(rng: random.Random) -> Turn:
    kind = rng.random()
    if kind < 0.72:
        return _topic_turn(rng, rng.choices(TOPICS, [topic.weight for topic in TOPICS])[0])
    return _unknown_turn(rng) if kind < 0.86 else _talk_turn(rng)


def conversation(rng: random.Random) -> tuple[str | None, Conversation]:
    """A system prompt or None, and the turns: mostly one, sometimes two or three, or one story."""
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else None
    if rng.random() < 0.08:
        return system, [_story_turn(rng)]
    turns = 1 if rng.random() < 0.7 else rng.choice((2, 3))
    return system, [_turn(rng) for _ in range(turns)]


def conversations(seed: int, count: int) -> list[tuple[str | None, Conversation]]:
    """As many conversations as `count` says. They are the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311  a corpus, not a secret
    return [conversation(rng) for _ in range(count)]
