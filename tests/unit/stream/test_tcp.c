/* TCP streams over loopback: queues, both half-closes, faults, and every way to close. */
#include "adit/stream/tcp.h"

#include "adit/base/mem.h"
#include "adit/stream/sock.h"
#include "component/tcp_pair.h"
#include "component/turning.h"

#include <signal.h>
#include <stdlib.h>

enum { LINGER_MS = 2000, MUCH = 1024 * 1024 };

static struct loop *loop;
static unsigned descriptors;
static int peer;
static struct stream *s;

static struct seen {
	unsigned readable, drained, faults, closed;
	size_t n;
	bool eof, broken;
	enum stream_fault fault;
	size_t queued_when_drained;
	char close_in; /* 'r', 'd', 'f': the callback that closes the stream */
	enum stream_close how;
} seen;

static void close_if(char callback)
{
	if (seen.close_in != callback || !s)
		return;
	stream_close(s, seen.how);
	s = NULL;
}

static void on_readable(void *ctx)
{
	char buf[4096];
	size_t n;

	(void)ctx;
	seen.readable++;
	for (;;) {
		switch (stream_read(s, buf, sizeof(buf), &n)) {
		case STREAM_IO_OK:
			for (size_t i = 0; i < n; i++)
				cr_assert_eq(buf[i], (char)((seen.n + i) % 251));
			seen.n += n;
			continue;
		case STREAM_IO_AGAIN:
			break;
		case STREAM_IO_EOF:
			seen.eof = true;
			stream_pause(s, STREAM_PAUSE_EOF);
			break;
		default:
			seen.broken = true;
			seen.fault = stream_fault(s);
			stream_pause(s, STREAM_PAUSE_EOF);
			break;
		}
		break;
	}
	close_if('r');
}

static void on_drained(void *ctx)
{
	(void)ctx;
	seen.drained++;
	seen.queued_when_drained = stream_queued(s);
	close_if('d');
}

static void on_fault(void *ctx)
{
	(void)ctx;
	seen.faults++;
	seen.fault = stream_fault(s);
	close_if('f');
}

static void on_closed(void *ctx)
{
	(void)ctx;
	seen.closed++;
}

static const struct stream_handler handler = { on_readable, on_drained, on_fault };

static void begin(bool small)
{
	int ends[2];

	tcp_pair(ends, small);
	peer = ends[1];
	s = tcp_stream_new(loop, ends[0], LINGER_MS);
	cr_assert_not_null(s);
	stream_attach(s, &handler, NULL);
	stream_on_closed(s, on_closed, NULL);
}

static void setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	seen = (struct seen){ 0 };
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	descriptors = open_descriptors();
	peer = -1;
}

static void teardown(void)
{
	if (s)
		stream_close(s, STREAM_CLOSE_ABORT);
	if (peer >= 0)
		close(peer);
	UNTIL(loop, loop_held(loop) == 0);
	loop_turn(loop);
	cr_expect_eq(open_descriptors(), descriptors, "a descriptor is left");
	loop_free(loop);
}

TestSuite(tcp, .init = setup, .fini = teardown, .timeout = 60);

static char *pattern(size_t n)
{
	char *p = malloc(n);

	cr_assert_not_null(p);
	for (size_t i = 0; i < n; i++)
		p[i] = (char)(i % 251);
	return p;
}

static void write_much(size_t n)
{
	char *p = pattern(n);

	cr_assert(stream_write(s, p, n));
	free(p);
}

/* The peer reads everything until the end or until n bytes are there. */
static enum peer_saw peer_takes(size_t n, size_t *got)
{
	char buf[4096];
	enum peer_saw saw = PEER_NOTHING;
	size_t r;

	for (unsigned idle = 0; *got < n && idle < 20000;) {
		saw = peer_read(peer, buf, sizeof(buf), &r);
		for (size_t i = 0; i < r; i++)
			cr_assert_eq(buf[i], (char)((*got + i) % 251));
		*got += r;
		if (saw == PEER_FIN || saw == PEER_RST)
			return saw;
		if (saw == PEER_NOTHING) {
			idle++;
			poll(NULL, 0, 1);
		}
		loop_turn(loop);
	}
	return saw;
}

static void peer_sends(size_t n)
{
	char *p = pattern(n);
	size_t sent = 0;

	while (sent < n) {
		ssize_t r = send(peer, p + sent, n - sent, MSG_NOSIGNAL);

		cr_assert(r > 0 || errno == EAGAIN);
		if (r > 0)
			sent += (size_t)r;
		loop_turn(loop);
	}
	free(p);
}

