/* Refusals before authentication: anyone can cause them, so anyone could fill the disk with them.
 *
 * Each prefix may write 10 a second and all together 100, of which half is kept for wrong passwords, so that a guesser
 * cannot hide his guesses behind requests without any. The rest is counted in rows of (reason, prefix) that become one
 * deny_summary each a minute later. All tables are bounded: a network whose rate was forgotten starts anew within
 * the limit for all, and a row that finds no room is counted under its reason alone. Called on event loops: the lock
 * is held for a look-up, never for a file. */
#include "audit/audit_priv.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"

enum { V4_BITS = 24, V6_BITS = 48, KEY_BYTES = 18 };

struct rate {
	uint64_t second;
	unsigned count, harmless; /* in this second; of these, those that are no wrong passwords */
};

struct tally {
	unsigned long long count;
	int64_t since_us;
};

struct strangers {
	pthread_mutex_t lock;
	struct lru *rates; /* prefix to struct rate */
	struct rate all;
	struct lru *rows; /* prefix and reason to struct tally */
	struct tally others[REASON_COUNT];
	uint64_t due_ms;
};

struct strangers *strangers_new(void)
{
	struct strangers *s = mem_alloc(sizeof(*s));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->lock, NULL);
	s->rates = lru_new(STRANGERS_PREFIXES, sizeof(struct rate), NULL, NULL);
	s->rows = lru_new(STRANGERS_ROWS, sizeof(struct tally), NULL, NULL);
	if (!s->rates || !s->rows) {
		strangers_free(s);
		return NULL;
	}
	return s;
}

void strangers_free(struct strangers *s)
{
	if (!s)
		return;
	lru_free(s->rates);
	lru_free(s->rows);
	pthread_mutex_destroy(&s->lock);
	mem_free(s);
}

/* 16 bytes, length, reason; an unknown address is a prefix of its own (no real one has 255 bits). */
static void make_key(uint8_t key[static KEY_BYTES], const struct addr *client, enum reason reason)
{
	struct cidr prefix = { .bits = 255 };

	_Static_assert(REASON_COUNT <= 256, "a reason is one byte of the key");
	if (client && client->len > 0)
		prefix = addr_prefix(client, V4_BITS, V6_BITS);
	memcpy(key, prefix.bytes, sizeof(prefix.bytes));
	key[16] = prefix.bits;
	key[17] = (uint8_t)reason;
}

static bool rate_take(struct rate *r, uint64_t second, unsigned most, bool guess)
{
	if (r->second != second)
		*r = (struct rate){ .second = second };
	if (r->count >= most || (!guess && r->harmless >= most / 2))
		return false;
	r->count++;
	r->harmless += !guess;
	return true;
}

bool strangers_admit(struct strangers *s, uint64_t now_ms, const struct addr *client, enum reason reason)
{
	bool guess = reason == REASON_AUTH_FAILED;
	uint8_t key[KEY_BYTES];
	uint64_t second = now_ms / 1000;
	struct rate *r;
	bool ok;

	make_key(key, client, REASON_OK);
	pthread_mutex_lock(&s->lock);
	r = lru_put(s->rates, key, KEY_BYTES - 1, NULL);
	/* The prefix first: a flood from one network must not use up what all others have together. */
	ok = r && rate_take(r, second, STRANGERS_PER_PREFIX, guess) && rate_take(&s->all, second, STRANGERS_IN_ALL, guess);
	pthread_mutex_unlock(&s->lock);
	return ok;
}

bool strangers_count(struct strangers *s, uint64_t now_ms, int64_t wall_us, const struct addr *client,
		     enum reason reason)
{
	uint8_t key[KEY_BYTES];
	struct tally *t;
	bool first;

	make_key(key, client, reason);
	pthread_mutex_lock(&s->lock);
	t = lru_peek(s->rows, key, KEY_BYTES);
	if (!t && lru_count(s->rows) < STRANGERS_ROWS)
		t = lru_put(s->rows, key, KEY_BYTES, NULL);
	if (!t)
		t = &s->others[reason];
	if (t->count++ == 0)
		t->since_us = wall_us;
	first = s->due_ms == 0;
	if (first)
		s->due_ms = now_ms + STRANGERS_SUMMARY_MS;
	pthread_mutex_unlock(&s->lock);
	stats_inc(STAT_AUDIT_SUPPRESSED);
	return first;
}

uint64_t strangers_due_ms(struct strangers *s)
{
	uint64_t due;

	pthread_mutex_lock(&s->lock);
	due = s->due_ms;
	pthread_mutex_unlock(&s->lock);
	return due;
}

static void row_from_key(struct strangers_row *row, const uint8_t *key)
{
	memcpy(row->prefix.bytes, key, sizeof(row->prefix.bytes));
	row->prefix.bits = key[16];
	row->has_prefix = key[16] <= 128;
	row->reason = (enum reason)key[17];
}

size_t strangers_take(struct strangers *s, struct strangers_row *rows, size_t max)
{
	struct tally *t;
	size_t n = 0, key_size;

	pthread_mutex_lock(&s->lock);
	while (n < max && (t = lru_oldest(s->rows))) {
		rows[n] = (struct strangers_row){ .count = t->count, .since_us = t->since_us };
		row_from_key(&rows[n++], lru_key(t, &key_size));
		lru_remove(s->rows, t);
	}
	for (int r = 0; r < REASON_COUNT && n < max; r++) {
		t = &s->others[r];
		if (t->count > 0)
			rows[n++] = (struct strangers_row){ .reason = (enum reason)r, .count = t->count, .since_us = t->since_us };
		*t = (struct tally){ 0 };
	}
	if (n < max)
		s->due_ms = 0;
	pthread_mutex_unlock(&s->lock);
	return n;
}
