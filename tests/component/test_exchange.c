/* Forwarded requests from the first byte of a head to the last record: what the origin gets, what the client gets, and
 * what becomes of both connections when anything breaks anywhere. */
#include "adit/base/mem.h"
#include "adit/log/stats.h"
#include "component/site.h"
#include "component/tcp_pair.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define OK_HELLO "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
#define OK_CHUNKED "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"
#define VIA "Via: 1.1 adit\r\n"

TestSuite(exchange, .init = site_setup, .timeout = 300);

/* --- the client's words --- */

static const char *request_text(const char *method, const char *path, const char *user, const char *rest)
{
	static char text[2048];

	snprintf(text, sizeof(text), "%s http://target.test:%u%s HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n%s",
	    method, target_port, path, user, rest);
	return text;
}

static void say(const char *method, const char *path, const char *user, const char *rest)
{
	mem_feed_text(m, request_text(method, path, user, rest));
	loop_turn(loop);
}

/* A whole answer that ends with `tail`; then the client has forgotten it. */
static void client_gets(const char *start, const char *tail)
{
	UNTIL(loop, m->out_n >= strlen(tail) && memcmp(m->out + m->out_n - strlen(tail), tail, strlen(tail)) == 0);
	cr_assert_eq(strncmp(m->out, start, strlen(start)), 0, "%s", m->out);
	m->out_n = 0;
	m->out[0] = '\0';
}

/* --- the origin --- */

