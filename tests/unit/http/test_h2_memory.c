/* HTTP/2 with any allocation failing, with its input cut anywhere, and what is left of credentials in memory. */
#include "http/h2_priv.h"
#include "unit/http/h2_peer.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>

#ifdef __SANITIZE_ADDRESS__
/* sanitizer/allocator_interface.h, which gcc's packages leave out */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
	void (*on_free)(const volatile void *));
size_t __sanitizer_get_allocated_size(const volatile void *p);
#endif

static void setup(void)
{
	peer_open(NULL, 0);
}

static void teardown(void)
{
	peer_close();
}

TestSuite(h2_memory, .init = setup, .fini = teardown, .timeout = 300);

/* --- out of memory --- */

static void take_any(struct peer_job *job)
{
	if (strncmp(job->target, "refuse", 6) == 0)
		job_refuse(job, REASON_AUTH_REQUIRED);
	else if (strncmp(job->target, "later", 5) == 0)
		return;
	else if (job->r->form == HEAD_FORM_ABSOLUTE)
		job_exchange(job);
	else if (job->r->method == HEAD_CONNECT)
		job_accept(job);
	else
		job_local(job);
}

static struct peer_job *job_of(int32_t id)
{
	for (unsigned i = 0; i < peer.count; i++)
		if (peer.jobs[i].id == id && peer.jobs[i].r)
			return &peer.jobs[i];
	return NULL;
}

static void reply(int32_t id)
{
	struct peer_job *job = job_of(id);

	if (!job || !job->s)
		return;
	(void)request_interim(job->r, 103, slice_of("Link: </x>\r\n"));
	if (!job_reply(job, 200, "A: b\r\nC: d\r\n", (struct framing){ FRAMING_CHUNKED, 0 })) {
		job_close(job, STREAM_CLOSE_TRUNCATE);
		return;
	}
	job->r->reply_trailers = slice_of("x-sum: 1\r\n");
	job_supply(job, 50000, true);
}

static void close_finished(void)
{
	for (unsigned i = 0; i < peer.count; i++) {
		struct peer_job *job = &peer.jobs[i];

		if (!job->s)
			continue;
		if (job->broken)
			job_close(job, STREAM_CLOSE_ABORT);
		else if (job->eof && job->finished && stream_queued(job->s) == 0)
			job_close(job, STREAM_CLOSE_FLUSH);
	}
}

static void say_post(int32_t *id)
{
	static const nghttp2_nv nv = { (uint8_t *)"x-last", (uint8_t *)"1", 6, 1, NGHTTP2_NV_FLAG_NONE };

	*id = peer_request("POST", "http", "a.example", "/", "cookie: a=b\ncookie: c=d\nx: y\n", false);
	peer_send_pattern(*id, 40000, false);
	peer_run();
	(void)nghttp2_submit_trailer(peer.session, *id, &nv, 1);
	peer_at(*id)->up_ends = true;
	(void)nghttp2_session_resume_data(peer.session, *id);
}

/* A bit of everything. Asserts nothing by itself. */
static void session(void)
{
	int32_t a, b, c, d, e, f;

	peer.on_begin = take_any;
	peer.login = true;
	peer.m->rtt_us = 100000;
	peer_hello(true);
	a = peer_connect("a.example:443", "Basic YWxpY2U6c2VjcmV0");
	peer_send_pattern(a, 150000, false);
	b = peer_connect("refuse.example:443", NULL);
	f = peer_connect("stays.example:443", NULL);
	c = peer_connect("later.example:443", NULL);
	peer_send_pattern(c, 70000, false);
	peer_run();
	say_post(&d);
	e = peer_request("GET", "https", "proxy.example", "/", NULL, true);
	peer_run();
	if (job_of(a))
		job_supply(job_of(a), 100000, false);
	if (job_of(c) && !job_of(c)->s)
		job_accept(job_of(c));
	reply(d);
	peer_run();
	peer_reset(c, NGHTTP2_CANCEL);
	(void)nghttp2_submit_ping(peer.session, NGHTTP2_FLAG_NONE, NULL);
	peer_send_pattern(a, 150000, true);
	peer_run();
	if (job_of(a))
		job_supply(job_of(a), 1000, true);
	peer_run();
	close_finished();
	peer_run();
	for (unsigned i = 0; i < 3; i++) { /* PINGs */
		loop_advance(peer.loop, peer.conf->http2.ping_ms);
		peer_run();
	}
	if (!peer.closed)
		h2_drain(peer.h);
	peer_run();
	loop_advance(peer.loop, 5000);
	peer_run();
	if (job_of(f))
		job_close(job_of(f), STREAM_CLOSE_ABORT);
	peer_run();
	(void)b, (void)e;
}