Test(tcp, what_blocks_is_queued_and_drained_once)
{
	size_t got = 0;

	begin(true);
	write_much(MUCH);
	cr_assert_gt(stream_queued(s), (size_t)MUCH / 2);
	loop_turn(loop);
	cr_assert_eq(seen.drained, 0u);
	peer_takes(MUCH, &got);
	UNTIL(loop, seen.drained > 0);
	loop_turn(loop);
	cr_assert_eq(got, (size_t)MUCH);
	cr_assert_eq(seen.drained, 1u);
	cr_assert_eq(seen.queued_when_drained, 0u);
}

Test(tcp, small_writes_go_out_at_once_in_order)
{
	size_t got = 0;

	begin(false);
	for (size_t i = 0; i < 1000; i++) {
		char byte = (char)(i % 251);

		cr_assert(stream_write(s, &byte, 1));
		cr_assert_eq(stream_queued(s), 0u);
	}
	peer_takes(1000, &got);
	cr_assert_eq(got, 1000u);
	cr_assert_eq(seen.drained, 0u);
}

Test(tcp, a_write_behind_a_queue_waits_its_turn)
{
	char *p = pattern(MUCH);
	size_t got = 0;

	begin(true);
	for (size_t at = 0; at < MUCH; at += 65536)
		cr_assert(stream_write(s, p + at, 65536));
	peer_takes(MUCH, &got);
	cr_assert_eq(got, (size_t)MUCH);
	free(p);
}

Test(tcp, pieces_are_one_write)
{
	char *p = pattern(MUCH);
	struct iovec v[5];
	size_t got = 0, at = 0;

	begin(true);
	cr_assert(stream_gathers(s));
	for (unsigned i = 0; i < 5; i++) {
		v[i] = (struct iovec){ p + at, i < 4 ? 1 + i * 70 : MUCH - at };
		at += v[i].iov_len;
	}
	cr_assert(stream_write_vec(s, v, 3));
	cr_assert_eq(stream_queued(s), 0u);
	cr_assert(stream_write_vec(s, v + 3, 2)); /* more than the kernel takes */
	cr_assert_gt(stream_queued(s), (size_t)MUCH / 2);
	free(p);
	peer_takes(MUCH, &got);
	UNTIL(loop, seen.drained > 0);
	cr_assert_eq(got, (size_t)MUCH);
	cr_assert_eq(seen.drained, 1u);
}

Test(tcp, pieces_meet_a_reset)
{
	struct iovec v[2] = { { (char[]){ "ab" }, 2 }, { (char[]){ "cd" }, 2 } };

	begin(false);
	peer_reset(peer);
	peer = -1;
	UNTIL(loop, !stream_write_vec(s, v, 2));
	cr_assert_eq(stream_fault(s), STREAM_FAULT_RESET);
}

Test(tcp, finish_sends_the_fin_behind_the_last_byte_and_reading_goes_on)
{
	size_t got = 0;

	begin(true);
	stream_resume(s, STREAM_PAUSE_IDLE);
	write_much(MUCH);
	stream_finish(s);
	stream_finish(s);
	cr_assert_eq(peer_takes(SIZE_MAX, &got), PEER_FIN);
	cr_assert_eq(got, (size_t)MUCH);
	UNTIL(loop, seen.drained > 0);
	peer_sends(MUCH);
	shutdown(peer, SHUT_WR);
	UNTIL(loop, seen.eof);
	cr_assert_eq(seen.n, (size_t)MUCH);
	cr_assert_not(stream_truncated(s));
	cr_assert_eq(seen.drained, 1u);
}

Test(tcp, finish_with_nothing_queued_is_told_as_drained)
{
	size_t got = 0;

	begin(false);
	stream_finish(s);
	cr_assert_eq(seen.drained, 0u);
	UNTIL(loop, seen.drained == 1);
	cr_assert_eq(peer_takes(1, &got), PEER_FIN);
}

Test(tcp, the_peers_half_close_leaves_writing_alive)
{
	size_t got = 0;

	begin(true);
	stream_resume(s, STREAM_PAUSE_IDLE);
	peer_sends(1000);
	shutdown(peer, SHUT_WR);
	UNTIL(loop, seen.eof);
	cr_assert_eq(seen.n, 1000u);
	write_much(MUCH);
	peer_takes(MUCH, &got);
	cr_assert_eq(got, (size_t)MUCH);
}

