/* Bodies over a stream of bytes: what is read and written, where it ends, what is left for the next message, and what
 * is said when it breaks. */
#include "adit/http/message.h"

#include "adit/base/mem.h"
#include "component/mem_stream.h"
#include "component/turning.h"

#include <stdio.h>
#include <string.h>

#define NEXT "GET /next HTTP/1.1\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n"

static struct loop *loop;
static struct mem_stream *wire;
static struct stream *s;

/* What was seen of one message. */
static struct {
	char body[65536], heads[4096], trailers[256];
	size_t n;
	unsigned head_count, ends, breaks, drains, faults, closes;
	int status;
	bool eof, error, refuse_head;
	bool held_by_interim; /* as by a client who does not take it */
	enum reason why;
	enum stream_close how;
	const char *trailers_out;
} seen;

static bool on_head(void *ctx, const struct response_head *head)
{
	size_t n = strlen(seen.heads);

	cr_assert_eq(ctx, &seen);
	seen.head_count++;
	seen.status = head->status;
	snprintf(seen.heads + n, sizeof(seen.heads) - n, "%d " SLICE_FMT, head->status, SLICE_ARG(head->fields));
	if (seen.held_by_interim && head->status < 200)
		stream_pause(s, STREAM_PAUSE_PEER_FULL);
	return !seen.refuse_head;
}

static bool on_ended(void *ctx, struct slice trailers)
{
	cr_assert_eq(ctx, &seen);
	seen.ends++;
	snprintf(seen.trailers, sizeof(seen.trailers), SLICE_FMT, SLICE_ARG(trailers));
	return true;
}

static void on_broken(void *ctx, enum reason why)
{
	cr_assert_eq(ctx, &seen);
	seen.breaks++;
	seen.why = why;
}

static struct slice trailers_out(void *ctx)
{
	cr_assert_eq(ctx, &seen);
	return slice_of(seen.trailers_out ? seen.trailers_out : "");
}

static void on_closed(void *ctx, enum stream_close how)
{
	cr_assert_eq(ctx, &seen);
	seen.closes++;
	seen.how = how;
}

static const struct message_events events = { on_head, on_ended, on_broken, trailers_out, on_closed };

/* One read a call, as the relay does it. */
static void on_readable(void *ctx)
{
	size_t n = 0;

	(void)ctx;
	switch (stream_read(s, seen.body + seen.n, sizeof(seen.body) - 1 - seen.n, &n)) {
	case STREAM_IO_OK:
		cr_assert_gt(n, 0u);
		seen.n += n;
		break;
	case STREAM_IO_EOF:
		seen.eof = true;
		stream_pause(s, STREAM_PAUSE_EOF);
		break;
	case STREAM_IO_ERROR:
		seen.error = true;
		stream_pause(s, STREAM_PAUSE_IDLE);
		break;
	case STREAM_IO_AGAIN:
		break;
	}
	seen.body[seen.n] = '\0'; /* what lies behind is no body */
}

static void on_drained(void *ctx)
{
	(void)ctx;
	seen.drains++;
}

static void on_fault(void *ctx)
{
	(void)ctx;
	seen.faults++;
}

static const struct stream_handler handler = { on_readable, on_drained, on_fault };

static const struct head_limits limits = { 1024, 4096, 64 };

static bool open_message(void)
{
	memset(&seen, 0, sizeof(seen));
	wire = mem_stream_new(loop);
	s = message_new(loop, &wire->base, limits.head_bytes, &events, &seen);
	return s != NULL;
}

static void listen_to_it(void)
{
	stream_attach(s, &handler, NULL);
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
}

static void request(enum framing_kind kind, unsigned long long length, bool hold)
{
	cr_assert(open_message());
	message_read_request(s, (struct framing){ kind, length }, hold);
	listen_to_it();
}

static void response(enum head_method method)
{
	cr_assert(open_message());
	message_read_response(s, method, &limits);
	listen_to_it();
}

