"""An answer as it arrives. `python examples/stream.py [DIRECTORY]`"""

import sys

from client_sdk import connect

QUESTION = {"role": "user", "content": "Tell me about the moon and the sea."}

with connect(*sys.argv[1:]) as umay:
    body = {"model": "umay-demo", "messages": [QUESTION], "max_tokens": 40, "stream": True}
    with umay.chat(body) as answer:
        for text in answer.stream():  # every piece has authenticated before it is here
            print(text, end="", flush=True)
        print()
        if answer.receipt is not None:  # checked against what was asked and answered
            prompt, _, completion, _ = answer.receipt.receipt.tokens
            print(f"{prompt} + {completion} tokens, {answer.receipt.receipt.amount} nano")
