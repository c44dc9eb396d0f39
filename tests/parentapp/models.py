"""A user model in two tables, and what shares them: the password is in the parent's."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class Person(AbstractBaseUser):
    """Somebody, a user or not."""

    number = models.AutoField(primary_key=True)
    email = models.EmailField(unique=True)

    objects = BaseUserManager()

    USERNAME_FIELD = "email"


class Contact(Person):
    """A proxy of the parent."""

    class Meta:
        proxy = True


class Customer(Person):
    """Another child of it, which a user may be too."""


class Badge(models.Model):
    """Another parent: who has one has its key."""


class Member(Badge, Person, PermissionsMixin):
    """The user model. Its key is the badge's."""

    is_active = models.BooleanField(default=True)


class Clerk(Member):
    """A child of the user model."""
