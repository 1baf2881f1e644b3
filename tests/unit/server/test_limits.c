/* Admission: each limit alone, what frees a place, and what a burst of handshakes costs. */
#include "server/limits.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/log/stats.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>

static struct limits *l;
static struct conf conf;

static void setup(void)
{
	conf = (struct conf){ .limits.handshakes_per_prefix = { 0, 1000 } };
	l = limits_new();
	cr_assert_not_null(l);
}

static void teardown(void)
{
	cr_expect_eq(stats_get(STAT_CONNECTIONS), 0);
	cr_expect_eq(stats_get(STAT_UNAUTHENTICATED), 0);
	limits_free(l);
}

TestSuite(limits, .init = setup, .fini = teardown, .timeout = 60);

static struct addr at(const char *text)
{
	struct addr a;

	cr_assert(addr_parse(&a, slice_of(text)), "%s", text);
	return a;
}

static enum reason enter(const char *from)
{
	struct addr a = at(from);

	return limits_enter(l, &conf, &a);
}

static void leave(const char *from, bool authenticated)
{
	struct addr a = at(from);

	limits_leave(l, &a, authenticated);
}

static void login(const char *from)
{
	struct addr a = at(from);

	limits_authenticated(l, &a);
}

Test(limits, all_off_lets_everybody_in)
{
	for (unsigned i = 0; i < 5000; i++)
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(stats_get(STAT_CONNECTIONS), 5000);
	for (unsigned i = 0; i < 5000; i++)
		leave("192.0.2.1:2", false);
}

Test(limits, connections)
{
	conf.limits.connections = 2;
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_OK);
	login("192.0.2.1:1");
	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(enter("192.0.2.3:1"), REASON_LIMIT_CONNECTIONS, "a login frees no place here");
	leave("192.0.2.1:1", true);
	cr_assert_eq(enter("192.0.2.3:1"), REASON_OK);
	leave("192.0.2.2:1", false);
	leave("192.0.2.3:1", false);
}

Test(limits, unauthenticated)
{
	conf.limits.unauthenticated = 2;
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.3:1"), REASON_LIMIT_UNAUTHENTICATED);
	login("192.0.2.1:1");
	cr_assert_eq(enter("192.0.2.3:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.4:1"), REASON_LIMIT_UNAUTHENTICATED);
	leave("192.0.2.1:1", true);
	cr_assert_eq(enter("192.0.2.4:1"), REASON_LIMIT_UNAUTHENTICATED, "who had logged in was no stranger");
	leave("192.0.2.2:1", false);
	cr_assert_eq(enter("192.0.2.4:1"), REASON_OK);
	leave("192.0.2.3:1", false);
	leave("192.0.2.4:1", false);
}

Test(limits, unauthenticated_of_one_network)
{
	static const struct {
		const char *first, *second;
		bool same;
	} rows[] = {
		{ "192.0.2.1:1", "192.0.2.1:2", true },
		{ "192.0.2.1:1", "192.0.2.2:1", false },
		{ "[2001:db8::1]:1", "[2001:db8::ffff:2]:1", true },
		{ "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false },
	};

	conf.limits.unauthenticated_per_prefix = 1;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		enum reason second;

		cr_assert_eq(enter(rows[i].first), REASON_OK);
		second = enter(rows[i].second);
		cr_assert_eq(second, rows[i].same ? REASON_LIMIT_PREFIX : REASON_OK, "row %zu", i);
		if (second == REASON_OK)
			leave(rows[i].second, false);
		login(rows[i].first);
		cr_assert_eq(enter(rows[i].second), REASON_OK, "the first is no stranger any more");
		leave(rows[i].second, false);
		leave(rows[i].first, true);
	}
}

Test(limits, handshakes_of_one_network_refill_with_time)
{
	unsigned waited = 0;

	conf.limits.handshakes_per_prefix = (struct conf_rate){ 3, 60000 };
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.1:1"), REASON_LIMIT_HANDSHAKES);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_OK);
	for (unsigned i = 0; i < 3; i++)
		leave("192.0.2.1:1", false);
	cr_assert_eq(enter("192.0.2.1:1"), REASON_LIMIT_HANDSHAKES, "leaving gives none back");
	leave("192.0.2.2:1", false);
	conf.limits.handshakes_per_prefix = (struct conf_rate){ 3, 10 };
	while (enter("192.0.2.1:1") != REASON_OK && waited++ < 10000)
		poll(NULL, 0, 1);
	cr_assert_lt(waited, 10000u);
	leave("192.0.2.1:1", false);
}

/* While the limit is off its bucket must not be emptied below nothing. */
Test(limits, a_limit_that_is_turned_on_later_starts_full)
{
	for (unsigned i = 0; i < 100000; i++) {
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
		leave("192.0.2.1:1", false);
	}
	conf.limits.handshakes_per_prefix = (struct conf_rate){ 5, 3600 * 1000 };
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
		leave("192.0.2.1:1", false);
	}
	conf.limits.handshakes_per_prefix = (struct conf_rate){ 0, 1000 };
	for (unsigned i = 0; i < 1000; i++) {
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
		leave("192.0.2.1:1", false);
	}
	conf.limits.handshakes_per_prefix = (struct conf_rate){ 5, 10 };
	for (unsigned i = 0; i < 200 && enter("192.0.2.1:1") != REASON_OK; i++)
		poll(NULL, 0, 1);
	leave("192.0.2.1:1", false);
	cr_assert_eq(stats_get(STAT_CONNECTIONS), 0, "10 ms fill it, whatever was before");
}

