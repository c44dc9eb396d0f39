"""Logging in with an identity provider that an admin configured.

Read in this order: `flow` (begin, complete, finish: the story), `flow_state` (what the browser keeps between
two requests), `backends` (python-social-auth's backends, closed where they are open), `strategy` (how a row drives
them), `outbound` (the only way out to a provider), `identities` (whose account it is), `probe` (the admin's test).
"""