Test(tcp, a_reset_is_a_fault_of_reading)
{
	begin(false);
	stream_resume(s, STREAM_PAUSE_IDLE);
	peer_reset(peer);
	peer = -1;
	UNTIL(loop, seen.broken);
	cr_assert_eq(seen.fault, STREAM_FAULT_RESET);
	cr_assert_not(stream_write(s, "x", 1));
}

Test(tcp, a_reset_is_a_fault_of_what_is_queued)
{
	begin(true);
	write_much(MUCH);
	peer_reset(peer);
	peer = -1;
	UNTIL(loop, seen.faults > 0);
	cr_assert_eq(seen.fault, STREAM_FAULT_RESET);
	cr_assert_eq(seen.faults, 1u);
	cr_assert_not(stream_write(s, "x", 1));
	cr_assert_eq(seen.drained, 0u);
}

/* The send that fails takes the kernel's word of the reset with it: a recv behind it says "end". */
Test(tcp, a_reset_behind_a_queue_is_no_end)
{
	for (unsigned i = 0; i < 10; i++) {
		seen = (struct seen){ 0 };
		begin(true);
		stream_resume(s, STREAM_PAUSE_IDLE);
		write_much(MUCH);
		loop_turn(loop);
		peer_reset(peer);
		peer = -1;
		UNTIL(loop, seen.faults > 0 || seen.broken);
		cr_assert_not(seen.eof);
		cr_assert_eq(seen.fault, STREAM_FAULT_RESET);
		stream_close(s, STREAM_CLOSE_ABORT);
		s = NULL;
		UNTIL(loop, seen.closed == 1);
	}
}

Test(tcp, an_end_stays_one_although_what_is_queued_meets_a_reset)
{
	begin(true);
	stream_resume(s, STREAM_PAUSE_IDLE);
	write_much(MUCH);
	shutdown(peer, SHUT_WR);
	peer_reset(peer);
	peer = -1;
	UNTIL(loop, seen.faults > 0);
	cr_assert(seen.eof);
	cr_assert_not(seen.broken);
}

Test(tcp, a_paused_stream_is_deaf)
{
	begin(false);
	peer_sends(100);
	shutdown(peer, SHUT_WR);
	loop_turn(loop);
	cr_assert_eq(seen.readable, 0u);
	stream_resume(s, STREAM_PAUSE_IDLE);
	UNTIL(loop, seen.eof);
	cr_assert_eq(seen.n, 100u);
	stream_resume(s, STREAM_PAUSE_EOF);
	stream_pause(s, STREAM_PAUSE_IDLE);
}

/* --- closing --- */

/* Input that nobody reads must not turn the close into a reset that overtakes the last answer. */
Test(tcp, a_flushing_close_delivers_all_although_input_waits)
{
	size_t got = 0;

	begin(true);
	peer_sends(2000);
	write_much(MUCH);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	cr_assert_eq(peer_takes(SIZE_MAX, &got), PEER_FIN);
	cr_assert_eq(got, (size_t)MUCH);
	cr_assert_eq(seen.closed, 0u, "the peer has not ended yet");
	close(peer);
	peer = -1;
	UNTIL(loop, seen.closed == 1);
	cr_assert_eq(seen.readable + seen.drained + seen.faults, 0u);
}

Test(tcp, the_linger_deadline_ends_a_close_that_nobody_takes)
{
	begin(true);
	write_much(MUCH);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	loop_advance(loop, LINGER_MS - 1);
	cr_assert_eq(seen.closed, 0u);
	loop_advance(loop, 1);
	UNTIL(loop, seen.closed == 1);
}

Test(tcp, the_linger_deadline_ends_a_close_whose_peer_stays)
{
	size_t got = 0;

	begin(false);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	cr_assert_eq(peer_takes(1, &got), PEER_FIN);
	loop_advance(loop, LINGER_MS);
	UNTIL(loop, seen.closed == 1);
}

Test(tcp, a_close_takes_only_so_much_of_what_still_comes)
{
	char *p = pattern(MUCH);
	bool ended = false;

	begin(false);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	for (unsigned i = 0; i < 20000 && !ended; i++) {
		ended = send(peer, p, 16384, MSG_NOSIGNAL) < 0 && errno != EAGAIN;
		loop_turn(loop);
	}
	cr_assert(ended, "a peer that goes on sending is cut off");
	UNTIL(loop, seen.closed == 1);
	free(p);
}

