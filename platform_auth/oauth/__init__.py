"""Logging in with an identity provider that an admin configured.

Read in this order: `flow` (begin, complete, finish, link: the story), `flow_state` (what the browser keeps between
two requests), `kinds` (python-social-auth's backends, closed where they are open), `strategy` (how a row drives
them), `http` (the only way out to a provider), `accounts` (whose account it is), `probe` (the admin's test).
"""
