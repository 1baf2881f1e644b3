/* One HTTP/2 connection: its first bytes, requests and what becomes of them, tunnels, ends. */
#include "unit/http/h2_peer.h"

#include "adit/log/stats.h"

#include <criterion/criterion.h>

static void setup(void)
{
	peer_open(NULL, 0);
	cr_assert(peer_start());
}

static void teardown(void)
{
	cr_assert_not(peer.client_failed, "the client took something for an error");
	peer_stop();
	peer_close();
}

TestSuite(h2, .init = setup, .fini = teardown, .timeout = 120);

Test(h2, a_tunnel_carries_bytes_both_ways)
{
	int32_t id;

	peer.on_begin = job_accept;
	peer.echoes = true;
	peer_hello(true);
	peer_run();
	cr_assert_not(h2_was_used(peer.h), "by the preface alone");
	id = peer_connect("a.example:443", NULL);
	peer_send_text(id, "hello", false);
	peer_run();
	cr_assert(h2_was_used(peer.h));
	cr_assert_eq(peer.count, 1u);
	cr_assert_eq(job_at(0)->fault, REASON_OK);
	cr_assert_str_eq(job_at(0)->method, "CONNECT");
	cr_assert_str_eq(job_at(0)->target, "a.example:443");
	cr_assert_eq(peer_at(id)->status, 200);
	cr_assert_not(peer_at(id)->ended);
	cr_assert_eq(peer_at(id)->n, 5u);
	cr_assert_str_eq(peer_at(id)->data, "hello");
	peer_send_pattern(id, 0, true);
	peer_run();
	cr_assert(job_at(0)->eof);
	cr_assert(peer_at(id)->ended);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
	cr_assert_not(peer_at(id)->reset);
}

/* --- the first bytes --- */

Test(h2, nothing_is_sent_before_the_preface_is_complete)
{
	struct frames *f = calloc(1, sizeof(*f));

	put_preface(f);
	for (size_t i = 0; i < f->n; i++) {
		cr_assert_eq(peer.m->out_n, 0u, "after %zu bytes", i);
		mem_feed(peer.m, f->bytes + i, 1);
		peer_run();
	}
	cr_assert_gt(peer.m->out_n, 0u);
	free(f);
}

Test(h2, what_is_no_preface_gets_nothing)
{
	mem_feed_text(peer.m, "GET / HTTP/1.1\r\n\r\n");
	peer_run();
	cr_assert_eq(peer.m->out_n, 0u);
	cr_assert(peer.m->closed);
	cr_assert_eq(peer.count, 0u);
}

Test(h2, the_settings_say_what_holds_here)
{
	struct frames *f = calloc(1, sizeof(*f));
	struct frame frame;
	size_t at = 0;
	uint32_t values[16] = { 0 };
	unsigned seen = 0;

	put_preface(f);
	put_settings(f, 0, 0);
	peer_feed(f);
	free(f);
	cr_assert(next_frame(&at, &frame));
	cr_assert_eq(frame.type, NGHTTP2_SETTINGS);
	for (size_t i = 0; i + 6 <= frame.n; i += 6) {
		unsigned key = (unsigned)frame.payload[i] << 8 | frame.payload[i + 1];
		const uint8_t *p = frame.payload + i + 2;

		cr_assert_lt(key, 16u);
		seen |= 1u << key;
		values[key] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	}
	cr_assert(seen & 1u << NGHTTP2_SETTINGS_HEADER_TABLE_SIZE);
	cr_assert_eq(values[NGHTTP2_SETTINGS_HEADER_TABLE_SIZE], 0u);
	cr_assert_eq(values[NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS], 256u);
	cr_assert_eq(values[NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE], 65536u);
	cr_assert_eq(values[NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE], 32768u);
	cr_assert_eq(values[NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES], 1u);
	cr_assert_eq(frames_of(NGHTTP2_PING, -1), 0u);
}

/* --- requests --- */

static void expect_request(unsigned i, const char *method, const char *target)
{
	cr_assert_eq(peer.count, i + 1, "%u requests", peer.count);
	cr_assert_eq(job_at(i)->fault, REASON_OK, "%s", reason_name(job_at(i)->fault));
	cr_assert_str_eq(job_at(i)->method, method);
	cr_assert_str_eq(job_at(i)->target, target);
}

static bool forwards(unsigned i, const char *text)
{
	struct slice forward = job_at(i)->r->forward;

	return memmem(forward.p, forward.n, text, strlen(text)) != NULL;
}