static void check_bytes(unsigned long nth)
{
	for (unsigned i = 0; i < peer.count; i++) {
		const struct peer_job *job = &peer.jobs[i];
		const struct peer_stream *s;

		if (job->id == 0)
			continue;
		s = peer_at(job->id);
		/* on record as what it was: the client has reset one stream, and no other */
		if (strncmp(job->target, "later", 5) != 0) {
			cr_assert(job->gone == 0 || job->why != REASON_CLIENT_RESET, "%lu: stream %d", nth, job->id);
			cr_assert_neq(job->stream_fault, STREAM_FAULT_RESET, "%lu: stream %d", nth, job->id);
		}
		cr_assert(peer_is_pattern(job->in, job->in_n, 0), "%lu: stream %d: other bytes up", nth, job->id);
		cr_assert(!job->eof || job->in_n == s->up_n, "%lu: stream %d: %zu of %zu bytes and an end", nth, job->id, job->in_n,
		    s->up_n);
		if (!job->carries)
			continue;
		cr_assert(peer_is_pattern(s->data, s->n, 0), "%lu: stream %d: other bytes down", nth, job->id);
		cr_assert(!s->ended || s->n == job->supplied, "%lu: stream %d: an end too early", nth, job->id);
		cr_assert(!s->ended || strncmp(job->target, "http:", 5) != 0 || s->trailers == 1, "%lu: trailers are lost", nth);
	}
}

static void any_allocation_fails(bool forever)
{
	bool hit = true;
	unsigned long nth = 1;

	for (; hit; nth++) {
		mem_fault_set(nth, forever);
		if (peer_start())
			session();
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_not(peer.client_failed, "%lu", nth);
		check_bytes(nth);
		if (!hit) { /* and so it looks when nothing fails */
			cr_assert_eq(peer.count, 6u);
			cr_assert_eq(job_at(0)->in_n, 300000u);
			cr_assert(peer_at(1)->ended && peer_at(1)->n == 101000);
			cr_assert_eq(peer_at(3)->status, 407);
			cr_assert(peer_at(9)->ended && peer_at(9)->trailers == 1 && peer_at(9)->interims == 1);
			cr_assert(peer.closed);
		}
		peer_stop();
		cr_assert_eq(peer.conf->refs, 1u);
	}
	cr_assert_gt(nth, 100u);
}

Test(h2_memory, any_allocation_fails_once)
{
	any_allocation_fails(false);
}

Test(h2_memory, all_allocations_fail_from_one_on)
{
	any_allocation_fails(true);
}

/* Whatever fails while his first request comes, a stranger who says no more goes. */
Test(h2_memory, no_stranger_stays_for_ever)
{
	struct frames *f = calloc(1, sizeof(*f));
	bool hit = true;

	put_preface(f);
	put_settings(f, 0, 0);
	put_connect(f, 1, "refuse.example:443", false);
	for (unsigned long nth = 1; hit; nth++) {
		bool there = peer_start();

		peer.on_begin = take_any;
		mem_fault_set(nth, false);
		if (there)
			peer_feed(f);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		for (unsigned i = 0; i < 10 && !peer.closed; i++) {
			loop_advance(peer.loop, peer.conf->deadlines.keepalive);
			peer_run();
			mem_drain(peer.m, SIZE_MAX);
		}
		cr_assert(peer.closed, "%lu", nth);
		peer_stop();
	}
	free(f);
}

/* --- cuts --- */

static void take_by_hand(struct peer_job *job)
{
	if (job->r->form == HEAD_FORM_ABSOLUTE)
		job_exchange(job);
	else if (strncmp(job->target, "refuse", 6) == 0)
		job_refuse(job, REASON_AUTH_REQUIRED);
	else if (job->r->method == HEAD_CONNECT)
		job_accept(job);
	else
		job_local(job);
}

