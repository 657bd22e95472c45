from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from gateway.notices.mail import message_of
from gateway.settings import Smtp
from metering import notices as texts
from metering.ledger.notices import Kept
from metering.notices import Event, Notice, Unpaid
from policies.standing import Standing, Step
from tests.policies.samples import BANNED, MOSCOW, RESTRICTED

SMTP = Smtp("mail.example", 25, "none", "billing@seller.example", None, None, None, 5.0)
AT = datetime(2026, 11, 18, 9, 0, tzinfo=UTC)
UNPAID = Unpaid(
    "acc_1", "inv_1", "2026-000001", "USD", Decimal("100"), date(2026, 11, 10), date(2026, 11, 17)
)


def samples() -> list[Notice]:
    ladder = [
        notice
        for day in (15, 18, 29)
        for notice in texts.steps_due(
            [UNPAID], (RESTRICTED, BANNED), MOSCOW, datetime(2026, 11, day, 12, tzinfo=UTC).timestamp()
        )
    ]
    day = date(2026, 11, 10)
    return [
        *ladder,
        texts.invoice_issued(
            account_id="acc_1",
            invoice_id="inv_1",
            number="2026-000001",
            currency="USD",
            total=Decimal("100"),
            period_first=date(2026, 10, 1),
            issued_on=day,
            due_on=day,
        ),
        texts.invoice_voided(
            account_id="acc_1",
            invoice_id="inv_1",
            number="2026-000001",
            currency="USD",
            total=Decimal("100"),
            period_first=date(2026, 10, 1),
            issued_on=day,
            voided_at=AT,
            reason="billed twice\nBcc: everybody@example.com",
        ),
        texts.payment_received(
            account_id="acc_1",
            payment_id="pay_1",
            currency="USD",
            amount=Decimal("5"),
            received_at=AT,
            reference="a\r\nBcc: everybody@example.com",
            invoice_number=None,
        ),
        texts.payment_reversed(
            account_id="acc_1",
            payment_id="pay_1",
            currency="USD",
            amount=Decimal("5"),
            reversed_at=AT,
            reference="",
        ),
        texts.credit_note_issued(
            account_id="acc_1",
            credit_note_id="crn_1",
            number="CN-2026-000001",
            invoice_id="inv_1",
            invoice_number="2026-000001",
            currency="USD",
            amount=Decimal("5"),
            issued_on=day,
        ),
        texts.plan_announced(
            account_id="acc_1", plan="K1", version=2, effective_from=day, existing_from=None
        ),
    ]


@pytest.mark.parametrize("notice", samples(), ids=lambda notice: notice.event.value)
def test_every_event_has_a_text(notice: Notice) -> None:
    """Each event is written whole, with a subject of one line and no header that somebody slipped in."""
    kept = Kept("ntc_1", notice.event.value, notice.key, "acc_1", dict(notice.data), AT)
    message = message_of(kept, SMTP, "bills@shop.example")
    assert 10 < len(message["Subject"]) < 120
    assert "{" not in message.get_content()
    assert message["Bcc"] is None


def test_the_samples_are_of_every_event() -> None:
    """No event is without a sample above."""
    assert {notice.event for notice in samples()} == set(Event)


def test_a_warning_says_when_and_what() -> None:
    """Before the ban the customer reads its instant with the offset, and that nothing will be answered."""
    notice = next(each for each in samples() if each.data.get("standing") == "banned")
    kept = Kept("ntc_1", notice.event.value, notice.key, "acc_1", dict(notice.data), AT)
    text = message_of(kept, SMTP, "bills@shop.example").get_content()
    assert "2 December 2026, 00:00 (UTC+03:00)" in text
    assert "no call will be answered" in text


@pytest.mark.parametrize(
    ("existing_from", "said", "unsaid"),
    [
        (None, "Your keys keep their present prices unless you choose", "hold for your keys"),
        (date(2026, 12, 10), "hold for your keys too from 10 December 2026 on", "keep their present prices"),
        (date(2027, 1, 1), "hold for your keys too from 1 January 2027 on", "Your keys keep"),
    ],
)
def test_an_announcement_says_whom_the_prices_are_for(
    existing_from: date | None, said: str, unsaid: str
) -> None:
    """Nobody is told that former prices are kept when they are to be taken over (contract OT-11)."""
    notice = texts.plan_announced(
        account_id="acc_1",
        plan="K1",
        version=2,
        effective_from=date(2026, 12, 10),
        existing_from=existing_from,
    )
    kept = Kept("ntc_1", notice.event.value, notice.key, "acc_1", dict(notice.data), AT)
    text = message_of(kept, SMTP, "bills@shop.example").get_content()
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize("day", [15, 18])
def test_a_restriction_of_everything_is_told_in_words(day: int) -> None:
    """A step that denies all classes but some says so, and shows no sign of the configuration."""
    step = Step(7, Standing.RESTRICTED, frozenset({"*"}), frozenset({"official_search"}))
    now = datetime(2026, 11, day, 12, tzinfo=UTC).timestamp()
    (notice,) = texts.steps_due([UNPAID], (step,), MOSCOW, now)
    kept = Kept("ntc_1", notice.event.value, notice.key, "acc_1", dict(notice.data), AT)
    text = message_of(kept, SMTP, "bills@shop.example").get_content()
    assert "all calls" in text
    assert "refused (but not official_search)." in text
    assert "*" not in text
