/* The resolver against a name server of the tests' own: answers, lies, losses, waiters, cache, reconfiguration. */
#include "adit/dns/dns.h"

#include "adit/base/mem.h"
#include "unit/dns/nameserver.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

enum { NEGATIVE_MS = 5000, TTL_MAX_MS = 60000, QUERIES = 4, RESOLVE_MS = 900 };

static const struct ns_zone ZONES[] = {
	{ "v4.test", { NS_DATA, 1, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "v6.test", { NS_NODATA, 0, 0, 0 }, { NS_DATA, 2, 30, 0 } },
	{ "both.test", { NS_DATA, 2, 30, 0 }, { NS_DATA, 1, 20, 0 } },
	{ "none.test", { NS_NODATA, 0, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "zero.test", { NS_DATA, 1, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "ages.test", { NS_DATA, 1, 2000000, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "past.test", { NS_DATA, 1, 0xffffffff, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "alias.test", { NS_ALIAS, 1, 3000, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "dangling.test", { NS_ALIAS_ALONE, 0, 0, 0 }, { NS_ALIAS_ALONE, 0, 0, 0 } },
	{ "big.test", { NS_TRUNCATED, 5, 30, 0 }, { NS_TRUNCATED, 3, 30, 0 } },
	{ "many.test", { NS_DATA, 16, 30, 0 }, { NS_DATA, 16, 30, 0 } },
	{ "hundred.test", { NS_TRUNCATED, 100, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "double.test", { NS_DATA, 3, 30, 3 }, { NS_NODATA, 0, 0, 0 } },
	{ "fail.test", { NS_SERVFAIL, 0, 0, 0 }, { NS_SERVFAIL, 0, 0, 0 } },
	{ "fail4.test", { NS_SERVFAIL, 0, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "fail6.test", { NS_DATA, 1, 30, 0 }, { NS_SERVFAIL, 0, 0, 0 } },
	{ "nx6.test", { NS_DATA, 1, 30, 0 }, { NS_NXDOMAIN, 0, 0, 0 } },
	{ "lost.test", { NS_SILENT, 0, 0, 0 }, { NS_SILENT, 0, 0, 0 } },
	{ "lost6.test", { NS_NODATA, 0, 0, 0 }, { NS_SILENT, 0, 0, 0 } },
	{ "garbage.test", { NS_GARBAGE, 0, 0, 0 }, { NS_GARBAGE, 0, 0, 0 } },
	{ "hold.test", { NS_HOLD, 1, 30, 0 }, { NS_HOLD, 1, 30, 0 } },
	{ "hold2.test", { NS_HOLD, 1, 30, 0 }, { NS_HOLD, 1, 30, 0 } },
	{ "hold3.test", { NS_HOLD, 1, 30, 0 }, { NS_HOLD, 1, 30, 0 } },
	{ "hold4.test", { NS_HOLD, 1, 30, 0 }, { NS_HOLD, 1, 30, 0 } },
	{ "late6.test", { NS_DATA, 1, 30, 0 }, { NS_HOLD, 1, 30, 0 } },
	{ "late4.test", { NS_HOLD, 1, 30, 0 }, { NS_DATA, 1, 30, 0 } },
	{ "wrong-id.test", { NS_WRONG_ID, 1, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "wrong-question.test", { NS_WRONG_QUESTION, 1, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ "wrong-always.test", { NS_WRONG_ALWAYS, 1, 30, 0 }, { NS_WRONG_ALWAYS, 1, 30, 0 } },
	{ "single", { NS_DATA, 1, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
	{ NULL, { NS_NODATA, 0, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
};

struct answer {
	unsigned calls;
	enum reason verdict;
	struct dns_result result;
};

static struct loop *loop;
static struct conf conf;
static struct addr server;
static struct nameserver *ns;
static struct dns *dns;

static void on_done(void *ctx, enum reason verdict, const struct dns_result *result)
{
	struct answer *a = ctx;

	a->calls++;
	a->verdict = verdict;
	a->result = *result;
}

static struct dns_hosts *hosts_of(const char *text)
{
	char path[] = "/tmp/adit-hosts-XXXXXX";
	int fd = mkstemp(path);
	struct dns_hosts *hosts;

	cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
	hosts = dns_hosts_load(path);
	unlink(path);
	cr_assert_not_null(hosts);
	return hosts;
}

static void setup(void)
{
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	ns = ns_new(loop_base(loop), ZONES);
	ns_address(ns, &server);
	conf.dns.cache_entries = 100;
	conf.dns.negative_ms = NEGATIVE_MS;
	conf.dns.ttl_max_ms = TTL_MAX_MS;
	conf.dns.queries = QUERIES;
	conf.dns.servers = &server;
	conf.dns.server_count = 1;
	conf.deadlines.resolve = RESOLVE_MS;
	dns = dns_new(loop, &conf, hosts_of("10.1.2.3 hosted.test\n::5 hosted.test\n"));
	cr_assert_not_null(dns);
}

static void teardown(void)
{
	dns_free(dns);
	ns_free(ns);
	loop_free(loop);
}

TestSuite(dns, .init = setup, .fini = teardown, .timeout = 60);

/* Turns the loop until the condition holds; every wait of c-ares is far below the bound. */
#define UNTIL(condition)                                                   \
	do {                                                               \
		for (unsigned turn_ = 0; !(condition) && turn_ < 20000; turn_++) { \
			loop_turn(loop);                                   \
			if (!(condition))                                  \
				poll(NULL, 0, 1);                          \
		}                                                          \
		cr_assert(condition);                                      \
	} while (0)

/* A few turns in which nothing may happen. */
static void settle(void)
{
	for (int i = 0; i < 5; i++)
		loop_turn(loop);
}

static struct dns_query *ask(const char *name, struct answer *a)
{
	struct dns_result at_once;
	struct dns_query *query;

	*a = (struct answer){ .calls = 0 };
	cr_assert_eq(dns_resolve(dns, name, on_done, a, &at_once, &query), REASON_OK);
	cr_assert_not_null(query, "%s was answered at once", name);
	return query;
}

/* Asks and waits; also for what is known at once. */
static struct answer get(const char *name)
{
	struct answer a = { .calls = 0 };
	struct dns_query *query;

	a.verdict = dns_resolve(dns, name, on_done, &a, &a.result, &query);
	cr_assert_eq(a.calls, 0, "%s: done inside the call", name);
	if (query) {
		cr_assert_eq(a.verdict, REASON_OK);
		UNTIL(a.calls > 0);
		settle();
		cr_assert_eq(a.calls, 1);
	}
	return a;
}

static bool is_known(const char *name)
{
	struct answer a = { .calls = 0 };
	struct dns_query *query;

	a.verdict = dns_resolve(dns, name, on_done, &a, &a.result, &query);
	if (query)
		dns_cancel(query);
	return !query;
}

static void expect(const struct answer *a, const char *addresses)
{
	char got[1024] = "", text[ADDR_TEXT_SIZE];
	size_t n = 0;

	for (size_t i = 0; i < a->result.count; i++)
		n += (size_t)snprintf(got + n, sizeof(got) - n, "%s%s", i ? " " : "",
			addr_host_text(&a->result.addr[i], text));
	cr_expect_str_eq(got, addresses);
	for (size_t i = 0; i < a->result.count; i++)
		cr_expect_eq(addr_port(&a->result.addr[i]), 0);
}

Test(dns, answers)
{
	static const struct {
		const char *name;
		enum reason verdict;
		const char *addresses;
		bool cached;
	} rows[] = {
		{ "v4.test", REASON_OK, "192.0.2.1", true },
		{ "v6.test", REASON_OK, "2001:db8::1 2001:db8::2", true },
		{ "both.test", REASON_OK, "2001:db8::1 192.0.2.1 192.0.2.2", true },
		{ "absent.test", REASON_NAME_UNKNOWN, "", true },
		{ "none.test", REASON_NAME_NO_ADDRESS, "", true },
		{ "zero.test", REASON_OK, "192.0.2.1", false },
		{ "past.test", REASON_OK, "192.0.2.1", false },
		{ "alias.test", REASON_OK, "192.0.2.1", true },
		{ "dangling.test", REASON_NAME_NO_ADDRESS, "", true },
		{ "big.test", REASON_OK,
			"2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3 192.0.2.3 192.0.2.4 192.0.2.5", true },
		{ "many.test", REASON_OK,
			"2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3 192.0.2.3 2001:db8::4 192.0.2.4 "
			"2001:db8::5 192.0.2.5 2001:db8::6 192.0.2.6 2001:db8::7 192.0.2.7 2001:db8::8 192.0.2.8", true },
		{ "hundred.test", REASON_OK,
			"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8 "
			"192.0.2.9 192.0.2.10 192.0.2.11 192.0.2.12 192.0.2.13 192.0.2.14 192.0.2.15 192.0.2.16", true },
		{ "double.test", REASON_OK, "192.0.2.1 192.0.2.2 192.0.2.3", true },
		{ "fail.test", REASON_DNS_FAILED, "", false },
		{ "fail4.test", REASON_DNS_FAILED, "", false },
		{ "fail6.test", REASON_OK, "192.0.2.1", true },
		{ "nx6.test", REASON_OK, "192.0.2.1", true },
		{ "garbage.test", REASON_DNS_FAILED, "", false },
		{ "lost.test", REASON_DNS_TIMEOUT, "", false },
		{ "lost6.test", REASON_DNS_TIMEOUT, "", false },
		{ "wrong-id.test", REASON_OK, "192.0.2.1", true },
		{ "wrong-question.test", REASON_OK, "192.0.2.1", true },
		{ "wrong-always.test", REASON_DNS_TIMEOUT, "", false },
		{ "single", REASON_OK, "192.0.2.1", true },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct answer a = get(rows[i].name);

		cr_expect_eq(a.verdict, rows[i].verdict, "%s: %s", rows[i].name, reason_name(a.verdict));
		expect(&a, rows[i].addresses);
		cr_expect_eq(is_known(rows[i].name), rows[i].cached, "%s: cached", rows[i].name);
		if (rows[i].cached) {
			struct answer again = get(rows[i].name);

			cr_expect_eq(again.verdict, rows[i].verdict);
			expect(&again, rows[i].addresses);
		}
		/* Its orphan would keep a place. */
		settle();
		UNTIL(ns_held(ns) == 0);
	}
}

Test(dns, truncation_goes_to_tcp)
{
	struct answer a = get("big.test");

	cr_expect_eq(a.verdict, REASON_OK);
	cr_expect_eq(ns_udp_count(ns), 2);
	cr_expect_eq(ns_tcp_count(ns), 2);
}

/* Neither a search list nor aliases: one question a family, of the name itself, dots or none, existing or not. */
Test(dns, environment_does_not_redirect)
{
	static const struct {
		const char *name;
		enum reason verdict;
	} rows[] = {
		{ "single", REASON_OK },
		{ "absent", REASON_NAME_UNKNOWN },
		{ "v4.test", REASON_OK },
		{ "absent.test", REASON_NAME_UNKNOWN },
	};
	char path[] = "/tmp/adit-aliases-XXXXXX";
	int fd = mkstemp(path);

	cr_assert(fd >= 0 && write(fd, "single both.test\nabsent both.test\n", 34) == 34);
	close(fd);
	setenv("HOSTALIASES", path, 1);
	setenv("LOCALDOMAIN", "search.test test", 1);
	dns_reconfigure(dns, &conf, NULL); /* c-ares looks at some of them when a channel is opened */
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned before = ns_udp_count(ns);

		cr_expect_eq(get(rows[i].name).verdict, rows[i].verdict, "%s", rows[i].name);
		cr_expect_str_eq(ns_last_name(ns), rows[i].name);
		cr_expect_eq(ns_udp_count(ns), before + 2, "%s", rows[i].name);
	}
	unlink(path);
}

Test(dns, hosts_and_localhost_need_no_server)
{
	static const struct {
		const char *name, *addresses;
	} rows[] = {
		{ "hosted.test", "10.1.2.3 ::5" },
		{ "localhost", "::1 127.0.0.1" },
		{ "a.localhost", "::1 127.0.0.1" },
		{ "x.y.localhost", "::1 127.0.0.1" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct answer a = { .calls = 0 };
		struct dns_query *query;

		cr_expect_eq(dns_resolve(dns, rows[i].name, on_done, &a, &a.result, &query), REASON_OK);
		cr_expect_null(query);
		expect(&a, rows[i].addresses);
	}
	cr_expect_eq(ns_udp_count(ns), 0);
	/* Looks alike, is not. */
	cr_expect_eq(get("notlocalhost").verdict, REASON_NAME_UNKNOWN);
	cr_expect_eq(ns_udp_count(ns), 2);

	dns_reconfigure(dns, &conf, hosts_of("10.9.9.9 localhost\n"));
	struct answer a = get("localhost");
	expect(&a, "10.9.9.9");
}

Test(dns, cache_lives_as_long_as_the_ttl)
{
	static const struct {
		const char *name;
		unsigned ms;
	} rows[] = {
		{ "v4.test", 30000 },
		{ "both.test", 20000 }, /* the shorter of the two */
		{ "alias.test", 7000 }, /* the shortest of the chain */
		{ "ages.test", TTL_MAX_MS },
		{ "absent.test", NEGATIVE_MS },
		{ "none.test", NEGATIVE_MS },
		{ "fail6.test", NEGATIVE_MS }, /* half of it is missing */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned before;

		get(rows[i].name);
		before = ns_udp_count(ns);
		loop_advance(loop, rows[i].ms - 1);
		cr_expect(is_known(rows[i].name), "%s", rows[i].name);
		cr_expect_eq(ns_udp_count(ns), before);
		loop_advance(loop, 1);
		cr_expect_not(is_known(rows[i].name), "%s", rows[i].name);
		UNTIL(ns_udp_count(ns) > before);
		UNTIL(is_known(rows[i].name)); /* is_known's own orphan has filled the cache again */
	}
}

Test(dns, cache_can_be_off)
{
	conf.dns.cache_entries = 0;
	dns_reconfigure(dns, &conf, NULL);
	get("v4.test");
	cr_expect_not(is_known("v4.test"));
}

Test(dns, equal_names_share_a_query)
{
	struct answer a[5];

	for (int i = 0; i < 5; i++)
		ask("hold.test", &a[i]);
	UNTIL(ns_held(ns) == 2);
	settle();
	cr_expect_eq(ns_udp_count(ns), 2);
	ns_release(ns);
	UNTIL(a[4].calls == 1);
	for (int i = 0; i < 5; i++) {
		cr_expect_eq(a[i].calls, 1);
		cr_expect_eq(a[i].verdict, REASON_OK);
		expect(&a[i], "2001:db8::1 192.0.2.1");
	}
	cr_expect_eq(ns_udp_count(ns), 2);
}

Test(dns, cancelled_in_flight_fills_the_cache)
{
	struct answer a, b;
	struct dns_query *first = ask("hold.test", &a), *second = ask("hold.test", &b);

	dns_cancel(first);
	UNTIL(ns_held(ns) == 2);
	dns_cancel(second);
	ns_release(ns);
	settle();
	UNTIL(is_known("hold.test"));
	cr_expect_eq(a.calls + b.calls, 0);
	cr_expect_eq(ns_udp_count(ns), 2);
}

Test(dns, cancel_of_some_leaves_the_others)
{
	struct answer a, b, c;
	struct dns_query *query;

	ask("hold.test", &a);
	query = ask("hold.test", &b);
	ask("hold.test", &c);
	dns_cancel(query);
	UNTIL(ns_held(ns) == 2);
	ns_release(ns);
	UNTIL(c.calls == 1);
	cr_expect_eq(a.calls, 1);
	cr_expect_eq(b.calls, 0);
}

static void canceller(void *ctx, enum reason verdict, const struct dns_result *result)
{
	struct dns_query **victim = ctx;

	cr_expect_eq(verdict, REASON_OK);
	cr_expect_eq(result->count, 2);
	dns_cancel(*victim);
	*victim = NULL;
}

/* Cancelled between the answer and its delivery, the narrowest state. */
Test(dns, cancelled_by_another_waiter)
{
	static struct dns_query *victim;
	static struct answer v;
	struct answer a;
	struct dns_result at_once;
	struct dns_query *query;

	cr_assert_eq(dns_resolve(dns, "hold.test", canceller, &victim, &at_once, &query), REASON_OK);
	victim = ask("hold.test", &v);
	ask("hold.test", &a);
	UNTIL(ns_held(ns) == 2);
	ns_release(ns);
	UNTIL(a.calls == 1);
	cr_expect_null(victim);
	cr_expect_eq(v.calls, 0);
}

struct asker {
	const char *name;
	struct answer next;
	unsigned calls;
	bool at_once;
};

static void ask_again(void *ctx, enum reason verdict ADIT_UNUSED, const struct dns_result *result ADIT_UNUSED)
{
	struct asker *asker = ctx;
	struct dns_query *query;

	asker->calls++;
	asker->next.verdict = dns_resolve(dns, asker->name, on_done, &asker->next, &asker->next.result, &query);
	asker->at_once = !query;
}

Test(dns, a_waiter_may_ask_again)
{
	static const struct {
		const char *first, *then;
		bool at_once;
	} rows[] = {
		{ "v4.test", "v4.test", true },
		{ "zero.test", "zero.test", false },
		{ "fail.test", "fail.test", false },
		{ "none.test", "both.test", false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct asker asker = { .name = rows[i].then };
		struct dns_result at_once;
		struct dns_query *query;

		cr_assert_eq(dns_resolve(dns, rows[i].first, ask_again, &asker, &at_once, &query), REASON_OK);
		cr_assert_not_null(query);
		UNTIL(asker.calls == 1);
		cr_expect_eq(asker.at_once, rows[i].at_once);
		if (!asker.at_once)
			UNTIL(asker.next.calls == 1);
	}
}

Test(dns, late_ipv6_is_not_waited_for)
{
	struct answer a, b, c;

	ask("late6.test", &a);
	UNTIL(ns_held(ns) == 1 && ns_udp_count(ns) == 2);
	for (int i = 0; i < 50; i++) /* the IPv4 answer is on its way through the loop */
		loop_turn(loop);
	loop_advance(loop, 499);
	cr_expect_eq(a.calls, 0);
	ask("late6.test", &b);
	loop_advance(loop, 1);
	cr_expect_eq(a.calls, 1);
	cr_expect_eq(b.calls, 1);
	expect(&a, "192.0.2.1");
	/* Whoever comes now gets it at once, without a second query. */
	c = get("late6.test");
	expect(&c, "192.0.2.1");
	ns_release(ns);
	UNTIL((c = get("late6.test")).result.count == 2);
	expect(&c, "2001:db8::1 192.0.2.1");
	cr_expect_eq(a.calls, 1);
}

Test(dns, late_ipv4_is_waited_for)
{
	struct answer a;

	ask("late4.test", &a);
	UNTIL(ns_held(ns) == 1 && ns_udp_count(ns) == 2);
	settle();
	loop_advance(loop, 100000);
	cr_expect_eq(a.calls, 0);
	ns_release(ns);
	UNTIL(a.calls == 1);
	expect(&a, "2001:db8::1 192.0.2.1");
}

Test(dns, names_in_flight_are_limited)
{
	struct answer a[4], rest;
	struct dns_query *query[4];
	const char *names[] = { "hold.test", "hold2.test", "hold3.test", "hold4.test" };

	for (int i = 0; i < QUERIES; i++)
		query[i] = ask(names[i], &a[i]);
	rest = get("v4.test");
	cr_expect_eq(rest.verdict, REASON_DNS_BUSY);
	ask("hold.test", &rest); /* one more that waits for the same name is fine */
	UNTIL(ns_held(ns) == 8);
	/* An orphan is still a query under way. */
	dns_cancel(query[1]);
	cr_expect_eq(get("v4.test").verdict, REASON_DNS_BUSY);
	/* What needs no query is answered. */
	cr_expect_eq(get("localhost").verdict, REASON_OK);
	ns_release(ns);
	UNTIL(rest.calls == 1 && a[3].calls == 1);
	cr_expect_eq(a[1].calls, 0);
	cr_expect_eq(get("v4.test").verdict, REASON_OK);
}

Test(dns, reconfigure_under_way)
{
	static const struct ns_zone other[] = {
		{ "hold.test", { NS_DATA, 2, 30, 0 }, { NS_NODATA, 0, 0, 0 } },
		{ NULL, { NS_NODATA, 0, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
	};
	struct nameserver *ns2 = ns_new(loop_base(loop), other);
	struct answer a, b, c;

	get("v4.test");
	ask("hold.test", &a);
	UNTIL(ns_held(ns) == 2);
	ns_address(ns2, &server);
	dns_reconfigure(dns, &conf, hosts_of("10.0.0.1 new.test\n"));
	/* Cache and hosts are new. */
	cr_expect_eq(get("v4.test").verdict, REASON_NAME_UNKNOWN);
	cr_expect_eq(get("hosted.test").verdict, REASON_NAME_UNKNOWN);
	c = get("new.test");
	expect(&c, "10.0.0.1");
	/* The same name is asked of the new server, while the old query goes on for who waits for it. */
	b = get("hold.test");
	expect(&b, "192.0.2.1 192.0.2.2");
	cr_expect_eq(a.calls, 0);
	ns_release(ns);
	UNTIL(a.calls == 1);
	expect(&a, "2001:db8::1 192.0.2.1");
	/* ... and its answer did not get into the cache. */
	settle();
	b = get("hold.test");
	expect(&b, "192.0.2.1 192.0.2.2");
	/* With several generations under way. */
	ns_address(ns, &server);
	for (int i = 0; i < 3; i++) {
		dns_reconfigure(dns, &conf, NULL);
		ask(i == 2 ? "hold2.test" : "hold.test", i == 0 ? &a : i == 1 ? &b : &c);
		UNTIL(ns_held(ns) == 2u * (unsigned)(i + 1));
	}
	ns_release(ns);
	UNTIL(a.calls == 1 && b.calls == 1 && c.calls == 1);
	ns_free(ns2);
}

Test(dns, free_with_orphans)
{
	struct answer a, b;

	dns_cancel(ask("hold.test", &a));
	dns_cancel(ask("lost.test", &b));
	UNTIL(ns_held(ns) == 2 && ns_udp_count(ns) == 4);
	dns_reconfigure(dns, &conf, NULL);
	dns_cancel(ask("hold2.test", &a));
	dns_free(dns);
	settle();
	dns = dns_new(loop, &conf, NULL);
	cr_assert_not_null(dns);
	cr_expect_eq(a.calls + b.calls, 0);
	cr_expect_eq(get("v4.test").verdict, REASON_OK);
}

Test(dns, nobody_listens)
{
	struct addr real = server;
	struct answer a;

	ns_free(ns); /* its port refuses */
	a = get("v4.test");
	cr_expect_eq(a.verdict, REASON_DNS_FAILED, "%s", reason_name(a.verdict));
	cr_expect_not(is_known("v4.test"));
	/* No way there at all: c-ares gives up inside the call, which must not show. */
	cr_assert(addr_parse(&server, slice_of("255.255.255.255:53")));
	dns_reconfigure(dns, &conf, NULL);
	a = get("v4.test");
	cr_expect_eq(a.verdict, REASON_DNS_FAILED, "%s", reason_name(a.verdict));
	/* Cancelled before it could be said. */
	dns_cancel(ask("v4.test", &a));
	settle();
	cr_expect_eq(a.calls, 0);
	server = real;
	ns = ns_new(loop_base(loop), ZONES);
}

Test(dns, second_server_helps)
{
	struct addr servers[3];
	struct nameserver *dead = ns_new(loop_base(loop), ZONES);
	struct answer a;

	ns_address(dead, &servers[0]);
	ns_free(dead);
	servers[1] = servers[0];
	servers[2] = server;
	conf.dns.servers = servers;
	conf.dns.server_count = 3;
	dns_reconfigure(dns, &conf, NULL);
	a = get("both.test");
	cr_expect_eq(a.verdict, REASON_OK);
	expect(&a, "2001:db8::1 192.0.2.1 192.0.2.2");
}

Test(dns, old_servers_without_edns)
{
	static const struct ns_zone old[] = {
		{ "old.test", { NS_NO_EDNS, 1, 30, 0 }, { NS_NO_EDNS, 1, 30, 0 } },
		{ "older.test", { NS_NO_EDNS, 1, 30, 0 }, { NS_NO_EDNS, 1, 30, 0 } },
		{ NULL, { NS_NODATA, 0, 0, 0 }, { NS_NODATA, 0, 0, 0 } },
	};
	struct answer a;

	ns_set_zones(ns, old);
	a = get("old.test");
	cr_expect_eq(a.verdict, REASON_OK);
	cr_expect_geq(a.result.count, 1);
	a = get("older.test");
	expect(&a, "2001:db8::1 192.0.2.1");
}

Test(dns, resolv_conf_when_no_servers_are_named)
{
	conf.dns.servers = NULL;
	conf.dns.server_count = 0;
	dns_reconfigure(dns, &conf, NULL); /* whatever it names, or nothing: a channel there is */
	cr_expect_eq(get("localhost").verdict, REASON_OK);
}

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* No state of a query may leave a descriptor behind. */
Test(dns, descriptors_are_given_back)
{
	unsigned before = open_descriptors();
	struct answer a;

	get("v4.test");
	get("big.test");
	get("fail.test");
	get("lost.test");
	settle();
	UNTIL(open_descriptors() == before);
	ask("hold.test", &a);
	UNTIL(ns_held(ns) == 2);
	cr_expect_gt(open_descriptors(), before);
	dns_reconfigure(dns, &conf, NULL);
	ns_release(ns);
	UNTIL(a.calls == 1);
	UNTIL(open_descriptors() == before);
}

/* The n-th allocation fails: an orderly verdict, no leak, and the resolver goes on working. */
static void fail_allocations_of(const char *name, enum reason verdict, bool forever)
{
	bool hit = true;

	for (unsigned long n = 1; hit; n++) {
		struct answer a = { .calls = 0 };
		struct dns_query *query;

		cr_assert_lt(n, 1000);
		dns_reconfigure(dns, &conf, NULL); /* empties the cache */
		settle();
		mem_fault_set(n, forever);
		a.verdict = dns_resolve(dns, name, on_done, &a, &a.result, &query);
		cr_assert_eq(a.calls, 0);
		if (query) {
			UNTIL(a.calls > 0);
			cr_assert_eq(a.calls, 1, "%s, allocation %lu", name, n);
		}
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(a.verdict == verdict ||
			(hit && (a.verdict == REASON_NO_MEMORY || a.verdict == REASON_DNS_FAILED ||
				a.verdict == REASON_DNS_TIMEOUT)),
			"%s, allocation %lu: %s", name, n, reason_name(a.verdict));
		settle();
	}
	cr_assert_eq(get("v6.test").verdict, REASON_OK);
}

Test(dns, every_allocation_may_fail, .timeout = 120)
{
	conf.deadlines.resolve = 300; /* a socket that went deaf shows as a time-out */
	fail_allocations_of("both.test", REASON_OK, false);
	fail_allocations_of("big.test", REASON_OK, false);
	fail_allocations_of("none.test", REASON_NAME_NO_ADDRESS, false);
	fail_allocations_of("alias.test", REASON_OK, true);
}

Test(dns, every_allocation_of_life_may_fail)
{
	bool hit = true;

	for (unsigned long n = 1; hit && n < 1000; n++) {
		struct dns_hosts *hosts = hosts_of("10.1.2.3 hosted.test\n");
		struct dns *other;

		mem_fault_set(n, false);
		other = dns_new(loop, &conf, hosts);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(hit || other);
		dns_free(other);

		/* A reconfiguration that fails leaves a resolver that works. */
		mem_fault_set(n, false);
		dns_reconfigure(dns, &conf, NULL);
		mem_fault_set(0, false);
		cr_assert_eq(get("v4.test").verdict, REASON_OK);
	}
	cr_assert_not(hit);
}
