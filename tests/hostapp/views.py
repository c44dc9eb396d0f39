"""A host's own API."""

from __future__ import annotations

from rest_framework import generics, serializers
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from platform_auth.authentication import StatelessAccessTokenAuthentication
from tests.hostapp.models import Note


class NoteSerializer(serializers.ModelSerializer[Note]):
    class Meta:
        model = Note
        fields = ["id", "text"]


class Plain:
    """The formats of this API, regardless of REST_FRAMEWORK."""

    renderer_classes = [JSONRenderer]
    parser_classes = [JSONParser]
    throttle_classes = []
    versioning_class = None
    pagination_class = None


class NoteListView(Plain, generics.ListCreateAPIView):
    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer


class NoteDetailView(Plain, generics.RetrieveUpdateDestroyAPIView):
    queryset = Note.objects.all()
    serializer_class = NoteSerializer


class StatelessView(Plain, APIView):
    authentication_classes = [StatelessAccessTokenAuthentication]

    def get(self, request: Request) -> Response:
        return Response({"user": str(request.user.pk)})

    post = get


class WhoAmIView(Plain, APIView):
    """A view without a model."""

    def get(self, request: Request) -> Response:
        return Response({"user": str(request.user.pk)})

    post = get