/* Padded, with a priority, in one frame or in four. */
static void put_continued(struct frames *f, bool continued)
{
	char block[300] = "\7\0\0\0\1\20";
	size_t n = put_fields(block + 6, sizeof(block) - 20, ":method: CONNECT\n:authority: cut.example:443\n");
	size_t first = continued ? 20 : n;

	memmove(block + 6 + first + 7, block + 6 + first, n - first);
	memset(block + 6 + first, 0, 7);
	put_frame(f, NGHTTP2_HEADERS,
	    (uint8_t)(NGHTTP2_FLAG_PADDED | NGHTTP2_FLAG_PRIORITY | (continued ? 0 : NGHTTP2_FLAG_END_HEADERS)), 7, block,
	    6 + first + 7);
	if (!continued)
		return;
	put_frame(f, NGHTTP2_CONTINUATION, 0, 7, block + 33, 1);
	put_frame(f, NGHTTP2_CONTINUATION, 0, 7, NULL, 0);
	put_frame(f, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 7, block + 34, n - 21);
}

static void script(struct frames *f, bool continued)
{
	put_preface(f);
	put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100000);
	put_connect(f, 1, "a.example:443", false);
	put_frame(f, NGHTTP2_DATA, 0, 1, "hello", 5);
	put_connect(f, 3, "refuse.example:443", false);
	put_frame(f, NGHTTP2_DATA, 0, 3, "early", 5);
	put_headers(f, 5, ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\ncookie: a=b\ncookie: c=d\n",
	    NGHTTP2_FLAG_END_HEADERS);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 5, "\3body\0\0\0", 8);
	put_headers(f, 5, "x: y\n", NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
	put_continued(f, continued);
	put_headers(f, 9, ":method: GET\n:scheme: https\n:authority: p\n:path: /x\n",
	    NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
	put_headers(f, 11, ":method: GET\n:path: /x\n", NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM); /* malformed */
	put_frame(f, NGHTTP2_PING, 0, 0, "12345678", 8);
	put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 1, 5);
	put_frame(f, 0x42, 0, 0, "who knows", 9);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, " world", 6);
}

static size_t facts(char *to, size_t size)
{
	size_t n = 0;

	for (unsigned i = 0; i < peer.count; i++) {
		const struct peer_job *job = &peer.jobs[i];

		n += (size_t)snprintf(to + n, size - n, "%d %s %s: %s, gone %u, %.*s%s, %s\n", job->id, job->method, job->target,
		    reason_name(job->fault), job->gone, (int)job->in_n, job->in ? job->in : "", job->eof ? " and an end" : "",
		    job->trailers);
	}
	for (uint32_t id = 1; id < 13; id += 2)
		n += (size_t)snprintf(to + n, size - n, "%u: %u heads, %u resets: %x\n", id, frames_of(NGHTTP2_HEADERS, id),
		    frames_of(NGHTTP2_RST_STREAM, id), reset_of(id));
	n += (size_t)snprintf(to + n, size - n, "%u %u %u\n", frames_of(NGHTTP2_SETTINGS, 0), frames_of(NGHTTP2_PING, 0),
	    frames_of(NGHTTP2_GOAWAY, 0));
	cr_assert_lt(n, size);
	return n;
}

Test(h2_memory, cuts_change_nothing)
{
	struct frames *f = calloc(1, sizeof(*f));
	char whole[4096], other[4096];

	script(f, true);
	for (size_t cut = f->n; cut > 0; cut--) {
		cr_assert(peer_start());
		peer.on_begin = take_by_hand;
		mem_feed(peer.m, f->bytes, cut);
		peer_run();
		mem_feed(peer.m, f->bytes + cut, f->n - cut);
		peer_run();
		(void)facts(cut == f->n ? whole : other, sizeof(whole));
		if (cut < f->n)
			cr_assert_str_eq(other, whole, "cut after %zu bytes", cut);
		peer_stop();
	}
	cr_assert_not_null(strstr(whole, "1 CONNECT a.example:443: ok, gone 0, hello world and an end"), "%s", whole);
	cr_assert_not_null(strstr(whole, "7 CONNECT cut.example:443: ok"), "%s", whole);
	cr_assert_not_null(strstr(whole, "5 POST http://a.example/: ok, gone 0, body and an end, x: y\r\n"), "%s", whole);
	/* each byte for itself (nghttp2 takes each read of a CONTINUATION's header for a frame, and has enough of them soon) */
	f->n = 0;
	script(f, false);
	cr_assert(peer_start());
	peer.on_begin = take_by_hand;
	peer.m->read_max = 1;
	mem_feed(peer.m, f->bytes, f->n);
	peer_run();
	(void)facts(other, sizeof(other));
	cr_assert_str_eq(other, whole);
	peer_stop();
	free(f);
}

