/* The request machine from the first byte of a head to the last record: refusals, waits, tunnels. */
#include "adit/base/mem.h"
#include "adit/http/h2.h"
#include "adit/log/stats.h"
#include "component/site.h"
#include "component/tcp_pair.h"

#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { HOLE_FILL = 16 };

TestSuite(tunnel, .init = site_setup, .timeout = 300);

/* --- refusals --- */

struct row {
	const char *to;
	const char *credentials;
	enum reason reason;
	const char *rule; /* in the record */
};

Test(tunnel, each_refusal_says_the_same_to_the_client_to_the_record_and_to_the_counter)
{
	static const struct row rows[] = {
		{ "target.test:443", NULL, REASON_AUTH_REQUIRED, NULL },
		{ "target.test:443", "%%%", REASON_AUTH_MALFORMED, NULL },
		{ "target.test:443", ALICE_WRONG, REASON_AUTH_FAILED, NULL },
		{ "target.test:443", "bm9ib2R5OnNlY3JldA==", REASON_AUTH_FAILED, NULL },
		{ "denied.test:443", ALICE, REASON_DENIED, "no" },
		{ "10.0.0.1:443", ALICE, REASON_ADDRESS_DENIED, "default" },
		{ "inside.test:443", ALICE, REASON_ADDRESS_DENIED, "default" },
		{ OWN, ALICE, REASON_PROXY_LOOP, "default" },
		{ "nobody.test:443", ALICE, REASON_NAME_UNKNOWN, NULL },
		{ "nodata.test:443", ALICE, REASON_NAME_NO_ADDRESS, NULL },
		{ "broken.test:443", ALICE, REASON_DNS_FAILED, NULL },
		{ "127.0.0.1:1", ALICE, REASON_DIAL_REFUSED, "lab" },
		{ "a:0", ALICE, REASON_BAD_PORT, NULL },
		{ "-:443", ALICE, REASON_BAD_HOST, NULL },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		long long before = stats_reason_get(row->reason);
		bool logged_in = row->credentials && strcmp(row->credentials, ALICE) == 0 && row->reason != REASON_BAD_PORT &&
				 row->reason != REASON_BAD_HOST;
		char rule[64];

		open_site(NULL, 0);
		cr_assert(connect_client());
		say_connect(row->to, row->credentials);
		expect_refusal(row->reason);
		cr_expect(m->closed && m->how == STREAM_CLOSE_FLUSH);
		cr_expect_eq(logins, logged_in, "%s", row->to);
		cr_expect_eq(stats_reason_get(row->reason), before + 1);
		expect_last("deny", row->reason);
		snprintf(rule, sizeof(rule), "\"rule\":\"%s\"", row->rule ? row->rule : "");
		cr_expect_eq(count("\"rule\":") > 0, row->rule != NULL, "%s", records);
		if (row->rule)
			cr_expect_eq(count(rule), 1u, "%s", records);
		cr_expect_eq(count("\"user\":\"alice\""), logged_in, "%s", records);
		drop_client();
		close_site();
	}
}

Test(tunnel, what_is_wrong_with_a_head_is_recorded)
{
	static const struct {
		const char *head;
		enum reason reason;
	} rows[] = {
		{ "nonsense\r\n\r\n", REASON_BAD_REQUEST_LINE },
		{ "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", REASON_METHOD_NOT_ALLOWED },
		{ "BREW / HTTP/1.1\r\nHost: x\r\n\r\n", REASON_METHOD_UNKNOWN },
		{ "GET http://target.test/ HTTP/1.1\r\nHost: target.test\r\n\r\n", REASON_AUTH_REQUIRED },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		open_site(NULL, 0);
		cr_assert(connect_client());
		mem_feed_text(m, rows[i].head);
		expect_refusal(rows[i].reason);
		expect_last("deny", rows[i].reason);
		if (rows[i].reason == REASON_METHOD_NOT_ALLOWED)
			cr_expect(has("Allow: "), "RFC 9110 15.5.6: %s", m->out);
		drop_client();
		close_site();
	}
}

