/* The relay between two scripted streams: bytes, ends and faults of both sides in any order, blocked writes, time. What
 * has left is what was sent, in order, at an abort a beginning of it; no more waits than one read; the counts are true;
 * it ends once, for a reason that is so, and not later than its deadlines say. */
#include "adit/tunnel/relay.h"

#include "fuzz/far_end.h"
#include "loop/loop_priv.h"

/* scripts/fuzz compiles one file */
#include "component/mem_stream.c"

struct run {
	struct loop *loop;
	struct far_end client, target;
	size_t early_n; /* the client's first bytes, given back to its stream before the relay began */
	struct relay_limits limits;
	struct relay *relay;
	unsigned done;
	bool hold; /* the loop does not look before the next thing has happened */
	enum reason reason;
	unsigned long long started_ms;
};

static struct run run;

static void on_done(void *ctx, enum reason reason)
{
	must(ctx == &run && run.relay != NULL, "done from inside relay_start");
	must(run.done == 0, "done twice");
	run.done++;
	run.reason = reason;
}

/* What of `from` has come to `to`, which had `before` bytes already. */
static void check_flow(const struct far_end *from, const struct far_end *to, size_t before, unsigned long long counted)
{
	size_t taken = far_taken(from), left = to->m->out_n - before, queued = to->m->queue_n;

	must(counted == taken, "a count is not what was read");
	must(left + queued <= taken, "more has left than was read");
	must(to->m->refuse || left + queued == taken, "something that was read is gone");
	must(memcmp(to->m->out + before, from->sent, left) == 0, "other bytes than were sent");
	must(queued == 0 || memcmp(to->m->queue, from->sent + left, queued) == 0, "other bytes wait than were sent");
	must(to->m->queued_most <= run.limits.buffer_bytes, "more waits than one read");
	if (to->m->fin)
		must(from->ended && left == from->sent_n, "a FIN before the last byte");
}

static void check(void)
{
	struct relay_count count;

	relay_count(run.relay, &count);
	check_flow(&run.client, &run.target, 0, count.up);
	check_flow(&run.target, &run.client, 0, count.down);
	must(!count.client_ended || run.client.ended, "the client is said to have ended");
	must(count.client_truncated == (count.client_ended && run.client.truncated), "how the client has ended");
}

static void check_reason(void)
{
	unsigned long long age = loop_now_ms(run.loop) - run.started_ms;
	bool both = run.client.m->fin && run.target.m->fin;

	switch (run.reason) {
	case REASON_OK:
		must(both && run.client.m->out_n == run.target.sent_n && run.target.m->out_n == run.client.sent_n,
		    "ok, but not everything was carried");
		return;
	case REASON_IDLE_TIMEOUT:
		must(age >= run.limits.idle_ms, "idle too early");
		return;
	case REASON_HALF_CLOSED_TIMEOUT:
		must(age >= run.limits.half_closed_ms && (run.client.ended || run.target.ended), "half closed too early");
		return;
	case REASON_STALL_TIMEOUT:
		must(age >= run.limits.stall_ms && (run.client.m->queue_n > 0 || run.target.m->queue_n > 0), "no stall");
		return;
	case REASON_LIFETIME:
		must(age >= run.limits.lifetime_ms, "lifetime too early");
		return;
	case REASON_CLIENT_RESET:
	case REASON_CLIENT_TLS_ERROR:
		must(run.client.broken, "the client is blamed");
		return;
	case REASON_TARGET_RESET:
	case REASON_TARGET_ERROR:
		must(run.target.broken, "the target is blamed");
		return;
	case REASON_NO_MEMORY:
		must(run.client.broken || run.target.broken, "there was memory");
		return;
	default:
		must(false, "a reason that no relay has");
	}
}

static unsigned ms_of(unsigned digit)
{
	static const unsigned times[] = { 1, 10, 99, 100, 101, 250, 500, 999, 1000, 1001, 2000, 5000, 10000, 60000, 100000, 3 };

	return times[digit & 15];
}