/* --- credentials --- */

#define SECRET "bWFyamFub2xlLWJsYXV3YWw="

static bool watching, found;

static void look(const void *p, size_t n)
{
	if (memmem(p, n, SECRET, 12) || memmem(p, n, &SECRET[12], 10))
		found = true;
}

#ifdef __SANITIZE_ADDRESS__
static void on_allocated(const volatile void *p, size_t n)
{
	(void)p, (void)n;
}

static void on_freed(const volatile void *p)
{
	const void *block = (const void *)(uintptr_t)p;

	if (watching && p)
		look(block, __sanitizer_get_allocated_size(block));
}
#endif

static void watch(bool on)
{
	watching = on;
}

static void take_and_forget(struct peer_job *job)
{
	switch (peer.count % 4) {
	case 0:
		job_accept(job);
		return;
	case 1:
		request_forget(job->r);
		cr_assert_eq(job->r->credentials.n, 0u);
		return;
	case 2:
		job_refuse(job, REASON_AUTH_REQUIRED);
		return;
	default:
		return; /* its client will be gone before anybody looks */
	}
}

Test(h2_memory, no_freed_memory_holds_credentials)
{
#ifdef __SANITIZE_ADDRESS__
	cr_assert_neq(__sanitizer_install_malloc_and_free_hooks(on_allocated, on_freed), 0);
#endif
	peer.watch = watch;
	cr_assert(peer_start());
	peer.on_begin = take_and_forget;
	peer_hello(true);
	for (unsigned i = 0; i < 8; i++) {
		(void)peer_connect("a.example:443", "Basic " SECRET);
		peer_run();
		look(peer.buffer, sizeof(peer.buffer));
		cr_assert_not(found, "request %u", i);
	}
	(void)peer_request("GET", "http", "a.example", "/", "proxy-authorization: Basic " SECRET "\n", true);
	(void)peer_request("GET", "http", "a.example", "/", "proxy-authorization: Basic " SECRET "\nte: gzip\n", true);
	peer_run();
	cr_assert(job_at(9)->fault != REASON_OK);
	cr_assert_not(found);
	peer_stop();
	cr_assert_not(found);
}

/* --- by hand: as text, and cut where it hurts --- */

#define LOGIN "proxy-authorization: Basic " SECRET "\n"
#define CONNECT ":method: CONNECT\n:authority: b.example:443\n"

static struct frames first, then;

static void look_here(void)
{
	struct h2_chunk *c;

	look(peer.buffer, sizeof(peer.buffer));
	if (peer.h)
		TAILQ_FOREACH(c, &peer.h->spare.chunks, entry)
			look(c->bytes, c->size);
}

static void accept_the_first(struct peer_job *job)
{
	if (job == job_at(0))
		job_accept(job);
}

/* `first`, what happens meanwhile, and `then` in two reads. */
static void no_cut_leaves_it(const char *what, void (*meanwhile)(void))
{
	peer.watch = watch;
	for (size_t cut = 0; cut <= then.n; cut += cut > 40 && cut + 1200 < then.n ? 997 : 1) {
		cr_assert(peer_start());
		peer.on_begin = accept_the_first;
		peer.login = true;
		peer_feed(&first);
		if (meanwhile)
			meanwhile();
		peer_run();
		mem_feed(peer.m, then.bytes, cut);
		peer_run();
		look_here();
		mem_feed(peer.m, then.bytes + cut, then.n - cut);
		peer_run();
		look_here();
		cr_assert(peer.m->secret || peer.m->closed, "%s: cut after %zu of %zu bytes", what, cut, then.n);
		cr_assert_not(found, "%s: cut after %zu of %zu bytes", what, cut, then.n);
		if (peer.count == 2 && job_at(1)->fault == REASON_OK)
			cr_assert_str_eq(job_at(1)->credentials, "Basic " SECRET);
		watching = true; /* with the request open */
		peer_stop();
		watching = false;
		cr_assert_not(found, "%s: cut after %zu of %zu bytes", what, cut, then.n);
	}
}