static void unused(const char *from, uint64_t began_ms)
{
	struct addr a = at(from);

	limits_unused_http2(l, &a, began_ms);
}

static bool doubts(const char *from)
{
	struct addr a = at(from);

	return limits_doubts_http2(l, &a);
}

Test(limits, who_gives_http2_up_again_and_again)
{
	cr_assert_not(doubts("192.0.2.1:1"));
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_OK);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_not(doubts("192.0.2.1:2"));
		unused("192.0.2.1:3", clock_mono_ms());
	}
	cr_assert(doubts("192.0.2.1:4"));
	cr_assert_not(doubts("192.0.2.2:1"));
	cr_assert_not(doubts("192.0.2.3:1"), "nobody knows it");
	leave("192.0.2.1:1", false);
	leave("192.0.2.2:1", false);
}

/* A browser opens several at once, and uses one. */
Test(limits, unused_connections_side_by_side_count_once)
{
	uint64_t began_ms = clock_mono_ms();

	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	while (clock_mono_ms() < began_ms + 30)
		poll(NULL, 0, 1);
	for (unsigned i = 0; i < 10; i++)
		unused("192.0.2.1:1", began_ms);
	cr_assert_not(doubts("192.0.2.1:1"));
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_not(doubts("192.0.2.1:1"));
		unused("192.0.2.1:1", clock_mono_ms());
	}
	cr_assert(doubts("192.0.2.1:1"));
	leave("192.0.2.1:1", false);
}

/* Who looks every two seconds whether the proxy is there does not give up anything. */
Test(limits, unused_connections_at_intervals_do_not_count)
{
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	for (unsigned i = 0; i < 5; i++)
		unused("192.0.2.1:1", clock_mono_ms());
	unused("192.0.2.1:1", clock_mono_ms() + 2000);
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_not(doubts("192.0.2.1:1"));
		unused("192.0.2.1:1", clock_mono_ms());
	}
	cr_assert(doubts("192.0.2.1:1"));
	leave("192.0.2.1:1", false);
}

Test(limits, a_network_never_counts_below_nothing)
{
	conf.limits.unauthenticated_per_prefix = 1;
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	/* so many others that the map forgets the first */
	conf.limits.unauthenticated_per_prefix = 0;
	for (unsigned i = 0; i < 16 * 4096 * 2; i++) {
		char text[32];

		(void)snprintf(text, sizeof(text), "10.%u.%u.%u:1", i >> 16 & 255, i >> 8 & 255, i & 255);
		cr_assert_eq(enter(text), REASON_OK);
		leave(text, false);
	}
	leave("192.0.2.1:1", false);
	conf.limits.unauthenticated_per_prefix = 1;
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.1:1"), REASON_LIMIT_PREFIX);
	leave("192.0.2.1:1", false);
	cr_assert_eq(enter("192.0.2.1:1"), REASON_OK);
	leave("192.0.2.1:1", false);
}

static void *come_and_go(void *ctx)
{
	(void)ctx;
	for (unsigned i = 0; i < 20000; i++) {
		struct addr a = at(i % 2 ? "192.0.2.1:1" : "[2001:db8::1]:1");

		if (limits_enter(l, &conf, &a) != REASON_OK)
			continue;
		if (i % 3 == 0)
			limits_authenticated(l, &a);
		limits_leave(l, &a, i % 3 == 0);
	}
	return NULL;
}

Test(limits, four_threads_leave_nothing_behind)
{
	pthread_t threads[4];

	conf.limits.connections = 3;
	conf.limits.unauthenticated_per_prefix = 2;
	for (size_t i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, come_and_go, NULL), 0);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(enter("192.0.2.1:1"), REASON_OK, "its places are free again");
	cr_assert_eq(enter("192.0.2.1:1"), REASON_LIMIT_PREFIX);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_OK);
	cr_assert_eq(enter("192.0.2.2:1"), REASON_LIMIT_CONNECTIONS);
	for (unsigned i = 0; i < 2; i++)
		leave("192.0.2.1:1", false);
	leave("192.0.2.2:1", false);
}

Test(limits, every_allocation_may_fail)
{
	for (unsigned long n = 1;; n++) {
		struct limits *other;
		struct addr a = at("192.0.2.1:1");
		bool hit;

		mem_fault_set(n, false);
		other = limits_new();
		if (other && limits_enter(other, &conf, &a) == REASON_OK)
			limits_leave(other, &a, false);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		limits_free(other);
		cr_assert_eq(stats_get(STAT_CONNECTIONS), 0);
		if (!hit) {
			cr_assert_gt(n, 16ul);
			break;
		}
	}
	limits_free(NULL);
}
