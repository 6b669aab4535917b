"""Every error that the client raises: the whole tree, whose root is UmayError.

It is `attestation.errors` under the name of this package, so that `from client_sdk.errors import
Unavailable` and `from client_sdk import errors` both work, with the same classes.
"""

from attestation.errors import *  # noqa: F403
