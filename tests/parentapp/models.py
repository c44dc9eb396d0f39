"""A user model in two tables, of which the parent's has the password, and models that share them."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class Person(AbstractBaseUser):
    """A person, who may be a user."""

    number = models.AutoField(primary_key=True)
    email = models.EmailField(unique=True)

    objects = BaseUserManager()

    USERNAME_FIELD = "email"


class Contact(Person):
    """A proxy of the parent."""

    class Meta:
        proxy = True


class Customer(Person):
    """Another child, which a user can be too."""


class Badge(models.Model):
    """Another parent, whose primary key its children share."""


class Member(Badge, Person, PermissionsMixin):
    """The user model. Its primary key is that of the badge."""

    is_active = models.BooleanField(default=True)


class Clerk(Member):
    """A child of the user model."""
