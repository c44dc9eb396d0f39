"""The modules behind the second factor: `totp`, `verification` and the device that django-otp sees."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import django_otp
import pyotp
import pytest
import segno
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django_otp.oath import TOTP
from hypothesis import given
from hypothesis import strategies as st

from platform_auth import errors, sealing
from platform_auth.caller import Caller
from platform_auth.models import AuthEvent, FailedCode, RecoveryCode, TOTPFactor
from platform_auth.second_factor import totp, verification
from tests.conftest import make_user

WHO = Caller("192.0.2.7", "pytest")


@pytest.fixture
def secret() -> str:
    return totp.new_secret()


@pytest.fixture
def factor(user: Any, secret: str, clock: Any) -> TOTPFactor:
    made = TOTPFactor(user=user)
    made.secret = secret
    made.save()
    return made


def code(secret: str, steps: int = 0) -> str:
    """Return the code of an authenticator app now, or some steps from now."""
    return pyotp.TOTP(secret).at(time.time() + 30 * steps)


def modules_of(svg: str, *, border: int) -> set[tuple[int, int]]:
    """Return the dark modules of a QR code, which its path draws row by row."""
    (path,) = re.findall(r' d="([^"]+)"', svg)
    dark: set[tuple[int, int]] = set()
    x, y = 0.0, 0.0
    for command, first, second in re.findall(r"([Mmh])(-?[0-9.]+)(?: ?(-?[0-9.]+))?", path):
        if command == "M":
            x, y = float(first), float(second)
        elif command == "m":
            x, y = x + float(first), y + float(second)
        else:
            dark |= {(int(x) + number - border, int(y) - border) for number in range(int(first))}
            x += float(first)
    return dark


def evaluated() -> int:
    """Return how many attempts are counted."""
    return FailedCode.objects.count()


class TestSecrets:
    """security.md, row 17: at least 160 bits, from the operating system."""

    def test_a_secret_has_160_bits_and_never_repeats(self) -> None:
        made = {totp.new_secret() for _ in range(100)}

        assert len(made) == 100
        assert {len(base64.b32decode(secret)) for secret in made} == {20}

    def test_an_authenticator_app_can_read_the_url(self) -> None:
        """pyotp reads the secret, the issuer and the account from it."""
        secret = totp.new_secret()

        url = totp.provisioning_url(secret, issuer="site.example", account="ann+b:c/d?e@exämple.com")

        read = pyotp.parse_uri(url)
        assert isinstance(read, pyotp.TOTP)
        assert (read.secret, read.issuer, read.name) == (secret, "site.example", "ann+b:c/d?e@exämple.com")
        assert (read.digits, read.interval, read.digest) == (6, 30, hashlib.sha1)
        assert urlsplit(url).scheme == "otpauth"
        assert parse_qs(urlsplit(url).query)["secret"] == [secret]

    def test_the_qr_code_is_one_svg_element(self) -> None:
        svg = totp.qr_svg(totp.provisioning_url(totp.new_secret(), issuer="s", account="a@example.com"))

        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert "<script" not in svg

    def test_the_qr_code_shows_the_url(self) -> None:
        """Module by module, it is the code of this URL."""
        url = totp.provisioning_url(totp.new_secret(), issuer="site.example", account="ann@example.com")
        code = segno.make(url, error="m")

        drawn = modules_of(totp.qr_svg(url), border=4)

        assert drawn == {
            (x, y) for y, row in enumerate(code.matrix) for x, module in enumerate(row) if module
        }
        assert drawn != modules_of(totp.qr_svg(url + "0"), border=4)


class TestWindow:
    """security.md, row 12: the current step and one to either side; the window doesn't move (RFC 6238, 5.2 and 6)."""

    @pytest.mark.parametrize("steps", [-1, 0, 1])
    def test_a_code_of_this_step_or_the_next_to_it_is_accepted(
        self, factor: TOTPFactor, user: Any, secret: str, steps: int
    ) -> None:
        verification.verify(user, code(secret, steps), who=WHO)

    @pytest.mark.parametrize("steps", [-20, -3, -2, 2, 3, 20])
    def test_a_code_two_steps_away_is_refused(
        self, factor: TOTPFactor, user: Any, secret: str, steps: int
    ) -> None:
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, code(secret, steps), who=WHO)

    def test_a_series_of_early_codes_does_not_move_the_window(
        self, factor: TOTPFactor, user: Any, secret: str, clock: Any
    ) -> None:
        """django-otp's OTP_TOTP_SYNC would have learnt the drift."""
        for _ in range(20):
            verification.verify(user, code(secret, 1), who=WHO)
            clock.shift(30)

        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, code(secret, 2), who=WHO)

    def test_a_clock_moved_second_by_second_agrees_with_pyotp(
        self, user: Any, factor: TOTPFactor, secret: str, clock: Any
    ) -> None:
        """For two minutes, the first code is accepted exactly as long as pyotp accepts it."""
        shown = code(secret)

        for _ in range(120):
            ours = totp.matching_step(secret, shown, at=time.time()) is not None
            theirs = pyotp.TOTP(secret).verify(shown, valid_window=1)
            assert ours == theirs
            clock.shift(1)

    def test_codes_agree_with_two_other_implementations(self, secret: str) -> None:
        for moment in range(0, 3_000_000_000, 99_999_937):
            theirs = pyotp.TOTP(secret).at(moment)
            other = TOTP(base64.b32decode(secret))
            other.time = moment

            assert int(theirs) == other.token()
            assert totp.matching_step(secret, theirs, at=moment) == moment // 30

    def test_the_first_time_steps_work(self, secret: str) -> None:
        assert totp.matching_step(secret, pyotp.TOTP(secret).at(0), at=0) == 0


