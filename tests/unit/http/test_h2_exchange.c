/* Exchanges over HTTP/2: bodies in and out, interim answers, trailers, replies early and never. */
#include "unit/http/h2_peer.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>

static void setup(void)
{
	peer_open(NULL, 0);
	cr_assert(peer_start());
	peer.on_begin = job_exchange;
}

static void teardown(void)
{
	cr_assert_not(peer.client_failed, "the client took something for an error");
	peer_stop();
	peer_close();
}

TestSuite(h2_exchange, .init = setup, .fini = teardown, .timeout = 120);

static const struct framing chunked = { FRAMING_CHUNKED, 0 };

static int32_t get(void)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("GET", "http", "a.example", "/", NULL, true);
	peer_run();
	cr_assert_not_null(job_at(0)->s);
	cr_assert(job_at(0)->eof);
	return id;
}

Test(h2_exchange, a_body_each_way)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("POST", "http", "a.example", "/", NULL, false);
	peer_send_pattern(id, 100000, true);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 100000u);
	cr_assert(peer_is_pattern(job_at(0)->in, 100000, 0));
	cr_assert(job_at(0)->eof);
	cr_assert_eq(peer_at(id)->status, 0);
	cr_assert(job_reply(job_at(0), 201, "Server: x\r\nConnection: close\r\nKeep-Alive: y\r\nX-Mixed: Case\r\n", chunked));
	job_supply(job_at(0), 200000, true);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 201);
	cr_assert(peer_has_field(id, "server: x\n") && peer_has_field(id, "x-mixed: Case\n"));
	cr_assert_not(peer_has_field(id, "onnection") || peer_has_field(id, "alive") || peer_has_field(id, "transfer-"));
	cr_assert_eq(peer_at(id)->n, 200000u);
	cr_assert(peer_is_pattern(peer_at(id)->data, 200000, 0));
	cr_assert(peer_at(id)->ended);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
}

Test(h2_exchange, replies_with_a_length)
{
	int32_t id = get();

	cr_assert(job_reply(job_at(0), 200, "", (struct framing){ FRAMING_LENGTH, 5 }));
	job_write(job_at(0), "12345", 5);
	job_finish(job_at(0));
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_has_field(id, "content-length: 5\n"));
	cr_assert_str_eq(peer_at(id)->data, "12345");
	cr_assert(peer_at(id)->ended && peer_at(id)->closed && !peer_at(id)->reset);
}

Test(h2_exchange, replies_without_a_body)
{
	static const struct {
		int status;
		const char *fields;
		struct framing framing;
	} rows[] = {
		{ 204, "", { FRAMING_NONE, 0 } },
		{ 304, "Content-Length: 700\r\n", { FRAMING_NONE, 0 } },
		{ 200, "", { FRAMING_LENGTH, 0 } },
	};

	peer_hello(true);
	for (unsigned i = 0; i < 3; i++) {
		int32_t id = peer_request("GET", "http", "a.example", "/", NULL, true);

		peer_run();
		cr_assert(job_reply(job_at(i), rows[i].status, rows[i].fields, rows[i].framing));
		if (i == 2)
			peer_run(); /* the end has left before it is said */
		job_finish(job_at(i));
		peer_run();
		cr_assert_eq(peer_at(id)->status, rows[i].status);
		cr_assert(peer_at(id)->ended && peer_at(id)->n == 0);
		cr_assert_geq(job_at(i)->drained, 1u, "row %u: the end was not told", i);
		job_close(job_at(i), STREAM_CLOSE_FLUSH);
		peer_run();
		cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
		cr_assert_eq(peer_has_field(id, "content-length: 700\n"), i == 1);
	}
}

Test(h2_exchange, a_large_head)
{
	char fields[9000];
	size_t n = 0;
	int32_t id = get();

	for (unsigned i = 0; i < 60; i++)
		n += (size_t)snprintf(fields + n, sizeof(fields) - n, "X-%u: %0120u\r\n", i, i);
	cr_assert(job_reply(job_at(0), 200, fields, chunked));
	job_supply(job_at(0), 10, true);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 10u);
	cr_assert_eq(peer_at(id)->status, 200);
	cr_assert_eq(frames_of(NGHTTP2_HEADERS, id), 1u);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
}

Test(h2_exchange, a_reply_to_head_keeps_its_length)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("HEAD", "http", "a.example", "/", NULL, true);
	peer_run();
	cr_assert(job_reply(job_at(0), 200, "Content-Length: 1234\r\n", (struct framing){ FRAMING_NONE, 0 }));
	job_finish(job_at(0));
	peer_run();
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_has_field(id, "content-length: 1234\n"));
	cr_assert(peer_at(id)->closed && peer_at(id)->ended && peer_at(id)->n == 0);
}

