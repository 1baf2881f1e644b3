/* The relay between two scripted streams: what ends it, what arrives where, and in which order.
 *
 * A script is a string; upper case is the client's, lower case the target's doing:
 *   C c  sends 10 bytes           E e  ends properly            U u  ends without good-bye
 *   R r  resets                   P p  breaks its protocol      M m  runs us out of memory     O o  fails otherwise
 *   B b  stops taking bytes       D d  takes all that waits and goes on taking    1  the target takes one byte
 *   X x  writing to it fails      < >  half of the idle time, just less than the half-closed time
 *   I    idle deadline   H  half-closed deadline   S  stall deadline   L  lifetime */
#include "adit/tunnel/relay.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"
#include "component/mem_stream.h"
#include "component/turning.h"

enum { IDLE_MS = 100000, HALF_MS = 30000, STALL_MS = 20000, LIFETIME_MS = 1000000, BUFFER = 16 };

static struct loop *loop;
static struct mem_stream *client, *target;
static struct relay *relay;
static char buffer[4096];
static struct relay_limits limits;
static unsigned dones;
static enum reason verdict;
static size_t fed_up, fed_down;
static size_t piece; /* mem_stream's, of both */

static void on_done(void *ctx, enum reason reason)
{
	cr_assert_eq(ctx, &dones);
	dones++;
	verdict = reason;
}

static void open_streams(void)
{
	dones = 0;
	verdict = REASON_COUNT;
	fed_up = fed_down = 0;
	client = mem_stream_new(loop);
	target = mem_stream_new(loop);
	client->piece = target->piece = piece;
}

/* Where bytes are copied, and where they are sent from where they lie. */
static void both_ways(void (*test)(void))
{
	static const size_t pieces[] = { 0, 3, 1 };

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		piece = pieces[i];
		test();
	}
	piece = 0;
}

static void start(void)
{
	relay = relay_start(loop, &client->base, &target->base, &limits, on_done, &dones);
	cr_assert_not_null(relay);
	cr_assert_eq(dones, 0u, "never from inside relay_start");
	loop_turn(loop);
}

static void stop(void)
{
	relay_free(relay);
	relay = NULL;
	stream_close(&client->base, STREAM_CLOSE_ABORT);
	stream_close(&target->base, STREAM_CLOSE_ABORT);
	loop_turn(loop);
	mem_stream_free(client);
	mem_stream_free(target);
	cr_assert_eq(loop_held(loop), 0u);
}

static void setup(void)
{
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	limits = (struct relay_limits){ IDLE_MS, HALF_MS, STALL_MS, LIFETIME_MS, buffer, BUFFER, false };
}

static void teardown(void)
{
	loop_free(loop);
}

TestSuite(relay, .init = setup, .fini = teardown, .timeout = 300);

static void feed(struct mem_stream *m, size_t *fed)
{
	char bytes[10];

	if (m->in_eof)
		return; /* it has said that there is nothing more */
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)((*fed)++ % 251);
	mem_feed(m, bytes, sizeof(bytes));
}

static void act(char what)
{
	switch (what) {
	case 'C': feed(client, &fed_up); break;
	case 'c': feed(target, &fed_down); break;
	case 'E': mem_feed_eof(client, false); break;
	case 'e': mem_feed_eof(target, false); break;
	case 'U': mem_feed_eof(client, true); break;
	case 'u': mem_feed_eof(target, true); break;
	case 'R': mem_feed_fault(client, STREAM_FAULT_RESET); break;
	case 'r': mem_feed_fault(target, STREAM_FAULT_RESET); break;
	case 'P': mem_feed_fault(client, STREAM_FAULT_PROTOCOL); break;
	case 'p': mem_feed_fault(target, STREAM_FAULT_PROTOCOL); break;
	case 'M': mem_feed_fault(client, STREAM_FAULT_MEMORY); break;
	case 'm': mem_feed_fault(target, STREAM_FAULT_MEMORY); break;
	case 'O': mem_feed_fault(client, STREAM_FAULT_TIMEOUT); break;
	case 'o': mem_feed_fault(target, STREAM_FAULT_TIMEOUT); break;
	case 'B': client->window = 0; break;
	case 'b': target->window = 0; break;
	case 'D': client->window = SIZE_MAX; mem_drain(client, SIZE_MAX); break;
	case 'd': target->window = SIZE_MAX; mem_drain(target, SIZE_MAX); break;
	case '1': mem_drain(target, 1); break;
	case 'X': mem_break(client, STREAM_FAULT_RESET); break;
	case 'x': mem_break(target, STREAM_FAULT_RESET); break;
	case '<': loop_advance(loop, IDLE_MS / 2); break;
	case '>': loop_advance(loop, HALF_MS - 1); break;
	case 'I': loop_advance(loop, IDLE_MS); break;
	case 'H': loop_advance(loop, HALF_MS); break;
	case 'S': loop_advance(loop, STALL_MS); break;
	case 'L': loop_advance(loop, LIFETIME_MS); break;
	default: cr_assert(false, "no such act: %c", what);
	}
	loop_turn(loop);
}

