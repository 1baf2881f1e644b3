/* Budgets of wrong passwords, and the places users are known from; the clock is an argument. */
#include "auth/throttle_priv.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>

static const struct throttle_rules standard = {
	.on = true, .failures = 10, .window_ms = 600000, .per_prefix = { 100, 60000 }
};
static const uint64_t start_ms = 1000000;

static struct throttle_who who(const char *address, const char *user, bool known)
{
	struct addr a;

	cr_assert(addr_from_literal(&a, slice_of(address), 0));
	return (struct throttle_who){ addr_prefix(&a, 32, 64), slice_of(user), known };
}

/* How many distinct wrong passwords go through before it says stop. */
static unsigned tries(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *w, uint64_t now_ms,
	uint64_t digest)
{
	unsigned n = 0;

	while (n < 5000 && throttle_check(t, rules, w, now_ms) == 0)
		throttle_charge(t, rules, w, digest + n++, now_ms);
	return n;
}

Test(throttle, pair)
{
	struct throttle *t = throttle_new(1000);
	struct throttle_who w = who("192.0.2.1", "alice", false), other_user = who("192.0.2.1", "bob", false);
	struct throttle_who other_place = who("192.0.2.2", "alice", false), same_64 = who("2001:db8::1", "carol", false);
	struct throttle_who same_64_too = who("2001:db8::ffff", "carol", false);

	cr_expect_eq(tries(t, &standard, &w, start_ms, 1), 10);
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms), 60);
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms + 59000), 1);
	cr_expect_eq(throttle_check(t, &standard, &other_user, start_ms), 0);
	cr_expect_eq(throttle_check(t, &standard, &other_place, start_ms), 0);
	/* drains evenly: one more each minute, all after the window */
	cr_expect_eq(tries(t, &standard, &w, start_ms + 60000, 100), 1);
	cr_expect_eq(tries(t, &standard, &w, start_ms + 180000, 200), 2);
	cr_expect_eq(tries(t, &standard, &w, start_ms + 180000 + 600000, 300), 10);
	cr_expect_eq(tries(t, &standard, &same_64, start_ms, 1), 10);
	cr_expect_eq(throttle_check(t, &standard, &same_64_too, start_ms), 60);
	throttle_free(t);
}

Test(throttle, the_same_password_counts_once)
{
	struct throttle *t = throttle_new(1000);
	struct throttle_who w = who("192.0.2.1", "alice", false);

	for (unsigned i = 0; i < 5000; i++)
		throttle_charge(t, &standard, &w, 1 + i % THROTTLE_REMEMBERED, start_ms);
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms), 0);
	cr_expect_eq(tries(t, &standard, &w, start_ms, 100), 10 - THROTTLE_REMEMBERED);
	throttle_free(t);
}

Test(throttle, prefix)
{
	struct throttle *t = throttle_new(1000);
	struct throttle_who w = who("192.0.2.1", "", false);
	struct throttle_who elsewhere = who("192.0.2.2", "user0", true), known = who("192.0.2.1", "known", true);
	unsigned n;

	/* one password on many names */
	for (n = 0; n < 1000; n++) {
		char name[32];

		snprintf(name, sizeof(name), "user%u", n);
		w.user = slice_of(name);
		if (throttle_check(t, &standard, &w, start_ms) > 0)
			break;
		throttle_charge(t, &standard, &w, 77, start_ms);
	}
	cr_expect_eq(n, 100);
	w.user = slice_of("nobody");
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms), 1, "600 ms, rounded up");
	cr_expect_eq(throttle_check(t, &standard, &known, start_ms), 1, "this budget is for everybody there");
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms + 600), 0);
	cr_expect_eq(throttle_check(t, &standard, &elsewhere, start_ms), 0);
	throttle_free(t);
}

/* `n` clients, one guess each */
static unsigned botnet(struct throttle *t, const char *user, unsigned n, uint64_t now_ms)
{
	for (unsigned i = 0; i < n; i++) {
		char address[32];
		struct throttle_who w;

		snprintf(address, sizeof(address), "10.%u.%u.1", i / 256, i % 256);
		w = who(address, user, false);
		if (throttle_check(t, &standard, &w, now_ms) > 0)
			return i;
		throttle_charge(t, &standard, &w, i + 1, now_ms);
	}
	return n;
}

Test(throttle, user_over_all_prefixes)
{
	struct throttle *t = throttle_new(10000);
	struct throttle_who stranger = who("198.51.100.1", "alice", false), known = who("192.0.2.1", "alice", true);
	struct throttle_who other = who("198.51.100.1", "bob", false);

	cr_expect_eq(botnet(t, "alice", 1000, start_ms), 100);
	cr_expect_eq(throttle_check(t, &standard, &stranger, start_ms), 120, "half the pace of a single place");
	cr_expect_eq(throttle_check(t, &standard, &other, start_ms), 0);
	cr_expect_eq(throttle_check(t, &standard, &known, start_ms), 0, "an earlier success is never locked out");
	cr_expect_eq(tries(t, &standard, &known, start_ms, 1), 10, "but has the limits of its own");
	cr_expect_eq(throttle_check(t, &standard, &stranger, start_ms + 120000), 0, "and did not pay into the common one");
	throttle_free(t);
}