Test(h2, connect_is_a_request_in_authority_form)
{
	const struct request *r;

	peer_hello(true);
	(void)peer_connect("A.example:443", "Basic YWxpY2U6c2VjcmV0");
	peer_run();
	expect_request(0, "CONNECT", "A.example:443");
	r = job_at(0)->r;
	cr_assert_eq(r->method, HEAD_CONNECT);
	cr_assert_eq(r->form, HEAD_FORM_AUTHORITY);
	cr_assert(r->has_authority);
	cr_assert_str_eq(r->authority.host.text, "a.example");
	cr_assert_eq(r->authority.port, 443);
	cr_assert_str_eq(job_at(0)->credentials, "Basic YWxpY2U6c2VjcmV0");
}

Test(h2, http_is_a_request_in_absolute_form)
{
	const struct request *r;

	peer_hello(true);
	(void)peer_request("GET", "http", "a.example:8080", "/x?y", "accept: */*\nproxy-authorization: Basic eDp5\n", true);
	peer_run();
	expect_request(0, "GET", "http://a.example:8080/x?y");
	r = job_at(0)->r;
	cr_assert_eq(r->form, HEAD_FORM_ABSOLUTE);
	cr_assert_eq(r->authority.port, 8080);
	cr_assert_eq(r->framing.kind, FRAMING_NONE);
	cr_assert(forwards(0, "GET /x?y HTTP/1.1\r\nHost: a.example:8080\r\n"));
	cr_assert(forwards(0, "\r\naccept: */*\r\n"));
	cr_assert(forwards(0, "\r\nVia: 2 adit\r\n"));
	cr_assert_not(forwards(0, "roxy-"));
	cr_assert_not(r->upgrade);
}

Test(h2, https_is_a_request_to_the_proxy_itself)
{
	peer_hello(true);
	(void)peer_request("GET", "https", "proxy.example:8443", "/healthz", NULL, true);
	peer_run();
	expect_request(0, "GET", "/healthz");
	cr_assert_eq(job_at(0)->r->form, HEAD_FORM_ORIGIN);
	(void)peer_request("OPTIONS", "https", "proxy.example:8443", "*", NULL, true);
	peer_run();
	expect_request(1, "OPTIONS", "*");
}

Test(h2, options_for_a_whole_server)
{
	peer_hello(true);
	(void)peer_request("OPTIONS", "http", "a.example", "*", NULL, true);
	peer_run();
	expect_request(0, "OPTIONS", "http://a.example");
	cr_assert(forwards(0, "OPTIONS * HTTP/1.1\r\n"));
}

Test(h2, cookies_are_joined)
{
	peer_hello(true);
	(void)peer_request("GET", "http", "a.example", "/", "cookie: a=b\nx: y\ncookie: c=d\ncookie: e=f\n", true);
	peer_run();
	expect_request(0, "GET", "http://a.example/");
	cr_assert(forwards(0, "\r\nCookie: a=b; c=d; e=f\r\n") || forwards(0, "\r\ncookie: a=b; c=d; e=f\r\n"));
}

Test(h2, the_authority_stands_for_host)
{
	peer_hello(true);
	(void)peer_request("GET", "http", "a.example", "/", "host: b.example\n", true);
	peer_run();
	cr_assert_eq(peer.count, 1u);
	if (job_at(0)->fault == REASON_OK) {
		cr_assert(forwards(0, "Host: a.example\r\n"));
		cr_assert_not(forwards(0, "b.example"));
	}
}

/* How a body is framed is told by the head alone, whatever has come behind it by then. */
Test(h2, bodies_are_framed_by_the_head)
{
	static const struct {
		const char *fields;
		bool ends;
		enum framing_kind kind;
		unsigned long long length;
	} rows[] = {
		{ NULL, true, FRAMING_NONE, 0 },
		{ NULL, false, FRAMING_CHUNKED, 0 },
		{ "content-length: 5\n", false, FRAMING_LENGTH, 5 },
		{ "content-length: 0\n", true, FRAMING_LENGTH, 0 },
	};

	peer_hello(true);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int32_t id = peer_request("POST", "http", "a.example", "/", rows[i].fields, rows[i].ends);

		if (!rows[i].ends)
			peer_send_text(id, "12345", true); /* in the same read */
		peer_run();
		expect_request(i, "POST", "http://a.example/");
		cr_assert_eq(job_at(i)->r->framing.kind, rows[i].kind, "row %u: %d", i, job_at(i)->r->framing.kind);
		if (rows[i].kind == FRAMING_LENGTH)
			cr_assert_eq(job_at(i)->r->framing.length, rows[i].length);
		job_exchange(job_at(i));
		peer_run();
		cr_assert_eq(job_at(i)->in_n, rows[i].ends ? 0u : 5u);
		cr_assert(job_at(i)->eof);
	}
}

