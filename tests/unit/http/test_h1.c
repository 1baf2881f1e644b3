/* One HTTP/1 connection, from its bytes to its bytes: heads in any cut, answers, keep-alive, tunnels, ends. */
#include "adit/http/h1.h"

#include "adit/base/mem.h"
#include "adit/http/local.h"
#include "adit/log/stats.h"
#include "component/mem_stream.h"
#include "component/turning.h"

#define CREDENTIALS "Basic YWxpY2U6c2VjcmV0"
#define CONNECT "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: " CREDENTIALS "\r\n\r\n"
#define HEALTH "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
#define HEALTH_ANSWER                                                                                                       \
	"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\nCache-Control: no-store\r\n"    \
	"Connection: keep-alive\r\n\r\nok\n"

enum how { AT_ONCE, LATER, TUNNEL, TUNNEL_LATER, BY_METHOD /* CONNECT: TUNNEL, else AT_ONCE */ };

static struct loop *loop;
static struct mem_stream *m;
static struct conf *conf;
static struct client client;
static struct h1 *h;

/* The handler: what it was asked and what it does. */
static struct {
	enum how how;
	enum reason refusal; /* REASON_OK: the local answer */
	bool forget;
	unsigned begun, gone;
	enum reason gone_for, fault;
	struct request *request;
	struct stream *tunnel;
	char credentials[64], method[16], target[64];
	char early[16384];
	size_t early_n;
	bool early_eof;
	bool closed;
} site;

static void tunnel_readable(void *ctx)
{
	size_t n;
	enum stream_io io;

	(void)ctx;
	/* as the relay does it: one read a call */
	io = stream_read(site.tunnel, site.early + site.early_n, sizeof(site.early) - site.early_n, &n);
	site.early_n += n;
	if (io == STREAM_IO_EOF) {
		site.early_eof = true;
		stream_pause(site.tunnel, STREAM_PAUSE_EOF);
	}
}

static void nothing(void *ctx)
{
	(void)ctx;
}

static const struct stream_handler tunnel_stream = { tunnel_readable, nothing, nothing };

static void answer(void)
{
	struct request *r = site.request;
	struct response response;

	if (site.forget) {
		const char *p = r->credentials.p;
		size_t n = r->credentials.n;

		request_forget(r);
		for (size_t i = 0; i < n; i++)
			cr_assert_eq(p[i], '\0', "credentials are left in the buffer");
		cr_assert_eq(r->credentials.n, 0u);
		cr_assert_not(m->secret);
	}
	site.request = NULL;
	if (site.how == TUNNEL || site.how == TUNNEL_LATER || (site.how == BY_METHOD && r->method == HEAD_CONNECT)) {
		site.tunnel = request_accept(r);
		site.request = r;
		if (!site.tunnel) {
			request_end(r);
			return;
		}
		stream_attach(site.tunnel, &tunnel_stream, NULL);
		stream_resume(site.tunnel, STREAM_PAUSE_IDLE);
		return;
	}
	response = r->fault != REASON_OK ? response_refusal(r->fault)
	           : site.refusal != REASON_OK ? response_refusal(site.refusal) : local_answer(r, false);
	response.realm = "adit";
	request_respond(r, &response);
}

static void *begin(void *ctx, struct request *r)
{
	cr_assert_eq(ctx, &site);
	cr_assert_null(site.request, "one request at a time");
	site.begun++;
	site.request = r;
	site.fault = r->fault;
	snprintf(site.method, sizeof(site.method), SLICE_FMT, SLICE_ARG(r->method_text));
	snprintf(site.target, sizeof(site.target), SLICE_FMT, SLICE_ARG(r->target));
	snprintf(site.credentials, sizeof(site.credentials), SLICE_FMT, SLICE_ARG(r->credentials));
	if (site.how != LATER && site.how != TUNNEL_LATER)
		answer();
	return &site;
}

static void gone(void *object, enum reason reason)
{
	cr_assert_eq(object, &site);
	site.gone++;
	site.gone_for = reason;
	if (site.tunnel) {
		stream_close(site.tunnel, STREAM_CLOSE_ABORT);
		site.tunnel = NULL;
		request_end(site.request);
	}
	site.request = NULL;
}

