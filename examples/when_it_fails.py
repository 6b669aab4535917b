"""What can go wrong, and what to do then. `python examples/when_it_fails.py [DIRECTORY]`

Asks for a model that no policy names, so that there is something to see: it is refused before
anything is sent.
"""

import sys

from client_sdk import connect, errors


def ask(directory: list[str], model: str) -> str:
    with connect(*directory) as umay:
        return umay.chat({"model": model, "messages": []}).text()


try:
    print(ask(sys.argv[1:], "a-model-of-nobody"))
except errors.UsageError as error:
    print(f"the question or the set-up is wrong; change it: {error}")
except errors.VerificationError as error:
    print(f"no machine passed step {error.step}; nothing was sent: {error}")
except errors.Truncated as error:
    print(f"the answer was cut; ask again yourself, nobody repeats it for you: {error}")
except errors.Unavailable as error:
    print(f"chain, relay or machine did not answer; try later: {error}")
except errors.UmayError as error:
    print(f"something else, code {error.code}: {error}")