Test(h2_exchange, interim_answers)
{
	int32_t id = get();

	cr_assert(request_interim(job_at(0)->r, 103, slice_of("Link: </x>\r\n")));
	cr_assert(request_interim(job_at(0)->r, 103, slice_of("")));
	peer_run();
	cr_assert_eq(peer_at(id)->interims, 2u);
	cr_assert(peer_has_field(id, "link: </x>\n"));
	cr_assert(job_reply(job_at(0), 200, "", chunked));
	job_supply(job_at(0), 10, true);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 200);
	cr_assert_eq(peer_at(id)->n, 10u);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
}

/* --- trailers --- */

Test(h2_exchange, trailers_of_the_response)
{
	static const char trailers[] = "X-Sum: 1\r\nY: 2\r\n";
	char *own = strdup(trailers);
	int32_t id = get();

	cr_assert(job_reply(job_at(0), 200, "", chunked));
	job_write(job_at(0), "body", 4);
	peer_run();
	job_write(job_at(0), "more", 4);
	job_at(0)->r->reply_trailers = (struct slice){ own, strlen(own) };
	job_finish(job_at(0));
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	free(own); /* the handler's own memory, which may go with the request */
	peer_run();
	cr_assert_str_eq(peer_at(id)->data, "bodymore");
	cr_assert_eq(peer_at(id)->trailers, 1u);
	cr_assert(peer_has_field(id, "x-sum: 1\n") && peer_has_field(id, "y: 2\n"));
	cr_assert(peer_at(id)->ended && peer_at(id)->closed && !peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
}

Test(h2_exchange, trailers_behind_no_body_at_all)
{
	int32_t id = get();

	cr_assert(job_reply(job_at(0), 200, "", chunked));
	peer_run();
	job_at(0)->r->reply_trailers = slice_of("x: y\r\n");
	job_finish(job_at(0));
	peer_run();
	cr_assert_eq(peer_at(id)->trailers, 1u);
	cr_assert(peer_at(id)->ended);
	cr_assert_geq(job_at(0)->drained, 1u);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed && !peer_at(id)->reset);
}

static void put_post(struct frames *f, uint32_t id)
{
	put_headers(f, id, ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\nx: head\n", NGHTTP2_FLAG_END_HEADERS);
}

/* In one read or in many: what is behind the body is no part of the head. */
Test(h2_exchange, trailers_of_the_request)
{
	for (unsigned at_once = 0; at_once < 2; at_once++) {
		struct frames *f = calloc(1, sizeof(*f));

		put_preface(f);
		put_settings(f, 0, 0);
		put_post(f, 1);
		if (!at_once) {
			peer_feed(f);
			f->n = 0;
		}
		put_frame(f, NGHTTP2_DATA, 0, 1, "body", 4);
		if (!at_once) {
			peer_feed(f);
			f->n = 0;
		}
		put_headers(f, 1, "x-sum: 1\nhost: b.example\ncookie: a=b\nproxy-authorization: Basic eDp5\n",
		    NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
		peer_feed(f);
		free(f);
		cr_assert_eq(peer.count, 1u);
		cr_assert_eq(job_at(0)->fault, REASON_OK, "%s", reason_name(job_at(0)->fault));
		cr_assert_eq(frames_of(NGHTTP2_RST_STREAM, 1), 0u, "at once %u: reset %u", at_once, reset_of(1));
		cr_assert_eq(job_at(0)->in_n, 4u);
		cr_assert(job_at(0)->eof);
		cr_assert_str_eq(job_at(0)->trailers, "x-sum: 1\r\n");
		cr_assert_eq(job_at(0)->r->framing.kind, FRAMING_CHUNKED);
		cr_assert_not(job_at(0)->r->has_credentials);
		cr_assert_null(memmem(job_at(0)->r->forward.p, job_at(0)->r->forward.n, "x-sum", 5));
		peer_stop();
		cr_assert(peer_start());
		peer.on_begin = job_exchange;
	}
}

/* RFC 9113 8.5: a tunnel has DATA and nothing else. */
Test(h2_exchange, tunnels_have_no_trailers)
{
	for (unsigned at_once = 0; at_once < 2; at_once++) {
		struct frames *f = calloc(1, sizeof(*f));

		peer.on_begin = job_accept;
		put_preface(f);
		put_settings(f, 0, 0);
		put_connect(f, 1, "a.example:443", false);
		put_frame(f, NGHTTP2_DATA, 0, 1, "x", 1);
		if (!at_once) {
			peer_feed(f);
			f->n = 0;
		}
		put_headers(f, 1, "x-sum: 1\n", NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
		peer_feed(f);
		free(f);
		cr_assert_eq(reset_of(1), (uint32_t)NGHTTP2_PROTOCOL_ERROR, "at once %u: %x", at_once, reset_of(1));
		cr_assert_eq(peer.count, 1u);
		cr_assert_not(job_at(0)->eof, "at once %u: a proper end", at_once);
		cr_assert_eq(job_at(0)->gone, 1u);
		cr_assert_not(peer.m->closed);
		peer_stop();
		cr_assert(peer_start());
	}
}

/* --- replies early, late and never --- */

Test(h2_exchange, a_refusal_instead_of_a_reply)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("POST", "http", "a.example", "/", NULL, false);
	peer_send_pattern(id, 1000, false);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 1000u);
	job_refuse(job_at(0), REASON_ADDRESS_DENIED);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 403);
	cr_assert(peer_at(id)->ended && peer_at(id)->closed && peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
}

Test(h2_exchange, a_reply_before_the_request_is_whole)
{
	int32_t id;

	peer_hello(true);
	id = peer_request("POST", "http", "a.example", "/", NULL, false);
	peer_send_pattern(id, 1000, false);
	peer_run();
	cr_assert(job_reply(job_at(0), 413, "", chunked));
	job_supply(job_at(0), 100, true);
	peer_run();
	cr_assert(peer_at(id)->ended);
	cr_assert_not(peer_at(id)->closed);
	peer_send_pattern(id, 1000, false); /* it still reads */
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 2000u);
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer_at(id)->closed && peer_at(id)->reset);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_NO_ERROR);
	cr_assert_eq(peer_at(id)->n, 100u);
}