static void check_bytes(const struct mem_stream *m, size_t most, const char *script)
{
	cr_assert_leq(m->out_n, most, "%s", script);
	for (size_t i = 0; i < m->out_n; i++)
		cr_assert_eq(m->out[i], (char)(i % 251), "%s: byte %zu", script, i);
	cr_assert_leq(m->queued_most, limits.buffer_bytes, "%s: more than one buffer waits", script);
}

/* What must hold after every act of every script. */
static void check_always(const char *script, bool *was_done, enum reason *first)
{
	struct relay_count count;

	relay_count(relay, &count);
	cr_assert_leq(dones, 1u, "%s", script);
	cr_assert_leq(count.up, fed_up);
	cr_assert_leq(count.down, fed_down);
	check_bytes(target, count.up, script);
	check_bytes(client, count.down, script);
	if (target->fin)
		cr_assert(count.client_ended && target->out_n == count.up && count.up == fed_up, "%s: FIN before the last byte", script);
	if (client->fin)
		cr_assert(client->out_n == count.down && count.down == fed_down, "%s: FIN before the last byte", script);
	cr_assert_eq(target->closed || client->closed, false, "the streams are the caller's to close");
	if (*was_done)
		cr_assert_eq(verdict, *first, "%s: the first reason sticks", script);
	if (dones && !*was_done) {
		*was_done = true;
		*first = verdict;
	}
	if (dones && verdict == REASON_OK)
		cr_assert(client->fin && target->fin && client->out_n == fed_down && target->out_n == fed_up, "%s", script);
}

static void play(const char *script)
{
	bool was_done = false;
	enum reason first = REASON_COUNT;

	for (const char *p = script; *p; p++) {
		act(*p);
		check_always(script, &was_done, &first);
	}
}

struct row {
	const char *script;
	int reason; /* -1: it goes on */
	unsigned up, down; /* bytes that have arrived */
	const char *fins; /* who got a FIN, in order: "t", "c" */
	bool truncated;
};