static void close_message(void)
{
	if (s) {
		stream_close(s, STREAM_CLOSE_TRUNCATE);
		cr_assert_eq(seen.closes, 1u);
		cr_assert_eq(seen.how, STREAM_CLOSE_TRUNCATE);
		cr_assert_not(wire->closed, "the wire is its maker's");
		s = NULL;
	}
	stream_close(&wire->base, STREAM_CLOSE_ABORT);
	UNTIL(loop, wire->gone);
	loop_turn(loop);
	mem_stream_free(wire);
	cr_assert_eq(loop_held(loop), 0u);
}

static void setup(void)
{
	loop = loop_new_manual();
}

static void teardown(void)
{
	loop_free(loop);
}

TestSuite(message, .init = setup, .fini = teardown, .timeout = 120);

/* What waits on the wire for whoever comes next. */
static const char *left(void)
{
	static char bytes[512];
	size_t have = 0, n = 0;

	while (have < sizeof(bytes) - 1 &&
	       stream_read(&wire->base, bytes + have, sizeof(bytes) - 1 - have, &n) == STREAM_IO_OK)
		have += n;
	bytes[have] = '\0';
	return bytes;
}

/* --- requests --- */

static const struct {
	enum framing_kind kind;
	unsigned long long length;
	const char *bytes, *body, *trailers;
} bodies[] = {
	{ FRAMING_NONE, 0, "", "", "" },
	{ FRAMING_LENGTH, 0, "", "", "" },
	{ FRAMING_LENGTH, 5, "hello", "hello", "" },
	{ FRAMING_CHUNKED, 0, "5\r\nhello\r\n0\r\n\r\n", "hello", "" },
	{ FRAMING_CHUNKED, 0, "0\r\n\r\n", "", "" },
	{ FRAMING_CHUNKED, 0, "1\r\nh\r\n4;x=y\r\nello\r\n000\r\nA: b\r\n\r\n", "hello", "A: b\r\n" },
};
enum { BODIES = sizeof(bodies) / sizeof(bodies[0]) };

Test(message, a_request_ends_where_it_ends_and_the_next_one_is_left_alone)
{
	for (size_t i = 0; i < BODIES; i++) {
		size_t whole = strlen(bodies[i].bytes) + strlen(NEXT);

		for (size_t cut = 0; cut <= whole; cut++) {
			char bytes[256];

			request(bodies[i].kind, bodies[i].length, false);
			snprintf(bytes, sizeof(bytes), "%s%s", bodies[i].bytes, NEXT);
			mem_feed(wire, bytes, cut);
			loop_turn(loop);
			mem_feed(wire, bytes + cut, whole - cut);
			loop_turn(loop);
			cr_assert(seen.eof && seen.ends == 1 && !seen.error && seen.breaks == 0, "%zu at %zu", i, cut);
			cr_assert_str_eq(seen.body, bodies[i].body);
			cr_assert_str_eq(seen.trailers, bodies[i].trailers);
			cr_assert(message_is_read(s) && message_has_more(s));
			cr_assert_null(memmem(seen.body, sizeof(seen.body), "c2VjcmV0", 8), "a password lies in the buffer");
			stream_close(s, STREAM_CLOSE_TRUNCATE);
			s = NULL;
			cr_assert_str_eq(left(), NEXT, "%zu at %zu", i, cut);
			close_message();
		}
	}
}

Test(message, a_request_byte_by_byte)
{
	for (size_t i = 0; i < BODIES; i++) {
		cr_assert(open_message());
		wire->read_max = 1;
		message_read_request(s, (struct framing){ bodies[i].kind, bodies[i].length }, false);
		listen_to_it();
		mem_feed_text(wire, bodies[i].bytes);
		loop_turn(loop);
		cr_assert(seen.eof && seen.ends == 1, "%zu", i);
		cr_assert_str_eq(seen.body, bodies[i].body);
		close_message();
	}
}

Test(message, a_request_that_breaks_off_is_seen_to)
{
	for (size_t i = 0; i < BODIES; i++) {
		for (size_t cut = 0; cut < strlen(bodies[i].bytes); cut++) {
			request(bodies[i].kind, bodies[i].length, false);
			mem_feed(wire, bodies[i].bytes, cut);
			mem_feed_eof(wire, cut % 2 != 0);
			loop_turn(loop);
			cr_assert(seen.error && !seen.eof && seen.ends == 0, "%zu at %zu", i, cut);
			cr_assert_eq(seen.why, REASON_CLIENT_GONE);
			cr_assert_not(message_is_read(s));
			close_message();
			request(bodies[i].kind, bodies[i].length, false);
			mem_feed(wire, bodies[i].bytes, cut);
			mem_feed_fault(wire, STREAM_FAULT_RESET);
			loop_turn(loop);
			cr_assert(seen.error && !seen.eof && seen.breaks == 0, "%zu at %zu", i, cut);
			cr_assert_eq(stream_fault(s), STREAM_FAULT_RESET);
			close_message();
		}
	}
}

