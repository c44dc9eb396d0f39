"""The URLs of the tests' host project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from tests.hostapp import views

urlpatterns = [
    path("auth/", include("platform_auth.urls")),
    path("users/", include("platform_auth.urls_users")),
    path("admin/", admin.site.urls),
    path("api/notes", views.NoteListView.as_view(), name="notes"),
    path("api/notes/<int:pk>", views.NoteDetailView.as_view(), name="note"),
    path("api/stateless", views.StatelessView.as_view(), name="stateless"),
    path("api/whoami", views.WhoAmIView.as_view(), name="whoami"),
]
