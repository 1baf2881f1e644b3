/* What all streams share, over one in memory: pausing, bytes given back, who is told what and when. */
#include "adit/stream/stream.h"

#include "adit/base/mem.h"
#include "component/mem_stream.h"
#include "component/turning.h"

static struct loop *loop;
static struct mem_stream *m;
static struct stream *s;

static struct seen {
	unsigned readable, drained, faults, closed;
	char bytes[256];
	size_t n;
	enum stream_io last;
	size_t read_size; /* 0: nothing is read in the callback */
	bool one_read; /* and then stream_more */
} seen;

static void take(size_t size)
{
	size_t n = 0;

	seen.last = stream_read(s, seen.bytes + seen.n, size, &n);
	seen.n += n;
}

static void on_readable(void *ctx)
{
	(void)ctx;
	seen.readable++;
	if (seen.read_size == 0)
		return;
	do
		take(seen.read_size);
	while (!seen.one_read && seen.last == STREAM_IO_OK);
	if (seen.last == STREAM_IO_EOF || seen.last == STREAM_IO_ERROR)
		stream_pause(s, STREAM_PAUSE_EOF);
}

static void on_drained(void *ctx)
{
	(void)ctx;
	seen.drained++;
}

static void on_fault(void *ctx)
{
	(void)ctx;
	seen.faults++;
}

static void on_closed(void *ctx)
{
	(void)ctx;
	seen.closed++;
}

static const struct stream_handler handler = { on_readable, on_drained, on_fault };

static void setup(void)
{
	seen = (struct seen){ .read_size = 16 };
	loop = loop_new_manual();
	m = mem_stream_new(loop);
	s = &m->base;
	stream_attach(s, &handler, NULL);
	stream_on_closed(s, on_closed, NULL);
}

static void teardown(void)
{
	if (!m->closed)
		stream_close(s, STREAM_CLOSE_ABORT);
	loop_turn(loop);
	mem_stream_free(m);
	cr_expect_eq(loop_held(loop), 0u);
	loop_free(loop);
}

TestSuite(stream, .init = setup, .fini = teardown, .timeout = 60);

static bool got(const char *text)
{
	return seen.n == strlen(text) && memcmp(seen.bytes, text, seen.n) == 0;
}

Test(stream, a_new_one_is_idle_and_holds_the_loop)
{
	cr_assert_eq(loop_held(loop), 1u);
	mem_feed_text(m, "abc");
	loop_turn(loop);
	cr_assert_eq(seen.readable, 0u);
	stream_resume(s, STREAM_PAUSE_IDLE);
	cr_assert_eq(seen.readable, 0u, "never from inside a call");
	loop_turn(loop);
	cr_assert(got("abc"));
}

Test(stream, reading_is_on_when_no_bit_is_left)
{
	static const unsigned bits[] = { STREAM_PAUSE_IDLE, STREAM_PAUSE_PEER_FULL, STREAM_PAUSE_EOF };

	stream_pause(s, STREAM_PAUSE_PEER_FULL | STREAM_PAUSE_EOF);
	mem_feed_text(m, "x");
	for (size_t i = 0; i < 3; i++) {
		loop_turn(loop);
		cr_assert_eq(seen.readable, 0u);
		stream_resume(s, bits[i]);
		stream_resume(s, bits[i]);
	}
	loop_turn(loop);
	cr_assert(got("x"));
}

Test(stream, a_pause_takes_back_what_was_announced)
{
	stream_resume(s, STREAM_PAUSE_IDLE);
	mem_feed_text(m, "x");
	stream_more(s);
	stream_pause(s, STREAM_PAUSE_PEER_FULL);
	loop_turn(loop);
	cr_assert_eq(seen.readable, 0u);
	stream_more(s);
	loop_turn(loop);
	cr_assert_eq(seen.readable, 0u, "stream_more of a paused stream says nothing");
}

Test(stream, more_calls_again_after_others_had_their_turn)
{
	stream_resume(s, STREAM_PAUSE_IDLE);
	seen.read_size = 0;
	stream_more(s);
	stream_more(s);
	loop_turn(loop);
	cr_assert_eq(seen.readable, 1u);
}

