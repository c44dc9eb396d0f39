"""A host's own admin classes for users and other models; Django's user model has its own."""

from __future__ import annotations

from django.contrib import admin

from tests.hostapp.models import Note, Team, User


@admin.register(User)
class UserAdmin(admin.ModelAdmin):
    fields = ("email", "is_active", "is_staff", "groups", "user_permissions")
    list_display = ("email", "is_active")
    search_fields = ("email",)


admin.site.register([Note, Team])
