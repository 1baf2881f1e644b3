/* The relay.
 *
 *      client --(flow up)--> target          read from `from` while nothing is queued in `to`
 *      client <-(flow down)- target          `to` blocked: pause `from` until `to` has drained
 *
 * Deadlines are checked by one timer that is set for the nearest of them and looks at what really happened when it
 * fires, so moving bytes costs no timer calls. Idle counts application bytes, not system calls: a peer that sends only
 * TLS KeyUpdates is idle. Stall looks at the queue's length, so a slow reader is not a dead one. */
#include "adit/tunnel/relay.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"
#include "tunnel/inner.h"

#define RELAY_MAGIC OBJ_MAGIC('r', 'e', 'l', 'y')

struct flow {
	struct relay *relay;
	struct stream *from, *to;
	unsigned long long bytes;
	enum stats_id counter;
	struct inner inner; /* of what the target sends */
	bool eof; /* `from` has ended */
	bool finished; /* and the FIN has left towards `to` */
	bool blocked; /* `to` has bytes queued */
	size_t blocked_bytes; /* queue length at the last sign of progress */
	unsigned long long blocked_ms; /* when that was */
};

struct relay {
	uint32_t magic;
	struct loop *loop;
	struct relay_limits limits;
	struct flow up, down;
	unsigned long long started_ms, active_ms;
	struct deadline check;
	struct loop_task ending;
	enum reason reason;
	bool ended;
	relay_done_fn *done;
	void *ctx;
};

static void on_ending(void *ctx)
{
	struct relay *r;

	OBJ_CAST(r, ctx, RELAY_MAGIC);
	r->done(r->ctx, r->reason);
}

/* The first reason sticks. The news goes out from the run queue: the streams' frames are still on the stack. */
static void end(struct relay *r, enum reason reason)
{
	if (r->ended)
		return;
	r->ended = true;
	r->reason = reason;
	deadline_clear(&r->check);
	stream_pause(r->up.from, STREAM_PAUSE_IDLE);
	stream_pause(r->down.from, STREAM_PAUSE_IDLE);
	loop_post(r->loop, &r->ending);
}

static void fail(struct relay *r, const struct stream *broken)
{
	bool client = broken == r->up.from;

	switch (stream_fault(broken)) {
	case STREAM_FAULT_RESET:
		end(r, client ? REASON_CLIENT_RESET : REASON_TARGET_RESET);
		return;
	case STREAM_FAULT_PROTOCOL:
		end(r, client ? REASON_CLIENT_TLS_ERROR : REASON_TARGET_ERROR);
		return;
	case STREAM_FAULT_MEMORY:
		end(r, REASON_NO_MEMORY);
		return;
	default:
		end(r, client ? REASON_CLIENT_RESET : REASON_TARGET_ERROR);
		return;
	}
}

static void reset_check(struct relay *r);

static void block(struct flow *f)
{
	f->blocked = true;
	f->blocked_bytes = stream_queued(f->to);
	f->blocked_ms = loop_now_ms(f->relay->loop);
	stream_pause(f->from, STREAM_PAUSE_PEER_FULL);
	if (f->relay->limits.stall_ms != DEADLINE_OFF)
		reset_check(f->relay);
}

static void finish(struct flow *f)
{
	f->eof = true;
	/* the other side gets its time from here, however quiet it was before */
	f->relay->active_ms = loop_now_ms(f->relay->loop);
	stream_pause(f->from, STREAM_PAUSE_EOF);
	if (f->relay->limits.exchange && f == &f->relay->down)
		stream_pause(f->relay->up.from, STREAM_PAUSE_IDLE);
	stream_finish(f->to);
	if (f->relay->limits.half_closed_ms != DEADLINE_OFF)
		reset_check(f->relay);
}

/* Towards the client in two records where inner.h says why. */
static bool forward(struct flow *f, char *p, size_t n)
{
	size_t cut = inner_last(&f->inner, p, n);
	bool good;

	if (cut == 0)
		return stream_write_over(f->to, p, n);
	stream_cork(f->to, true);
	good = stream_write_over(f->to, p, cut) && stream_write_over(f->to, p + cut, n - cut);
	stream_cork(f->to, false);
	return good && stream_fault(f->to) == STREAM_FAULT_NONE;
}

/* Heads and interim answers go to the client by another way than this flow, and may wait there. */
static void nothing_now(struct flow *f)
{
	if (f->relay->limits.exchange && !f->blocked && stream_queued(f->to) > 0)
		block(f);
}