Test(h2, a_header_list_that_is_too_large)
{
	char fields[4000], value[1000];
	int32_t id;
	size_t n = 0;

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	for (unsigned i = 0; i < 3; i++)
		n += (size_t)snprintf(fields + n, sizeof(fields) - n, "x-%u: %s\n", i, value);
	peer_hello(true);
	id = peer_request("GET", "http", "a.example", "/", fields, true);
	peer_run();
	expect_request(0, "GET", "http://a.example/");
	cr_assert_eq(peer_at(id)->status, 0);
	peer_stop();
	peer_close();
	peer_open((struct conf_option[]){ { "http2.header_list", "2KiB" } }, 1);
	cr_assert(peer_start());
	peer_hello(true);
	(void)snprintf(fields, sizeof(fields), "x: %s\ny: %s\n", value, value);
	id = peer_request("GET", "http", "a.example", "/", fields, true);
	peer_run();
	cr_assert_eq(peer.count, 1u);
	cr_assert_eq(job_at(0)->fault, REASON_HEAD_TOO_LARGE);
	cr_assert_eq(peer_at(id)->status, 431);
	cr_assert(peer_at(id)->closed);
	cr_assert_not(peer.m->closed, "other streams do not notice");
}

Test(h2, too_many_fields)
{
	char fields[4000];
	size_t n = 0;
	int32_t id;

	peer_stop();
	peer_close();
	peer_open((struct conf_option[]){ { "http.fields", "8" } }, 1);
	cr_assert(peer_start());
	for (unsigned i = 0; i < 20; i++)
		n += (size_t)snprintf(fields + n, sizeof(fields) - n, "x-%u: y\n", i);
	peer_hello(true);
	id = peer_request("GET", "http", "a.example", "/", fields, true);
	peer_run();
	cr_assert_eq(job_at(0)->fault, REASON_TOO_MANY_FIELDS);
	cr_assert_eq(peer_at(id)->status, 431);
}

/* What nghttp2 lets through is judged as an HTTP/1.1 head would be. */
Test(h2, what_a_head_may_not_say)
{
	static const struct {
		const char *method, *scheme, *authority, *path, *fields;
		int status;
	} rows[] = {
		{ "CONNECT", NULL, "a.example", NULL, NULL, 400 },
		{ "CONNECT", NULL, "a.example:0", NULL, NULL, 400 },
		{ "CONNECT", NULL, "user@a.example:443", NULL, NULL, 400 },
		{ "GET", "ftp", "a.example", "/", NULL, 400 },
		{ "GET", "http", "a.example:x", "/", NULL, 400 },
		{ "GET", "http", "user:pass@a.example", "/", NULL, 400 },
		{ "GET", "http", "a.example", "/", "proxy-authorization: Basic eDp5\nproxy-authorization: Basic eDp5\n", 400 },
	};

	peer_hello(true);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int32_t id = peer_request(rows[i].method, rows[i].scheme, rows[i].authority, rows[i].path, rows[i].fields, true);

		peer_run();
		cr_assert_eq(peer.count, i + 1, "row %u", i);
		cr_assert_neq(job_at(i)->fault, REASON_OK, "row %u", i);
		cr_assert(peer_at(id)->status == rows[i].status || peer_at(id)->status == 407, "row %u: %d", i,
		    peer_at(id)->status);
	}
}