Test(throttle, off_and_single_switches)
{
	struct throttle *t = throttle_new(1000);
	struct throttle_who w = who("192.0.2.1", "alice", false);
	struct throttle_rules off = standard, no_prefix = standard, only_prefix = standard, huge = standard;

	off.on = false;
	no_prefix.per_prefix.count = 0;
	no_prefix.failures = 1000;
	only_prefix.failures = 0;
	huge.failures = 4000000000u;
	huge.per_prefix.count = 4000000000u;
	cr_expect_eq(tries(t, &off, &w, start_ms, 1), 5000);
	cr_expect_eq(throttle_check(t, &standard, &w, start_ms), 0, "nothing was counted");
	cr_expect_eq(tries(t, &no_prefix, &w, start_ms, 1), 1000);
	w = who("192.0.2.2", "bob", false);
	cr_expect_eq(tries(t, &only_prefix, &w, start_ms, 1), 100);
	w = who("192.0.2.3", "carol", false);
	cr_expect_eq(tries(t, &huge, &w, start_ms, 1), 5000);
	throttle_free(t);
}

Test(throttle, new_limits_apply_at_once)
{
	struct throttle *t = throttle_new(1000);
	struct throttle_who w = who("192.0.2.1", "alice", true);
	struct throttle_rules wide = standard, narrow = standard;

	wide.failures = 50;
	wide.window_ms = 6000000;
	narrow.failures = 2;
	narrow.window_ms = 10000;
	cr_expect_eq(tries(t, &wide, &w, start_ms, 1), 50);
	cr_expect_eq(throttle_check(t, &narrow, &w, start_ms), 5, "full, not full for hours");
	throttle_free(t);
}

Test(throttle, bounded)
{
	struct throttle *t = throttle_new(16);

	cr_expect_eq(botnet(t, "x", 99, start_ms), 99);
	throttle_free(t);
}

Test(throttle, out_of_memory)
{
	struct throttle_who w = who("192.0.2.1", "alice", false);
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct throttle *t;
		struct known *k;

		mem_fault_set(nth, false);
		t = throttle_new(100);
		k = known_new(100);
		if (t)
			throttle_charge(t, &standard, &w, 1, start_ms);
		if (k)
			known_note(k, &w.prefix, w.user, start_ms);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		if (t)
			cr_expect_eq(throttle_check(t, &standard, &w, start_ms), 0);
		throttle_free(t);
		known_free(k);
	}
}

Test(known, thirty_days)
{
	static const uint64_t day = 24ull * 3600 * 1000;
	struct known *k = known_new(100);
	struct throttle_who w = who("192.0.2.1", "alice", false), elsewhere = who("192.0.2.2", "alice", false);
	struct throttle_who other = who("192.0.2.1", "bob", false);

	cr_expect_not(known_is(k, &w.prefix, w.user, start_ms));
	known_note(k, &w.prefix, w.user, start_ms);
	cr_expect(known_is(k, &w.prefix, w.user, start_ms));
	cr_expect_not(known_is(k, &elsewhere.prefix, elsewhere.user, start_ms));
	cr_expect_not(known_is(k, &other.prefix, other.user, start_ms));
	cr_expect(known_is(k, &w.prefix, w.user, start_ms + 30 * day - 1));
	cr_expect_not(known_is(k, &w.prefix, w.user, start_ms + 30 * day));
	known_note(k, &w.prefix, w.user, start_ms + 29 * day);
	cr_expect(known_is(k, &w.prefix, w.user, start_ms + 50 * day));
	known_free(k);
}

Test(known, one_users_many_places_push_out_only_their_own)
{
	struct known *k = known_new(1000);
	struct throttle_who alice = who("192.0.2.1", "alice", false), mallory = alice;

	known_note(k, &alice.prefix, alice.user, start_ms);
	for (unsigned i = 0; i < 10000; i++) {
		char address[32];

		snprintf(address, sizeof(address), "10.%u.%u.1", i / 256, i % 256);
		mallory = who(address, "mallory", false);
		known_note(k, &mallory.prefix, mallory.user, start_ms + i);
		if (i == KNOWN_PREFIXES - 1) {
			struct throttle_who first = who("10.0.0.1", "mallory", false);

			cr_expect(known_is(k, &first.prefix, first.user, start_ms + i));
		}
	}
	cr_expect(known_is(k, &alice.prefix, alice.user, start_ms));
	cr_expect(known_is(k, &mallory.prefix, mallory.user, start_ms + 10000));
	mallory = who("10.0.0.1", "mallory", false);
	cr_expect_not(known_is(k, &mallory.prefix, mallory.user, start_ms + 10000));
	known_free(k);
}