/* The letters: lower case for the client, upper case for the target where there are two. */
static void step(struct script *s)
{
	unsigned letter = script_byte(s);
	struct far_end *f = (letter & 0x20) ? &run.client : &run.target;
	const uint8_t *p;
	size_t n;

	switch (letter & 0x1f) {
	case 'b' & 0x1f:
		far_break(f, far_fault_of(script_digit(s)));
		break;
	case 'c' & 0x1f:
		n = script_take(s, script_byte(s), &p);
		far_send(f, p, n);
		break;
	case 'd' & 0x1f:
		far_drain(f, script_digit(s));
		break;
	case 'e' & 0x1f:
		far_finish(f, script_digit(s) & 1);
		break;
	case 'f' & 0x1f:
		far_fail(f, far_fault_of(script_digit(s)));
		break;
	case 'm' & 0x1f:
		far_read_max(f, script_digit(s));
		break;
	case 'p' & 0x1f:
		far_send_pattern(f, far_size_of(script_digit(s)), f == &run.client ? 1 : 2);
		break;
	case 'r' & 0x1f:
		far_send_tls_record(f, far_size_of(script_digit(s)));
		break;
	case 't' & 0x1f:
		loop_advance(run.loop, ms_of(script_digit(s)));
		break;
	case 'w' & 0x1f:
		far_window(f, script_digit(s));
		break;
	case 'x' & 0x1f:
		far_refuse(f);
		break;
	case 'n' & 0x1f:
		run.hold = true;
		return;
	default:
		break;
	}
	if (!run.hold)
		loop_turn(run.loop);
	run.hold = false;
}

/* In the order that tunnels keep: the streams first, or they would speak to a relay that is not there any more. */
static void close_all(void)
{
	stream_close(&run.client.m->base, STREAM_CLOSE_ABORT);
	stream_close(&run.target.m->base, STREAM_CLOSE_ABORT);
	relay_free(run.relay);
	must(TAILQ_EMPTY(&run.loop->manual_deadlines), "a deadline outlives its relay");
	loop_turn(run.loop);
	must(run.client.m->gone && run.target.m->gone, "a stream that does not end");
	mem_stream_free(run.client.m);
	mem_stream_free(run.target.m);
}

/* Whatever went before: with time it ends. Each deadline may have been put off once by bytes that left unseen. */
static void must_end(void)
{
	unsigned long long most = 0;

	most += run.limits.idle_ms != DEADLINE_OFF ? run.limits.idle_ms : 0;
	most += run.limits.stall_ms != DEADLINE_OFF ? run.limits.stall_ms : 0;
	if (run.limits.idle_ms == DEADLINE_OFF)
		return;
	loop_advance(run.loop, (unsigned)(2 * most));
	must(run.done == 1, "silent for longer than it may be");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const unsigned times[] = { DEADLINE_OFF, 100, 1000, 5000 };
	static char buffer[4096];
	struct script s = { data, data + size };
	unsigned flags = script_digit(&s), limits = script_byte(&s), early = script_digit(&s);

	if (size > 2048)
		return 0;
	if (!run.loop)
		run.loop = loop_new_manual();
	must(run.loop != NULL, "out of memory");
	far_init(&run.client, flags & 1);
	far_init(&run.target, false);
	far_attach(&run.client, mem_stream_new(run.loop));
	far_attach(&run.target, mem_stream_new(run.loop));
	run.limits = (struct relay_limits){
		.idle_ms = times[limits & 3],
		.half_closed_ms = times[limits >> 2 & 3],
		.stall_ms = times[limits >> 4 & 3],
		.lifetime_ms = (flags & 2) ? times[limits >> 6 & 3] : DEADLINE_OFF,
		.buffer = buffer,
		.buffer_bytes = (flags & 4) ? 64 : 512,
	};
	run.done = 0;
	run.hold = false;
	run.relay = NULL;
	run.started_ms = loop_now_ms(run.loop);
	if (early > 0) { /* came behind the head */
		far_send_pattern(&run.client, early * 11, 1);
		run.client.m->in_n = 0;
		must(stream_unread(&run.client.m->base, run.client.sent, run.client.sent_n), "out of memory");
	}
	run.relay = relay_start(run.loop, &run.client.m->base, &run.target.m->base, &run.limits, on_done, &run);
	must(run.relay && run.done == 0, "no relay");
	while (s.at < s.end && !run.done) {
		step(&s);
		check();
	}
	if (!run.done && (flags & 8))
		must_end();
	check();
	if (run.done)
		check_reason();
	close_all();
	must(loop_held(run.loop) == 0 && TAILQ_EMPTY(&run.loop->tasks) && !run.loop->work_active, "the loop is not idle");
	return 0;
}