static void start_by_hand(struct frames *f)
{
	f->n = 0;
	put_preface(f);
	put_settings(f, 0, 0);
	peer_feed(f);
	f->n = 0;
	put_frame(f, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	peer_feed(f);
	cr_assert_eq(frames_of(NGHTTP2_GOAWAY, -1), 0u);
	f->n = 0;
}

/* RFC 9113 8.1.1: a stream error PROTOCOL_ERROR, one request on record, and nothing else is hurt. */
Test(h2, malformed_requests)
{
	static const char *const rows[] = {
		":method: CONNECT\n:authority: a.example:443\n:path: /\n",
		":method: CONNECT\n:authority: a.example:443\n:scheme: https\n",
		":method: CONNECT\n:authority: a.example:443\n:scheme: https\n:path: /\n:protocol: websocket\n",
		":method: CONNECT\n",
		":method: GET\n:scheme: http\n:authority: a.example\n",
		":method: GET\n:scheme: http\n:path: /\n",
		":method: GET\n:authority: a.example\n:path: /\n",
		":scheme: http\n:authority: a.example\n:path: /\n",
		":method: GET\n:method: GET\n:scheme: http\n:authority: a.example\n:path: /\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\n:authority: b.example\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: \n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: x\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\n:status: 200\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\n:x: y\n",
		":method: GET\n:scheme: http\n:authority: a.example\nx: y\n:path: /\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nX-Upper: y\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nx: a\rb\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nx y: z\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nconnection: close\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\ntransfer-encoding: chunked\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nte: gzip\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nupgrade: websocket\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\nproxy-connection: keep-alive\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\ncontent-length: 1\ncontent-length: 1\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\ncontent-length: -1\n",
		":method: G T\n:scheme: http\n:authority: a.example\n:path: /\n",
		":method: GET\n:scheme: http\n:authority: a b\n:path: /\n",
		":method: GET\n:scheme: http\n:authority: a.example\n:path: /\n:method: GET\n",
	};
	struct frames *f = calloc(1, sizeof(*f));

	start_by_hand(f);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t id = 2 * i + 1;

		f->n = 0;
		put_headers(f, id, rows[i], NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
		peer_feed(f);
		cr_assert_eq(peer.count, i + 1, "row %u: %u requests", i, peer.count);
		cr_assert_neq(job_at(i)->fault, REASON_OK, "row %u", i);
		if (frames_of(NGHTTP2_RST_STREAM, id) == 0) {
			cr_assert_eq(frames_of(NGHTTP2_HEADERS, id), 1u, "row %u: neither answered nor reset", i);
			continue;
		}
		cr_assert_eq(job_at(i)->fault, REASON_H2_PROTOCOL, "row %u: %s", i, reason_name(job_at(i)->fault));
		cr_assert_eq(reset_of(id), (uint32_t)NGHTTP2_PROTOCOL_ERROR, "row %u: %u", i, reset_of(id));
		cr_assert_eq(frames_of(NGHTTP2_RST_STREAM, id), 1u, "row %u", i);
		cr_assert_eq(frames_of(NGHTTP2_HEADERS, id), 0u);
		cr_assert_eq(frames_of(NGHTTP2_GOAWAY, -1), 0u, "row %u", i);
	}
	f->n = 0;
	put_connect(f, 101, "a.example:443", false);
	peer_feed(f);
	cr_assert_eq(job_at(peer.count - 1)->fault, REASON_OK);
	free(f);
}

/* Errors of the connection: one request on record, GOAWAY, the end. */
Test(h2, malformed_connections)
{
	static const uint8_t zeros[16];
	struct frames *f = calloc(1, sizeof(*f));

	for (unsigned i = 0;; i++) {
		uint32_t error = 0;

		if (i > 0) {
			peer_stop();
			cr_assert(peer_start());
		}
		start_by_hand(f);
		put_connect(f, 1, "a.example:443", false);
		peer.on_begin = job_accept;
		peer_feed(f);
		f->n = 0;
		switch (i) {
		case 0: put_frame(f, NGHTTP2_DATA, 0, 0, "x", 1); break; /* on stream 0 */
		case 1: put_frame(f, NGHTTP2_SETTINGS, 0, 1, NULL, 0); break;
		case 2: put_frame(f, NGHTTP2_SETTINGS, 0, 0, zeros, 5); break;
		case 3: put_frame(f, NGHTTP2_PING, 0, 0, zeros, 7); break;
		case 4: put_frame(f, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, NULL, 0); break;
		case 5: put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 0, 0x7fffffff); break;
		case 6: put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 0, 0); break;
		case 7: put_connect(f, 2, "a.example:443", false); break; /* even */
		case 8: put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x80000000); break;
		case 9: put_settings(f, NGHTTP2_SETTINGS_ENABLE_PUSH, 2); break;
		case 10: put_frame(f, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 3, "\xff\xff\xff\xff\xff\xff\xff", 7); break;
		case 11: put_frame(f, NGHTTP2_RST_STREAM, 0, 1, zeros, 3); break;
		case 12: put_frame(f, NGHTTP2_PUSH_PROMISE, NGHTTP2_FLAG_END_HEADERS, 1, zeros, 8); break;
		case 13: put_frame(f, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_PADDED, 3, "\xff\x01", 2); break;
		case 14: f->bytes[0] = 1, f->n = 9, memset(f->bytes + 1, 0, 8); break; /* 65536 bytes */
		default: free(f); return;
		}
		peer_feed(f);
		cr_assert(goaway_of(&error), "row %u: no GOAWAY", i);
		cr_assert_neq(error, (uint32_t)NGHTTP2_NO_ERROR, "row %u", i);
		cr_assert_eq(frames_of(NGHTTP2_GOAWAY, -1), 1u, "row %u", i);
		cr_assert(peer.m->closed, "row %u", i);
		cr_assert_eq(peer.m->how, STREAM_CLOSE_FLUSH);
		cr_assert_eq(peer.count, 2u, "row %u: %u requests", i, peer.count);
		cr_assert_eq(job_at(1)->fault, REASON_H2_PROTOCOL);
		cr_assert_eq(job_at(0)->gone, 1u);
		cr_assert_eq(job_at(0)->why, REASON_H2_PROTOCOL);
	}
}