Test(tcp, closing_after_the_peers_end_needs_no_patience)
{
	size_t got = 0;

	begin(false);
	stream_resume(s, STREAM_PAUSE_IDLE);
	shutdown(peer, SHUT_WR);
	UNTIL(loop, seen.eof);
	cr_assert(stream_write(s, "\0", 1));
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	loop_turn(loop);
	cr_assert_eq(seen.closed, 1u);
	cr_assert_eq(peer_takes(SIZE_MAX, &got), PEER_FIN);
	cr_assert_eq(got, 1u);
}

Test(tcp, closing_a_finished_stream_waits_for_the_peer_only)
{
	size_t got = 0;

	begin(true);
	write_much(MUCH);
	stream_finish(s);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	cr_assert_eq(peer_takes(SIZE_MAX, &got), PEER_FIN);
	cr_assert_eq(got, (size_t)MUCH);
	shutdown(peer, SHUT_WR);
	UNTIL(loop, seen.closed == 1);
}

Test(tcp, an_abort_is_a_reset)
{
	size_t got = 0;

	begin(true);
	write_much(MUCH);
	stream_close(s, STREAM_CLOSE_ABORT);
	s = NULL;
	loop_turn(loop);
	cr_assert_eq(seen.closed, 1u);
	cr_assert_eq(peer_takes(SIZE_MAX, &got), PEER_RST);
	cr_assert_lt(got, (size_t)MUCH);
}

Test(tcp, a_broken_stream_is_closed_at_once_however)
{
	begin(true);
	write_much(MUCH);
	peer_reset(peer);
	peer = -1;
	UNTIL(loop, seen.faults > 0);
	stream_close(s, STREAM_CLOSE_FLUSH);
	s = NULL;
	loop_turn(loop);
	cr_assert_eq(seen.closed, 1u);
}

struct inside {
	char callback;
	enum stream_close how;
};

/* From inside each callback, in each way; what was under way must not touch the dead. */
Test(tcp, may_be_closed_from_inside_every_callback)
{
	static const struct inside cases[] = {
		{ 'r', STREAM_CLOSE_FLUSH }, { 'r', STREAM_CLOSE_TRUNCATE }, { 'r', STREAM_CLOSE_ABORT },
		{ 'd', STREAM_CLOSE_FLUSH }, { 'd', STREAM_CLOSE_TRUNCATE }, { 'd', STREAM_CLOSE_ABORT },
		{ 'f', STREAM_CLOSE_FLUSH }, { 'f', STREAM_CLOSE_TRUNCATE }, { 'f', STREAM_CLOSE_ABORT },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t got = 0;

		seen = (struct seen){ .close_in = cases[i].callback, .how = cases[i].how };
		begin(true);
		stream_resume(s, STREAM_PAUSE_IDLE);
		switch (cases[i].callback) {
		case 'r':
			write_much(MUCH);
			peer_sends(100);
			break;
		case 'd':
			write_much(MUCH);
			stream_finish(s);
			peer_takes(MUCH, &got);
			break;
		default:
			stream_pause(s, STREAM_PAUSE_IDLE);
			write_much(MUCH);
			peer_reset(peer);
			peer = -1;
			break;
		}
		UNTIL(loop, !s);
		if (peer >= 0)
			close(peer);
		peer = -1;
		UNTIL(loop, seen.closed == 1);
		loop_turn(loop);
		cr_assert_eq(open_descriptors(), descriptors, "case %zu", i);
	}
}

/* --- faults of the system --- */

Test(tcp, errors_have_their_words)
{
	static const struct {
		int error;
		enum stream_fault fault;
	} cases[] = {
		{ ECONNRESET, STREAM_FAULT_RESET }, { EPIPE, STREAM_FAULT_RESET }, { ECONNABORTED, STREAM_FAULT_RESET },
		{ ETIMEDOUT, STREAM_FAULT_TIMEOUT }, { EHOSTUNREACH, STREAM_FAULT_TIMEOUT }, { ENETUNREACH, STREAM_FAULT_TIMEOUT },
		{ ENOMEM, STREAM_FAULT_MEMORY }, { ENOBUFS, STREAM_FAULT_MEMORY }, { EBADF, STREAM_FAULT_OTHER },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect_eq(sock_fault_of(cases[i].error), cases[i].fault, "%d", cases[i].error);
}

Test(tcp, without_memory_the_descriptor_stays_the_callers)
{
	int ends[2];

	tcp_pair(ends, false);
	peer = ends[1];
	mem_fault_set(1, false);
	cr_assert_null(tcp_stream_new(loop, ends[0], LINGER_MS));
	mem_fault_set(0, false);
	cr_assert_eq(close(ends[0]), 0);
}
