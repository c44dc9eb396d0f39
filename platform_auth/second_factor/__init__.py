"""The second factor: is there one and is this code right (`verification`), set up and removed (`enrolment`).

`totp` is the arithmetic of the codes (RFC 6238), without a database.
"""
