"""The site's own API: signed-in users read all notes and change their own.

REST_FRAMEWORK in the settings makes it private by default, so nothing here mentions login. A permission of the public
role (in Django admin: Groups, Public) opens it to everyone.
"""

from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import generics, permissions
from rest_framework.serializers import BaseSerializer, ModelSerializer

from .models import Note


class NoteSerializer(ModelSerializer):
    class Meta:
        model = Note
        fields = ["id", "text"]


class NoteListView(generics.ListCreateAPIView):
    """GET, POST /api/notes"""

    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer

    def perform_create(self, serializer: BaseSerializer) -> None:
        serializer.save(owner_id=self.request.user.pk)


class NoteDetailView(generics.RetrieveUpdateDestroyAPIView):
    """GET, PUT, PATCH, DELETE /api/notes/{id}"""

    serializer_class = NoteSerializer

    def get_queryset(self) -> QuerySet[Note]:
        notes = Note.objects.order_by("pk")
        if self.request.method in permissions.SAFE_METHODS:
            return notes
        return notes.filter(owner_id=self.request.user.pk)
