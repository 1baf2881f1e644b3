/* How an HTTP/2 connection ends: abuse, deadlines, drain, faults, with requests in every state. */
#include "http/h2_priv.h"
#include "unit/http/h2_peer.h"

#include <criterion/criterion.h>

static struct frames *f;

static void setup(void)
{
	f = calloc(1, sizeof(*f));
	cr_assert_not_null(f);
	peer_open(NULL, 0);
	cr_assert(peer_start());
	peer.on_begin = job_accept;
}

static void teardown(void)
{
	cr_assert_not(peer.client_failed, "the client took something for an error");
	peer_stop();
	peer_close();
	free(f);
}

TestSuite(h2_ends, .init = setup, .fini = teardown, .timeout = 120);

static void restart(void)
{
	peer_stop();
	cr_assert(peer_start());
	peer.on_begin = job_accept;
}

static void feed(void)
{
	peer_feed(f);
	f->n = 0;
}

/* A connection by hand with one tunnel. */
static void hello(void)
{
	f->n = 0;
	put_preface(f);
	put_settings(f, 0, 0);
	feed();
	put_frame(f, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	put_connect(f, 1, "a.example:443", false);
	feed();
	cr_assert_eq(peer.count, 1u);
	cr_assert_not_null(job_at(0)->s);
}

/* --- budgets --- */

static void flood_resets(uint32_t i)
{
	put_connect(f, 3 + 2 * i, "a.example:443", false);
	put_u32_frame(f, NGHTTP2_RST_STREAM, 3 + 2 * i, NGHTTP2_CANCEL);
}

static void flood_made_resets(uint32_t i)
{
	put_headers(f, 3 + 2 * i, ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\ncontent-length: 1\n",
	    NGHTTP2_FLAG_END_HEADERS);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3 + 2 * i, "too much", 8);
}

static void flood_overflows(uint32_t i)
{
	put_connect(f, 3 + 2 * i, "a.example:443", false);
	put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 3 + 2 * i, 0x7fffffff);
}

static void flood_malformed(uint32_t i)
{
	put_headers(f, 3 + 2 * i, ":method: CONNECT\n", NGHTTP2_FLAG_END_HEADERS);
}

static void flood_settings(uint32_t i)
{
	put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535 + i % 2);
}

static void flood_pings(uint32_t i)
{
	(void)i;
	put_frame(f, NGHTTP2_PING, 0, 0, "12345678", 8);
}

static void flood_ping_acks(uint32_t i)
{
	(void)i;
	put_frame(f, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "12345678", 8);
}

static void flood_empty(uint32_t i)
{
	(void)i;
	put_frame(f, NGHTTP2_DATA, 0, 1, NULL, 0);
}

static void flood_padding(uint32_t i)
{
	static const uint8_t padding[256] = { 255 };

	(void)i;
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, padding, sizeof(padding));
}

static void flood_windows(uint32_t i)
{
	put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, i % 2, 1);
}

static void flood_priorities(uint32_t i)
{
	const uint8_t payload[] = { 0, 0, 0, 0, (uint8_t)i };

	put_frame(f, NGHTTP2_PRIORITY, 0, 1, payload, sizeof(payload));
}

static void flood_unknown(uint32_t i)
{
	put_frame(f, 0x20, (uint8_t)i, i % 3, "x", 1);
}

static void flood_continuations(uint32_t i)
{
	if (i == 0)
		put_headers(f, 3, ":method: CONNECT\n", 0);
	else
		put_frame(f, NGHTTP2_CONTINUATION, 0, 3, NULL, 0);
}

