/* Limits and summaries of refusals before authentication, with a clock that the test turns. */
#include "unit/audit/support.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"

#include <stdlib.h>

TestSuite(strangers, .init = support_init, .fini = support_fini);

static struct addr addr(const char *text)
{
	struct addr a;

	cr_assert(addr_parse(&a, slice_of(text)));
	return a;
}

/* How many of n refusals are admitted at that moment. */
static int admitted(struct strangers *s, uint64_t now, const char *client, int n)
{
	struct addr a = addr(client);
	int count = 0;

	while (n-- > 0)
		count += strangers_admit(s, now, &a, REASON_AUTH_FAILED);
	return count;
}

Test(strangers, per_prefix_and_in_all)
{
	struct strangers *s = strangers_new();
	int all = 0;

	cr_assert(s);
	cr_expect_eq(admitted(s, 5000, "192.0.2.1:1", 100), 10);
	cr_expect_eq(admitted(s, 5100, "192.0.2.200:2", 5), 0, "the same /24");
	cr_expect_eq(admitted(s, 5200, "192.0.3.1:1", 5), 5);
	cr_expect_eq(admitted(s, 5999, "192.0.3.1:1", 50), 5);
	cr_expect_eq(admitted(s, 5999, "[2001:db8:1:2::1]:1", 50), 10);
	cr_expect_eq(admitted(s, 5999, "[2001:db8:1:3::1]:1", 50), 0, "the same /48");
	cr_expect_eq(admitted(s, 6000, "192.0.2.1:1", 100), 10, "another second");
	for (int i = 0; i < 200; i++) {
		char client[32];

		snprintf(client, sizeof(client), "10.0.%d.1:9", i);
		all += admitted(s, 7000, client, 20);
	}
	cr_expect_eq(all, 100);
	cr_expect_eq(admitted(s, 7999, "203.0.113.1:1", 1), 0);
	cr_expect_eq(admitted(s, 8000, "203.0.113.1:1", 1), 1);
	strangers_free(s);
}

Test(strangers, without_an_address)
{
	struct strangers *s = strangers_new();
	struct strangers_row row;

	for (int i = 0; i < STRANGERS_PER_PREFIX; i++)
		cr_assert(strangers_admit(s, 1000, NULL, REASON_AUTH_FAILED));
	cr_assert_not(strangers_admit(s, 1000, NULL, REASON_AUTH_FAILED));
	strangers_count(s, 1000, 1, NULL, REASON_HEAD_TIMEOUT);
	cr_assert_eq(strangers_take(s, &row, 1), 1u);
	cr_assert(!row.has_prefix && row.reason == REASON_HEAD_TIMEOUT && row.count == 1);
	strangers_free(s);
}

/* Requests without a password must not push guesses out of the file that an operator's ban list reads. */
Test(strangers, half_of_the_rate_is_kept_for_wrong_passwords)
{
	struct strangers *s = strangers_new();
	unsigned written = 0;
	struct addr a;

	cr_assert_not_null(s);
	for (unsigned network = 0; network < STRANGERS_IN_ALL / STRANGERS_PER_PREFIX * 4; network++) {
		char text[32];

		snprintf(text, sizeof(text), "10.0.%u.1:1", network);
		cr_assert(addr_parse(&a, slice_of(text)));
		for (int i = 0; i < STRANGERS_PER_PREFIX; i++)
			written += strangers_admit(s, 1000, &a, REASON_AUTH_REQUIRED);
		if (network == 0)
			cr_assert_eq(written, STRANGERS_PER_PREFIX / 2);
	}
	cr_assert_eq(written, STRANGERS_IN_ALL / 2);
	a = addr("192.0.2.1:1");
	for (int i = 0; i < STRANGERS_PER_PREFIX; i++)
		cr_assert(strangers_admit(s, 1000, &a, REASON_AUTH_FAILED), "%d", i);
	cr_assert_not(strangers_admit(s, 1000, &a, REASON_AUTH_FAILED));
	strangers_free(s);
}

Test(strangers, rows)
{
	struct strangers *s = strangers_new();
	struct addr one = addr("192.0.2.1:1"), neighbour = addr("192.0.2.9:1"), other = addr("[2001:db8::1]:1");
	struct strangers_row rows[8];

	cr_assert_eq(strangers_due_ms(s), 0u);
	cr_assert(strangers_count(s, 1000, 11, &one, REASON_AUTH_FAILED), "the first");
	cr_assert_not(strangers_count(s, 2000, 12, &neighbour, REASON_AUTH_FAILED));
	cr_assert_not(strangers_count(s, 2000, 13, &one, REASON_AUTH_REQUIRED));
	cr_assert_not(strangers_count(s, 2000, 14, &other, REASON_AUTH_FAILED));
	cr_assert_eq(strangers_due_ms(s), 61000u);
	cr_assert_eq(stats_get(STAT_AUDIT_SUPPRESSED), 4);
	cr_assert_eq(strangers_take(s, rows, 2), 2u, "no more than asked for");
	cr_assert_eq(strangers_due_ms(s), 61000u, "there is more");
	cr_assert_eq(strangers_take(s, rows + 2, 6), 1u);
	cr_assert_eq(strangers_due_ms(s), 0u);
	cr_assert(rows[0].count == 2 && rows[0].since_us == 11 && rows[0].reason == REASON_AUTH_FAILED && rows[0].has_prefix);
	cr_assert(rows[1].count == 1 && rows[1].reason == REASON_AUTH_REQUIRED);
	cr_assert(rows[2].count == 1 && rows[2].since_us == 14 && rows[2].has_prefix);
	cr_assert(strangers_count(s, 70000, 15, &one, REASON_AUTH_FAILED), "a new minute");
	strangers_free(s);
}

