"""A host in one file that hands over jobs: mail/test_delivery.py starts it under real servers.

Its jobs are due long after the test ends, so a job that ran did so because the process was ending. Each appends a
line to the file that the environment variable DONE_FILE names.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="x" * 50,
    DEBUG=True,
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "django_otp",
        "platform_auth",
    ],
    PLATFORM_AUTH={"PUBLIC_URL": "http://127.0.0.1"},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from platform_auth.mail import delivery  # noqa: E402 - its models want the settings

delivery.STARTS_AFTER = (3600, 3600)


@delivery.job
def say(*, what: str, attempt: delivery.Attempt) -> None:
    with open(os.environ["DONE_FILE"], "a") as file:
        file.write(f"{what}\n")


def hand_over(request: HttpRequest) -> HttpResponse:
    """Hand over a job that is due after some seconds."""
    time.sleep(float(request.GET.get("after", "0")))
    delivery.hand_over(say, what=request.GET["what"])
    return HttpResponse(status=204)


urlpatterns: list[Any] = [path("", hand_over)]
asgi, wsgi = get_asgi_application(), get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
