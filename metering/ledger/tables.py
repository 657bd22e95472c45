"""The ledger's tables. Instants are `timestamptz`, days are days of the billing timezone, counts are units.

The usage tables have no foreign keys: a count whose key the ledger does not know (a restored backup, say) is
kept, and not a reason for a roll-up to fail.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Instant = sa.DateTime(timezone=True)
Json = JSONB(none_as_null=True)
# Counters only grow and are updated in place: room in each page lets PostgreSQL do that without touching an
# index. A roll-up may find all rows of a page grown, and the old ones are there until it is committed; pages
# that were filled to four fifths came to take more room in the end, and more than twice the log.
ROOM_FOR_UPDATES = {"fillfactor": "50"}

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("main_domain", sa.Text),
    sa.Column("billing_email", sa.Text),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("first_request_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("closed_at", Instant),
    sa.Index(None, "created_at", "id"),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("site", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("purchased_at", Instant),
    sa.Column("daily_limit", sa.BigInteger),
    sa.Column("unlimited", sa.Boolean, nullable=False),
    sa.Column("window", sa.Text),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("suspended_at", Instant),
    sa.Column("suspended_reason", sa.Text),
    sa.Column("closed_at", Instant),
    sa.Column("oldest_unpaid_issued_on", sa.Date),
    sa.Column("default_provider", sa.Text),
    sa.Column("default_search_method", sa.Text),
    sa.Column("signing_secret", sa.Text),  # sealed by the gateway, never plain
    sa.Column("allow_networks", Json),  # a list; none: any address
    sa.Column("allow_domains", Json),  # a list; none: any site
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("projected_revision", sa.BigInteger, nullable=False),
    sa.CheckConstraint("daily_limit >= 0", name="daily_limit"),
    sa.CheckConstraint("\"window\" IN ('day', 'rolling_24h')", name="window"),
    sa.Index(None, "account_id"),
    sa.Index(None, "created_at", "id"),
    sa.Index("ix_keys_unprojected", "id", postgresql_where=sa.text("projected_revision < revision")),
)

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, sa.ForeignKey("keys.id"), nullable=False),
    sa.Column("pepper_id", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("carried_to", sa.Text),  # the digest of the same text under a newer pepper
    sa.Index(None, "key_id"),
    sa.Index(None, "pepper_id", "digest"),
)

usage_reasons_daily = sa.Table(
    "usage_reasons_daily",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("effect", sa.Text, primary_key=True),  # 'denied' (calls) or 'waived' (units)
    sa.Column("reason", sa.Text, primary_key=True),
    sa.Column("units", sa.BigInteger, nullable=False),
    sa.CheckConstraint("effect IN ('denied', 'waived')", name="effect"),
    sa.Index(None, "day", postgresql_using="brin"),
    postgresql_with=ROOM_FOR_UPDATES,
)

# What was counted of a key on a day. Its methods are arrays, a place in each of the five for every method, as
# a roll-up brings them all at once; `usage_daily` shows them as rows. Beside them stands what the quota of a
# key needs, so that an emptied Redis can be filled again.
key_days = sa.Table(
    "key_days",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("back", sa.BigInteger, nullable=False),
    sa.Column("first_at", Instant),
    sa.Column("buckets", Json),  # rolling window: {"bucket number": units} as last seen
    *(
        sa.Column(name, sa.ARRAY(kind), nullable=False, server_default=sa.text("'{}'"))
        for name, kind in (
            ("methods", sa.Text),
            ("classes", sa.Text),
            ("calls", sa.BigInteger),
            ("taken", sa.BigInteger),
            ("waived", sa.BigInteger),
        )
    ),
    # Rows of a day lie together on disk, so a block range index finds a month and costs next to nothing to
    # keep.
    sa.Index(None, "day", postgresql_using="brin"),
    postgresql_with=ROOM_FOR_UPDATES,
)

# A view: the methods of `key_days`, a row each.
usage_daily = sa.Table(
    "usage_daily",
    sa.MetaData(),
    sa.Column("key_id", sa.Text),
    sa.Column("day", sa.Date),
    sa.Column("method", sa.Text),
    sa.Column("class", sa.Text),
    sa.Column("calls", sa.BigInteger),
    sa.Column("taken", sa.BigInteger),
    sa.Column("waived", sa.BigInteger),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("pepper_id", sa.Text),  # none for one of before this was written down
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("object_id", sa.Text, nullable=False),
    sa.Column("before", Json),
    sa.Column("after", Json),
    sa.Column("request_id", sa.Text),
    sa.Index(None, "object_id", "id"),
)

# What was to be told to a customer: one row per event, however often the event is raised.
notices = sa.Table(
    "notices",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("event_key", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id")),  # none: it is for everybody
    sa.Column("data", Json, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "account_id", "created_at"),
    sa.Index(None, "created_at", "id"),
)

notice_deliveries = sa.Table(
    "notice_deliveries",
    metadata,
    sa.Column("notice_id", sa.Text, sa.ForeignKey("notices.id"), primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),  # an e-mail address, or the id of a webhook
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", Instant, nullable=False),  # when it is tried next; while it is tried, when that ends
    sa.Column("last_error", sa.Text),
    sa.Column("delivered_at", Instant),
    sa.CheckConstraint("channel IN ('email', 'webhook')", name="channel"),
    sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
    sa.Index("ix_notice_deliveries_pending", "next_at", postgresql_where=sa.text("state = 'pending'")),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id")),  # none: it hears of every account
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),  # sealed by the gateway, never plain
    sa.Column("events", Json),  # names of events; none: all
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_reason", sa.Text),
)

# One-row facts about the ledger itself, by name.
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Who held the counters when the last roll-up came through, a row for each server.
counter_servers = sa.Table(
    "counter_servers",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("slots", Json, nullable=False),
    sa.Column("replid", sa.Text, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("former_replid", sa.Text),
    sa.Column("former_offset", sa.BigInteger),
    sa.Column("appends", sa.Boolean, nullable=False),
    sa.Column("shard", sa.Text),
    sa.Column("mark", sa.BigInteger, nullable=False),
    sa.Column("replicas", sa.Integer, nullable=False),
)

interruptions = sa.Table(
    "interruptions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("since", Instant, nullable=False),
    sa.Column("until", Instant, nullable=False),
    sa.Column("slots", Json, nullable=False),
    sa.Column("former_address", sa.Text, nullable=False),
    sa.Column("former_run_id", sa.Text, nullable=False),
    sa.Column("former_replid", sa.Text, nullable=False),
    sa.Column("seen_offset", sa.BigInteger, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("replid", sa.Text, nullable=False),
    sa.Column("reached_offset", sa.BigInteger),
    sa.Column("acknowledged_at", Instant),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("reason", sa.Text),
    sa.CheckConstraint("kind IN ('failover', 'restart', 'replacement', 'emptied')", name="kind"),
    sa.CheckConstraint("evidence IN ('confirmed', 'proven', 'unknown', 'behind')", name="evidence"),
    sa.Index(None, "until", "id"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("actor", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("request_hash", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("body", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "created_at"),
)
