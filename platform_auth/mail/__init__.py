"""Emails: what they say (`messages`), in which language (`languages`), how they leave (`delivery`, `tasks`)."""