Test(message, bad_chunks)
{
	static const char *const bad[] = { "x\r\n", "5\r\nhelloo\r\n", "5\nhello", "-1\r\n", " 5\r\nhello\r\n", "0\r\nbad line\r\n\r\n" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		request(FRAMING_CHUNKED, 0, false);
		mem_feed_text(wire, bad[i]);
		loop_turn(loop);
		cr_assert(seen.error && seen.breaks == 1, "%s", bad[i]);
		cr_assert_eq(seen.why, REASON_BAD_CHUNK);
		close_message();
	}
}

/* --- the client's leaving --- */

Test(message, who_leaves_behind_the_request_is_noticed)
{
	static const bool holds[] = { false, true };

	for (size_t i = 0; i < 2; i++) {
		request(FRAMING_NONE, 0, holds[i]);
		mem_feed_eof(wire, true);
		loop_turn(loop);
		cr_assert(seen.faults == 1 && seen.why == REASON_CLIENT_GONE);
		close_message();

		request(FRAMING_NONE, 0, holds[i]);
		mem_feed_fault(wire, STREAM_FAULT_RESET);
		loop_turn(loop);
		cr_assert(seen.faults == 1 && seen.breaks == 0 && stream_fault(s) == STREAM_FAULT_RESET);
		close_message();

		/* a good-bye says nothing about the answer */
		request(FRAMING_NONE, 0, holds[i]);
		mem_feed_eof(wire, false);
		loop_turn(loop);
		cr_assert(seen.faults == 0 && seen.breaks == 0);
		close_message();
	}
}

Test(message, who_has_its_answer_may_go)
{
	request(FRAMING_NONE, 0, false);
	message_write(s, (struct framing){ FRAMING_LENGTH, 2 });
	cr_assert(stream_write(s, "ok", 2));
	stream_finish(s);
	mem_feed_eof(wire, true);
	loop_turn(loop);
	cr_assert(seen.faults == 0 && seen.drains == 1 && message_is_written(s));
	close_message();
}

/* --- responses --- */

static const struct {
	enum head_method method;
	const char *bytes, *body;
	bool until_close;
} answers[] = {
	{ HEAD_GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false },
	{ HEAD_GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", "hello", false },
	{ HEAD_GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	  "hello", false },
	{ HEAD_HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "", false },
	{ HEAD_GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", false },
	{ HEAD_GET, "HTTP/1.0 200 OK\r\n\r\nhello", "hello", true },
};

Test(message, a_response_in_any_cut)
{
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		size_t whole = strlen(answers[i].bytes);

		for (size_t cut = 0; cut <= whole; cut++) {
			response(answers[i].method);
			mem_feed(wire, answers[i].bytes, cut);
			loop_turn(loop);
			cr_assert_eq(message_has_begun(s), cut > 0);
			mem_feed(wire, answers[i].bytes + cut, whole - cut);
			loop_turn(loop);
			cr_assert_eq(seen.eof, !answers[i].until_close, "%zu at %zu", i, cut);
			mem_feed_eof(wire, false);
			loop_turn(loop);
			cr_assert(seen.eof && seen.ends == 1 && !seen.error && seen.breaks == 0, "%zu at %zu", i, cut);
			cr_assert_str_eq(seen.body, answers[i].body);
			cr_assert_not(message_has_more(s));
			cr_assert_eq(seen.head_count, i == 2 ? 3u : 1u);
			if (i == 2)
				cr_assert_str_eq(seen.heads, "100 103 Link: x\r\n200 Content-Length: 5\r\n");
			close_message();
		}
	}
}

Test(message, a_response_that_breaks_off_is_incomplete)
{
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		size_t whole = strlen(answers[i].bytes);

		for (size_t cut = 0; cut < whole; cut++) {
			if (answers[i].until_close && cut >= whole - 5)
				continue; /* nobody can tell */
			response(answers[i].method);
			mem_feed(wire, answers[i].bytes, cut);
			mem_feed_eof(wire, false);
			loop_turn(loop);
			cr_assert(seen.error && !seen.eof && seen.why == REASON_RESPONSE_INCOMPLETE, "%zu at %zu", i, cut);
			close_message();
		}
	}
}