/* More networks than there are rows: none is forgotten, the rest is counted under its reason. */
Test(strangers, rows_are_bounded)
{
	enum { MANY = STRANGERS_ROWS + 500 };
	struct strangers *s = strangers_new();
	static struct strangers_row rows[STRANGERS_ROWS + REASON_COUNT + 1];
	unsigned long long others = 0, sum = 0;
	size_t n;

	for (int i = 0; i < 2 * MANY; i++) {
		char text[32];
		struct addr a;

		snprintf(text, sizeof(text), "10.%d.%d.1:9", i % MANY / 256, i % MANY % 256);
		a = addr(text);
		strangers_count(s, 1000, 1, &a, i % MANY % 2 ? REASON_AUTH_FAILED : REASON_AUTH_REQUIRED);
	}
	n = strangers_take(s, rows, sizeof(rows) / sizeof(rows[0]));
	cr_assert_eq(n, (size_t)STRANGERS_ROWS + 2);
	for (size_t i = 0; i < n; i++) {
		sum += rows[i].count;
		others += rows[i].has_prefix ? 0 : rows[i].count;
	}
	cr_assert_eq(sum, 2u * MANY);
	cr_assert_eq(others, 2u * 500);
	cr_assert_eq(strangers_take(s, rows, 1), 0u);
	strangers_free(s);
}

/* A summary is taken in pieces; a piece that ends among the reasons' own rows loses none of them. */
Test(strangers, pieces)
{
	for (size_t piece = 1; piece < 6; piece++) {
		struct strangers *s = strangers_new();
		struct strangers_row rows[6];
		unsigned long long sum = 0;
		size_t n, turns = 0;

		mem_fault_set(1, true); /* no memory: all goes into the reasons' rows */
		for (int r = 0; r < 5; r++)
			strangers_count(s, 1000, 1, NULL, (enum reason)(REASON_COUNT - 1 - r));
		mem_fault_set(0, false);
		strangers_count(s, 1000, 1, NULL, REASON_OK);
		do {
			n = strangers_take(s, rows, piece);
			for (size_t i = 0; i < n; i++)
				sum += rows[i].count;
		} while (n == piece && ++turns < 20);
		cr_assert_eq(sum, 6u, "pieces of %zu", piece);
		cr_assert_eq(strangers_due_ms(s), 0u);
		strangers_free(s);
	}
}

Test(strangers, out_of_memory)
{
	for (unsigned long nth = 1;; nth++) {
		struct strangers *s;

		mem_fault_set(nth, false);
		s = strangers_new();
		if (s) {
			struct addr a = addr("192.0.2.1:1");

			(void)strangers_admit(s, 1, &a, REASON_AUTH_FAILED);
			strangers_count(s, 1, 1, &a, REASON_AUTH_FAILED);
		}
		strangers_free(s);
		if (!mem_fault_hit())
			break;
	}
	mem_fault_set(0, false);
}

/* --- through the service --------------------------------------------------------------------------------------- */

static void refuse(struct audit *audit, const char *client, enum reason reason, int n)
{
	struct addr a = addr(client);

	while (n-- > 0) {
		char id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_DENY, NULL, id);

		event.client = &a;
		event.claimed_user = slice_of("alice");
		event.reason = reason;
		cr_assert_eq(audit_submit(audit, &event, NULL, NULL), REASON_OK);
	}
}