Test(h2_ends, floods)
{
	static const struct {
		const char *name;
		void (*flood)(uint32_t i);
	} rows[] = {
		{ "rapid reset", flood_resets },
		{ "resets that we are made to send", flood_made_resets },
		{ "windows that overflow", flood_overflows },
		{ "malformed requests", flood_malformed },
		{ "SETTINGS", flood_settings },
		{ "PING", flood_pings },
		{ "PING acknowledged", flood_ping_acks },
		{ "empty DATA", flood_empty },
		{ "DATA of padding", flood_padding },
		{ "WINDOW_UPDATE", flood_windows },
		{ "PRIORITY", flood_priorities },
		{ "unknown frames", flood_unknown },
		{ "CONTINUATION", flood_continuations },
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t error = 0, sent = 0;
		unsigned records = 0;

		if (i > 0)
			restart();
		hello();
		while (sent < 20000 && !peer.closed && peer.count < PEER_JOBS - 20) {
			for (unsigned k = 0; k < 10; k++)
				rows[i].flood(sent++);
			feed();
		}
		cr_assert(peer.closed, "%s: %u went through", rows[i].name, sent);
		cr_assert(goaway_of(&error), "%s", rows[i].name);
		cr_assert_eq(error, (uint32_t)NGHTTP2_ENHANCE_YOUR_CALM, "%s: error %u", rows[i].name, error);
		for (unsigned k = 0; k < peer.count; k++)
			records += job_at(k)->fault == REASON_H2_ABUSE;
		cr_assert_eq(records, 1u, "%s: %u records", rows[i].name, records);
		cr_assert_eq(job_at(0)->gone, 1u);
		cr_assert_eq(job_at(0)->why, REASON_H2_ABUSE);
	}
}

/* Many in one read: the answers are counted when they go out. */
Test(h2_ends, a_flood_in_large_pieces)
{
	uint32_t error = 0;

	hello();
	for (uint32_t sent = 0; sent < 200 * 20 && !goaway_of(&error); feed()) /* fewer in one go than streams are allowed */
		for (unsigned k = 0; k < 200; k++)
			flood_made_resets(sent++);
	cr_assert(goaway_of(&error));
	cr_assert_eq(error, (uint32_t)NGHTTP2_ENHANCE_YOUR_CALM);
	cr_assert(peer.closed);
}

Test(h2_ends, what_browsers_do_is_no_flood)
{
	static const char bytes[500];
	uint32_t error = 0, id = 3;

	hello();
	for (unsigned page = 0; page < 10; page++) {
		uint32_t from = id;

		/* a page of 100 tunnels, with a few PINGs and SETTINGS */
		for (; id < from + 200; id += 2)
			put_connect(f, id, "a.example:443", false);
		flood_pings(0);
		if (page == 0)
			flood_settings(0);
		feed();
		/* bytes both ways, two updates of windows for each DATA frame */
		for (unsigned i = 0; i < 400; i++) {
			put_frame(f, NGHTTP2_DATA, 0, from + 2 * (i % 100), bytes, sizeof(bytes));
			flood_windows(0);
			flood_windows(1);
			if (i % 100 == 99)
				feed();
		}
		/* the page is closed */
		for (uint32_t i = from; i < id; i += 2)
			put_u32_frame(f, NGHTTP2_RST_STREAM, i, NGHTTP2_CANCEL);
		feed();
		peer.client.logged_in = true;
		loop_advance(peer.loop, 10000);
	}
	cr_assert_not(goaway_of(&error));
	cr_assert_eq(job_at(0)->gone, 0u);
}

/* --- too many streams --- */