Test(message, what_comes_behind_a_response_is_told)
{
	for (size_t i = 0; i < 5; i++) {
		char bytes[512];

		response(answers[i].method);
		snprintf(bytes, sizeof(bytes), "%s%s", answers[i].bytes, "HTTP/1.1 200 OK\r\n\r\n");
		mem_feed_text(wire, bytes);
		loop_turn(loop);
		cr_assert(seen.eof && message_is_read(s) && message_has_more(s), "%zu", i);
		cr_assert_str_eq(seen.body, answers[i].body);
		close_message();
	}
}

Test(message, responses_that_are_none)
{
	static const struct {
		const char *bytes;
		enum reason why;
	} bad[] = {
		{ "nonsense\r\n\r\n", REASON_RESPONSE_INVALID },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", REASON_RESPONSE_INVALID },
		{ "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", REASON_RESPONSE_INVALID },
	};
	char large[8192];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		response(HEAD_GET);
		mem_feed_text(wire, bad[i].bytes);
		loop_turn(loop);
		cr_assert(seen.error && seen.why == bad[i].why, "%s", bad[i].bytes);
		close_message();
	}
	response(HEAD_GET);
	memset(large, 'x', sizeof(large));
	mem_feed_text(wire, "HTTP/1.1 200 OK\r\nA: ");
	mem_feed(wire, large, sizeof(large));
	loop_turn(loop);
	cr_assert(seen.error && seen.why == REASON_RESPONSE_TOO_LARGE);
	close_message();
}

Test(message, interim_heads_are_counted)
{
	response(HEAD_GET);
	for (int i = 0; i < 1000; i++)
		mem_feed_text(wire, "HTTP/1.1 102 P\r\n\r\n");
	loop_turn(loop);
	cr_assert(seen.error && seen.why == REASON_RESPONSE_TOO_LARGE);
	cr_assert_leq(seen.head_count, 300u);
	close_message();
}

/* What came together with it lies in here, where no event of the wire will tell of it. */
Test(message, heads_behind_one_that_has_to_wait)
{
	response(HEAD_GET);
	seen.held_by_interim = true;
	mem_feed_text(wire, answers[2].bytes);
	for (unsigned heads = 1; heads < 3; heads++) {
		loop_turn(loop);
		loop_turn(loop);
		cr_assert_eq(seen.head_count, heads, "%u", seen.head_count);
		stream_resume(s, STREAM_PAUSE_PEER_FULL);
	}
	loop_turn(loop);
	loop_turn(loop);
	cr_assert(seen.eof && seen.status == 200 && !seen.error);
	cr_assert_str_eq(seen.body, answers[2].body);
	close_message();
}

