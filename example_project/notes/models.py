"""Something to protect."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Note(models.Model):
    # Null if an anonymous request created it, through the public role.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="notes", null=True, blank=True
    )
    text = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.text