Test(stream, bytes_given_back_come_first_in_any_cut)
{
	for (size_t cut = 1; cut <= 8; cut++) {
		seen.n = 0;
		seen.read_size = cut;
		stream_pause(s, STREAM_PAUSE_IDLE);
		cr_assert(stream_unread(s, "early", 5));
		mem_feed_text(m, " late");
		stream_resume(s, STREAM_PAUSE_IDLE);
		loop_turn(loop);
		cr_assert(got("early late"), "cut %zu: %.*s", cut, (int)seen.n, seen.bytes);
	}
}

Test(stream, giving_back_nothing_is_nothing)
{
	cr_assert(stream_unread(s, NULL, 0));
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert_eq(seen.readable, 0u);
}

Test(stream, what_was_read_of_it_can_be_given_back_again)
{
	char taken[8];
	size_t n;

	cr_assert(stream_unread(s, "one two three", 13));
	cr_assert(stream_read(s, taken, 8, &n) == STREAM_IO_OK && n == 8);
	cr_assert(stream_unread(s, taken + 4, 4));
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert(got("two three"), "%.*s", (int)seen.n, seen.bytes);
}

Test(stream, behind_a_failed_write_there_may_be_something_to_read)
{
	m->refuse = true;
	cr_assert_not(stream_write(s, "x", 1));
	mem_feed_text(m, "last words");
	mem_feed_fault(m, STREAM_FAULT_RESET);
	stream_read_on(s);
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert(got("last words"));
	cr_assert_eq(seen.last, STREAM_IO_ERROR);
	m->refuse = false;
	cr_assert_not(stream_write(s, "x", 1), "nobody listens there");
}

Test(stream, giving_back_may_fail)
{
	mem_fault_set(1, false);
	cr_assert_not(stream_unread(s, "x", 1));
	mem_fault_set(0, false);
	cr_assert(stream_unread(s, "x", 1));
}

/* Bytes above the descriptor (inside OpenSSL) do not announce themselves: whoever reads what was given back, and no more in
 * that callback, must be called again for them. */
Test(stream, what_lies_above_the_descriptor_follows_what_was_given_back)
{
	m->above = true;
	seen.one_read = true;
	seen.read_size = 64;
	mem_feed_text(m, " above");
	cr_assert(stream_unread(s, "back", 4));
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert(got("back above"), "%.*s", (int)seen.n, seen.bytes);
}

Test(stream, the_end_above_the_descriptor_follows_what_was_given_back)
{
	size_t n;

	m->above = true;
	mem_feed_eof(m, true);
	cr_assert_eq(stream_read(s, seen.bytes, 1, &n), STREAM_IO_EOF);
	cr_assert(stream_truncated(s));
	cr_assert(stream_unread(s, "back", 4));
	seen.one_read = true;
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert(got("back"));
	cr_assert_eq(seen.last, STREAM_IO_EOF);
}

Test(stream, resuming_tells_of_what_lies_above_the_descriptor)
{
	m->above = true;
	mem_feed_text(m, "x");
	stream_resume(s, STREAM_PAUSE_IDLE);
	loop_turn(loop);
	cr_assert(got("x"));
}

Test(stream, a_fault_is_told_once_and_stays)
{
	size_t n;

	mem_break(m, STREAM_FAULT_RESET);
	loop_turn(loop);
	cr_assert_eq(seen.faults, 1u);
	cr_assert_eq(stream_fault(s), STREAM_FAULT_RESET);
	cr_assert_not(stream_write(s, "x", 1));
	cr_assert_eq(stream_read(s, seen.bytes, 1, &n), STREAM_IO_ERROR);
}

Test(stream, finishing_twice_is_once)
{
	stream_finish(s);
	stream_finish(s);
	loop_turn(loop);
	cr_assert_eq(seen.drained, 1u);
	cr_assert(m->fin);
}

Test(stream, after_close_nobody_is_told_but_that_it_is_over)
{
	stream_resume(s, STREAM_PAUSE_IDLE);
	cr_assert(stream_unread(s, "secret", 6));
	mem_feed_text(m, "x");
	stream_more(s);
	m->window = 0;
	cr_assert(stream_write(s, "y", 1));
	mem_drain(m, 1);
	stream_close(s, STREAM_CLOSE_FLUSH);
	cr_assert_eq(seen.closed, 0u);
	loop_turn(loop);
	cr_assert_eq(seen.closed, 1u);
	cr_assert_eq(seen.readable + seen.drained + seen.faults, 0u);
}

Test(stream, writing_nothing_is_fine)
{
	cr_assert(stream_write(s, "", 0));
	cr_assert_eq(stream_queued(s), 0u);
}