static const struct row rows[] = {
	/* both ends, in each order, before and after bytes */
	{ "", -1, 0, 0, "", false },
	{ "Cc", -1, 10, 10, "", false },
	{ "E", -1, 0, 0, "t", false },
	{ "e", -1, 0, 0, "c", false },
	{ "Ee", REASON_OK, 0, 0, "tc", false },
	{ "eE", REASON_OK, 0, 0, "ct", false },
	{ "U", -1, 0, 0, "t", true },
	{ "Ue", REASON_OK, 0, 0, "tc", true },
	{ "eU", REASON_OK, 0, 0, "ct", true },
	{ "CcEe", REASON_OK, 10, 10, "tc", false },
	{ "CcUe", REASON_OK, 10, 10, "tc", true },
	{ "CEcce", REASON_OK, 10, 20, "tc", false },
	{ "CUcce", REASON_OK, 10, 20, "tc", true },
	{ "ceCCE", REASON_OK, 20, 10, "ct", false },
	{ "CCCCC", -1, 50, 0, "", false },

	/* half-closed: the other direction goes on, and has its own deadline, counted from the last byte */
	{ "EH", REASON_HALF_CLOSED_TIMEOUT, 0, 0, "t", false },
	{ "eH", REASON_HALF_CLOSED_TIMEOUT, 0, 0, "c", false },
	{ "UH", REASON_HALF_CLOSED_TIMEOUT, 0, 0, "t", true },
	{ "E>c>c>c", -1, 0, 30, "t", false },
	{ "E>c>c>cH", REASON_HALF_CLOSED_TIMEOUT, 0, 30, "t", false },
	{ "e>C>C>C", -1, 30, 0, "c", false },

	/* ... or from the end itself, when all was quiet before it */
	{ "<E>e", REASON_OK, 0, 0, "tc", false },
	{ "<e>E", REASON_OK, 0, 0, "ct", false },
	{ "<EH", REASON_HALF_CLOSED_TIMEOUT, 0, 0, "t", false },

	/* idle: application bytes of either direction count */
	{ "I", REASON_IDLE_TIMEOUT, 0, 0, "", false },
	{ "<C<c<C<", -1, 20, 10, "", false },
	{ "<C<c<CI", REASON_IDLE_TIMEOUT, 20, 10, "", false },
	{ "CI", REASON_IDLE_TIMEOUT, 10, 0, "", false },

	/* lifetime, whatever goes on */
	{ "<C<C<C<C<C<C<C<C<C<C<C<C<C<C<C<C<C<C<C<", REASON_LIFETIME, 190, 0, "", false },

	/* faults of reading, before and after bytes, before and after ends */
	{ "R", REASON_CLIENT_RESET, 0, 0, "", false },
	{ "r", REASON_TARGET_RESET, 0, 0, "", false },
	{ "CR", REASON_CLIENT_RESET, 10, 0, "", false },
	{ "cr", REASON_TARGET_RESET, 0, 10, "", false },
	{ "P", REASON_CLIENT_TLS_ERROR, 0, 0, "", false },
	{ "p", REASON_TARGET_ERROR, 0, 0, "", false },
	{ "M", REASON_NO_MEMORY, 0, 0, "", false },
	{ "m", REASON_NO_MEMORY, 0, 0, "", false },
	{ "O", REASON_CLIENT_RESET, 0, 0, "", false },
	{ "o", REASON_TARGET_ERROR, 0, 0, "", false },
	{ "Er", REASON_TARGET_RESET, 0, 0, "t", false },
	{ "eR", REASON_CLIENT_RESET, 0, 0, "c", false },
	{ "eP", REASON_CLIENT_TLS_ERROR, 0, 0, "c", false },

	/* faults of writing */
	{ "X", REASON_CLIENT_RESET, 0, 0, "", false },
	{ "x", REASON_TARGET_RESET, 0, 0, "", false },
	{ "bCx", REASON_TARGET_RESET, 0, 0, "", false },
	{ "BcX", REASON_CLIENT_RESET, 0, 0, "", false },
	{ "ECx", REASON_TARGET_RESET, 0, 0, "t", false },

	/* the first reason sticks */
	{ "Rr", REASON_CLIENT_RESET, 0, 0, "", false },
	{ "rR", REASON_TARGET_RESET, 0, 0, "", false },
	{ "rEeIHSL", REASON_TARGET_RESET, 0, 0, "", false },
	{ "IRr", REASON_IDLE_TIMEOUT, 0, 0, "", false },
	{ "EeRrXx", REASON_OK, 0, 0, "tc", false },
	{ "xX", REASON_TARGET_RESET, 0, 0, "", false },

	/* blocked: nothing more is read than waits, the other direction goes on, an end waits behind the bytes */
	{ "bC", -1, 0, 0, "", false },
	{ "bCCCC", -1, 0, 0, "", false },
	{ "bCCCCd", -1, 40, 0, "", false },
	{ "bCcc", -1, 0, 20, "", false },
	{ "bCE", -1, 0, 0, "", false },
	{ "bCEe", -1, 0, 0, "c", false },
	{ "bCEed", REASON_OK, 10, 0, "ct", false },
	{ "BcEe", -1, 0, 0, "t", false },
	{ "BcEeD", REASON_OK, 0, 10, "tc", false },
	{ "bBCcEeDd", REASON_OK, 10, 10, "ct", false },
	{ "bBCcEedD", REASON_OK, 10, 10, "tc", false },
	{ "bCR", -1, 0, 0, "", false }, /* deaf until it takes bytes again */
	{ "bCRd", REASON_CLIENT_RESET, 10, 0, "", false },

	/* stall: the queue does not get shorter; a slow reader is no dead one */
	{ "bCS", REASON_STALL_TIMEOUT, 0, 0, "", false },
	{ "BcS", REASON_STALL_TIMEOUT, 0, 0, "", false },
	{ "bCccS", REASON_STALL_TIMEOUT, 0, 20, "", false },
	{ "bC1S1S1S1", -1, 4, 0, "", false },
	{ "bC1S1SS", REASON_STALL_TIMEOUT, 2, 0, "", false },
	{ "bCdS", -1, 10, 0, "", false },
	{ "bCES", REASON_STALL_TIMEOUT, 0, 0, "", false },
	/* bytes that leave are bytes: neither idle nor half-closed without any */
	{ "ebC1S1S1S1S1", -1, 5, 0, "c", false },
	{ "bC1S1S1S1S1S1S1", -1, 7, 0, "", false },
};