static const struct http_handler handler = { begin, gone };

static void on_closed(void *ctx)
{
	(void)ctx;
	site.closed = true;
}

static bool start(void)
{
	memset(&site, 0, sizeof(site));
	m = mem_stream_new(loop);
	stream_on_closed(&m->base, on_closed, NULL);
	h = h1_start(loop, &m->base, &client, conf, &handler, &site);
	return h != NULL;
}

static void stop(void)
{
	if (h)
		h1_abort(h, REASON_SHUTDOWN);
	else if (!m->closed)
		stream_close(&m->base, STREAM_CLOSE_ABORT);
	mem_drain(m, SIZE_MAX);
	loop_turn(loop);
	cr_assert(site.closed);
	h1_free(h);
	h = NULL;
	mem_stream_free(m);
	cr_assert_eq(loop_held(loop), 0u);
}

static void setup(void)
{
	struct conf_errors errors = { 0 };

	conf = conf_load(NULL, NULL, 0, &errors);
	cr_assert_not_null(conf);
	loop = loop_new_manual();
	client = (struct client){ .close_after_refusal = true };
	cr_assert(start());
}

static void teardown(void)
{
	stop();
	loop_free(loop);
	conf_unref(conf);
}

TestSuite(h1, .init = setup, .fini = teardown, .timeout = 120);

static void restart(void)
{
	stop();
	cr_assert(start());
}

static void say(const char *text)
{
	mem_feed_text(m, text);
	loop_turn(loop);
}

static bool answered(const char *status)
{
	size_t n = strlen(status);

	return m->out_n > 9 + n && memcmp(m->out, "HTTP/1.1 ", 9) == 0 && memcmp(m->out + 9, status, n) == 0;
}

static bool has(const char *text)
{
	return memmem(m->out, m->out_n, text, strlen(text)) != NULL;
}

static unsigned answers(void)
{
	unsigned n = 0;

	for (const char *p = m->out; (p = strstr(p, "HTTP/1.1 ")) != NULL; p++)
		n++;
	return n;
}

/* --- requests and answers --- */

Test(h1, keeps_the_connection_from_request_to_request)
{
	for (unsigned i = 1; i <= 3; i++) {
		say(HEALTH);
		cr_assert_eq(site.begun, i);
		cr_assert_eq(m->out_n, i * strlen(HEALTH_ANSWER));
	}
	cr_assert_eq(memcmp(m->out, HEALTH_ANSWER HEALTH_ANSWER HEALTH_ANSWER, m->out_n), 0, "%s", m->out);
	cr_assert_not(m->closed);
	cr_assert(m->secret, "the next head may hold credentials");
}