static int origin_accepts(void)
{
	int fd;

	UNTIL(loop, (fd = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0);
	return fd;
}

static bool somebody_dials(void)
{
	struct pollfd p = { .fd = target, .events = POLLIN };

	for (int i = 0; i < 20; i++)
		loop_turn(loop);
	return poll(&p, 1, 20) == 1;
}

static char got[65536];

/* Reads until what came ends with `tail`. */
static const char *origin_reads(int fd, const char *tail)
{
	size_t have = 0, n, tail_n = strlen(tail);

	for (unsigned i = 0; i < 20000 && (have < tail_n || memcmp(got + have - tail_n, tail, tail_n) != 0); i++) {
		if (peer_read(fd, got + have, sizeof(got) - 1 - have, &n) == PEER_NOTHING)
			poll(NULL, 0, 1);
		have += n;
		loop_turn(loop);
	}
	got[have] = '\0';
	cr_assert(have >= tail_n && memcmp(got + have - tail_n, tail, tail_n) == 0, "%s", got);
	return got;
}

static void origin_says(int fd, const char *text)
{
	cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	for (int i = 0; i < 3; i++)
		loop_turn(loop);
}

/* How the connection ends at the origin; what comes before is thrown away. */
static enum peer_saw origin_sees(int fd)
{
	enum peer_saw saw = PEER_NOTHING;
	size_t n;

	UNTIL(loop, (saw = peer_read(fd, got, sizeof(got), &n)) == PEER_FIN || saw == PEER_RST);
	return saw;
}

static int open_exchange(const char *method, const char *rest)
{
	int fd;

	open_site(NULL, 0);
	cr_assert(connect_client());
	say(method, "/", ALICE, rest);
	fd = origin_accepts();
	return fd;
}

static void end_all(int fd)
{
	if (fd >= 0)
		close(fd);
	drop_client();
	close_site();
}

/* --- the whole way --- */

Test(exchange, a_request_and_its_response)
{
	char expected[256];
	int fd = open_exchange("GET", "Cookie: a=b\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n");

	origin_reads(fd, "\r\n\r\n");
	snprintf(expected, sizeof(expected), "GET / HTTP/1.1\r\nHost: target.test:%u\r\nCookie: a=b\r\n" VIA "\r\n", target_port);
	cr_assert_str_eq(got, expected);
	/* on record before the first byte, without a status that nobody knows yet */
	records[0] = '\0';
	read_records("access.jsonl");
	cr_assert(count("\"kind\":\"open\"") == 1 && count("\"status\"") == 0, "%s", records);
	cr_assert_eq(stats_get(STAT_EXCHANGES), 1);
	origin_says(fd, "HTTP/1.1 201 Whatever\r\nContent-Length: 5\r\nSet-Cookie: c\r\nKeep-Alive: 5\r\n\r\nhello");
	client_gets("HTTP/1.1 201 Created\r\nContent-Length: 5\r\nConnection: keep-alive\r\nSet-Cookie: c\r\n" VIA "\r\nhello", "hello");
	expect_last("close", REASON_OK);
	cr_assert_eq(count("\"status\":201"), 1u);
	cr_assert(count("\"bytes_up\":0") == 1 && count("\"bytes_down\":5") == 1 && count("\"rule\":\"lab\"") == 2, "%s", records);
	cr_assert_not(m->closed);
	end_all(fd);
}

Test(exchange, bodies_of_requests)
{
	static const struct {
		const char *rest, *tail, *framing;
	} rows[] = {
		{ "Content-Length: 5\r\n\r\nhello", "\r\n\r\nhello", "Content-Length: 5\r\n" },
		{ "Content-Length: 0\r\n\r\n", "\r\n\r\n", "Content-Length: 0\r\n" },
		{ "Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n00\r\nT: u\r\n\r\n", "5\r\nhello\r\n0\r\nT: u\r\n\r\n",
		  "Transfer-Encoding: chunked\r\n" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd = open_exchange("POST", rows[i].rest);

		origin_reads(fd, rows[i].tail);
		cr_assert_not_null(strstr(got, rows[i].framing), "%s", got);
		origin_says(fd, OK_CHUNKED);
		client_gets("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n" VIA "\r\n5\r\nhello\r\n",
		    "0\r\nA: b\r\n\r\n");
		expect_last("close", REASON_OK);
		cr_assert_eq(count(i == 1 ? "\"bytes_up\":0" : "\"bytes_up\":5"), 1u, "%s", records);
		end_all(fd);
	}
}

Test(exchange, framings_of_responses)
{
	static const struct {
		const char *method, *version, *response, *start, *tail;
		bool stays;
	} rows[] = {
		{ "GET", "1.1", "HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", true },
		{ "GET", "1.0", OK_CHUNKED, "HTTP/1.1 200 OK\r\nConnection: close\r\n", "\r\n\r\nhello", false },
		{ "GET", "1.0", OK_HELLO, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n", "\r\n\r\nhello", false },
		{ "HEAD", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n", "\r\n\r\n", true },
		{ "GET", "1.1", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n", "\r\n\r\n", true },
		{ "GET", "1.1", "HTTP/1.1 103 E\r\nLink: x\r\n\r\n" OK_HELLO, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n" VIA "\r\nHTTP/1.1 200 OK\r\n", "hello", true },
		{ "GET", "1.0", "HTTP/1.1 103 E\r\nLink: x\r\n\r\n" OK_HELLO, "HTTP/1.1 200 OK\r\n", "hello", false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char text[512];
		int fd;

		open_site(NULL, 0);
		cr_assert(connect_client());
		snprintf(text, sizeof(text), "%s http://target.test:%u/ HTTP/%s\r\nHost: x\r\nProxy-Authorization: Basic " ALICE "\r\n\r\n",
		    rows[i].method, target_port, rows[i].version);
		mem_feed_text(m, text);
		fd = origin_accepts();
		origin_reads(fd, "\r\n\r\n");
		origin_says(fd, rows[i].response);
		if (strncmp(rows[i].response, "HTTP/1.0", 8) == 0)
			shutdown(fd, SHUT_WR);
		client_gets(rows[i].start, rows[i].tail);
		UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
		loop_turn(loop);
		cr_assert_eq(m->closed, !rows[i].stays, "%zu", i);
		if (m->closed)
			cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
		end_all(fd);
	}
}

Test(exchange, pipelined_requests_are_answered_in_order)
{
	char text[4096];
	int fd, tunnel;
	size_t n;

	open_site(NULL, 0);
	cr_assert(connect_client());
	n = (size_t)snprintf(text, sizeof(text), "%s", request_text("POST", "/1", ALICE, "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"));
	n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", request_text("POST", "/2", ALICE, "Content-Length: 1\r\n\r\ny"));
	n += (size_t)snprintf(text + n, sizeof(text) - n, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", request_text("GET", "/3", ALICE, "\r\n"));
	snprintf(text + n, sizeof(text) - n, "CONNECT %s HTTP/1.1\r\nHost: x:1\r\nProxy-Authorization: Basic " ALICE "\r\n\r\nearly",
	    target_at("target.test"));
	mem_feed_text(m, text);
	fd = origin_accepts();
	origin_reads(fd, "1\r\nx\r\n0\r\n\r\n");
	cr_assert_not(somebody_dials(), "one at a time");
	origin_says(fd, OK_HELLO);
	close(fd);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	fd = origin_accepts(); /* a POST: over a fresh one */
	cr_assert_eq(strncmp(origin_reads(fd, "\r\n\r\ny"), "POST /2 ", 8), 0);
	origin_says(fd, OK_HELLO);
	origin_reads(fd, "\r\n\r\n");
	cr_assert_eq(strncmp(got, "GET /3 ", 7), 0, "over the same one: %s", got);
	origin_says(fd, OK_HELLO);
	tunnel = origin_accepts();
	origin_reads(tunnel, "early");
	UNTIL(loop, has("200 Connection established"));
	close(tunnel);
	end_all(fd);
}

/* --- what goes wrong before there is an answer --- */

static void says_nonsense(int fd)
{
	origin_says(fd, "nonsense\r\n\r\n");
}

static void says_two_lengths(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n");
}

static void says_too_much(int fd)
{
	char line[4000];

	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	origin_says(fd, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i < 20 && !has("502"); i++) {
		(void)send(fd, "A: ", 3, MSG_NOSIGNAL);
		(void)send(fd, line, strlen(line), MSG_NOSIGNAL);
		(void)send(fd, "\r\n", 2, MSG_NOSIGNAL);
		loop_turn(loop);
	}
}

static void switches_unasked(int fd)
{
	origin_says(fd, "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
}

static void ends(int fd)
{
	shutdown(fd, SHUT_WR);
}

static void ends_in_its_head(int fd)
{
	origin_says(fd, "HTTP/1.1 200 O");
	shutdown(fd, SHUT_WR);
}

static void resets(int fd)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	/* the number stays open, for the test to close */
	cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
	cr_assert_eq(dup2(null, fd), fd);
	close(null);
}

static void ends_behind_an_interim(int fd)
{
	origin_says(fd, "HTTP/1.1 100 Continue\r\n\r\n");
	shutdown(fd, SHUT_WR);
}

static void thinks(int fd)
{
	(void)fd;
	loop_advance(loop, conf->deadlines.response - 1);
	cr_assert_not(has("HTTP/1.1 504"));
	loop_advance(loop, 1);
}

Test(exchange, what_is_wrong_with_an_origin_is_told_while_nothing_else_was)
{
	static const struct {
		void (*act)(int fd);
		enum reason reason;
	} rows[] = {
		{ says_nonsense, REASON_RESPONSE_INVALID }, { says_two_lengths, REASON_RESPONSE_INVALID },
		{ says_too_much, REASON_RESPONSE_TOO_LARGE }, { switches_unasked, REASON_RESPONSE_INVALID },
		{ ends, REASON_RESPONSE_INCOMPLETE }, { ends_in_its_head, REASON_RESPONSE_INCOMPLETE },
		{ ends_behind_an_interim, REASON_RESPONSE_INCOMPLETE }, { resets, REASON_RESPONSE_INCOMPLETE },
		{ thinks, REASON_RESPONSE_TIMEOUT },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		long long before = stats_reason_get(rows[i].reason);
		int fd = open_exchange("POST", "Content-Length: 1\r\n\r\nx");

		origin_reads(fd, "\r\n\r\nx");
		rows[i].act(fd);
		if (rows[i].act == ends_behind_an_interim)
			UNTIL(loop, has("HTTP/1.1 502"));
		else
			expect_refusal(rows[i].reason);
		cr_assert_eq(stats_reason_get(rows[i].reason), before + 1);
		expect_last("close", rows[i].reason);
		if (rows[i].act != thinks)
			cr_assert_not(m->closed, "its request was whole: the next one may come");
		end_all(fd);
	}
}

Test(exchange, an_origin_that_speaks_first_is_not_listened_to)
{
	int fd;

	open_site(NULL, 0);
	cr_assert(connect_client());
	say("GET", "/", ALICE, "\r\n");
	/* between the dial and the record there is time for it */
	for (fd = -1; fd < 0; fd = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK))
		loop_turn(loop);
	cr_assert_eq(send(fd, OK_HELLO, strlen(OK_HELLO), MSG_NOSIGNAL), (ssize_t)strlen(OK_HELLO));
	UNTIL(loop, m->out_n > 0);
	if (has("HTTP/1.1 502"))
		expect_last("close", REASON_RESPONSE_INVALID);
	end_all(fd);
}

/* --- and behind it --- */

static void ends_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	shutdown(fd, SHUT_WR);
}

static void resets_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	resets(fd);
}

static void bad_chunk_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n");
}

static void idle_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	loop_advance(loop, conf->deadlines.idle);
}

static void shut_down_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	h1_abort(h, REASON_SHUTDOWN);
}

static void deny_everything(void)
{
	static const struct conf_option nothing[] = { { "policy.rules", "[{name: none, action: deny, to: [any, private]}]" } };
	struct conf_errors errors = { 0 };
	struct conf *other = conf_load(NULL, nothing, 1, &errors);

	cr_assert_not_null(other);
	policy_unref(env.policy);
	env.policy = policy_new(other, NULL, 0, NULL, 0);
	conf_unref(other);
	tunnels_review(&env);
	loop_turn(loop);
}

static void revoked_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	deny_everything();
}

static void client_resets_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	mem_break(m, STREAM_FAULT_RESET);
	loop_turn(loop);
}