class TestEachStepOnce:
    """security.md, row 10 (ASVS 6.5.1); the race is in test_races_of_codes."""

    def test_a_code_is_refused_the_second_time(self, factor: TOTPFactor, user: Any, secret: str) -> None:
        verification.verify(user, code(secret), who=WHO)

        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, code(secret), who=WHO)

    def test_a_code_of_an_older_step_than_the_last_is_refused(
        self, factor: TOTPFactor, user: Any, secret: str
    ) -> None:
        verification.verify(user, code(secret, 1), who=WHO)

        for steps in (-1, 0):
            with pytest.raises(errors.InvalidOTP):
                verification.verify(user, code(secret, steps), who=WHO)

    def test_a_stale_copy_of_the_row_does_not_spend_a_step_again(
        self, factor: TOTPFactor, secret: str
    ) -> None:
        """Two callers read the row before either writes it: the conditional UPDATE decides."""
        first, second = TOTPFactor.objects.get(), TOTPFactor.objects.get()

        assert first.spend(code(secret)) is True
        assert second.spend(code(secret)) is False

    def test_the_time_of_the_last_use_is_kept(self, factor: TOTPFactor, user: Any, secret: str) -> None:
        verification.verify(user, code(secret), who=WHO)

        factor.refresh_from_db()
        assert factor.last_step == int(time.time()) // 30
        assert factor.last_used_at is not None
        assert factor.last_used_at.timestamp() == time.time()


class TestShape:
    """security.md, row 11: anything but six ASCII digits or a recovery code is refused and not counted."""

    @pytest.mark.parametrize(
        "otp",
        [
            "１２３４５６", "٣٤٥٦٧٨", "123_456", "+123456", "-12345", " 123456", "123456 ", "123456\n",
            "12345６", "123 456", "1234567890", "12345", "1234567", "0x1234", "1e5000", "123.45", "'OR 1=1",
            "", "\x00" * 6, "abcdef", "ⅷⅷⅷⅷⅷⅷ", "\ud800" * 6, "xxxx-xxxx-xxxx", "aaaa--aaaa-aaaa-aaaa",
            "ſſſſ-ſſſſ-ſſſſ-ſſſſ",
        ],
    )  # fmt: skip
    def test_other_shapes_are_refused_and_not_counted(self, factor: TOTPFactor, user: Any, otp: str) -> None:
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, otp, who=WHO)

        assert evaluated() == 0

    def test_a_missing_code_is_refused_and_not_counted(self, factor: TOTPFactor, user: Any) -> None:
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, None, who=WHO)

        assert evaluated() == 0

    @given(st.text(max_size=40))
    def test_only_six_ascii_digits_have_the_shape(self, text: str) -> None:
        plain = len(text) == 6 and all(character in "0123456789" for character in text)

        assert totp.has_shape(text) == plain

    def test_leading_zeros_count(self, clock: Any) -> None:
        """A code is a string, not a number."""
        secret = totp.new_secret()
        while not (shown := code(secret)).startswith("0"):
            clock.shift(30)

        assert totp.matching_step(secret, shown, at=time.time()) is not None
        assert totp.matching_step(secret, shown.lstrip("0"), at=time.time()) is None