static void every_row(void)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		struct relay_count count;
		char fins[3] = "";

		open_streams();
		start();
		play(row->script);
		cr_expect_eq(dones ? (int)verdict : -1, row->reason, "%s: %s", row->script, dones ? reason_name(verdict) : "goes on");
		cr_expect_eq(target->out_n, row->up, "%s: %zu up", row->script, target->out_n);
		cr_expect_eq(client->out_n, row->down, "%s: %zu down", row->script, client->out_n);
		if (target->fin && client->fin)
			memcpy(fins, target->fin_order < client->fin_order ? "tc" : "ct", 3);
		else if (target->fin || client->fin)
			memcpy(fins, target->fin ? "t" : "c", 2);
		cr_expect_str_eq(fins, row->fins, "%s: %s", row->script, fins);
		relay_count(relay, &count);
		cr_expect_eq(count.client_truncated, row->truncated, "%s", row->script);
		if (count.client_truncated)
			cr_expect(count.client_ended);
		stop();
	}
}

Test(relay, every_row)
{
	both_ways(every_row);
}

/* Every script of four acts: nothing is promised about the outcome but what holds always. */
static void every_interleaving(void)
{
	static const char acts[] = "CcEeURrPBbDdXxHS";
	enum { ACTS = sizeof(acts) - 1 };
	char script[5] = "";

	for (unsigned n = 0; n < ACTS * ACTS * ACTS * ACTS; n++) {
		unsigned rest = n;

		for (size_t i = 0; i < 4; i++, rest /= ACTS)
			script[i] = acts[rest % ACTS];
		open_streams();
		start();
		play(script);
		stop();
	}
}

Test(relay, every_interleaving)
{
	both_ways(every_interleaving);
}

/* --- more than a buffer --- */

static void one_buffer_waits_for_each_direction_and_no_more(void)
{
	open_streams();
	client->window = target->window = 0;
	start();
	for (unsigned i = 0; i < 100; i++) {
		act('C');
		act('c');
	}
	cr_assert_eq(target->queue_n, (size_t)10);
	mem_drain(target, SIZE_MAX);
	loop_turn(loop);
	cr_assert_eq(target->queue_n, (size_t)BUFFER, "of all that has come meanwhile");
	act('1');
	act('d');
	act('b');
	for (unsigned i = 0; i < 100; i++)
		act('C');
	cr_assert_leq(target->queued_most, (size_t)BUFFER);
	cr_assert_leq(client->queued_most, (size_t)BUFFER);
	act('d');
	act('D');
	cr_assert_eq(target->out_n, fed_up);
	cr_assert_eq(client->out_n, fed_down);
	check_bytes(target, fed_up, "");
	stop();
}

Test(relay, one_buffer_waits_for_each_direction_and_no_more)
{
	both_ways(one_buffer_waits_for_each_direction_and_no_more);
}

static void all_that_is_there_is_moved_although_one_turn_moves_a_buffer(void)
{
	for (int above = 0; above <= 1; above++) {
		open_streams();
		client->above = target->above = above;
		for (unsigned i = 0; i < 20; i++) {
			feed(client, &fed_up);
			feed(target, &fed_down);
		}
		start();
		cr_assert_eq(target->out_n, fed_up);
		cr_assert_eq(client->out_n, fed_down);
		stop();
	}
}

Test(relay, all_that_is_there_is_moved_although_one_turn_moves_a_buffer)
{
	both_ways(all_that_is_there_is_moved_although_one_turn_moves_a_buffer);
}

Test(relay, bytes_given_back_come_first)
{
	for (int above = 0; above <= 1; above++) {
		for (int ended = 0; ended <= 1; ended++) {
			open_streams();
			client->above = above;
			cr_assert(stream_unread(&client->base, "early ", 6));
			mem_feed_text(client, "bytes above");
			if (ended)
				mem_feed_eof(client, false);
			start();
			cr_assert_str_eq(target->out, "early bytes above");
			cr_assert_eq(target->fin, ended);
			stop();
		}
	}
}