Test(message, a_head_may_be_refused)
{
	response(HEAD_GET);
	seen.refuse_head = true;
	mem_feed_text(wire, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
	loop_turn(loop);
	cr_assert(seen.error && seen.breaks == 0 && seen.ends == 0);
	close_message();
}

/* --- writing --- */

static void write_body(struct framing framing, const char *const *parts, bool finish)
{
	cr_assert(open_message());
	message_write(s, framing);
	listen_to_it();
	for (; *parts; parts++)
		cr_assert(stream_write(s, *parts, strlen(*parts)));
	if (finish)
		stream_finish(s);
	loop_turn(loop);
}

Test(message, writes_each_framing)
{
	static const char *const parts[] = { "he", "llo", NULL }, *const none[] = { NULL };

	write_body((struct framing){ FRAMING_LENGTH, 5 }, parts, true);
	cr_assert_str_eq(wire->out, "hello");
	cr_assert(seen.drains == 1 && message_is_written(s) && !wire->fin, "the wire stays open");
	close_message();

	write_body((struct framing){ FRAMING_CHUNKED, 0 }, parts, false);
	cr_assert_not(message_is_written(s));
	seen.trailers_out = "A: b\r\n";
	stream_finish(s);
	loop_turn(loop);
	cr_assert_str_eq(wire->out, "2\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n");
	cr_assert(message_is_written(s));
	close_message();

	write_body((struct framing){ FRAMING_CLOSE, 0 }, parts, true);
	cr_assert_str_eq(wire->out, "hello");
	close_message();

	write_body((struct framing){ FRAMING_NONE, 0 }, none, true);
	cr_assert(wire->out_n == 0 && seen.drains == 1 && message_is_written(s));
	close_message();
}

Test(message, a_large_chunk_is_written_in_parts)
{
	static char large[40000];

	cr_assert(open_message());
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	memset(large, 'x', sizeof(large));
	cr_assert(stream_write(s, large, sizeof(large)));
	cr_assert_eq(wire->out_n, sizeof(large) + strlen("9c40\r\n\r\n"));
	cr_assert_eq(memcmp(wire->out, "9c40\r\nxx", 8), 0);
	cr_assert_eq(memcmp(wire->out + wire->out_n - 3, "x\r\n", 3), 0);
	close_message();
}

Test(message, less_or_more_than_announced_is_a_fault)
{
	static const char *const parts[] = { "he", NULL };

	write_body((struct framing){ FRAMING_LENGTH, 5 }, parts, true);
	cr_assert(seen.faults == 1 && seen.drains == 0 && !message_is_written(s));
	close_message();
	write_body((struct framing){ FRAMING_LENGTH, 2 }, parts, false);
	cr_assert_not(stream_write(s, "x", 1));
	close_message();
}

Test(message, waits_until_all_has_left)
{
	static const char *const parts[] = { "hello", NULL };

	cr_assert(open_message());
	wire->window = 3;
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	listen_to_it();
	cr_assert(stream_write(s, parts[0], 5));
	cr_assert_gt(stream_queued(s), 0u);
	stream_finish(s);
	loop_turn(loop);
	cr_assert(seen.drains == 0 && !message_is_written(s));
	mem_drain(wire, SIZE_MAX);
	loop_turn(loop);
	cr_assert(seen.drains == 1 && message_is_written(s));
	cr_assert_str_eq(wire->out, "5\r\nhello\r\n0\r\n\r\n");
	close_message();
}

Test(message, a_client_that_breaks_while_it_is_written_to)
{
	request(FRAMING_NONE, 0, false);
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	wire->refuse = true;
	cr_assert_not(stream_write(s, "x", 1));
	cr_assert_eq(stream_fault(s), STREAM_FAULT_RESET);
	close_message();

	request(FRAMING_NONE, 0, false);
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	wire->refuse = true;
	stream_finish(s);
	loop_turn(loop);
	cr_assert(seen.faults == 1 && !message_is_written(s), "the last chunk has not left");
	close_message();
}

/* --- targets that take no more, and have answered --- */

Test(message, what_a_target_said_before_it_broke_is_read)
{
	static const bool finishes[] = { false, true };

	for (size_t i = 0; i < 2; i++) {
		response(HEAD_POST);
		message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
		wire->refuse = true;
		cr_assert(stream_write(s, "x", 1), "it may have answered");
		cr_assert(stream_write(s, "y", 1));
		if (finishes[i])
			stream_finish(s);
		cr_assert_eq(stream_queued(s), 0u);
		mem_feed_text(wire, "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno");
		mem_feed_fault(wire, STREAM_FAULT_RESET);
		loop_turn(loop);
		cr_assert(seen.eof && seen.status == 413 && seen.n == 2 && !seen.error);
		cr_assert_eq(seen.drains, finishes[i]);
		cr_assert_not(message_is_written(s), "the connection is of no more use");
		close_message();
	}
}

Test(message, a_broken_target_that_has_not_answered)
{
	response(HEAD_POST);
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	mem_break(wire, STREAM_FAULT_RESET);
	loop_turn(loop);
	cr_assert_not(seen.error, "what it said comes first");
	mem_feed_fault(wire, STREAM_FAULT_RESET);
	loop_turn(loop);
	cr_assert(seen.error && stream_fault(s) == STREAM_FAULT_RESET);
	close_message();

	/* an end that only follows upon a reset ends no message */
	response(HEAD_POST);
	message_write(s, (struct framing){ FRAMING_CHUNKED, 0 });
	mem_break(wire, STREAM_FAULT_RESET);
	mem_feed_text(wire, "HTTP/1.0 200 OK\r\n\r\nhel");
	loop_turn(loop);
	mem_feed_eof(wire, false);
	loop_turn(loop);
	cr_assert(seen.error && !seen.eof && seen.why == REASON_RESPONSE_INCOMPLETE);
	close_message();

	response(HEAD_GET);
	wire->refuse = true;
	message_send_head(s, slice_of("GET / HTTP/1.1\r\n\r\n"));
	mem_feed_eof(wire, false);
	loop_turn(loop);
	cr_assert(seen.error && seen.why == REASON_RESPONSE_INCOMPLETE && !message_has_begun(s));
	close_message();
}

/* --- 101 --- */

Test(message, switched_to_bytes)
{
	static const char *const ends[] = { "client", "target" };

	for (size_t i = 0; i < 2; i++) {
		if (i == 0) {
			request(FRAMING_NONE, 0, true);
			mem_feed_text(wire, "early ");
			loop_turn(loop);
			cr_assert(seen.n == 0 && !seen.eof, "held back");
			message_switch(s);
			mem_feed_text(wire, "bytes");
		} else {
			response(HEAD_GET);
			mem_feed_text(wire, "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nearly bytes");
		}
		loop_turn(loop);
		cr_assert_str_eq(seen.body, "early bytes", "%s", ends[i]);
		cr_assert(stream_write(s, "and back", 8));
		stream_finish(s);
		loop_turn(loop);
		cr_assert_str_eq(wire->out, "and back");
		cr_assert(wire->fin && seen.drains == 1, "an end is an end");
		mem_feed_text(wire, " more");
		mem_feed_eof(wire, true);
		loop_turn(loop);
		cr_assert_str_eq(seen.body, "early bytes more");
		cr_assert(seen.eof && stream_truncated(s) && seen.faults == 0);
		close_message();
	}
}

Test(message, not_switched_after_all)
{
	request(FRAMING_NONE, 0, true);
	mem_feed_text(wire, NEXT);
	loop_turn(loop);
	cr_assert(!seen.eof && seen.ends == 0);
	message_release(s);
	loop_turn(loop);
	cr_assert(seen.eof && seen.ends == 1 && seen.n == 0 && message_has_more(s));
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	cr_assert_str_eq(left(), NEXT);
	close_message();
}

/* --- memory --- */

static bool whole_messages(unsigned long n)
{
	bool hit;

	mem_fault_set(n, false);
	if (open_message()) {
		message_read_response(s, HEAD_GET, &limits);
		listen_to_it();
		mem_feed_text(wire, answers[2].bytes);
		loop_turn(loop);
		cr_assert(seen.eof || (seen.error && seen.why == REASON_NO_MEMORY && stream_fault(s) == STREAM_FAULT_MEMORY));
	}
	close_message();
	if (open_message()) {
		message_read_request(s, (struct framing){ FRAMING_CHUNKED, 0 }, false);
		listen_to_it();
		mem_feed_text(wire, bodies[5].bytes);
		mem_feed_text(wire, NEXT);
		loop_turn(loop);
		cr_assert(seen.eof || (seen.error && seen.why == REASON_NO_MEMORY));
	}
	close_message();
	if (open_message()) {
		message_read_request(s, (struct framing){ FRAMING_NONE, 0 }, false);
		listen_to_it();
		mem_feed_text(wire, NEXT);
		loop_turn(loop);
		cr_assert(seen.eof && (seen.faults == 0 || stream_fault(s) == STREAM_FAULT_MEMORY));
	}
	close_message();
	hit = mem_fault_hit();
	mem_fault_set(0, false);
	return hit;
}

Test(message, every_allocation_may_fail)
{
	unsigned long n = 1;

	while (whole_messages(n))
		n++;
	cr_assert_gt(n, 6ul);
}