enum { PIECES = 16 };

/* Bytes that lie in memory of their stream's own go from there: their number; 0: there are none. */
static size_t pass(struct flow *f, bool *good)
{
	struct iovec v[PIECES];
	unsigned there = stream_gathers(f->to) ? stream_peek(f->from, v, PIECES) : 0, count = 0;
	size_t n = 0, most = f->relay->limits.buffer_bytes; /* all of it may have to wait */

	for (; count < there && n < most; count++) {
		if (v[count].iov_len > most - n)
			v[count].iov_len = most - n;
		n += v[count].iov_len;
	}
	if (n == 0)
		return 0;
	*good = stream_write_vec(f->to, v, count);
	stream_skip(f->from, n);
	if (count == PIECES || n == most)
		stream_more(f->from);
	return n;
}

/* Through the loop's buffer: the number of bytes; 0: none now, or the end. */
static size_t copy(struct flow *f, bool *good)
{
	struct relay *r = f->relay;
	size_t n = 0, room = stream_room(f->to), headroom = stream_headroom(f->to);
	char *p = r->limits.buffer + headroom;

	if (room == 0) {
		block(f);
		return 0;
	}
	if (room > r->limits.buffer_bytes - headroom)
		room = r->limits.buffer_bytes - headroom;
	switch (stream_read(f->from, p, room, &n)) {
	case STREAM_IO_OK:
		*good = forward(f, p, n);
		if (n == room)
			stream_more(f->from);
		return n;
	case STREAM_IO_AGAIN:
		nothing_now(f);
		return 0;
	case STREAM_IO_EOF:
		finish(f);
		return 0;
	default:
		fail(r, f->from);
		return 0;
	}
}

static void pump(struct flow *f)
{
	struct relay *r = f->relay;
	bool good = true;
	size_t n;

	if (r->ended || f->eof)
		return;
	n = pass(f, &good);
	if (n == 0)
		n = copy(f, &good);
	if (n == 0)
		return;
	f->bytes += n;
	stats_add(f->counter, (long long)n);
	r->active_ms = loop_now_ms(r->loop);
	if (!good) {
		fail(r, f->to);
		return;
	}
	if (stream_queued(f->to) > 0)
		block(f);
	/* Known already, and a client that has its answer must not find us taking its next bytes for this request's. */
	if (r->limits.exchange && f->from->eof)
		finish(f);
}

/* `f->to` has nothing queued any more. */
static void drained(struct flow *f)
{
	struct relay *r = f->relay;

	if (r->ended)
		return;
	if (f->blocked) {
		f->blocked = false;
		r->active_ms = loop_now_ms(r->loop);
		stream_resume(f->from, STREAM_PAUSE_PEER_FULL);
	}
	if (f->eof) {
		f->finished = true;
		if (r->down.finished && (r->up.finished || r->limits.exchange))
			end(r, REASON_OK);
	}
}

/* --- deadlines --- */

static void lower(unsigned long long *next, unsigned long long since, unsigned ms)
{
	if (ms != DEADLINE_OFF && since + ms < *next)
		*next = since + ms;
}

/* When the next of the deadlines could be reached as things stand; ~0 when none can. */
static unsigned long long next_check(const struct relay *r)
{
	unsigned long long next = ~0ULL;

	lower(&next, r->active_ms, r->limits.idle_ms);
	lower(&next, r->started_ms, r->limits.lifetime_ms);
	if (r->up.eof || r->down.eof)
		lower(&next, r->active_ms, r->limits.half_closed_ms);
	if (r->up.blocked)
		lower(&next, r->up.blocked_ms, r->limits.stall_ms);
	if (r->down.blocked)
		lower(&next, r->down.blocked_ms, r->limits.stall_ms);
	return next;
}

/* Makes the timer fire no later than the nearest deadline; firing early is harmless. */
static void reset_check(struct relay *r)
{
	unsigned long long now = loop_now_ms(r->loop);
	unsigned long long next = next_check(r);

	if (r->ended || next == ~0ULL || (r->check.at_ms != 0 && r->check.at_ms <= next))
		return;
	if (!deadline_set(&r->check, next > now ? (unsigned)(next - now) : 0))
		end(r, REASON_NO_MEMORY);
}

static bool due(const struct relay *r, unsigned long long since, unsigned ms)
{
	return ms != DEADLINE_OFF && loop_now_ms(r->loop) >= since + ms;
}