class TestLimit:
    """security.md, rows 13, 14: 10 in 15 minutes and 35 in 24 hours, in the database; only wrong codes; with a capped
    delay.
    """

    def fail(self, user: Any, secret: str) -> str:
        """Try a wrong code; return the error code."""
        wrong = next(
            text
            for text in map("{:06d}".format, range(10))
            if totp.matching_step(secret, text, at=time.time()) is None
        )
        with pytest.raises(errors.PlatformAuthError) as refusal:
            verification.verify(user, wrong, who=WHO)
        return refusal.value.code

    def test_the_eleventh_code_in_15_minutes_is_not_checked(
        self, factor: TOTPFactor, user: Any, secret: str
    ) -> None:
        codes = [self.fail(user, secret) for _ in range(12)]

        assert codes == ["INVALID_OTP"] * 10 + ["REQUESTS_EXCEEDED"] * 2
        with pytest.raises(errors.RequestsExceeded):
            verification.verify(user, code(secret), who=WHO)

    def test_the_wait_is_never_over_15_minutes_for_the_short_limit(
        self, factor: TOTPFactor, user: Any, secret: str, clock: Any
    ) -> None:
        """django-otp's throttle would make it wait six days after 20 failures."""
        for _ in range(25):
            self.fail(user, secret)

        with pytest.raises(errors.RequestsExceeded) as refusal:
            verification.verify(user, code(secret), who=WHO)
        assert 0 < int(refusal.value.headers["Retry-After"]) <= 900
        clock.shift(900)
        verification.verify(user, code(secret), who=WHO)

    def test_at_most_35_wrong_codes_are_checked_in_a_day(
        self, factor: TOTPFactor, user: Any, secret: str, clock: Any
    ) -> None:
        looked_at = 0
        for _ in range(95):
            looked_at += sum(self.fail(user, secret) == "INVALID_OTP" for _ in range(12))
            clock.shift(901)

        assert looked_at == 35

    def test_guessing_for_90_days_succeeds_with_less_than_one_in_a_hundred(self) -> None:
        """The arithmetic of security.md, row 13: 35 guesses a day against three valid codes out of a million."""
        assert 1 - (1 - 3e-6) ** (35 * 90) < 0.01

    def test_a_success_neither_counts_nor_clears_failures(
        self, factor: TOTPFactor, user: Any, secret: str, clock: Any
    ) -> None:
        for _ in range(3):
            self.fail(user, secret)

        for _ in range(5):
            verification.verify(user, code(secret), who=WHO)
            clock.shift(30)

        assert evaluated() == 3

    def test_one_user_does_not_use_up_the_limit_of_another(
        self, factor: TOTPFactor, user: Any, secret: str
    ) -> None:
        for _ in range(12):
            self.fail(user, secret)
        other = make_user()
        theirs = TOTPFactor(user=other)
        theirs.secret = secret
        theirs.save()

        verification.verify(other, code(secret), who=WHO)

    def test_each_failure_is_an_event_and_a_limit_is_one_event(
        self, factor: TOTPFactor, user: Any, secret: str
    ) -> None:
        """security.md, row 121."""
        for _ in range(15):
            self.fail(user, secret)

        kinds = list(AuthEvent.objects.values_list("kind", flat=True))
        assert kinds.count("factor_failed") == 10
        assert kinds.count("factor_limited") == 1
        assert set(AuthEvent.objects.values_list("ip_address", flat=True)) == {"192.0.2.7"}


class TestIsEnrolled:
    """security.md, row 16: only the user's own, confirmed factor counts."""

    def test_without_a_factor_it_is_false(self, user: Any) -> None:
        assert not verification.is_enrolled(user)
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, "123456", who=WHO)

    def test_an_unconfirmed_factor_does_not_count(self, factor: TOTPFactor, user: Any, secret: str) -> None:
        TOTPFactor.objects.update(confirmed=False)
        user.refresh_from_db()

        assert not verification.is_enrolled(user)
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, code(secret), who=WHO)
        assert not TOTPFactor.objects.get().verify_token(code(secret))

    def test_another_users_factor_does_not_count(self, factor: TOTPFactor, secret: str) -> None:
        other = make_user()

        with pytest.raises(errors.InvalidOTP):
            verification.verify(other, code(secret), who=WHO)
        assert django_otp.verify_token(other, factor.persistent_id, code(secret)) is None


