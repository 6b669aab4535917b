"""A TON light client: what validators signed is checked here, and nothing is believed.

`links` follows key blocks from a pinned one, `accounts` reads an account under a block so
reached. Cells are pytoniq-core's; every check of a proof is our own.
"""