Test(h2_ends, a_stream_too_many_is_refused)
{
	put_preface(f);
	put_settings(f, 0, 0);
	for (uint32_t id = 1; id < 2 * 258; id += 2) /* before our SETTINGS were read */
		put_connect(f, id, "a.example:443", false);
	feed();
	cr_assert_eq(peer.count, 256u, "%u", peer.count);
	cr_assert_eq(reset_of(2 * 257 - 1), (uint32_t)NGHTTP2_REFUSED_STREAM);
	cr_assert_not(peer.closed);
	put_u32_frame(f, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	feed();
	put_connect(f, 2 * 300 + 1, "a.example:443", false);
	feed();
	cr_assert_eq(peer.count, 257u);
	cr_assert_not_null(job_at(256)->s);
}

/* --- deadlines --- */

Test(h2_ends, who_asks_nothing_goes)
{
	for (unsigned heard = 0; heard < 2; heard++) {
		uint32_t error = 1;

		if (heard) {
			restart();
			put_preface(f);
			put_settings(f, 0, 0);
			feed();
		}
		loop_advance(peer.loop, peer.conf->deadlines.head - 1);
		cr_assert_not(peer.closed);
		loop_advance(peer.loop, 1);
		peer_run();
		cr_assert(peer.closed);
		cr_assert_eq(peer.count, 0u);
		cr_assert_eq(goaway_of(&error), heard, "nothing is said to who has said nothing");
	}
}

/* A field section that does not end: on record, and the end of it all. */
Test(h2_ends, half_a_head)
{
	uint32_t error = 1;
	char block[200];
	size_t n = put_fields(block, sizeof(block), ":method: CONNECT\n:authority: b.example:443\n");

	hello();
	put_frame(f, NGHTTP2_HEADERS, 0, 3, block, n / 2);
	feed();
	loop_advance(peer.loop, peer.conf->deadlines.head - 1);
	peer_run();
	cr_assert_not(peer.closed);
	loop_advance(peer.loop, 1);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(peer.count, 2u);
	cr_assert_eq(job_at(1)->fault, REASON_HEAD_TIMEOUT);
	cr_assert_eq(job_at(0)->why, REASON_HEAD_TIMEOUT);
	cr_assert(goaway_of(&error));
	cr_assert_eq(error, (uint32_t)NGHTTP2_NO_ERROR);
}

Test(h2_ends, half_a_frame_of_a_head)
{
	hello();
	put_connect(f, 3, "b.example:443", false);
	f->n -= 5;
	feed();
	loop_advance(peer.loop, peer.conf->deadlines.head);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(job_at(1)->fault, REASON_HEAD_TIMEOUT);
}

/* A field section that nobody looks at has come all the same. */
Test(h2_ends, heads_that_are_ignored_end_nothing)
{
	hello();
	put_headers(f, 3, ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\n", NGHTTP2_FLAG_END_HEADERS);
	peer.on_begin = job_local;
	feed();
	cr_assert_eq(reset_of(3), (uint32_t)NGHTTP2_NO_ERROR);
	put_headers(f, 3, "x: y\n", NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM); /* its trailers were on their way */
	feed();
	loop_advance(peer.loop, peer.conf->deadlines.head);
	peer_run();
	cr_assert_not(peer.closed, "trailers of a stream that is no more");
	cr_assert_eq(peer.count, 2u);
}

Test(h2_ends, idle_connections_go)
{
	uint32_t error = 1;

	peer.on_begin = job_local;
	peer.client.logged_in = true;
	put_preface(f);
	put_settings(f, 0, 0);
	put_headers(f, 1, ":method: GET\n:scheme: https\n:authority: p\n:path: /\n",
	    NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
	feed();
	cr_assert_eq(peer.h->count, 0u);
	loop_advance(peer.loop, peer.conf->deadlines.keepalive - 1);
	peer_run();
	cr_assert_not(peer.closed);
	loop_advance(peer.loop, 1);
	peer_run();
	cr_assert(peer.closed);
	cr_assert(goaway_of(&error));
	cr_assert_eq(error, (uint32_t)NGHTTP2_NO_ERROR);
	cr_assert_eq(peer.m->how, STREAM_CLOSE_FLUSH);
}

Test(h2_ends, strangers_go_sooner)
{
	uint32_t id = 1;

	peer.on_begin = job_local;
	put_preface(f);
	put_settings(f, 0, 0);
	for (unsigned i = 0; i < 100 && !peer.closed; i++, id += 2) {
		put_headers(f, id, ":method: GET\n:scheme: https\n:authority: p\n:path: /\n",
		    NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
		feed();
		loop_advance(peer.loop, 1000);
		peer_run();
	}
	cr_assert(peer.closed);
	cr_assert_leq(id, 2u * 35);
}

static void job_wants_login(struct peer_job *job)
{
	job_refuse(job, REASON_AUTH_REQUIRED);
}

/* Nor does it help them that there is always an answer which their window does not let out. */
Test(h2_ends, strangers_go_though_their_streams_linger)
{
	uint32_t id = 1, error = 1;
	unsigned seconds = 0, beside = 0;

	peer.on_begin = job_wants_login;
	put_preface(f);
	put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
	for (; seconds < 100 && !peer.closed; seconds++, id += 2) {
		put_connect(f, id, "a.example:443", false);
		feed();
		beside += seconds > 0 && !peer.closed && peer.h->count > 1;
		loop_advance(peer.loop, 1000);
		peer_run();
	}
	cr_assert(peer.closed);
	cr_assert_geq(beside, 25u, "else this is the test before");
	cr_assert(seconds >= 30 && seconds <= 35, "%u", seconds);
	cr_assert(goaway_of(&error));
	cr_assert_eq(error, (uint32_t)NGHTTP2_NO_ERROR);
}

Test(h2_ends, quiet_clients_are_asked)
{
	unsigned ms = peer.conf->http2.ping_ms;

	hello();
	for (unsigned i = 0; i < 3; i++) {
		loop_advance(peer.loop, ms);
		peer_run();
		loop_advance(peer.loop, ms - 1);
		peer_run();
		cr_assert_geq(frames_of(NGHTTP2_PING, 0), i + 1, "round %u", i);
		cr_assert_not(peer.closed);
		put_frame(f, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
		feed();
	}
	loop_advance(peer.loop, ms);
	peer_run();
	loop_advance(peer.loop, ms);
	peer_run();
	loop_advance(peer.loop, ms);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(job_at(0)->why, REASON_CLIENT_TIMEOUT);
	cr_assert_eq(peer.m->how, STREAM_CLOSE_ABORT);
}

Test(h2_ends, nobody_is_asked_when_that_is_off)
{
	peer_stop();
	peer_close();
	peer_open((struct conf_option[]){ { "http2.ping", "off" } }, 1);
	cr_assert(peer_start());
	peer.on_begin = job_accept;
	hello();
	loop_advance(peer.loop, 24 * 3600 * 1000);
	peer_run();
	cr_assert_eq(frames_of(NGHTTP2_PING, 0), 0u);
	cr_assert_not(peer.closed);
}

/* --- drain --- */

static uint32_t last_of(const struct frame *frame)
{
	const uint8_t *p = frame->payload;

	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static unsigned goaways(uint32_t *last)
{
	struct frame frame;
	size_t at = 0;
	unsigned n = 0;

	while (next_frame(&at, &frame))
		if (frame.type == NGHTTP2_GOAWAY) {
			n++;
			*last = last_of(&frame);
		}
	return n;
}

Test(h2_ends, a_drain_has_two_steps)
{
	uint32_t last = 0;

	hello();
	h2_drain(peer.h);
	h2_drain(peer.h);
	peer_run();
	cr_assert_eq(goaways(&last), 1u);
	cr_assert_eq(last, 0x7fffffffu);
	put_connect(f, 3, "b.example:443", false); /* was on its way */
	feed();
	cr_assert_eq(peer.count, 2u);
	cr_assert_not_null(job_at(1)->s);
	loop_advance(peer.loop, 1000);
	peer_run();
	cr_assert_eq(goaways(&last), 2u);
	cr_assert_eq(last, 3u);
	put_connect(f, 5, "c.example:443", false); /* comes too late */
	feed();
	cr_assert_eq(peer.count, 2u);
	loop_advance(peer.loop, peer.conf->deadlines.head + 1000);
	peer_run();
	cr_assert_not(peer.closed, "what came too late has ended what was in time");
	put_frame(f, NGHTTP2_DATA, 0, 3, "still here", 10);
	feed();
	cr_assert_str_eq(job_at(1)->in, "still here");
	job_close(job_at(0), STREAM_CLOSE_ABORT);
	peer_run();
	cr_assert_not(peer.closed);
	job_close(job_at(1), STREAM_CLOSE_ABORT);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(peer.m->how, STREAM_CLOSE_FLUSH);
}

Test(h2_ends, an_idle_connection_drains_at_once)
{
	uint32_t last = 0;

	h2_drain(peer.h); /* before anything was said */
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(peer.m->out_n, 0u);
	restart();
	hello();
	job_close(job_at(0), STREAM_CLOSE_ABORT);
	peer_run();
	h2_drain(peer.h);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(goaways(&last), 1u);
}

Test(h2_ends, who_drains_while_its_client_says_good_bye)
{
	hello();
	put_frame(f, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
	h2_drain(peer.h);
	feed();
	cr_assert_not(peer.closed);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "x", 1);
	feed();
	cr_assert(job_at(0)->eof);
	job_finish(job_at(0));
	peer_run();
	job_close(job_at(0), STREAM_CLOSE_FLUSH);
	peer_run();
	cr_assert(peer.closed);
}

/* --- clients who take much and read nothing --- */

Test(h2_ends, who_reads_no_answers_is_not_read)
{
	unsigned before;

	hello();
	peer.m->window = 0;
	for (unsigned s = 0; s < 45; s++) { /* slowly enough for the budget */
		for (unsigned i = 0; i < 15; i++)
			flood_pings(0);
		feed();
		loop_advance(peer.loop, 1000);
		peer_run();
	}
	cr_assert_not(peer.closed);
	cr_assert_gt(peer.m->in_n, 1000u, "what is not read waits below");
	cr_assert_neq(peer.m->base.pause & STREAM_PAUSE_PEER_FULL, 0u);
	peer.m->window = SIZE_MAX;
	mem_drain(peer.m, SIZE_MAX);
	peer_run();
	cr_assert_eq(peer.m->in_n, 0u);
	before = frames_of(NGHTTP2_PING, 0);
	cr_assert_geq(before, 45u * 15);
	job_write(job_at(0), "on", 2);
	peer_run();
	cr_assert_eq(frames_of(NGHTTP2_DATA, 1), 1u);
}

static void on_begin_none(struct peer_job *job)
{
	(void)job;
}

/* Before anybody has logged in little is kept. */
Test(h2_ends, strangers_may_not_leave_much_here)
{
	static const char bytes[16000];
	unsigned reset = 0;

	peer.on_begin = on_begin_none;
	put_preface(f);
	put_settings(f, 0, 0);
	for (uint32_t id = 1; id < 20; id += 2) {
		put_connect(f, id, "a.example:443", false);
		for (unsigned i = 0; i < 4; i++)
			put_frame(f, NGHTTP2_DATA, 0, id, bytes, sizeof(bytes));
		feed();
		cr_assert_leq(peer.h->in_total, (size_t)H2_STRANGER_BYTES);
	}
	for (uint32_t id = 1; id < 20; id += 2)
		reset += reset_of(id) == NGHTTP2_REFUSED_STREAM;
	cr_assert(reset >= 4 && reset <= 7, "%u", reset);
	cr_assert_not(peer.closed);
	for (unsigned i = 0; i < peer.count; i++) /* whose bytes are not whole gets no tunnel */
		cr_assert_eq(job_at(i)->gone, reset_of((uint32_t)job_at(i)->id) == NGHTTP2_REFUSED_STREAM);
}

Test(h2_ends, strangers_may_not_leave_many_heads_here)
{
	char *fields = calloc(1, 16000);
	unsigned refused = 0;

	peer.on_begin = on_begin_none;
	(void)snprintf(fields, 16000, ":method: CONNECT\n:authority: a.example:443\nx: %015000u\n", 1u);
	put_preface(f);
	put_settings(f, 0, 0);
	for (uint32_t id = 1; id < 80; id += 2) {
		put_headers(f, id, fields, NGHTTP2_FLAG_END_HEADERS);
		feed();
	}
	for (uint32_t id = 1; id < 80; id += 2)
		refused += reset_of(id) == NGHTTP2_REFUSED_STREAM;
	cr_assert(peer.count >= 16 && peer.count <= 18, "%u", peer.count);
	cr_assert_eq(refused, 40 - peer.count);
	cr_assert_not(peer.closed);
	job_refuse(job_at(0), REASON_AUTH_REQUIRED); /* makes room for another one */
	peer_run();
	put_headers(f, 101, fields, NGHTTP2_FLAG_END_HEADERS);
	feed();
	cr_assert_neq(reset_of(101), (uint32_t)NGHTTP2_REFUSED_STREAM);
	free(fields);
}

/* --- slow connections --- */

/* An answer that waits behind a tunnel's bytes has time while these do. */
Test(h2_ends, an_answer_behind_other_bytes)
{
	int32_t tunnel, denied;

	for (int for_ever = 0; for_ever <= 1; for_ever++) {
		peer.on_begin = job_accept;
		peer_hello(true);
		tunnel = peer_connect("a.example:443", NULL);
		peer_run();
		peer.m->window = 0;
		job_supply(job_at(0), 200000, false);
		peer_run();
		cr_assert_gt(peer.m->queue_n, 0u);
		peer.on_begin = NULL;
		denied = peer_connect("b.example:443", NULL);
		peer_run();
		job_refuse(job_at(1), REASON_DENIED);
		peer_run();
		for (unsigned i = 0; i < (for_ever ? 40 : 10); i++) {
			loop_advance(peer.loop, 1000);
			peer_run();
		}
		peer.m->window = SIZE_MAX;
		mem_drain(peer.m, SIZE_MAX);
		peer_run();
		cr_assert_eq(peer_at(denied)->status, for_ever ? 0 : 403);
		cr_assert_eq(peer_at(denied)->error, (uint32_t)(for_ever ? NGHTTP2_CANCEL : NGHTTP2_NO_ERROR));
		cr_assert_eq(peer_at(tunnel)->n, 200000u);
		peer_stop();
		cr_assert(peer_start());
	}
}

/* --- faults below --- */

Test(h2_ends, who_goes_before_saying_anything)
{
	mem_feed_eof(peer.m, false);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(peer.m->how, STREAM_CLOSE_FLUSH);
	cr_assert_eq(peer.m->out_n, 0u);
}

Test(h2_ends, faults_have_names)
{
	static const struct {
		enum stream_fault fault;
		enum reason why;
	} rows[] = {
		{ STREAM_FAULT_RESET, REASON_CLIENT_RESET },
		{ STREAM_FAULT_PROTOCOL, REASON_CLIENT_TLS_ERROR },
		{ STREAM_FAULT_MEMORY, REASON_NO_MEMORY },
	};

	for (unsigned i = 0; i < 3; i++) {
		if (i > 0)
			restart();
		hello();
		mem_feed_fault(peer.m, rows[i].fault);
		peer_run();
		cr_assert(peer.closed);
		cr_assert_eq(job_at(0)->why, rows[i].why, "row %u: %s", i, reason_name(job_at(0)->why));
	}
}

/* Found out by a writer, in the middle of his write. */
Test(h2_ends, a_write_that_fails)
{
	hello();
	peer.m->refuse = true;
	job_supply(job_at(0), 60000, false);
	peer_run();
	cr_assert(peer.closed);
	cr_assert_eq(job_at(0)->gone, 1u);
	cr_assert_eq(job_at(0)->why, REASON_CLIENT_RESET);
}

/* --- the end with requests in every state --- */

static void on_begin_any(struct peer_job *job)
{
	switch (job->id / 2) {
	case 0: return; /* waits for its answer */
	case 1: job_accept(job); return;
	case 2: /* the target has ended */
		job_accept(job);
		job_write(job, "bye", 3);
		job_finish(job);
		return;
	case 3: /* has bytes that the client does not take */
		job_accept(job);
		job_supply(job, 1000000, true);
		return;
	case 4: /* has bytes that the target does not take */
		job->reads = false;
		job_accept(job);
		return;
	case 5: job_exchange(job); return;
	case 6:
		job_exchange(job);
		(void)job_reply(job, 200, "", (struct framing){ FRAMING_CHUNKED, 0 });
		job_supply(job, 1000000, true);
		return;
	case 7: /* an answer that the client does not take */
		job_refuse(job, REASON_ADDRESS_DENIED);
		return;
	case 8: /* closed, but not flushed */
		job_accept(job);
		job_write(job, "bye", 3);
		job_close(job, STREAM_CLOSE_FLUSH);
		return;
	default:
		job_accept(job);
		job_write(job, "bye", 3);
		job_close(job, STREAM_CLOSE_TRUNCATE);
		return;
	}
}

static void every_state(void)
{
	peer.on_begin = on_begin_any;
	f->n = 0;
	put_preface(f);
	put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
	for (uint32_t i = 0; i < 10; i++)
		if (i == 5 || i == 6)
			put_headers(f, 2 * i + 1, ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\n", NGHTTP2_FLAG_END_HEADERS);
		else
			put_connect(f, 2 * i + 1, "a.example:443", false);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3, "end", 3);
	put_frame(f, NGHTTP2_DATA, 0, 9, "kept", 4);
	put_frame(f, NGHTTP2_DATA, 0, 1, "early", 5);
	feed();
	cr_assert_eq(peer.count, 10u);
	cr_assert_eq(peer.h->count, 10u);
	put_headers(f, 21, ":method: CONNECT\n", 0); /* and one half */
	feed();
}

Test(h2_ends, ends_with_requests_in_every_state)
{
	static const char *const ends[] = { "EOF", "truncated", "reset", "write fault", "refused writes", "abort", "GOAWAY",
					    "GOAWAY of fault", "preface again", "blocked and aborted" };

	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		enum reason why = REASON_CLIENT_RESET;

		if (i > 0)
			restart();
		every_state();
		switch (i) {
		case 0: mem_feed_eof(peer.m, false); break;
		case 1: mem_feed_eof(peer.m, true); break;
		case 2: mem_feed_fault(peer.m, STREAM_FAULT_RESET); break;
		case 3: mem_break(peer.m, STREAM_FAULT_RESET); break;
		case 4: peer.m->refuse = true; h2_drain(peer.h); break;
		case 5: h2_abort(peer.h, REASON_SHUTDOWN); why = REASON_SHUTDOWN; break;
		case 6: /* inside a field section nothing else may come */
			put_frame(f, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
			why = REASON_H2_PROTOCOL;
			feed();
			break;
		case 7: put_frame(f, NGHTTP2_GOAWAY, 0, 0, "\0\0\0", 3); why = REASON_H2_PROTOCOL; feed(); break;
		case 8: put_preface(f); why = REASON_H2_PROTOCOL; feed(); break;
		default:
			peer.m->window = 0;
			h2_abort(peer.h, REASON_REVOKED);
			why = REASON_REVOKED;
			break;
		}
		peer_run();
		mem_drain(peer.m, SIZE_MAX);
		peer_run();
		cr_assert(peer.closed, "%s", ends[i]);
		cr_assert_eq(peer.h->count, 0u, "%s", ends[i]);
		for (unsigned k = 0; k < 10; k++) {
			cr_assert_eq(job_at(k)->gone, k < 7, "%s: stream %u", ends[i], 2 * k + 1);
			if (k < 7)
				cr_assert_eq(job_at(k)->why, why, "%s: %s", ends[i], reason_name(job_at(k)->why));
		}
	}
}
