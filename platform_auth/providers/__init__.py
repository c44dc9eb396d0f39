"""Login with an identity provider that an admin has configured.

Read in this order: `flow` (begin, complete, finish), `flow_state` (what the browser keeps between two requests),
`backends` (python-social-auth's backends with stricter checks), `strategy` (how a row drives them), `outbound` (all
requests to providers), `identities` (whose account it is), `probe` (the admin's test).
"""