/* Looks at the queue. Bytes that have left it are bytes of the tunnel as much as those that came. */
static bool stalled(struct flow *f)
{
	if (!f->blocked)
		return false;
	if (stream_queued(f->to) < f->blocked_bytes) {
		f->blocked_bytes = stream_queued(f->to);
		f->blocked_ms = f->relay->active_ms = loop_now_ms(f->relay->loop);
	}
	return due(f->relay, f->blocked_ms, f->relay->limits.stall_ms);
}

static void on_check(void *ctx)
{
	struct relay *r;

	OBJ_CAST(r, ctx, RELAY_MAGIC);
	if (stalled(&r->up) || stalled(&r->down))
		end(r, REASON_STALL_TIMEOUT);
	else if ((r->up.eof || r->down.eof) && due(r, r->active_ms, r->limits.half_closed_ms))
		end(r, REASON_HALF_CLOSED_TIMEOUT);
	else if (due(r, r->active_ms, r->limits.idle_ms))
		end(r, REASON_IDLE_TIMEOUT);
	else if (due(r, r->started_ms, r->limits.lifetime_ms))
		end(r, REASON_LIFETIME);
	else
		reset_check(r);
}

/* --- from the streams: each is the source of one flow and the destination of the other --- */

static struct relay *relay_of(void *ctx)
{
	struct relay *r;

	OBJ_CAST(r, ctx, RELAY_MAGIC);
	return r;
}

static void on_client_readable(void *ctx)
{
	pump(&relay_of(ctx)->up);
}

static void on_client_drained(void *ctx)
{
	drained(&relay_of(ctx)->down);
}

static void on_client_fault(void *ctx)
{
	struct relay *r = relay_of(ctx);

	fail(r, r->up.from);
}

static void on_target_readable(void *ctx)
{
	pump(&relay_of(ctx)->down);
}

static void on_target_drained(void *ctx)
{
	drained(&relay_of(ctx)->up);
}

static void on_target_fault(void *ctx)
{
	struct relay *r = relay_of(ctx);

	fail(r, r->down.from);
}

static const struct stream_handler client_handler = { on_client_readable, on_client_drained, on_client_fault };
static const struct stream_handler target_handler = { on_target_readable, on_target_drained, on_target_fault };

struct relay *relay_start(struct loop *loop, struct stream *client, struct stream *target,
	const struct relay_limits *limits, relay_done_fn *done, void *ctx)
{
	struct relay *r = mem_alloc(sizeof(*r));

	if (!r)
		return NULL;
	OBJ_INIT(r, RELAY_MAGIC);
	r->loop = loop;
	r->limits = *limits;
	r->done = done;
	r->ctx = ctx;
	r->up = (struct flow){ .relay = r, .from = client, .to = target, .counter = STAT_BYTES_UP };
	r->up.inner.over = true;
	r->down = (struct flow){ .relay = r, .from = target, .to = client, .counter = STAT_BYTES_DOWN };
	r->down.inner.over = limits->exchange;
	r->started_ms = r->active_ms = loop_now_ms(loop);
	loop_task_init(&r->ending, on_ending, r);
	deadline_init(&r->check, loop, on_check, r);
	stream_attach(client, &client_handler, r);
	stream_attach(target, &target_handler, r);
	if (stream_fault(client) != STREAM_FAULT_NONE)
		fail(r, client);
	/* the 200 may still be on its way: then the target waits for it like for any other bytes */
	if (stream_queued(client) > 0)
		block(&r->down);
	reset_check(r);
	if (!r->ended) {
		stream_resume(client, STREAM_PAUSE_IDLE | STREAM_PAUSE_EOF);
		stream_resume(target, STREAM_PAUSE_IDLE);
	}
	return r;
}

void relay_switch(struct relay *r, unsigned half_closed_ms)
{
	r->limits.exchange = false;
	r->limits.half_closed_ms = half_closed_ms;
}

void relay_stop_up(struct relay *r)
{
	stream_pause(r->up.from, STREAM_PAUSE_IDLE);
}

unsigned long long relay_active_ms(const struct relay *r)
{
	return r->active_ms;
}

void relay_count(const struct relay *r, struct relay_count *out)
{
	out->up = r->up.bytes;
	out->down = r->down.bytes;
	out->client_ended = r->up.eof;
	out->client_truncated = r->up.eof && stream_truncated(r->up.from);
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	OBJ_CHECK(r, RELAY_MAGIC);
	loop_unpost(r->loop, &r->ending);
	deadline_fini(&r->check);
	OBJ_FINI(r);
	mem_free(r);
}
