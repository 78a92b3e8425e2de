"""Load targets in any order, twice, cut and cleared: what holds at each moment is what the last made message says."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from adapters.dr.dsxflex_book import FOREVER, Book, Piece, from_record, groups, orders, to_record

START = datetime(2026, 7, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@st.composite
def messages(draw):
    """Pieces as messages bring them, no two of the same stamp."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, 50))
        end = START + MINUTE * draw(st.integers(start + 1, 60)) if draw(st.booleans()) else FOREVER
        kw = draw(st.sampled_from([None, 10.0, 20.0, 30.0]))
        made = f"2026-07-01T12:{draw(st.integers(0, 5)):02}:00+00:00"
        found.append(Piece(START + MINUTE * start, end, kw, False, (made, f"m{number}", 0), f"m{number}"))
    return found


def cap_at(pieces, at):
    """The naive rule: of all that cover a moment, the one with the latest stamp."""
    covering = [piece for piece in pieces if piece.start <= at < piece.end]
    return max(covering, key=lambda piece: piece.stamp).kw if covering else None


@given(messages(), st.randoms(use_true_random=False))
def test_whatever_the_order_and_the_repeats_the_last_made_message_holds(pieces, random):
    arrived = [*pieces, *random.choices(pieces, k=4)]
    random.shuffle(arrived)
    book = Book().painted(arrived)
    for minute in range(62):
        at = START + MINUTE * minute
        assert next((piece.kw for piece in book.pieces if piece.start <= at < piece.end), None) == cap_at(pieces, at)
    assert all(one.end <= other.start for one, other in zip(book.pieces, book.pieces[1:], strict=False))
    assert from_record(to_record(book)) == book


@given(messages(), st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_the_ledger_told_step_by_step_holds_what_the_book_says(pieces, pauses):
    now, most = START, timedelta(minutes=30)
    book, held, seen = Book(), {}, set()
    for piece, pause in zip(pieces, pauses, strict=False):
        book = book.painted([piece])
        sent = dict(book.sent)
        for order in orders(book, now, most):
            assert (order.id, order.version) not in seen
            seen.add((order.id, order.version))
            held[order.id] = order.pieces
            sent.pop(order.id, None)
            if order.sent is not None:
                sent[order.id] = order.sent
        book = Book(book.pieces, sent)
        assert not [order for order in orders(book, now, most) if order.pieces and order.pieces[-1].end != FOREVER]
        for minute in range(15):  # of an open end at least half is told
            at = now + MINUTE * minute
            told = [p.kw for pieces in held.values() for p in pieces if p.start <= at < p.end]
            said = [p.kw for group in groups(book.pieces) for p in group if p.start <= at < p.end]
            assert told == said, at
        now += MINUTE * pause
