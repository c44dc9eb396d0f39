"""The second factor: `verification` (does the user have one, is this code right) and `enrolment` (set up, remove).

`totp` computes the codes (RFC 6238), without a database.
"""
