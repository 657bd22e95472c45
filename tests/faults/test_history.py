"""The checker is right about good histories, and finds each kind of bad one."""

from __future__ import annotations

from datetime import date

import pytest

from tests.faults.history import (
    Counted,
    End,
    Place,
    Seen,
    charged_beyond_answers,
    check_bill,
    check_calls,
    check_counts,
    check_crossed,
    check_ledger,
)

TODAY, TOMORROW = date(2026, 11, 21), date(2026, 11, 22)
AT = Place("key_1", TODAY, TODAY)
ROW = ("key_1", TODAY, "SearchItemsFrame", 5, 5, 0)


def seen(
    answered: int = 0,
    free: int = 0,
    refused: int = 0,
    in_doubt: int = 0,
    *,
    place: Place = AT,
    unsettled: int = 0,
) -> Seen:
    """What clients saw on one day."""
    made = Seen()
    for end, calls in zip(End, (answered, free, refused, in_doubt), strict=True):
        made.ends[(place, end)] += calls
    made.unsettled[place] += unsettled
    return made


def rules(history: Seen, taken: int, waived: int = 0, day: date = TODAY) -> list[tuple[str, int]]:
    """The rules that are broken when one day has these counts, and by how much."""
    counted = {("key_1", day): Counted(taken, waived)}
    return [(finding.rule, finding.size) for finding in check_counts(history, counted)]


def test_an_exact_history_is_right() -> None:
    """Answered calls are charged, free ones counted and waived, refused ones neither."""
    assert rules(seen(answered=90, free=10, refused=7), taken=100, waived=10) == []


@pytest.mark.parametrize("charged", [90, 93, 95])
def test_what_is_in_doubt_may_be_charged_or_not(charged: int) -> None:
    """A call of which no whole answer was seen is right either way."""
    assert rules(seen(answered=90, in_doubt=5), taken=charged) == []


def test_a_lost_call_is_found() -> None:
    """One answered call that is not charged is named, whatever else is in doubt."""
    assert rules(seen(answered=90, in_doubt=5), taken=89) == [("lost", 1), ("lost", 1)]


def test_a_lost_call_that_was_waived_is_found() -> None:
    """An answered call that was counted and then wrongly waived is lost too."""
    assert rules(seen(answered=90), taken=90, waived=1) == [("lost", 1)]


def test_a_free_call_that_was_not_counted_is_found() -> None:
    """An answer that costs nothing is counted all the same."""
    assert rules(seen(answered=90, free=10), taken=99, waived=9) == [("lost", 1)]


def test_a_key_without_any_count_is_found() -> None:
    """Answered calls of a key that the ledger does not have at all are lost."""
    findings = list(check_counts(seen(answered=3), {}))
    assert ("lost", 3) in [(finding.rule, finding.size) for finding in findings]


def test_a_doubled_call_is_found() -> None:
    """One unit more than was answered or may have been is named."""
    assert rules(seen(answered=90, in_doubt=5, refused=20), taken=96) == [("double", 1)]


def test_a_free_call_that_is_charged_is_found() -> None:
    """A waiver that is missing is a double, unless it may have died with its process."""
    assert rules(seen(answered=90, free=10), taken=100, waived=9) == [("double", 1)]
    assert rules(seen(answered=90, free=10, unsettled=1), taken=100, waived=9) == []
    assert charged_beyond_answers(seen(90, 10), {("key_1", TODAY): Counted(100, 9)}) == 1


def test_more_counted_than_attempted_is_found() -> None:
    """Counts that were waived again still must not outnumber the calls."""
    assert rules(seen(answered=90, refused=5), taken=96, waived=6) == [("double", 1)]


def test_a_count_of_a_call_that_was_not_made_is_no_double() -> None:
    """Counted once more and waived as not forwarded is right; waived for another reason it is not."""
    again = {("key_1", TODAY): Counted(91, 1, 1)}
    assert list(check_counts(seen(answered=90), again)) == []
    assert rules(seen(answered=90), taken=91, waived=1) == [("double", 1)]


def test_a_count_without_a_call_is_found() -> None:
    """A key that nobody called has no counts."""
    findings = list(check_counts(Seen(), {("key_2", TODAY): Counted(1, 0)}))
    assert {finding.rule for finding in findings} == {"double"}


@pytest.mark.parametrize("day", [TODAY, TOMORROW])
def test_a_call_across_midnight_may_be_of_either_day(day: date) -> None:
    """The day is the gateway's to say, but it is one."""
    across = seen(answered=1, place=Place("key_1", TODAY, TOMORROW))
    assert rules(across, taken=1, day=day) == []


def test_a_call_across_midnight_is_not_of_both_days() -> None:
    """Counted on both days it is a double, on neither it is lost."""
    across = seen(answered=1, place=Place("key_1", TODAY, TOMORROW))
    both = {("key_1", day): Counted(1, 0) for day in (TODAY, TOMORROW)}
    assert ("double", 1) in [(finding.rule, finding.size) for finding in check_counts(across, both)]
    neither = [(finding.rule, finding.size) for finding in check_counts(across, {})]
    assert ("lost", 1) in neither


def test_a_count_of_the_wrong_day_is_found() -> None:
    """Sums over all days do not make up for days that are wrong."""
    assert {rule for rule, _ in rules(seen(answered=5), taken=5, day=TOMORROW)} == {"lost", "double"}


def test_a_row_that_stands_twice_is_found() -> None:
    """Rows of the ledger are unique by key, day and method."""
    assert list(check_ledger([ROW], [ROW], 3)) == []
    (finding,) = check_ledger([ROW, ROW], [ROW, ROW], 3)
    assert (finding.rule, finding.size) == ("rows", 1)


def test_a_roll_up_that_changes_something_is_found() -> None:
    """A second roll-up leaves every row as it is."""
    (finding,) = check_ledger([ROW], [(*ROW[:3], 6, 6, 0)], 3)
    assert finding.rule == "roll_up"


def test_a_bill_that_differs_is_found() -> None:
    """Each key is billed what the ledger charges it, no more, no less, and no key is left out."""
    counted = {("key_1", TODAY): Counted(7, 2), ("key_1", TOMORROW): Counted(1, 0)}
    assert list(check_bill(counted, {"key_1": 6})) == []
    for billed in ({"key_1": 5}, {"key_1": 7}, {}, {"key_1": 6, "key_2": 1}):
        assert [finding.rule for finding in check_bill(counted, billed)] == ["billed"]


def test_a_call_that_was_sent_twice_is_found() -> None:
    """No call reaches the origin more than once."""
    (finding,) = check_calls(bytes([End.ANSWERED, End.ANSWERED]), bytes([1, 2]))
    assert (finding.rule, finding.size) == ("sent_twice", 1)


def test_an_answer_from_nowhere_is_found() -> None:
    """What was answered has reached the origin; what was refused or in doubt need not have."""
    assert list(check_calls(bytes([End.REFUSED, End.IN_DOUBT, 0]), bytes([0, 0]))) == []
    (finding,) = check_calls(bytes([End.ANSWERED, End.FREE, End.ANSWERED]), bytes([1, 0]))
    assert (finding.rule, finding.size) == ("unsent", 2)


def test_a_crossed_answer_is_found() -> None:
    """An answer that belongs to another call is named."""
    assert list(check_crossed([])) == []
    (finding,) = check_crossed([(3, "answer 4")])
    assert (finding.rule, finding.size) == ("crossed", 1)
