/* Idle connections to targets: whose they are, how many, how long, and what ends them. */
#include "adit/dial/pool.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"
#include "component/mem_stream.h"
#include "component/turning.h"

static struct loop *loop;
static struct pool *pool;
static struct mem_stream *made[64];
static size_t made_n;
static struct addr address, local;
static const struct pool_limits few = { 4, 1000 }, many = { 40, 1000 };
static const struct pool_key alice = { "alice", "a.test", 80 };

static void setup(void)
{
	loop = loop_new_manual();
	pool = pool_new(loop);
	cr_assert(loop && pool);
	made_n = 0;
	cr_assert(addr_parse(&address, slice_of("192.0.2.1:80")) && addr_parse(&local, slice_of("192.0.2.2:4000")));
}

static void teardown(void)
{
	pool_free(pool);
	loop_turn(loop);
	for (size_t i = 0; i < made_n; i++) {
		cr_assert(made[i]->gone, "stream %zu is left", i);
		mem_stream_free(made[i]);
	}
	cr_assert_eq(loop_held(loop), 0u);
	cr_assert_eq(stats_get(STAT_IDLE_TARGETS), 0);
	loop_free(loop);
}

TestSuite(pool, .init = setup, .fini = teardown, .timeout = 60);

static struct mem_stream *put(const struct pool_key *key, const struct pool_limits *limits)
{
	struct mem_stream *m = made[made_n++] = mem_stream_new(loop);

	pool_put(pool, key, limits, &m->base, &address, &local);
	loop_turn(loop);
	return m;
}

/* Takes it, and closes it: NULL when there is none. */
static struct mem_stream *take(const struct pool_key *key)
{
	struct addr to, from;
	struct stream *s = pool_take(pool, key, &to, &from);

	if (!s)
		return NULL;
	cr_assert(addr_equal(&to, &address) && addr_equal(&from, &local));
	stream_close(s, STREAM_CLOSE_ABORT);
	return OBJ_OF(s, struct mem_stream, base);
}

Test(pool, gives_back_what_was_put)
{
	struct mem_stream *m = put(&alice, &few);

	cr_assert_eq(pool_count(pool), 1u);
	cr_assert_eq(loop_held(loop), 0u, "an idle connection keeps no loop from its end");
	cr_assert_eq(take(&alice), m);
	cr_assert_null(take(&alice));
	cr_assert_eq(pool_count(pool), 0u);
}

Test(pool, never_to_another_user_host_or_port)
{
	static const struct pool_key others[] = {
		{ "bob", "a.test", 80 }, { "carol", "a.test", 80 }, { "alice", "b.test", 80 }, { "alice", "a.test", 8080 }, { "alic", "ea.test", 80 },
		{ "alicea", ".test", 80 }, { "", "a.test", 80 }, { "alice", "", 80 },
	};
	struct mem_stream *m = put(&alice, &few);

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		cr_assert_null(take(&others[i]), "%zu", i);
	cr_assert_eq(take(&alice), m);
}

Test(pool, the_one_used_last_comes_first)
{
	struct mem_stream *first = put(&alice, &few), *second = put(&alice, &few);

	cr_assert_eq(take(&alice), second);
	cr_assert_eq(take(&alice), first);
}

Test(pool, whatever_comes_on_an_idle_one_ends_it)
{
	for (int i = 0; i < 5; i++) {
		struct mem_stream *m = put(&alice, &few);

		switch (i) {
		case 0: mem_feed_text(m, "HTTP/1.1 200 OK\r\n\r\n"); break;
		case 1: mem_feed_eof(m, false); break;
		case 2: mem_feed_fault(m, STREAM_FAULT_RESET); break;
		case 3: mem_break(m, STREAM_FAULT_RESET); break;
		default: mem_feed_text(m, "x"); break;
		}
		if (i < 4)
			loop_turn(loop);
		/* the last is taken before the loop has looked */
		cr_assert_null(take(&alice), "%d", i);
		loop_turn(loop);
		cr_assert(m->closed && m->gone, "%d", i);
		cr_assert_eq(pool_count(pool), 0u);
	}
}

Test(pool, only_for_its_time)
{
	struct mem_stream *first = put(&alice, &few), *second;

	loop_advance(loop, 500);
	second = put(&alice, &few);
	loop_advance(loop, 499);
	cr_assert_not(first->closed);
	loop_advance(loop, 1);
	cr_assert(first->closed && !second->closed);
	cr_assert_eq(first->how, STREAM_CLOSE_FLUSH);
	loop_advance(loop, 500);
	cr_assert(second->closed);
	put(&alice, &few); /* and the timer runs again */
	loop_advance(loop, 1000);
	cr_assert_eq(pool_count(pool), 0u);
}

Test(pool, is_bounded_and_drops_the_oldest)
{
	static const struct pool_key keys[] = {
		{ "alice", "1.test", 80 }, { "alice", "2.test", 80 }, { "alice", "3.test", 80 }, { "alice", "4.test", 80 },
		{ "alice", "5.test", 80 },
	};

	for (size_t i = 0; i < 5; i++)
		put(&keys[i], &few);
	cr_assert_eq(pool_count(pool), 4u);
	cr_assert(made[0]->closed && !made[1]->closed);
	cr_assert_null(take(&keys[0]));
	cr_assert_eq(take(&keys[4]), made[4]);
}

Test(pool, is_bounded_for_each_target)
{
	static const struct pool_key other = { "alice", "b.test", 80 };
	struct mem_stream *beside = put(&other, &many);

	for (size_t i = 0; i < POOL_PER_KEY + 2; i++)
		put(&alice, &many);
	cr_assert_eq(pool_count(pool), (size_t)POOL_PER_KEY + 1);
	cr_assert(made[1]->closed && made[2]->closed && !made[3]->closed && !beside->closed);
}

Test(pool, off_keeps_none)
{
	static const struct pool_limits off = { 0, 1000 };

	put(&alice, &off);
	cr_assert(made[0]->closed && made[0]->how == STREAM_CLOSE_FLUSH);
	cr_assert_eq(pool_count(pool), 0u);
}

Test(pool, what_has_ended_is_not_kept)
{
	struct mem_stream *m = made[made_n++] = mem_stream_new(loop);

	m->base.eof = true;
	pool_put(pool, &alice, &few, &m->base, &address, &local);
	cr_assert(m->closed);
	m = made[made_n++] = mem_stream_new(loop);
	stream_read_on(&m->base);
	pool_put(pool, &alice, &few, &m->base, &address, &local);
	cr_assert(m->closed);
}

Test(pool, can_be_emptied)
{
	put(&alice, &few);
	put(&alice, &few);
	pool_empty(pool);
	cr_assert(made[0]->closed && made[1]->closed && made[0]->how == STREAM_CLOSE_ABORT);
	cr_assert_eq(pool_count(pool), 0u);
	pool_empty(pool);
	put(&alice, &few);
	cr_assert_eq(take(&alice), made[2]);
}

Test(pool, every_allocation_may_fail)
{
	for (unsigned long n = 1;; n++) {
		struct mem_stream *m, *got;
		bool hit;

		mem_fault_set(n, false);
		m = put(&alice, &few);
		got = take(&alice);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(got == m || hit);
		cr_assert(got == m || m->closed || pool_count(pool) == 1);
		pool_empty(pool);
		loop_turn(loop);
		if (!hit)
			break;
	}
	mem_fault_set(1, false);
	cr_assert_null(pool_new(loop));
	mem_fault_set(0, false);
}