/* Asking for health now and then must not hold one of the places for strangers for ever. */
Test(h1, a_stranger_does_not_keep_the_connection_for_ever)
{
	say(HEALTH);
	loop_advance(loop, 31 * 1000);
	cr_assert_not(m->closed);
	say(HEALTH);
	cr_assert(has("Connection: close\r\n"));
	cr_assert(m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
}

Test(h1, a_user_keeps_it)
{
	client.logged_in = true;
	say(HEALTH);
	loop_advance(loop, 31 * 1000);
	say(HEALTH);
	cr_assert_not(m->closed);
}

Test(h1, answers_pipelined_requests_one_by_one)
{
	say(HEALTH HEALTH "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" HEALTH);
	cr_assert_eq(site.begun, 3u);
	cr_assert_eq(answers(), 3u);
	cr_assert(m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
}

Test(h1, reads_nothing_while_a_request_is_in_work)
{
	site.how = LATER;
	say(HEALTH HEALTH);
	say(HEALTH);
	cr_assert_eq(site.begun, 1u);
	answer();
	loop_turn(loop);
	cr_assert_eq(site.begun, 2u);
	answer();
	loop_turn(loop);
	answer();
	loop_turn(loop);
	cr_assert_eq(site.begun, 3u);
	cr_assert_eq(answers(), 3u);
}

Test(h1, the_cut_of_the_bytes_changes_nothing)
{
	static const char whole[] = HEALTH CONNECT "early";

	for (size_t cut = 1; cut < sizeof(whole) - 1; cut++) {
		restart();
		site.how = BY_METHOD;
		mem_feed(m, whole, cut);
		loop_turn(loop);
		if (site.begun == 0)
			cr_assert_eq(m->out_n, 0u);
		say(whole + cut);
		cr_assert_eq(site.begun, 2u, "cut %zu", cut);
		cr_assert_str_eq(site.credentials, CREDENTIALS);
		cr_assert_str_eq(site.method, "CONNECT");
		cr_assert_str_eq(site.target, "a.example:443");
		cr_assert(site.early_n == 5 && memcmp(site.early, "early", 5) == 0, "cut %zu", cut);
		cr_assert_str_eq(m->out, HEALTH_ANSWER "HTTP/1.1 200 Connection established\r\n\r\n");
	}
}

Test(h1, byte_by_byte)
{
	site.how = TUNNEL;
	m->read_max = 1;
	say(CONNECT "early data");
	UNTIL(loop, site.early_n == 10);
	cr_assert_eq(memcmp(site.early, "early data", 10), 0);
}

Test(h1, head_gets_no_body)
{
	say("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(answered("200 OK"));
	cr_assert(has("Content-Length: 3\r\n"));
	cr_assert_eq(memcmp(m->out + m->out_n - 4, "\r\n\r\n", 4), 0);
	say("HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert_eq(memcmp(m->out + m->out_n - 4, "\r\n\r\n", 4), 0);
	cr_assert_eq(site.begun, 2u);
}

Test(h1, what_may_have_a_body_or_is_old_closes)
{
	static const char *const closing[] = {
		"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET /healthz HTTP/1.0\r\n\r\n",
		"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
	};

	for (size_t i = 0; i < sizeof(closing) / sizeof(closing[0]); i++) {
		restart();
		say(closing[i]);
		say(HEALTH);
		cr_assert_eq(site.begun, 1u, "%s", closing[i]);
		cr_assert_eq(answers(), 1u);
		cr_assert(has("Connection: close\r\n"));
		cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
	}
}

Test(h1, a_bad_head_is_refused_and_nothing_behind_it_is_read)
{
	static const struct {
		const char *head;
		enum reason reason;
		const char *status;
	} cases[] = {
		{ "nonsense\r\n\r\n", REASON_BAD_REQUEST_LINE, "400" },
		{ "GET / HTTP/1.1\n\n", REASON_BARE_LF, "400" },
		{ "GET / HTTP/1.1\r\n\r\n", REASON_HOST_MISSING, "400" },
		{ "GET / HTTP/2.0\r\n\r\n", REASON_VERSION_UNSUPPORTED, "505" },
		{ "CONNECT a:0 HTTP/1.1\r\nHost: a\r\n\r\n", REASON_BAD_PORT, "400" },
		{ "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\n", REASON_CONNECT_WITH_BODY, "400" },
		{ "GET / HTTP/1.1\r\nHost: a\r\n x\r\n\r\n", REASON_OBS_FOLD, "400" },
	};

	client.close_after_refusal = false;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		restart();
		mem_feed_text(m, cases[i].head);
		say(HEALTH);
		cr_assert_eq(site.begun, 1u, "%s", cases[i].head);
		cr_assert_eq(site.fault, cases[i].reason, "%s: %s", cases[i].head, reason_name(site.fault));
		cr_assert(answered(cases[i].status), "%s", m->out);
		cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
	}
}

/* A head of exactly n bytes. */
static size_t head_of(char *out, size_t n)
{
	static const char begin_text[] = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ";
	size_t at = sizeof(begin_text) - 1;

	memcpy(out, begin_text, at);
	memset(out + at, 'x', n - at - 4);
	memcpy(out + n - 4, "\r\n\r\n", 4);
	return n;
}

Test(h1, a_head_of_the_greatest_size_is_taken_and_one_byte_more_is_not)
{
	size_t most = conf->http.head_bytes;
	char *head = malloc(most + 2);

	for (unsigned more = 0; more <= 1; more++) {
		size_t n = head_of(head, most + more);

		restart();
		mem_feed(m, head, n);
		loop_turn(loop);
		cr_assert_eq(site.begun, 1u);
		cr_assert_eq(site.fault, more ? REASON_HEAD_TOO_LARGE : REASON_OK);
		cr_assert(answered(more ? "431" : "200"));
	}
	free(head);
}

/* --- refused CONNECT (RFC 9931) --- */

Test(h1, a_refused_connect_closes_when_the_listener_says_so)
{
	site.refusal = REASON_AUTH_REQUIRED;
	say(CONNECT HEALTH);
	cr_assert_eq(site.begun, 1u);
	cr_assert(answered("407"));
	cr_assert(has("Connection: close\r\n"));
	cr_assert(has("Proxy-Authenticate: Basic realm=\"adit\""));
	cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
}

Test(h1, a_refused_connect_keeps_when_the_listener_says_so)
{
	client.close_after_refusal = false;
	site.refusal = REASON_AUTH_REQUIRED;
	say(CONNECT);
	cr_assert(answered("407"));
	cr_assert(has("Connection: keep-alive\r\n"));
	cr_assert_not(m->closed);
	say(CONNECT);
	cr_assert_eq(site.begun, 2u);
}

/* What came behind it was meant for the tunnel and must never be read as a request. */
Test(h1, a_refused_connect_with_bytes_behind_it_closes_always)
{
	client.close_after_refusal = false;
	site.refusal = REASON_DENIED;
	say(CONNECT HEALTH);
	cr_assert_eq(site.begun, 1u);
	cr_assert(m->closed);
}

Test(h1, other_refusals_keep_the_connection)
{
	say("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(answered("405"));
	say(HEALTH);
	cr_assert_eq(site.begun, 2u);
	cr_assert_not(m->closed);
}

/* --- tunnels --- */

Test(h1, early_data_is_delivered_in_order_and_whole)
{
	static const size_t sizes[] = { 0, 1, 100, 1500, 2047, 2048, 2049, 4096, 10000 };

	for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i / 2];
		char *early = malloc(n + 1);

		restart();
		m->above = i % 2 == 1; /* as if OpenSSL had read it all */
		site.how = TUNNEL_LATER;
		site.forget = true;
		for (size_t k = 0; k < n; k++)
			early[k] = (char)(k % 251);
		mem_feed_text(m, CONNECT);
		mem_feed(m, early, n);
		loop_turn(loop);
		cr_assert_eq(site.begun, 1u);
		cr_assert_eq(site.early_n, 0u);
		answer();
		loop_turn(loop);
		cr_assert_eq(site.early_n, n, "%zu of %zu bytes", site.early_n, n);
		cr_assert_eq(memcmp(site.early, early, n), 0);
		mem_feed_text(m, "later");
		mem_feed_eof(m, false);
		loop_turn(loop);
		loop_turn(loop);
		cr_assert_eq(site.early_n, n + 5);
		cr_assert(site.early_eof);
		free(early);
	}
}

Test(h1, a_tunnel_is_the_handlers_until_it_says_so)
{
	site.how = TUNNEL;
	say(CONNECT);
	cr_assert_str_eq(m->out, "HTTP/1.1 200 Connection established\r\n\r\n");
	h1_drain(h);
	loop_advance(loop, 3600 * 1000);
	cr_assert_not(m->closed);
	stream_close(site.tunnel, STREAM_CLOSE_FLUSH);
	site.tunnel = NULL;
	request_end(site.request);
	loop_turn(loop);
	cr_assert(site.closed);
	cr_assert_eq(site.gone, 0u);
}

Test(h1, an_accept_that_cannot_be_written_says_so)
{
	site.how = TUNNEL_LATER;
	say(CONNECT "early");
	m->refuse = true;
	answer();
	cr_assert_null(site.tunnel);
	loop_turn(loop);
	cr_assert(site.closed);
	cr_assert_eq(m->how, STREAM_CLOSE_ABORT);
	cr_assert_eq(site.gone, 0u);
}

/* --- deadlines --- */

Test(h1, a_head_that_does_not_come_in_time_is_answered_408)
{
	say("GET / HTT");
	loop_advance(loop, conf->deadlines.head - 1);
	cr_assert_eq(site.begun, 0u);
	loop_advance(loop, 1);
	cr_assert_eq(site.fault, REASON_HEAD_TIMEOUT);
	cr_assert(answered("408"));
	cr_assert(has("details=\"head_timeout\""));
	cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
}

Test(h1, dripping_bytes_do_not_move_the_deadline)
{
	static const char slow[] = "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaa";

	for (size_t i = 0; i < sizeof(slow) - 1 && !m->closed; i++) {
		mem_feed(m, slow + i, 1);
		loop_turn(loop);
		loop_advance(loop, 1000);
	}
	cr_assert(answered("408"));
}

Test(h1, who_says_nothing_gets_nothing)
{
	long long before = stats_reason_get(REASON_HEAD_TIMEOUT);

	loop_advance(loop, conf->deadlines.head);
	cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
	cr_assert_eq(m->out_n, 0u);
	cr_assert_eq(site.begun, 0u);
	cr_assert_eq(stats_reason_get(REASON_HEAD_TIMEOUT), before + 1);
}

Test(h1, an_idle_connection_ends_quietly)
{
	long long before = stats_reason_get(REASON_KEEPALIVE_TIMEOUT);

	say(HEALTH);
	loop_advance(loop, conf->deadlines.keepalive - 1);
	cr_assert_not(m->closed);
	loop_advance(loop, 1);
	cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
	cr_assert_eq(answers(), 1u);
	cr_assert_eq(stats_reason_get(REASON_KEEPALIVE_TIMEOUT), before + 1);
}

Test(h1, the_second_head_has_the_heads_deadline)
{
	say(HEALTH);
	loop_advance(loop, conf->deadlines.keepalive - 1);
	say("G");
	loop_advance(loop, conf->deadlines.head - 1);
	cr_assert_not(m->closed);
	loop_advance(loop, 1);
	cr_assert(has("HTTP/1.1 408"));
}

/* --- the client --- */

Test(h1, a_client_that_leaves_is_counted_unless_it_was_idle)
{
	static const struct {
		const char *said;
		bool counted;
		enum stream_close how;
	} cases[] = {
		{ "", true, STREAM_CLOSE_FLUSH }, /* not one request */
		{ "GET /", true, STREAM_CLOSE_ABORT },
		{ HEALTH, false, STREAM_CLOSE_FLUSH },
		{ HEALTH "GET", true, STREAM_CLOSE_ABORT },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		long long before = stats_reason_get(REASON_CLIENT_GONE);

		restart();
		say(cases[i].said);
		mem_feed_eof(m, false);
		loop_turn(loop);
		cr_assert(m->closed);
		cr_assert_eq(m->how, cases[i].how, "case %zu", i);
		cr_assert_eq(stats_reason_get(REASON_CLIENT_GONE) - before, (long long)cases[i].counted, "case %zu", i);
	}
}

Test(h1, a_reset_ends_it)
{
	mem_feed_fault(m, STREAM_FAULT_RESET);
	loop_turn(loop);
	cr_assert(m->closed && m->how == STREAM_CLOSE_ABORT);
}

Test(h1, a_write_fault_during_a_request_tells_the_handler)
{
	site.how = LATER;
	say(HEALTH);
	mem_break(m, STREAM_FAULT_RESET);
	loop_turn(loop);
	cr_assert_eq(site.gone, 1u);
	cr_assert_eq(site.gone_for, REASON_CLIENT_RESET);
	cr_assert(m->closed && m->how == STREAM_CLOSE_ABORT);
}

Test(h1, an_answer_that_cannot_be_written_aborts)
{
	m->refuse = true;
	say(HEALTH);
	cr_assert(m->closed && m->how == STREAM_CLOSE_ABORT);
	cr_assert_eq(site.gone, 0u);
}

/* Answers pile up for a client that asks and never reads: the next head has to wait for them. */
Test(h1, a_client_that_does_not_read_its_answers_gets_no_more)
{
	m->window = 0;
	for (unsigned i = 0; i < 100; i++)
		say(HEALTH);
	cr_assert_eq(site.begun, 1u, "%u answers are queued", site.begun);
	cr_assert_eq(m->queued_most, strlen(HEALTH_ANSWER));
	m->window = SIZE_MAX;
	mem_drain(m, SIZE_MAX);
	loop_turn(loop);
	cr_assert_eq(site.begun, 100u);
	cr_assert_eq(answers(), 100u);
}

Test(h1, a_client_that_never_reads_is_closed_in_the_end)
{
	m->window = 0;
	say(HEALTH HEALTH);
	loop_advance(loop, conf->deadlines.keepalive);
	cr_assert(m->closed);
	cr_assert_eq(m->how, STREAM_CLOSE_FLUSH);
}

Test(h1, a_tunnel_may_follow_an_answer_that_is_still_queued)
{
	m->window = 0;
	site.how = BY_METHOD;
	say(HEALTH CONNECT "early");
	mem_drain(m, SIZE_MAX);
	loop_turn(loop);
	mem_drain(m, SIZE_MAX);
	loop_turn(loop);
	cr_assert_str_eq(m->out, HEALTH_ANSWER "HTTP/1.1 200 Connection established\r\n\r\n");
	cr_assert(site.early_n == 5 && memcmp(site.early, "early", 5) == 0);
}

/* --- from above --- */

Test(h1, draining_ends_an_idle_connection_at_once)
{
	h1_drain(h);
	cr_assert(m->closed && m->how == STREAM_CLOSE_FLUSH);
	h1_drain(h);
	h1_abort(h, REASON_SHUTDOWN);
}

Test(h1, draining_lets_a_request_end)
{
	site.how = LATER;
	say(HEALTH HEALTH);
	h1_drain(h);
	cr_assert_not(m->closed);
	answer();
	loop_turn(loop);
	cr_assert(has("Connection: close\r\n"));
	cr_assert_eq(site.begun, 1u);
	cr_assert(m->closed);
}

Test(h1, draining_lets_a_head_come)
{
	say("GET /healthz HTTP/1.1\r\n");
	h1_drain(h);
	say("Host: x\r\n\r\n");
	cr_assert(answered("200"));
	cr_assert(has("Connection: close\r\n"));
	cr_assert(m->closed);
}

Test(h1, an_abort_ends_whatever_it_is_at)
{
	h1_abort(h, REASON_SHUTDOWN);
	cr_assert(m->closed);

	restart();
	site.how = LATER;
	say(CONNECT);
	h1_abort(h, REASON_SHUTDOWN);
	cr_assert_eq(site.gone, 1u);
	cr_assert_eq(site.gone_for, REASON_SHUTDOWN);
	cr_assert(m->closed && m->how == STREAM_CLOSE_ABORT);
	h1_abort(h, REASON_SHUTDOWN);
	cr_assert_eq(site.gone, 1u);

	restart();
	site.how = TUNNEL;
	say(CONNECT);
	h1_abort(h, REASON_SHUTDOWN);
	cr_assert_eq(site.gone, 1u);
	cr_assert(m->closed);
}

/* --- memory --- */

Test(h1, every_allocation_may_fail)
{
	static const enum how hows[] = { AT_ONCE, BY_METHOD };

	for (size_t i = 0; i < 2; i++) {
		for (unsigned long n = 1;; n++) {
			bool started, hit;

			stop();
			mem_fault_set(n, false);
			started = start();
			if (started) {
				site.how = hows[i];
				say(HEALTH "GET /x HTTP/1.1\r\nHost: x\r\n\r\n" CONNECT "early");
			}
			hit = mem_fault_hit();
			mem_fault_set(0, false);
			if (!hit) {
				cr_assert_gt(n, 3ul);
				break;
			}
			if (started)
				cr_assert(m->closed || site.begun > 0);
			cr_assert_leq(site.begun, 3u);
		}
	}
}