Test(strangers, storm_and_summary)
{
	const char *file = support_path("strangers.jsonl");
	struct audit *audit;

	atomic_store(&support_clock_ms, 1000000);
	audit = support_audit(&support_sys);
	refuse(audit, "192.0.2.1:1", REASON_AUTH_FAILED, 500);
	refuse(audit, "198.51.100.1:1", REASON_AUTH_REQUIRED, 3);
	support_until(support_count(file) == 13);
	cr_assert_eq(stats_get(STAT_AUDIT_SUPPRESSED), 490);
	atomic_store(&support_clock_ms, 1000000 + STRANGERS_SUMMARY_MS - 1);
	audit_kick(audit);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "bob"), REASON_OK); /* the writer has looked */
	cr_assert_eq(support_count(file), 13);
	atomic_store(&support_clock_ms, 1000000 + STRANGERS_SUMMARY_MS);
	audit_kick(audit);
	support_until(support_count(file) == 14);
	cr_assert(support_has(file, "kind", "deny_summary") && support_has(file, "count", "490"));
	cr_assert(support_has(file, "prefix", "192.0.2.0/24") && support_has(file, "node", "node1"));
	/* what is open at the end is told at the end */
	refuse(audit, "192.0.2.1:1", REASON_AUTH_FAILED, 30);
	audit_free(audit);
	cr_assert_eq(support_count(file), 14 + 10 + 1);
	cr_assert(support_has(file, "count", "20"));
	cr_assert_eq(support_count(support_path("access.jsonl")), 1);
	cr_assert_eq(support_count(support_path("users/alice.jsonl")), -1, "a claimed name is nobody's file");
}

/* The cap, with the file rotated; two files are all there ever are. */
Test(strangers, size_is_capped)
{
	enum { CAP = 64 << 10, ROUNDS = 100 };
	struct audit_config config = { .directory = support_dir, .stranger_bytes = CAP };
	char error[256];
	struct audit *audit;
	int now, before;

	atomic_store(&support_clock_ms, 1000000);
	audit = audit_new_on(&config, &support_sys, error, sizeof(error));
	cr_assert(audit);
	for (int round = 0; round < ROUNDS; round++) {
		atomic_fetch_add(&support_clock_ms, 1000);
		for (int net = 0; net < 10; net++) {
			char client[32];

			snprintf(client, sizeof(client), "10.0.%d.1:9", net);
			refuse(audit, client, REASON_AUTH_FAILED, 10);
		}
		cr_assert_eq(support_submit(audit, AUDIT_OPEN, "bob"), REASON_OK);
	}
	audit_free(audit);
	now = support_count(support_path("strangers.jsonl"));
	before = support_count(support_path("strangers.jsonl.1"));
	cr_assert(now > 0 && before > 100);
	for (int i = 0; i < 2; i++) {
		size_t n;
		char *all = support_read(support_path(i ? "strangers.jsonl" : "strangers.jsonl.1"), &n);

		cr_assert_leq(n, (size_t)CAP);
		free(all);
	}
	cr_assert_eq(support_count(support_path("strangers.jsonl.2")), -1);
	cr_assert_eq(support_count(support_path("access.jsonl")), ROUNDS);
}

/* Strangers while the writer hangs: users find the queue as empty as before, and nothing is lost but the detail. */
Test(strangers, never_in_the_way_of_users)
{
	struct audit_config config = { .directory = support_dir, .queue = 5 };
	struct support_waiter waiters[5] = { { 0, -1 } };
	struct audit *audit;
	char error[256];
	long long counted;

	atomic_store(&support_clock_ms, 1000000);
	audit = audit_new_on(&config, &support_sys, error, sizeof(error));
	cr_assert(audit);
	atomic_store(&support_hang, true);
	for (int round = 0; round < 30; round++) {
		atomic_fetch_add(&support_clock_ms, 1000);
		for (int net = 0; net < 10; net++) {
			char client[32];

			snprintf(client, sizeof(client), "10.0.%d.1:9", net);
			refuse(audit, client, REASON_AUTH_FAILED, 10);
		}
	}
	for (int i = 0; i < 5; i++) {
		char id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_OPEN, "alice", id);

		cr_assert_eq(audit_submit(audit, &event, support_done, &waiters[i]), REASON_OK);
	}
	atomic_store(&support_hang, false);
	for (int i = 0; i < 5; i++)
		support_until(atomic_load(&waiters[i].calls) == 1 && atomic_load(&waiters[i].verdict) == REASON_OK);
	counted = stats_get(STAT_AUDIT_SUPPRESSED);
	audit_free(audit);
	cr_assert_geq(counted, 3000 - 2 * STRANGERS_QUEUE);
	cr_assert_geq(support_count(support_path("strangers.jsonl")) + counted, 3000);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 0);
}

/* Their file cannot be written: counted, said, and no user notices. */
Test(strangers, their_file_fails_alone)
{
	struct audit *audit;

	atomic_store(&support_clock_ms, 1000000);
	audit = support_audit(&support_sys);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(remove(support_path("strangers.jsonl")), 0);
	atomic_store(&support_no_open_users, true);
	refuse(audit, "192.0.2.1:1", REASON_AUTH_FAILED, 5);
	support_until(stats_get(STAT_AUDIT_FAILED) == 5);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	atomic_store(&support_no_open_users, false);
	refuse(audit, "198.51.100.1:1", REASON_AUTH_FAILED, 5);
	support_until(support_count(support_path("strangers.jsonl")) == 5);
	audit_free(audit);
}