/* The 200 is still queued when the relay begins. */
Test(relay, a_client_that_has_not_taken_the_200_blocks_the_target)
{
	open_streams();
	client->window = 0;
	cr_assert(stream_write(&client->base, "200", 3));
	start();
	act('c');
	cr_assert_eq(client->queue_n, 3u);
	act('C');
	cr_assert_eq(target->out_n, 10u, "upwards it flows");
	client->window = SIZE_MAX;
	mem_drain(client, SIZE_MAX);
	loop_turn(loop);
	cr_assert_eq(client->out_n, 13u);
	stop();
	open_streams();
	client->window = 0;
	cr_assert(stream_write(&client->base, "200", 3));
	start();
	act('S');
	cr_assert(dones == 1 && verdict == REASON_STALL_TIMEOUT);
	stop();
}

Test(relay, a_stream_that_is_broken_already_ends_it)
{
	open_streams();
	mem_break(client, STREAM_FAULT_RESET);
	loop_turn(loop);
	start();
	cr_assert(dones == 1 && verdict == REASON_CLIENT_RESET);
	stop();
}

/* --- deadlines --- */

Test(relay, deadlines_may_all_be_off)
{
	limits = (struct relay_limits){ DEADLINE_OFF, DEADLINE_OFF, DEADLINE_OFF, DEADLINE_OFF, buffer, BUFFER, false };
	open_streams();
	start();
	play("bCBcEe");
	for (unsigned i = 0; i < 100; i++)
		act('L');
	cr_assert_eq(dones, 0u);
	stop();
}

Test(relay, each_deadline_alone)
{
	static const struct {
		struct relay_limits limits;
		const char *script;
		int reason;
	} cases[] = {
		{ { IDLE_MS, DEADLINE_OFF, DEADLINE_OFF, DEADLINE_OFF, buffer, BUFFER, false }, "EHHI", REASON_IDLE_TIMEOUT },
		{ { DEADLINE_OFF, HALF_MS, DEADLINE_OFF, DEADLINE_OFF, buffer, BUFFER, false }, "III", -1 },
		{ { DEADLINE_OFF, HALF_MS, DEADLINE_OFF, DEADLINE_OFF, buffer, BUFFER, false }, "IIIE>", -1 },
		{ { DEADLINE_OFF, HALF_MS, DEADLINE_OFF, DEADLINE_OFF, buffer, BUFFER, false }, "CE>H", REASON_HALF_CLOSED_TIMEOUT },
		{ { DEADLINE_OFF, DEADLINE_OFF, STALL_MS, DEADLINE_OFF, buffer, BUFFER, false }, "IIIbCS", REASON_STALL_TIMEOUT },
		{ { DEADLINE_OFF, DEADLINE_OFF, STALL_MS, DEADLINE_OFF, buffer, BUFFER, false }, "bCdIII", -1 },
		{ { DEADLINE_OFF, DEADLINE_OFF, DEADLINE_OFF, LIFETIME_MS, buffer, BUFFER, false }, "EbCL", REASON_LIFETIME },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		limits = cases[i].limits;
		open_streams();
		start();
		play(cases[i].script);
		cr_expect_eq(dones ? (int)verdict : -1, cases[i].reason, "case %zu: %s", i, dones ? reason_name(verdict) : "goes on");
		stop();
	}
}

/* --- life --- */

Test(relay, may_be_freed_at_any_time_and_says_nothing_then)
{
	static const char *const scripts[] = { "", "C", "bC", "E", "EbC" };

	for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++) {
		open_streams();
		start();
		play(scripts[i]);
		mem_feed_fault(client, STREAM_FAULT_RESET);
		mem_break(target, STREAM_FAULT_RESET);
		stop();
		cr_assert_eq(dones, 0u);
	}
	/* when its end is known and not yet told */
	open_streams();
	start();
	stream_notify_fault(&client->base, STREAM_FAULT_RESET);
	stop();
	cr_assert_eq(dones, 0u);
	relay_free(NULL);
}

Test(relay, counts_bytes)
{
	long long up = stats_get(STAT_BYTES_UP), down = stats_get(STAT_BYTES_DOWN);
	struct relay_count count;

	open_streams();
	start();
	play("CCCc");
	relay_count(relay, &count);
	cr_assert(count.up == 30 && count.down == 10 && !count.client_ended);
	cr_assert_eq(stats_get(STAT_BYTES_UP) - up, 30);
	cr_assert_eq(stats_get(STAT_BYTES_DOWN) - down, 10);
	stop();
}

Test(relay, without_memory_there_is_none)
{
	open_streams();
	mem_fault_set(1, false);
	cr_assert_null(relay_start(loop, &client->base, &target->base, &limits, on_done, &dones));
	mem_fault_set(0, false);
	stop();
}
