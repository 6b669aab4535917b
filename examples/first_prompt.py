"""A first private prompt, to the network of `umay up`."""

from client_sdk import connect

with connect() as umay:
    answer = umay.chat("Good evening.")
    print(answer.text())
    print(answer.receipt)