static void client_ends_amid(int fd)
{
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, has("hello"));
	mem_feed_eof(m, true);
	loop_turn(loop);
}

static void client_stalls_amid(int fd)
{
	m->window = 0;
	origin_says(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
	UNTIL(loop, m->queue_n > 0);
	loop_advance(loop, conf->deadlines.stall);
}

Test(exchange, a_response_that_breaks_off_is_never_taken_for_a_whole_one)
{
	static const struct {
		void (*act)(int fd);
		enum reason reason;
		enum stream_close how;
	} rows[] = {
		{ ends_amid, REASON_RESPONSE_INCOMPLETE, STREAM_CLOSE_TRUNCATE },
		{ resets_amid, REASON_TARGET_RESET, STREAM_CLOSE_TRUNCATE },
		{ bad_chunk_amid, REASON_RESPONSE_INVALID, STREAM_CLOSE_TRUNCATE },
		{ idle_amid, REASON_IDLE_TIMEOUT, STREAM_CLOSE_TRUNCATE },
		{ shut_down_amid, REASON_SHUTDOWN, STREAM_CLOSE_TRUNCATE },
		{ revoked_amid, REASON_REVOKED, STREAM_CLOSE_TRUNCATE },
		{ client_resets_amid, REASON_CLIENT_RESET, STREAM_CLOSE_ABORT },
		{ client_ends_amid, REASON_CLIENT_GONE, STREAM_CLOSE_ABORT },
		{ client_stalls_amid, REASON_STALL_TIMEOUT, STREAM_CLOSE_ABORT },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd = open_exchange("GET", "\r\n");

		origin_reads(fd, "\r\n\r\n");
		rows[i].act(fd);
		UNTIL(loop, m->closed);
		cr_expect_eq(m->how, rows[i].how, "%zu: %s", i, reason_name(rows[i].reason));
		cr_expect_not(has("0\r\n\r\n"), "no last chunk: %s", m->out);
		if (rows[i].act != resets_amid)
			cr_expect_eq(origin_sees(fd), PEER_RST, "%zu: the origin learns it", i);
		take_records();
		cr_expect_eq(count("\"kind\":\"close\""), 1u, "%s", records);
		cr_expect(count(reason_name(rows[i].reason)) == 1 && count("\"status\":200") == 1, "%zu: %s", i, records);
		end_all(fd);
	}
}

Test(exchange, a_response_cut_at_every_byte)
{
	static const char *const responses[] = { OK_HELLO, OK_CHUNKED };

	for (size_t i = 0; i < 2; i++) {
		for (size_t cut = 0; cut < strlen(responses[i]); cut++) {
			int fd = open_exchange("GET", "\r\n");
			char part[256];

			snprintf(part, sizeof(part), "%.*s", (int)cut, responses[i]);
			origin_reads(fd, "\r\n\r\n");
			origin_says(fd, part);
			shutdown(fd, SHUT_WR);
			UNTIL(loop, m->closed || has("HTTP/1.1 502"));
			if (has("HTTP/1.1 502"))
				cr_assert_not(has("200 OK"), "%zu: %s", cut, m->out);
			else
				cr_assert_eq(m->how, STREAM_CLOSE_TRUNCATE, "%zu: %s", cut, m->out);
			take_records();
			cr_assert(count("\"kind\":\"close\"") == 1 && count("response_incomplete") == 1, "%s", records);
			cr_assert_eq(count("\"status\":502"), has("HTTP/1.1 502"), "%s", records);
			end_all(fd);
		}
	}
}

/* --- requests that break off --- */

Test(exchange, a_request_cut_at_every_byte_is_never_taken_for_a_whole_one)
{
	static const char *const bodies[] = { "Content-Length: 5\r\n\r\nhello",
		"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n" };

	for (size_t i = 0; i < 2; i++) {
		const char *body = strstr(bodies[i], "\r\n\r\n") + 4;

		for (size_t cut = 0; cut < strlen(body); cut++) {
			char rest[256];
			int fd;

			snprintf(rest, sizeof(rest), "%.*s", (int)((size_t)(body - bodies[i]) + cut), bodies[i]);
			fd = open_exchange("POST", rest);
			origin_reads(fd, "");
			mem_feed_eof(m, cut % 2 != 0);
			cr_assert_eq(origin_sees(fd), PEER_RST, "%zu at %zu", i, cut);
			UNTIL(loop, m->closed);
			cr_assert_eq(m->out_n, 0u);
			expect_last("close", REASON_CLIENT_GONE);
			end_all(fd);
		}
	}
}

Test(exchange, a_bad_chunk_is_told_and_the_origin_is_reset)
{
	int fd = open_exchange("POST", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");

	origin_reads(fd, "hello\r\n");
	mem_feed_text(m, "zz\r\n");
	expect_refusal(REASON_BAD_CHUNK);
	cr_assert_eq(origin_sees(fd), PEER_RST);
	expect_last("close", REASON_BAD_CHUNK);
	mem_feed_text(m, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	for (int i = 0; i < 5; i++)
		loop_turn(loop);
	cr_assert_not(has("200 OK"), "nothing behind it can be trusted");
	end_all(fd);
}

Test(exchange, a_client_that_leaves_while_the_origin_thinks)
{
	for (int i = 0; i < 3; i++) {
		int fd = open_exchange("GET", "\r\n");

		origin_reads(fd, "\r\n\r\n");
		if (i == 0)
			mem_feed_eof(m, true);
		else if (i == 1)
			mem_feed_fault(m, STREAM_FAULT_RESET);
		else
			h1_abort(h, REASON_SHUTDOWN);
		cr_assert_eq(origin_sees(fd), PEER_RST);
		UNTIL(loop, m->closed);
		take_records();
		cr_assert(count("\"kind\":\"close\"") == 1 && count("\"status\"") == 0, "%s", records);
		end_all(fd);
	}
}

Test(exchange, a_good_bye_behind_the_request_is_no_leaving)
{
	int fd = open_exchange("GET", "\r\n");

	mem_feed_eof(m, false);
	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
	end_all(fd);
}

/* --- answers that do not wait for the request --- */

Test(exchange, an_early_answer)
{
	int fd = open_exchange("POST", "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n");

	origin_reads(fd, "\r\n\r\n");
	cr_assert_not_null(strstr(got, "Expect: 100-continue\r\n"));
	origin_says(fd, "HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nhello");
	client_gets("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n", "hello");
	origin_sees(fd);
	expect_last("close", REASON_OK);
	/* what still comes is thrown away until the client has done */
	mem_feed_text(m, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	loop_turn(loop);
	cr_assert(!m->closed && m->fin && m->out_n == 0);
	mem_feed_eof(m, false);
	UNTIL(loop, m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
	end_all(fd);
}

Test(exchange, a_client_that_never_stops_sending_is_left_in_the_end)
{
	int fd = open_exchange("POST", "Content-Length: 100000\r\n\r\n");

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, "HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nhello");
	client_gets("HTTP/1.1 413 ", "hello");
	UNTIL(loop, m->fin);
	for (int i = 0; i < 100 && !m->closed; i++) {
		mem_feed_text(m, "more");
		loop_advance(loop, conf->deadlines.linger / 2);
	}
	cr_assert(m->closed);
	end_all(fd);
	fd = open_exchange("POST", "Content-Length: 100000\r\n\r\n");
	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, "HTTP/1.1 413 No\r\nContent-Length: 5\r\n\r\nhello");
	client_gets("HTTP/1.1 413 ", "hello");
	UNTIL(loop, m->fin);
	loop_advance(loop, conf->deadlines.linger);
	cr_assert(m->closed, "silence is over sooner");
	end_all(fd);
}

Test(exchange, an_answer_by_an_origin_that_resets_the_rest)
{
	static const char refusal[] = "HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
	int fd = open_exchange("POST", "Content-Length: 1000000\r\n\r\n");

	origin_reads(fd, "\r\n\r\n");
	mem_feed_text(m, "some of it");
	origin_reads(fd, "some of it");
	mem_feed_text(m, "and more that it does not read");
	for (int i = 0; i < 3; i++)
		loop_turn(loop);
	/* in one go, before the proxy looks: the answer, and a close that resets */
	cr_assert_gt(send(fd, refusal, strlen(refusal), MSG_NOSIGNAL), 0);
	close(fd);
	mem_feed_text(m, "and more");
	client_gets("HTTP/1.1 413 ", "hello");
	expect_last("close", REASON_OK);
	end_all(-1);
}

/* --- connections that are used again --- */

Test(exchange, an_idle_connection_is_used_again_by_its_user)
{
	int fd = open_exchange("GET", "\r\n"), other;

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	say("GET", "/again", ALICE, "\r\n");
	cr_assert_eq(strncmp(origin_reads(fd, "\r\n\r\n"), "GET /again ", 11), 0);
	cr_assert_eq(stats_get(STAT_REUSED), 1);
	origin_says(fd, OK_CHUNKED);
	client_gets("HTTP/1.1 200 OK\r\n", "\r\n\r\n");
	/* not for another user, nor for what may not be repeated */
	say("GET", "/bob", BOB, "\r\n");
	other = origin_accepts();
	cr_assert_eq(strncmp(origin_reads(other, "\r\n\r\n"), "GET /bob ", 9), 0);
	origin_says(other, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	close(other);
	say("POST", "/post", ALICE, "Content-Length: 0\r\n\r\n");
	other = origin_accepts();
	origin_reads(other, "\r\n\r\n");
	origin_says(other, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	close(other);
	say("GET", "/body", ALICE, "Content-Length: 1\r\n\r\nx");
	other = origin_accepts();
	origin_reads(other, "\r\n\r\nx");
	origin_says(other, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	cr_assert_eq(stats_get(STAT_REUSED), 1);
	UNTIL(loop, pool_count(env.pool) == 2); /* those that the origin closed are gone */
	loop_advance(loop, conf->forward.idle_ms);
	cr_assert_eq(pool_count(env.pool), 0u);
	cr_assert_eq(origin_sees(fd), PEER_FIN);
	take_records();
	cr_assert_eq(count("\"kind\":\"open\""), 5u);
	cr_assert_eq(count("\"kind\":\"close\""), 5u);
	close(other);
	end_all(fd);
}

Test(exchange, what_must_not_be_used_again)
{
	static const struct {
		const char *response;
		bool end;
	} rows[] = {
		{ "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", false },
		{ "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloX", false },
		{ "HTTP/1.1 200 OK\r\n\r\nhello", true },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fd = open_exchange("GET", "\r\n");

		origin_reads(fd, "\r\n\r\n");
		origin_says(fd, rows[i].response);
		if (rows[i].end)
			shutdown(fd, SHUT_WR);
		UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
		cr_assert_eq(pool_count(env.pool), 0u, "%zu", i);
		cr_assert_eq(origin_sees(fd), PEER_FIN);
		cr_assert_not(has("helloX"));
		end_all(fd);
	}
}

Test(exchange, a_reload_and_draining_keep_none)
{
	for (int i = 0; i < 2; i++) {
		int fd = open_exchange("GET", "\r\n");

		origin_reads(fd, "\r\n\r\n");
		if (i == 1)
			env.draining = true;
		origin_says(fd, OK_HELLO);
		client_gets("HTTP/1.1 200 OK\r\n", "hello");
		UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
		cr_assert_eq(pool_count(env.pool), i == 0 ? 1u : 0u);
		if (i == 0)
			tunnels_review(&env);
		cr_assert_eq(pool_count(env.pool), 0u);
		end_all(fd);
	}
}

Test(exchange, a_connection_that_was_closed_is_replaced_once)
{
	int fd = open_exchange("GET", "\r\n"), fresh;

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	say("GET", "/again", ALICE, "\r\n");
	/* it has the request, and closes instead of answering */
	origin_reads(fd, "\r\n\r\n");
	close(fd);
	fresh = origin_accepts();
	cr_assert_eq(strncmp(origin_reads(fresh, "\r\n\r\n"), "GET /again ", 11), 0);
	origin_says(fresh, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	say("GET", "/third", ALICE, "\r\n");
	origin_reads(fresh, "\r\n\r\n");
	close(fresh);
	fresh = origin_accepts();
	origin_reads(fresh, "\r\n\r\n");
	close(fresh);
	expect_refusal(REASON_RESPONSE_INCOMPLETE);
	cr_assert_not(somebody_dials(), "once, and no more");
	take_records();
	cr_assert(count("\"kind\":\"open\"") == 3 && count("\"kind\":\"close\"") == 3, "%s", records);
	end_all(-1);
}

Test(exchange, what_has_begun_is_not_repeated)
{
	int fd = open_exchange("GET", "\r\n");

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	say("GET", "/again", ALICE, "\r\n");
	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, "H");
	close(fd);
	expect_refusal(REASON_RESPONSE_INCOMPLETE);
	cr_assert_not(somebody_dials());
	end_all(-1);
}

Test(exchange, a_client_that_leaves_while_its_request_is_repeated)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = open_exchange("GET", "\r\n"), fill[40];

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	say("GET", "/again", ALICE, "\r\n");
	origin_reads(fd, "\r\n\r\n");
	/* a queue that is full: the second dial takes its time */
	at.sin_port = htons(target_port);
	for (size_t i = 0; i < 40; i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(fill[i], (struct sockaddr *)&at, sizeof(at));
	}
	close(fd);
	UNTIL(loop, stats_get(STAT_EXCHANGES) == 0);
	cr_assert_eq(stats_get(STAT_REQUESTS), 1);
	h1_abort(h, REASON_SHUTDOWN);
	UNTIL(loop, m->closed);
	cr_assert_eq(stats_get(STAT_REQUESTS), 0);
	for (size_t i = 0; i < 40; i++)
		close(fill[i]);
	take_records();
	cr_assert(count("\"kind\":\"open\"") == 2 && count("\"kind\":\"close\"") == 2, "%s", records);
	end_all(-1);
}

Test(exchange, idle_connections_give_way_when_descriptors_run_out)
{
	struct rlimit before, tight;
	char text[256];
	int fd = open_exchange("GET", "\r\n"), next, other;

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	UNTIL(loop, pool_count(env.pool) == 1);
	next = open("/dev/null", O_RDONLY | O_CLOEXEC);
	close(next);
	getrlimit(RLIMIT_NOFILE, &before);
	tight = before;
	tight.rlim_cur = (rlim_t)next;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
	snprintf(text, sizeof(text), "GET http://127.0.0.1:%u/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic " ALICE "\r\n\r\n",
	    target_port);
	mem_feed_text(m, text);
	cr_assert_eq(origin_sees(fd), PEER_RST, "the idle one had to go");
	setrlimit(RLIMIT_NOFILE, &before);
	other = origin_accepts();
	origin_reads(other, "\r\n\r\n");
	origin_says(other, OK_HELLO);
	client_gets("HTTP/1.1 200 OK\r\n", "hello");
	close(other);
	end_all(fd);
}

/* --- 101 --- */

#define WEBSOCKET "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"

Test(exchange, a_web_socket)
{
	int fd = open_exchange("GET", WEBSOCKET);
	char byte;

	origin_reads(fd, "\r\n\r\n");
	cr_assert(strstr(got, "Upgrade: websocket\r\n") && strstr(got, "Connection: upgrade"), "%s", got);
	origin_says(fd, "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\nfirst");
	client_gets("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n", "\r\n\r\nfirst");
	mem_feed_text(m, "frames");
	origin_reads(fd, "frames");
	loop_advance(loop, conf->deadlines.response + 1); /* it has answered */
	origin_says(fd, "back");
	client_gets("back", "back");
	mem_feed_eof(m, false);
	UNTIL(loop, recv(fd, &byte, 1, 0) == 0);
	origin_says(fd, "late");
	client_gets("late", "late");
	shutdown(fd, SHUT_WR);
	UNTIL(loop, m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
	expect_last("close", REASON_OK);
	cr_assert(count("\"status\":101") == 1 && count("\"bytes_up\":6") == 2 && count("\"bytes_down\":13") == 1, "%s", records);
	cr_assert_eq(count("\"kind\":\"progress\""), 1u);
	cr_assert_eq(count("\"half_close\":\"clean\""), 1u);
	end_all(fd);
}

Test(exchange, a_web_socket_that_is_refused)
{
	int fd = open_exchange("GET", WEBSOCKET);

	origin_reads(fd, "\r\n\r\n");
	origin_says(fd, "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nhello");
	client_gets("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nConnection: keep-alive\r\n", "hello");
	UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
	cr_assert_not(m->closed);
	end_all(fd);
}

/* --- Max-Forwards --- */

Test(exchange, the_last_hop_is_here)
{
	open_site(NULL, 0);
	cr_assert(connect_client());
	say("TRACE", "/", "bm9ib2R5", "Max-Forwards: 0\r\n\r\n");
	UNTIL(loop, has("HTTP/1.1 407"));
	drop_client();
	cr_assert(connect_client());
	say("TRACE", "/x", ALICE, "Max-Forwards: 0\r\nCookie: secret\r\nAuthorization: secret\r\nX: y\r\n\r\n");
	UNTIL(loop, has("HTTP/1.1 200 OK"));
	cr_assert(has("Content-Type: message/http\r\n") && has("TRACE http://target.test:") && has("X: y\r\n"), "%s", m->out);
	cr_assert_not(has("secret") || has(ALICE), "%s", m->out);
	say("OPTIONS", "", ALICE, "Max-Forwards: 0\r\n\r\n");
	UNTIL(loop, has("Allow: "));
	cr_assert_not(somebody_dials());
	say("OPTIONS", "", ALICE, "Max-Forwards: x\r\n\r\n");
	UNTIL(loop, has("max_forwards_invalid"));
	end_all(-1);
}

/* --- back-pressure --- */

Test(exchange, a_client_that_does_not_read_holds_the_origin_back)
{
	static char flood[300000];
	int fd = open_exchange("GET", "\r\n");
	size_t sent = 0;

	origin_reads(fd, "\r\n\r\n");
	m->window = 0;
	memset(flood, 'x', sizeof(flood));
	cr_assert_gt(send(fd, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL), 0);
	for (int i = 0; i < 2000; i++) {
		ssize_t n = send(fd, flood, sizeof(flood), MSG_NOSIGNAL | MSG_DONTWAIT);

		sent += n > 0 ? (size_t)n : 0;
		loop_turn(loop);
	}
	cr_assert_gt(sent, sizeof(flood));
	cr_assert_leq(m->queued_most, env.buffer_bytes + 256u, "one buffer and a head wait, no more");
	peer_reset(fd);
	end_all(-1);
}

/* --- memory --- */

/* A POST, a GET over the connection it left, and one over a connection that is gone; the n-th allocation fails. */
static bool whole_exchanges(unsigned long n)
{
	static const char *const methods[] = { "POST", "GET", "GET" };
	int fd = -1;
	bool hit;

	open_site(NULL, 0);
	cr_assert(connect_client());
	mem_fault_set(n, false);
	for (int i = 0; i < 3 && !m->closed; i++) {
		bool answered = false;

		say(methods[i], "/", ALICE, i == 0 ? "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n" : "\r\n");
		m->out_n = 0;
		for (int turn = 0; turn < 2000 && !m->closed && m->out_n == 0; turn++) {
			size_t got_n = 0;
			int other;

			loop_turn(loop);
			other = accept4(target, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (other >= 0) {
				if (fd >= 0)
					close(fd);
				fd = other;
				answered = false;
			}
			if (fd < 0 || answered || peer_read(fd, got, sizeof(got) - 1, &got_n) != PEER_BYTES) {
				poll(NULL, 0, 1);
				continue;
			}
			got[got_n] = '\0';
			if (i == 0 && !strstr(got, "0\r\nA: b\r\n\r\n") && strstr(got, "POST"))
				poll(NULL, 0, 5); /* the rest of it */
			answered = true;
			if (i == 2 && stats_get(STAT_REUSED) > 0 && fd >= 0 && n % 2 == 0) {
				close(fd);
				fd = -1;
				continue;
			}
			(void)send(fd, OK_CHUNKED, strlen(OK_CHUNKED), MSG_NOSIGNAL);
		}
		for (int turn = 0; turn < 5; turn++)
			loop_turn(loop);
		m->out[m->out_n] = '\0';
		if (has("HTTP/1.1 200 ") && !m->closed && stats_get(STAT_REQUESTS) == 0)
			cr_expect(has("hello\r\n0\r\n"), "%lu: short: %s", n, m->out);
		if (m->closed && has("HTTP/1.1 200 ") && !has("0\r\nA: b\r\n\r\n"))
			cr_expect_neq(m->how, STREAM_CLOSE_FLUSH, "%lu: %s", n, m->out);
	}
	hit = mem_fault_hit();
	mem_fault_set(0, false);
	if (fd >= 0)
		close(fd);
	UNTIL(loop, stats_get(STAT_REQUESTS) == 0);
	drop_client();
	close_site();
	return hit;
}

Test(exchange, every_allocation_may_fail)
{
	unsigned long n = 1;

	while (whole_exchanges(n))
		n++;
	cr_assert_gt(n, 30ul);
}
