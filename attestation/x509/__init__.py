"""X.509 for every vendor: one way to read a certificate, one walk up a chain.

`certificate` reads, `profile` says what each vendor's certificates must be, `walk` checks
a chain by a profile, `crl` a revocation list.
"""