static void begin_by_hand(void)
{
#ifdef __SANITIZE_ADDRESS__
	static bool hooked;

	hooked = hooked || __sanitizer_install_malloc_and_free_hooks(on_allocated, on_freed) != 0;
	cr_assert(hooked);
#endif
	first.n = then.n = 0;
	put_preface(&first);
	put_settings(&first, 0, 0);
	put_connect(&first, 1, "a.example:443", false);
}

static void put_login(uint8_t flags, const char *before, size_t before_n, const char *fields)
{
	char block[600];
	size_t n = before_n;

	memcpy(block, before, before_n);
	n += put_fields(block + n, sizeof(block) - n, fields);
	put_frame(&then, NGHTTP2_HEADERS, flags | NGHTTP2_FLAG_END_HEADERS, 3, block, n);
}

Test(h2_memory, no_head_is_left_behind)
{
	static const struct {
		const char *what, *before, *fields;
		size_t before_n;
		uint8_t flags;
	} rows[] = {
		{ "plain", "", CONNECT LOGIN "x: yyyyyyyyyyyyyyy\n", 0, 0 },
		{ "with a priority", "\0\0\0\1\20", CONNECT LOGIN, 5, NGHTTP2_FLAG_PRIORITY },
		{ "padded", "\0", CONNECT LOGIN, 1, NGHTTP2_FLAG_PADDED },
		{ "malformed in its beginning", "", ":method: CONNECT\nBAD: x\n" LOGIN, 0, 0 },
		{ "malformed in its end", "", CONNECT LOGIN "BAD: x\n", 0, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		begin_by_hand();
		put_login(rows[i].flags, rows[i].before, rows[i].before_n, rows[i].fields);
		no_cut_leaves_it(rows[i].what, NULL);
	}
}

Test(h2_memory, no_head_in_pieces_is_left_behind)
{
	char block[600];
	size_t n = put_fields(block, sizeof(block), CONNECT "BAD: x\n" LOGIN);

	begin_by_hand();
	put_frame(&then, NGHTTP2_HEADERS, 0, 3, block, n - 60);
	put_frame(&then, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 3, block + n - 60, 60);
	no_cut_leaves_it("malformed, in pieces", NULL);
}

static void begin_large_frame(size_t n)
{
	static char bytes[16384];
	struct frames *f = calloc(1, sizeof(*f));

	put_frame(f, NGHTTP2_DATA, 0, 1, bytes, sizeof(bytes));
	memcpy(first.bytes + first.n, f->bytes, n);
	first.n += n;
	memcpy(then.bytes + then.n, f->bytes + n, f->n - n);
	then.n += f->n - n;
	free(f);
}

static void end_the_tunnel(void)
{
	job_close(job_at(0), STREAM_CLOSE_TRUNCATE);
}

/* The rest of a frame whose stream is over is passed by, without a word of nghttp2's: it is no payload then. */
Test(h2_memory, no_head_behind_payload_is_left_behind)
{
	static const size_t pieces[] = { 0, 8, 9, 10, 8009, 16392, 16393 };

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		for (int over = 0; over <= 1; over++) {
			begin_by_hand();
			begin_large_frame(pieces[i]);
			put_login(0, "", 0, CONNECT LOGIN);
			no_cut_leaves_it(over ? "payload of an ended stream" : "payload", over ? end_the_tunnel : NULL);
		}
	}
}

/* More of a body than was announced is passed by, too. */
Test(h2_memory, no_head_behind_a_body_that_is_too_long_is_left_behind)
{
	static const char body[16384];
	static const char fields[] = ":method: POST\n:scheme: http\n:authority: a.example\n:path: /\ncontent-length: 1\n";

	begin_by_hand();
	put_headers(&first, 5, fields, NGHTTP2_FLAG_END_HEADERS);
	put_frame(&then, NGHTTP2_DATA, 0, 5, body, sizeof(body));
	put_headers(&then, 7, CONNECT LOGIN, NGHTTP2_FLAG_END_HEADERS);
	no_cut_leaves_it("too long a body", NULL);
}
