"""The site's URLs."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import TemplateView

from notes.views import NoteDetailView, NoteListView

urlpatterns = [
    path("", TemplateView.as_view(template_name="start.html"), name="start"),
    path("auth/", include("platform_auth.urls")),
    path("users/", include("platform_auth.urls_users")),
    path("api/notes", NoteListView.as_view(), name="notes"),
    path("api/notes/<int:pk>", NoteDetailView.as_view(), name="note"),
    path("admin/", admin.site.urls),
]