/* What a connection as a whole has done is an access, too, and is refused by the end of it. */
Test(tunnel, a_flood_over_http2_is_recorded_and_counted)
{
	static const char settings[9] = { [3] = 4 };
	long long before = stats_reason_get(REASON_H2_ABUSE);
	struct h2 *h2;

	open_site(NULL, 0);
	cr_assert(connect_client());
	drop_client();
	m = mem_stream_new(loop);
	h2 = h2_start(loop, &m->base, &client, conf, &tunnel_handler, &env, env.buffer, env.buffer_bytes);
	cr_assert_not_null(h2);
	mem_feed_text(m, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	for (unsigned i = 0; i < 5000; i++)
		mem_feed(m, settings, sizeof(settings));
	UNTIL(loop, m->gone);
	cr_expect_eq(stats_reason_get(REASON_H2_ABUSE), before + 1);
	expect_last("deny", REASON_H2_ABUSE);
	cr_expect_eq(count("\"protocol\":\"h2\""), 1u, "%s", records);
	h2_free(h2);
	mem_stream_free(m);
	m = NULL;
	close_site();
}

Test(tunnel, health_is_no_access)
{
	open_site(NULL, 0);
	cr_assert(connect_client());
	mem_feed_text(m, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	UNTIL(loop, m->out_n > 0);
	cr_assert(has("HTTP/1.1 200 OK"));
	env.draining = true;
	mem_feed_text(m, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	UNTIL(loop, has("HTTP/1.1 503"));
	take_records();
	cr_assert_str_eq(records, "");
	drop_client();
	close_site();
}

Test(tunnel, draining_refuses_new_tunnels)
{
	open_site(NULL, 0);
	env.draining = true;
	cr_assert(connect_client());
	say_connect(target_at("target.test"), ALICE);
	expect_refusal(REASON_DRAINING);
	expect_last("deny", REASON_DRAINING);
	drop_client();
	close_site();
}

Test(tunnel, throttled_with_a_time_to_come_again)
{
	static const char *const wrong[] = { "YWxpY2U6d3Jvbmcx", "YWxpY2U6d3Jvbmcy", "YWxpY2U6d3Jvbmcz", "YWxpY2U6d3Jvbmc0" };

	open_site(NULL, 0);
	for (size_t i = 0; i < 4; i++) {
		cr_assert(connect_client());
		say_connect("target.test:443", wrong[i]);
		UNTIL(loop, m->closed);
		if (i < 3) {
			drop_client();
		} else {
			expect_refusal(REASON_AUTH_THROTTLED);
			cr_expect(has("Retry-After: "));
		}
	}
	drop_client();
	close_site();
}

Test(tunnel, a_stopped_auth_service_refuses)
{
	open_site(NULL, 0);
	auth_stop(env.auth);
	cr_assert(connect_client());
	say_connect("target.test:443", ALICE);
	expect_refusal(REASON_AUTH_ERROR);
	expect_last("deny", REASON_AUTH_ERROR);
	drop_client();
	close_site();
}

Test(tunnel, nothing_is_let_through_that_cannot_be_recorded)
{
	char byte;
	int fd;

	open_site(NULL, 0);
	stop_audit();
	cr_assert(connect_client());
	say_connect(target_at("target.test"), ALICE);
	mem_feed_text(m, "early");
	expect_refusal(REASON_AUDIT_UNAVAILABLE);
	fd = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	cr_assert_geq(fd, 0, "it was dialled");
	cr_assert_lt(recv(fd, &byte, 1, 0), 0, "and reset without a byte");
	close(fd);
	drop_client();
	close_site();
}

Test(tunnel, too_many_passwords_wait)
{
	static const struct conf_option queue = { "auth.queue", "1" };
	static const char *const passwords[] = { "c2xvdzpwMQ==", "c2xvdzpwMg==", "c2xvdzpwMw==", "c2xvdzpwNA==" };
	enum { CLIENTS = 4 };
	struct mem_stream *streams[CLIENTS];
	struct h1 *conns[CLIENTS];
	long long before = stats_reason_get(REASON_AUTH_BUSY);
	unsigned busy = 0;

	open_site(&queue, 1);
	for (size_t i = 0; i < CLIENTS; i++) {
		cr_assert(connect_client());
		say_connect("target.test:443", passwords[i]);
		streams[i] = m;
		conns[i] = h;
	}
	UNTIL(loop, stats_reason_get(REASON_AUTH_BUSY) > before);
	for (size_t i = 0; i < CLIENTS; i++) {
		m = streams[i];
		h = conns[i];
		if (has("details=\"auth_busy\"")) {
			busy++;
			expect_refusal(REASON_AUTH_BUSY);
		}
		drop_client();
	}
	cr_assert_geq(busy, 1u);
	close_site();
}

Test(tunnel, a_source_address_that_is_not_ours)
{
	static const struct conf_option source = { "dial.source_v4", "203.0.113.9" };

	open_site(&source, 1);
	cr_assert(connect_client());
	say_connect(target_at("127.0.0.1"), ALICE);
	expect_refusal(REASON_DIAL_SOURCE);
	expect_last("deny", REASON_DIAL_SOURCE);
	drop_client();
	close_site();
}

Test(tunnel, without_descriptors)
{
	struct rlimit before, none;

	open_site(NULL, 0);
	cr_assert(connect_client());
	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	say_connect(target_at("127.0.0.1"), ALICE);
	UNTIL(loop, m->out_n > 0);
	setrlimit(RLIMIT_NOFILE, &before);
	expect_refusal(REASON_NO_DESCRIPTORS);
	drop_client();
	close_site();
}

Test(tunnel, too_many_names)
{
	static const struct conf_option queries = { "dns.queries", "1" };
	struct mem_stream *first_stream;
	struct h1 *first;

	open_site(&queries, 1);
	cr_assert(connect_client());
	say_connect("silent.test:443", ALICE);
	UNTIL(loop, ns_udp_count(ns) > 0);
	first_stream = m;
	first = h;
	cr_assert(connect_client());
	say_connect("nobody.test:443", ALICE);
	expect_refusal(REASON_DNS_BUSY);
	drop_client();
	m = first_stream;
	h = first;
	drop_client();
	close_site();
}

/* --- waiting: in each step a deadline and a client that leaves --- */

static sem_t writer_in, writer_go;

static void hold_writer(void *ctx, enum reason verdict)
{
	(void)ctx;
	(void)verdict;
	sem_post(&writer_in);
	while (sem_wait(&writer_go) != 0)
		;
}

/* The writer's thread is kept from writing until writer_go. */
static void block_writer(void)
{
	struct audit_event event = { .kind = AUDIT_OPEN, .id = client.id, .user = "slow" };

	sem_init(&writer_in, 0, 0);
	sem_init(&writer_go, 0, 0);
	cr_assert_eq(audit_submit(env.audit, &event, hold_writer, NULL), REASON_OK);
	while (sem_wait(&writer_in) != 0)
		;
}

struct hole {
	int fd, fill[HOLE_FILL];
	uint16_t port;
};

/* A listener whose queue is full. */
static struct hole hole_open(void)
{
	struct hole hole;
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	hole.fd = listen_here(&hole.port, 0);
	at.sin_port = htons(hole.port);
	for (int i = 0; i < HOLE_FILL; i++) {
		hole.fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(hole.fill[i], (struct sockaddr *)&at, sizeof(at));
	}
	return hole;
}

static void hole_close(struct hole *hole)
{
	for (int i = 0; i < HOLE_FILL; i++)
		close(hole->fill[i]);
	close(hole->fd);
}

enum wait { WAIT_AUTH, WAIT_DNS, WAIT_DIAL, WAIT_AUDIT, WAIT_COUNT };

/* Brings a request to the step and leaves it there. */
static void go_wait(enum wait at, struct hole *hole)
{
	char to[64];

	cr_assert(connect_client());
	switch (at) {
	case WAIT_AUTH:
		say_connect("target.test:443", SLOW);
		return;
	case WAIT_DNS:
		say_connect("silent.test:443", ALICE);
		UNTIL(loop, ns_udp_count(ns) > 0);
		return;
	case WAIT_DIAL:
		*hole = hole_open();
		snprintf(to, sizeof(to), "127.0.0.1:%u", hole->port);
		say_connect(to, ALICE);
		UNTIL(loop, logins == 1);
		return;
	default: {
		int fd;

		block_writer();
		say_connect(target_at("127.0.0.1"), ALICE);
		UNTIL(loop, (fd = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0);
		for (int i = 0; i < 5; i++)
			loop_turn(loop);
		close(fd);
		return;
	}
	}
}

static void wait_over(enum wait at, struct hole *hole)
{
	if (at == WAIT_DIAL)
		hole_close(hole);
	else if (at == WAIT_AUDIT)
		sem_post(&writer_go);
}

Test(tunnel, each_step_has_its_deadline)
{
	static const enum reason reasons[] = { REASON_AUTH_TIMEOUT, REASON_DNS_TIMEOUT, REASON_DIAL_TIMEOUT, REASON_AUDIT_TIMEOUT };

	for (int at = 0; at < WAIT_COUNT; at++) {
		struct hole hole;
		long long before = stats_reason_get(reasons[at]);

		open_site(NULL, 0);
		go_wait((enum wait)at, &hole);
		cr_assert_eq(m->out_n, 0u);
		for (int i = 0; i < 60 && m->out_n == 0; i++)
			loop_advance(loop, 500);
		expect_refusal(reasons[at]);
		cr_assert_eq(stats_reason_get(reasons[at]), before + 1);
		wait_over((enum wait)at, &hole);
		UNTIL(loop, loop_held(loop) <= 1 + (at == WAIT_AUTH));
		if (at == WAIT_AUDIT) /* the open may still be written: then its end is, too */
			expect_last("close", reasons[at]);
		else
			expect_last("deny", reasons[at]);
		drop_client();
		close_site();
	}
}

Test(tunnel, a_client_may_leave_in_every_step)
{
	for (int at = 0; at < WAIT_COUNT; at++) {
		struct hole hole;
		long long before = stats_reason_get(REASON_CLIENT_RESET);

		open_site(NULL, 0);
		go_wait((enum wait)at, &hole);
		mem_break(m, STREAM_FAULT_RESET);
		loop_turn(loop);
		cr_assert(m->closed && m->how == STREAM_CLOSE_ABORT);
		cr_assert_eq(m->out_n, 0u);
		cr_assert_eq(stats_reason_get(REASON_CLIENT_RESET), before + 1);
		cr_assert_eq(stats_get(STAT_REQUESTS), 0);
		wait_over((enum wait)at, &hole);
		expect_last(at == WAIT_AUDIT ? "close" : "deny", REASON_CLIENT_RESET);
		drop_client();
		close_site();
	}
}

/* --- tunnels --- */

static int accept_target(void)
{
	int fd;

	UNTIL(loop, (fd = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0);
	return fd;
}

static int open_tunnel(const char *early)
{
	int fd;

	cr_assert(connect_client());
	say_connect(target_at("target.test"), ALICE);
	mem_feed_text(m, early);
	fd = accept_target();
	UNTIL(loop, m->out_n > 0);
	cr_assert(has("HTTP/1.1 200 "), "%s", m->out);
	/* whoever sees the 200 finds the record */
	records[0] = '\0';
	read_records("access.jsonl");
	cr_assert_eq(count("\"kind\":\"open\""), 1u, "%s", records);
	return fd;
}

static void target_reads(int fd, const char *text)
{
	char buf[256];
	size_t have = 0, n;

	for (unsigned i = 0; i < 20000 && have < strlen(text); i++) {
		if (peer_read(fd, buf + have, sizeof(buf) - have, &n) == PEER_NOTHING)
			poll(NULL, 0, 1);
		have += n;
		loop_turn(loop);
	}
	cr_assert(have == strlen(text) && memcmp(buf, text, have) == 0, "%.*s", (int)have, buf);
}

static void target_says(int fd, const char *text)
{
	cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	UNTIL(loop, has(text));
}

Test(tunnel, carries_bytes_both_ways_and_both_ends)
{
	char byte;
	int fd;

	open_site(NULL, 0);
	fd = open_tunnel("early ");
	cr_assert_eq(stats_get(STAT_TUNNELS), 1);
	mem_feed_text(m, "and late");
	target_reads(fd, "early and late");
	target_says(fd, "answer");
	loop_advance(loop, conf->audit.progress_ms);
	mem_feed_eof(m, true);
	UNTIL(loop, recv(fd, &byte, 1, 0) == 0);
	target_says(fd, " after the end");
	close(fd);
	UNTIL(loop, m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
	expect_last("close", REASON_OK);
	cr_assert_eq(count("\"kind\":\"open\""), 1u);
	cr_assert_eq(count("\"kind\":\"progress\""), 1u);
	cr_assert_eq(count("\"half_close\":\"truncated\""), 1u);
	cr_assert_eq(count("\"bytes_up\":14"), 2u, "%s", records);
	cr_assert_eq(count("\"bytes_down\":20"), 1u, "%s", records);
	cr_assert_eq(count("\"rule\":\"lab\""), 3u);
	drop_client();
	close_site();
}

static void end_by_reset(int fd)
{
	peer_reset(fd);
}

static void end_by_client(int fd)
{
	mem_feed_fault(m, STREAM_FAULT_RESET);
	loop_turn(loop);
	close(fd);
}

static void end_by_tls(int fd)
{
	mem_feed_fault(m, STREAM_FAULT_PROTOCOL);
	loop_turn(loop);
	close(fd);
}

static void end_by_idleness(int fd)
{
	loop_advance(loop, conf->deadlines.idle);
	close(fd);
}

static void end_half_closed(int fd)
{
	mem_feed_eof(m, false);
	loop_turn(loop);
	loop_advance(loop, conf->deadlines.half_closed);
	close(fd);
}

static void end_by_stall(int fd)
{
	m->window = 0;
	cr_assert_eq(send(fd, "x", 1, MSG_NOSIGNAL), 1);
	UNTIL(loop, m->queue_n > 0);
	loop_advance(loop, conf->deadlines.stall);
	close(fd);
}

static void end_by_shutdown(int fd)
{
	h1_abort(h, REASON_SHUTDOWN);
	close(fd);
}

/* The policy in force becomes one that denies everything. */
static void reload_to_nothing(void)
{
	static const struct conf_option nothing[] = { { "policy.rules", "[{name: none, action: deny, to: [any, private]}]" } };
	struct conf_errors errors = { 0 };
	struct conf *other = conf_load(NULL, nothing, 1, &errors);

	cr_assert_not_null(other);
	policy_unref(env.policy);
	env.policy = policy_new(other, NULL, 0, NULL, 0);
	conf_unref(other);
	cr_assert_not_null(env.policy);
	tunnels_review(&env);
}

static void reload_users(const char *text)
{
	auth_reconfigure(env.auth, conf, users_parse(slice_of(text), on_bad_user, NULL));
	tunnels_review(&env);
}

static void end_by_new_rules(int fd)
{
	reload_to_nothing();
	loop_turn(loop);
	close(fd);
}

static void end_by_removal_of_the_user(int fd)
{
	reload_users("bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
	loop_turn(loop);
	close(fd);
}

Test(tunnel, each_end_of_a_tunnel_is_recorded_and_seen_by_both_sides)
{
	static const struct {
		void (*end)(int fd);
		enum reason reason;
		enum stream_close how;
	} rows[] = {
		{ end_by_reset, REASON_TARGET_RESET, STREAM_CLOSE_TRUNCATE },
		{ end_by_client, REASON_CLIENT_RESET, STREAM_CLOSE_ABORT },
		{ end_by_tls, REASON_CLIENT_TLS_ERROR, STREAM_CLOSE_ABORT },
		{ end_by_idleness, REASON_IDLE_TIMEOUT, STREAM_CLOSE_TRUNCATE },
		{ end_half_closed, REASON_HALF_CLOSED_TIMEOUT, STREAM_CLOSE_TRUNCATE },
		{ end_by_stall, REASON_STALL_TIMEOUT, STREAM_CLOSE_ABORT },
		{ end_by_shutdown, REASON_SHUTDOWN, STREAM_CLOSE_TRUNCATE },
		{ end_by_new_rules, REASON_REVOKED, STREAM_CLOSE_TRUNCATE },
		{ end_by_removal_of_the_user, REASON_REVOKED, STREAM_CLOSE_TRUNCATE },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		long long before = stats_reason_get(rows[i].reason);

		open_site(NULL, 0);
		rows[i].end(open_tunnel(""));
		UNTIL(loop, m->closed);
		cr_expect_eq(m->how, rows[i].how, "%s", reason_name(rows[i].reason));
		cr_expect_eq(stats_reason_get(rows[i].reason), before + 1);
		expect_last("close", rows[i].reason);
		cr_expect_eq(count("\"kind\":\"open\""), 1u);
		drop_client();
		close_site();
	}
}

Test(tunnel, a_review_leaves_what_is_still_allowed)
{
	char byte;
	int fd;

	open_site(NULL, 0);
	fd = open_tunnel("");
	tunnels_review(&env);
	loop_turn(loop);
	/* a new password of the user is no reason */
	reload_users("alice:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n");
	loop_turn(loop);
	mem_feed_text(m, "x");
	UNTIL(loop, recv(fd, &byte, 1, MSG_DONTWAIT) == 1);
	cr_assert_eq(byte, 'x');
	close(fd);
	drop_client();
	close_site();
}

/* The addresses were allowed, the target dialled and the record on its way when the rules or the users changed. */
Test(tunnel, a_reload_on_the_way_is_judged_before_the_answer)
{
	static const enum reason reasons[] = { REASON_DENIED, REASON_AUTH_FAILED };

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		struct hole hole;

		open_site(NULL, 0);
		go_wait(WAIT_AUDIT, &hole);
		if (reasons[i] == REASON_AUTH_FAILED)
			reload_users("bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
		else
			reload_to_nothing();
		loop_turn(loop);
		cr_assert_eq(m->out_n, 0u);
		wait_over(WAIT_AUDIT, &hole);
		expect_refusal(reasons[i]);
		expect_last("close", reasons[i]);
		drop_client();
		close_site();
	}
}

Test(tunnel, a_client_that_is_gone_at_the_200)
{
	char byte;
	int fd;

	open_site(NULL, 0);
	cr_assert(connect_client());
	m->refuse = true;
	say_connect(target_at("127.0.0.1"), ALICE);
	fd = accept_target();
	UNTIL(loop, m->closed);
	UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
	cr_assert_lt(recv(fd, &byte, 1, 0), 0);
	close(fd);
	expect_last("close", REASON_CLIENT_GONE);
	drop_client();
	close_site();
}

/* --- memory --- */

/* One whole CONNECT, with the n-th allocation of this thread failing. False: there is no n-th. */
static bool whole_request(unsigned long n)
{
	long long failed = stats_get(STAT_AUDIT_FAILED);
	int fd = -1;
	bool hit;

	open_site(NULL, 0);
	mem_fault_set(n, false);
	if (connect_client()) {
		say_connect(target_at("target.test"), ALICE);
		UNTIL(loop, m->out_n > 0 || m->closed);
		if (has("HTTP/1.1 200 ") && !m->closed) {
			fd = accept_target();
			mem_feed_text(m, "hello");
			for (unsigned i = 0; i < 5; i++)
				loop_turn(loop);
			shutdown(fd, SHUT_WR);
			mem_feed_eof(m, false);
			UNTIL(loop, m->closed);
		}
	}
	hit = mem_fault_hit();
	mem_fault_set(0, false);
	if (fd >= 0)
		close(fd);
	take_records();
	cr_expect_leq(count("\"kind\":\"deny\"") + count("\"kind\":\"close\""), 1u, "%lu: %s", n, records);
	/* a last record for which there is no memory is counted at least */
	if (h && !m->secret && count("\"kind\":\"deny\"") + count("\"kind\":\"close\"") == 0)
		cr_expect_eq(stats_get(STAT_AUDIT_FAILED), failed + 1, "%lu: %s", n, records);
	if (has("HTTP/1.1 200 "))
		cr_expect_eq(count("\"kind\":\"open\""), 1u, "%lu: a 200 without its record: %s", n, records);
	else
		cr_expect(!hit || m->out_n == 0 || has("HTTP/1.1 503 "), "%lu: %s", n, m->out);
	drop_client();
	close_site();
	return hit;
}

Test(tunnel, every_allocation_of_a_request_may_fail)
{
	unsigned long n = 1;

	while (whole_request(n))
		n++;
	cr_assert_gt(n, 10ul);
}
