"""The `openai` package, sealed inside this process. `python examples/openai_client.py [DIRECTORY]`

Needs an extra and the package: pip install -c constraints.txt '.[openai]' openai (in a checkout)
"""

import sys

import httpx
import openai

from client_sdk import connect
from client_sdk.openai_transport import SealedTransport

with connect(*sys.argv[1:]) as umay:
    http = httpx.Client(transport=SealedTransport(umay))
    # The address is never looked up and the key is never sent: the package demands both.
    api = openai.OpenAI(base_url="https://umay.invalid/v1", api_key="unused", http_client=http)
    answer = api.chat.completions.create(
        model="umay-demo",
        messages=[{"role": "user", "content": "Good evening."}],
        max_tokens=16,
    )
    print(answer.choices[0].message.content)