class TestPolicy:
    """TFA_REQUIRED_GROUPS and TFA_REQUIRED_FOR_STAFF."""

    def test_no_policy_runs_no_statement(self, user: Any, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            assert not verification.is_required_for(user)

    def test_staff_runs_no_statement(self, configure: Any, db: None, django_assert_num_queries: Any) -> None:
        configure(TFA_REQUIRED_FOR_STAFF=True)
        staff, other = make_user(is_staff=True), make_user()

        with django_assert_num_queries(0):
            assert verification.is_required_for(staff)
            assert not verification.is_required_for(other)

    def test_groups_run_one_statement(
        self, configure: Any, user: Any, django_assert_num_queries: Any
    ) -> None:
        configure(TFA_REQUIRED_GROUPS=["Editors", "Admins"])
        user.groups.add(Group.objects.create(name="Editors"), Group.objects.create(name="Readers"))
        other = make_user()
        other.groups.add(Group.objects.get(name="Readers"))

        with django_assert_num_queries(2):
            assert verification.is_required_for(user)
            assert not verification.is_required_for(other)

    def test_a_user_model_without_groups_is_in_none(self, configure: Any) -> None:
        configure(TFA_REQUIRED_GROUPS=["Editors"])

        assert not verification.is_required_for(object())


class TestRecoveryCodes:
    """security.md, row 19: 80 random bits each, stored as digests, each usable once."""

    @pytest.fixture
    def codes(self, factor: TOTPFactor, user: Any) -> list[str]:
        made = verification.new_recovery_codes()
        verification.replace_recovery_codes(user, made)
        return made

    def test_there_are_ten_of_80_bits(self) -> None:
        made = [one for _ in range(100) for one in verification.new_recovery_codes()]

        assert len(verification.new_recovery_codes()) == 10
        assert len(set(made)) == 1000
        assert {len(one.replace("-", "")) for one in made} == {16}
        assert set("".join(made)) == set("0123456789abcdefghjkmnpqrstvwxyz-")

    def test_each_works_once(self, user: Any, codes: list[str]) -> None:
        for one in codes:
            verification.verify(user, one, who=WHO)
            with pytest.raises(errors.InvalidOTP):
                verification.verify(user, one, who=WHO)

        assert verification.recovery_codes_left(user) == 0

    @pytest.mark.parametrize(
        "typed",
        [str.upper, lambda one: one.replace("-", ""), lambda one: one.replace("0", "O").replace("1", "l")],
        ids=["upper case", "no hyphens", "read wrongly off paper"],
    )
    def test_case_hyphens_and_similar_letters_do_not_matter(
        self, user: Any, codes: list[str], typed: Any
    ) -> None:
        for one in codes:
            verification.verify(user, typed(one), who=WHO)

    def test_another_users_codes_do_not_work(self, user: Any, codes: list[str], secret: str) -> None:
        other = make_user()
        theirs = TOTPFactor(user=other)
        theirs.secret = secret
        theirs.save()

        with pytest.raises(errors.InvalidOTP):
            verification.verify(other, codes[0], who=WHO)

    def test_only_digests_are_kept_and_two_users_never_share_one(self, user: Any, codes: list[str]) -> None:
        other = make_user()
        verification.replace_recovery_codes(other, codes)

        kept = set(RecoveryCode.objects.values_list("digest", flat=True))

        assert len(kept) == 20
        assert not kept & {one.replace("-", "") for one in codes}

    def test_a_code_neither_waits_for_the_limit_nor_counts(
        self, user: Any, codes: list[str], secret: str
    ) -> None:
        for _ in range(11):
            TestLimit().fail(user, secret)
        before = evaluated()

        verification.verify(user, codes[0], who=WHO)
        with pytest.raises(errors.InvalidOTP):
            verification.verify(user, "zzzz-zzzz-zzzz-zzzz", who=WHO)

        assert evaluated() == before

    def test_a_used_code_is_recorded_and_emailed(self, user: Any, codes: list[str], mailoutbox: Any) -> None:
        verification.verify(user, codes[0], who=WHO)

        assert AuthEvent.objects.get(kind="recovery_code_used").user == user
        (mail,) = mailoutbox
        assert mail.to == [user.email]
        assert codes[0] not in mail.message().as_string()


class TestSealedSecret:
    """security.md, row 122: bound to its row; a lost key is a clear error, never an empty secret."""

    def test_the_row_contains_no_plain_text(self, factor: TOTPFactor, secret: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT sealed_secret FROM platform_auth_totpfactor")
            (sealed,) = cursor.fetchone()

        assert secret not in sealed
        assert factor.secret == secret

    def test_it_cannot_be_decrypted_for_another_user(self, factor: TOTPFactor) -> None:
        other = TOTPFactor.objects.create(user=make_user(), sealed_secret=factor.sealed_secret)

        with pytest.raises(sealing.SealBroken):
            other.verify_token("123456")

    def test_a_row_without_a_secret_accepts_no_code(self, user: Any) -> None:
        """Anyone can compute the codes of an empty key."""
        TOTPFactor.objects.create(user=user)

        with pytest.raises(sealing.SealBroken):
            verification.verify(user, "123456", who=WHO)

    def test_without_its_key_the_error_names_the_setting(
        self, settings: Any, factor: TOTPFactor, user: Any
    ) -> None:
        settings.SECRET_KEY = "another-" + "y" * 60

        with pytest.raises(ImproperlyConfigured, match="ENCRYPTION_KEYS"):
            verification.verify(user, "123456", who=WHO)

    def test_it_can_be_decrypted_with_a_fallback_key(
        self, settings: Any, factor: TOTPFactor, user: Any, secret: str
    ) -> None:
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another-" + "y" * 60

        verification.verify(user, code(secret), who=WHO)