Test(h2_exchange, a_reply_that_breaks_off)
{
	int32_t id = get();

	cr_assert(job_reply(job_at(0), 200, "", chunked));
	job_write(job_at(0), "half", 4);
	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
	peer_run();
	cr_assert_str_eq(peer_at(id)->data, "half");
	cr_assert(peer_at(id)->reset && !peer_at(id)->ended);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_INTERNAL_ERROR);
}

Test(h2_exchange, an_exchange_that_is_closed_without_a_reply)
{
	int32_t id = get();

	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
	peer_run();
	cr_assert(peer_at(id)->reset && peer_at(id)->status == 0);
	cr_assert_eq(peer_at(id)->error, NGHTTP2_INTERNAL_ERROR);
}

Test(h2_exchange, the_client_goes_before_and_after_the_reply)
{
	for (unsigned replied = 0; replied < 2; replied++) {
		int32_t id;

		if (!peer.session)
			peer_hello(true);
		id = peer_request("POST", "http", "a.example", "/", NULL, false);
		peer_run();
		if (replied)
			cr_assert(job_reply(job_at(replied), 200, "", chunked));
		peer_reset(id, NGHTTP2_CANCEL);
		peer_run();
		cr_assert_eq(job_at(replied)->gone, 1u);
		cr_assert_eq(job_at(replied)->why, REASON_CLIENT_RESET);
	}
}

/* Nobody reads the reply's head out of a target while there is no room for its body; but heads need no window. */
Test(h2_exchange, a_client_without_a_window_gets_the_head)
{
	const nghttp2_settings_entry none = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0 };
	int32_t id;

	peer_hello_settings(false, &none, 1);
	id = peer_request("GET", "http", "a.example", "/", NULL, true);
	peer_run();
	cr_assert_gt(stream_room(job_at(0)->s), 0u, "a relay would never read the reply");
	cr_assert(job_reply(job_at(0), 200, "", chunked));
	cr_assert_eq(stream_room(job_at(0)->s), 0u);
	peer_run();
	cr_assert_eq(peer_at(id)->status, 200);
	job_at(0)->drained = 0;
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 100), 0);
	peer_run();
	cr_assert_geq(job_at(0)->drained, 1u);
	cr_assert_eq(stream_room(job_at(0)->s), 100u);
}

Test(h2_exchange, without_memory_for_a_head)
{
	(void)get();
	mem_fault_set(1, false);
	cr_assert_not(request_interim(job_at(0)->r, 103, slice_of("Link: </x>\r\n")));
	cr_assert(mem_fault_hit());
	cr_assert_eq(job_at(0)->r->fault, REASON_NO_MEMORY);
	job_at(0)->r->fault = REASON_OK;
	mem_fault_set(1, false);
	cr_assert_not(job_reply(job_at(0), 200, "A: b\r\n", chunked));
	cr_assert(mem_fault_hit());
	mem_fault_set(0, false);
	cr_assert_eq(job_at(0)->r->fault, REASON_NO_MEMORY);
	job_close(job_at(0), STREAM_CLOSE_ABORT);
}
